"""Property values, names, differences and drift: the provider's pure parts."""

from __future__ import annotations

import base64
import urllib.parse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from local.plugins.kubernetes import naming
from local.plugins.kubernetes.diffs import (
    changes,
    immutable_fields,
    path_text,
    refused_changes,
    refused_in_place,
    with_replaces,
)
from local.plugins.kubernetes.drift import drifted_inputs, imported_inputs
from local.plugins.kubernetes.naming import GroupVersionKind
from local.plugins.kubernetes.values import (
    UNKNOWN,
    Redactor,
    Secret,
    decode,
    encode,
    has_secret,
    has_unknown,
    mark_secrets,
    reveal,
    without_unknown,
)

URN = "urn:pulumi:dev::shop::kubernetes:core/v1:ConfigMap::Front_End"
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.just(UNKNOWN)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | inner.map(Secret)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), TREES, max_size=4))
def test_any_value_survives_the_way_to_the_engine_and_back(value):
    assert decode(encode(value)) == value


@given(TREES)
def test_what_is_revealed_holds_no_secret_mark_and_what_is_known_no_unknown(value):
    assert not has_secret(reveal(value))
    assert not has_unknown(without_unknown({"a": value}))


@given(TREES)
def test_a_value_does_not_differ_from_itself_unless_it_is_unknown(value):
    assert has_unknown(value) or list(changes(value, value)) == []


def test_outputs_are_secret_where_inputs_are_and_nowhere_else():
    marked = mark_secrets(
        {"data": {"key": "x", "open": "y"}, "list": ["a", "b"]},
        {"data": {"key": Secret("x"), "open": "y"}, "list": [Secret("a"), "b"]},
    )
    assert marked == {"data": {"key": Secret("x"), "open": "y"}, "list": [Secret("a"), "b"]}


def test_a_list_that_changed_its_length_is_secret_as_a_whole():
    """Which of its elements held the secret cannot be told any more."""
    assert has_secret(mark_secrets({"l": ["z", "a"]}, {"l": [Secret("a")]})["l"])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=8, max_size=40))
def test_a_secret_leaves_a_message_in_each_of_its_forms(text):
    assume(text not in "before <<[secret]>> after")  # then it stands there anyway
    redactor = Redactor()
    redactor.learn({"deep": [Secret({"key": text})]})
    for form in (text, base64.b64encode(text.encode()).decode(), urllib.parse.quote(text, safe="")):
        assert form not in redactor.clean(f"before <<{form}>> after")


def test_a_secret_given_as_base64_is_taken_out_in_its_plain_form_too():
    redactor = Redactor()
    redactor.learn(Secret({"data": {"key": base64.b64encode(b"correct horse").decode()}}))
    assert redactor.clean("got correct horse") == "got [secret]"


@given(st.text(min_size=1, max_size=120), st.none() | st.text(max_size=60))
def test_an_automatic_name_is_a_label_and_the_same_every_time(name, previous):
    urn = f"urn:pulumi:dev::shop::kubernetes:core/v1:ConfigMap::{name}"
    made = naming.automatic_name(urn, previous)
    assert made == naming.automatic_name(urn, previous)
    assert len(made) <= 63
    assert made[0].isalnum()
    assert made[-1].isalnum()


def test_a_replacement_never_gets_a_name_of_the_chain_before_it():
    names: list[str] = []
    for _ in range(20):
        names.append(naming.automatic_name(URN, names[-1] if names else None))
    assert len(set(names)) == 20
    assert all(name.startswith("front-end-") for name in names)


@pytest.mark.parametrize(
    ("token", "inputs", "expected"),
    [
        ("kubernetes:core/v1:Secret", {}, GroupVersionKind("", "v1", "Secret")),
        ("kubernetes:apps/v1:Deployment", {}, GroupVersionKind("apps", "v1", "Deployment")),
        ("kubernetes:core/v1:ConfigMapPatch", {}, GroupVersionKind("", "v1", "ConfigMap")),
        (
            "kubernetes:kueue.x-k8s.io/v1beta2:ClusterQueue",
            {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue"},
            GroupVersionKind("kueue.x-k8s.io", "v1beta2", "ClusterQueue"),
        ),
    ],
    ids=["core", "group", "patch", "custom"],
)
def test_a_type_token_names_its_api_type(token, inputs, expected):
    assert naming.kind_of(f"urn:pulumi:dev::shop::a:b:Parent${token}::name", inputs) == expected


@pytest.mark.parametrize("text", ["", "/", "a/", "/b", "a/b/c"])
def test_an_id_that_is_no_name_is_refused_with_its_text(text):
    with pytest.raises(ValueError, match="is not 'name' or 'namespace/name'"):
        naming.parse_id(text)


def test_a_path_is_written_as_the_engine_writes_it():
    path = ("metadata", "labels", "app.kubernetes.io/name")
    assert path_text(path) == 'metadata.labels["app.kubernetes.io/name"]'
    assert path_text(("spec", "containers", 0, "image")) == "spec.containers[0].image"


def test_true_is_not_one_and_one_is_one_point_zero():
    assert [c.kind for c in changes({"a": True}, {"a": 1})] == ["update"]
    assert list(changes({"a": 1}, {"a": 1.0})) == []


@pytest.mark.parametrize(
    ("kind", "mutable", "path", "replaced"),
    [
        (("", "ConfigMap"), False, ("data", "a"), True),
        (("", "ConfigMap"), True, ("data", "a"), False),
        (("", "Secret"), True, ("type",), True),
        (("apps", "Deployment"), False, ("spec", "selector", "matchLabels", "a"), True),
        (("apps", "Deployment"), False, ("spec", "template", "spec"), False),
        (("batch", "Job"), False, ("spec", "template", "spec", "containers", 0, "image"), True),
        (("", "Pod"), False, ("metadata", "labels", "a"), False),
        (("", "Pod"), False, ("metadata", "name"), True),
    ],
)
def test_what_forces_a_replacement(kind, mutable, path, replaced):
    old, new = "x", "y"
    for segment in reversed(path):
        old, new = ([old], [new]) if isinstance(segment, int) else ({segment: old}, {segment: new})
    fields = immutable_fields(
        GroupVersionKind(kind[0], "v1", kind[1]),
        mutable_config_maps=mutable,
        mutable_secrets=mutable,
    )
    found = with_replaces(list(changes(old, new)), fields)
    assert [each.replace for each in found] == [replaced]


def test_a_servers_refusal_marks_what_it_names():
    found = list(changes({"spec": {"a": 1, "b": 1}}, {"spec": {"a": 2, "b": 2}}))
    causes = [{"field": "spec.a", "message": "Invalid value: 2: field is immutable"}]
    marked = refused_changes(found, causes, "Thing is invalid: spec.a: field is immutable")
    assert {each.text: each.replace for each in marked} == {"spec.a": True, "spec.b": False}


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("spec.selector: Invalid value: field is immutable", True),
        ("spec: Forbidden: updates to statefulset spec for fields other than 'replicas'", True),
        ("roleRef: Invalid value: cannot change roleRef", True),
        ("spec.replicas: Invalid value: -1: must be greater than or equal to 0", False),
        ("spec.resources.requests.storage: Forbidden: field can not be less than before", False),
    ],
)
def test_only_a_refusal_to_change_in_place_asks_for_a_replacement(message, refused):
    assert refused_in_place(message) is refused


LIVE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "a", "uid": "1", "labels": {"x": "1", "other": "theirs"}},
    "data": {"k": "v"},
}


def test_without_drift_the_inputs_come_back_as_they_were():
    inputs = {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v"}}
    assert drifted_inputs(inputs, LIVE, LIVE) == inputs


def test_a_changed_a_lost_and_an_added_field_are_each_told():
    inputs = {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v", "lost": "l"}}
    applied = {**LIVE, "data": {"k": "v", "lost": "l"}}
    live = {**LIVE, "data": {"k": "changed"}}
    assert drifted_inputs(inputs, live, applied)["data"] == {"k": "changed"}


def test_a_drifted_secret_stays_secret_under_the_key_that_the_program_used():
    live = {"kind": "Secret", "data": {"k": base64.b64encode(b"theirs").decode()}}
    applied = {"kind": "Secret", "data": {"k": base64.b64encode(b"ours").decode()}}
    inputs = {"kind": "Secret", "stringData": Secret({"k": "ours"})}
    assert drifted_inputs(inputs, live, applied)["stringData"] == Secret({"k": "theirs"})


def test_an_import_takes_everything_but_what_the_server_fills_in():
    taken = imported_inputs({**LIVE, "status": {"phase": "Active"}})
    assert "status" not in taken
    assert "uid" not in taken["metadata"]
    assert taken["data"] == {"k": "v"}
