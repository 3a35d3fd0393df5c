"""IAM documents: statements with every field as a list, and what their wildcards reach."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from policies.networks import covers_world
from policies.resource import Resource
from policies.values import Unknown, UnknownValue, block, document, maps, raw, text, texts

POLICY_KINDS = frozenset(
    f"aws:iam/{name[0].lower()}{name[1:]}:{name}"
    for name in ("Policy", "RolePolicy", "UserPolicy", "GroupPolicy")
)
ROLE = "aws:iam/role:Role"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `principals` are (type, value) pairs, `*` alone is (`AWS`, `*`)."""

    allows: bool
    actions: tuple[str, ...]
    not_actions: tuple[str, ...]
    resources: tuple[str, ...]
    not_resources: tuple[str, ...]
    principals: tuple[tuple[str, str], ...]
    not_principal: bool
    condition: Mapping[str, Any]

    @property
    def on_everything(self) -> bool:
        """Whether it reaches every resource there is."""
        return "*" in self.resources or bool(self.not_resources)

    @property
    def any_action(self) -> bool:
        """Whether it grants every action, or all but some."""
        return bool({"*", "*:*"} & set(self.actions)) or bool(self.not_actions)

    @property
    def public(self) -> bool:
        """Whether everyone is its principal."""
        return self.not_principal or any(_EVERYONE.match(value) for _, value in self.principals)

    @property
    def open_to_all(self) -> bool:
        """Whether everyone may do what it allows: no condition says who or from where."""
        return self.allows and self.public and not any(_restricts(self.condition))

    def grants(self, wanted: Iterable[str]) -> list[str]:
        """Those of the wanted actions that it allows, wildcards and NotAction included."""
        if not self.allows:
            return []
        names = list(wanted)
        if self.not_actions:
            return [name for name in names if not _reaches(self.not_actions, name)]
        return [name for name in names if _reaches(self.actions, name)]


def _reaches(patterns: Iterable[str], action: str) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


# `*`, or the roles of whichever account
_EVERYONE = re.compile(r"^(?:\*|arn:aws[\w-]*:(?:iam|sts)::\*(?::.*)?)$")
# condition keys that say who calls or from where; others (TLS, time, a prefix) leave it open
_WHO = re.compile(
    r"^(?:aws:(?:principal\w+(?:/.*)?|source(?!ip$)\w+|vpcsourceip|userid|username|calledvia\w*)"
    r"|aws:vpce(?:account|orgid|orgpaths)|kms:(?:calleraccount|viaservice)|s3:dataaccesspoint\w+|[\w.-]+:(?:sub|aud|amr)"
    r"|sts:externalid)$"
)
_ANYONE = re.compile(r"^(?:\*|arn:aws[\w-]*:\w*:[\w-]*:\*.*)$")


def _restricts(condition: Mapping[str, Any]) -> Iterator[bool]:
    for operator, keys in condition.items():
        name = operator.lower()
        # both forms are true of a request without the key, and so of everyone's
        if name.startswith("forallvalues:") or name.endswith("ifexists"):
            continue
        name = name.rsplit(":", 1)[-1]
        if "not" in name or name == "null" or not isinstance(keys, Mapping):
            continue
        for key, values in keys.items():
            given = [str(v) for v in (values if isinstance(values, list) else [values])]
            if key.lower() == "aws:sourceip":
                yield not covers_world(given)
            elif _WHO.match(key.lower()):
                # an account not known yet is one account
                yield not any(_ANYONE.match(value) for value in given)


def _principals(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Unknown):
        raise UnknownValue("Principal")
    if isinstance(value, str):
        return (("AWS", value),)
    if isinstance(value, list):  # no server takes it; the wildcard in it is meant all the same
        return tuple(("AWS", str(who)) for who in value if not isinstance(who, Unknown))
    if not isinstance(value, Mapping):
        return ()
    # an account or role that is not known yet is one, and so not everyone
    return tuple(
        (str(kind), str(who) if not isinstance(who, Unknown) else "(not known yet)")
        for kind, whos in value.items()
        for who in (whos if isinstance(whos, list) else [whos])
    )


def _known(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    # an ARN that is not known yet is one resource, and so not everything
    value = raw(entry, key)
    found = value if isinstance(value, list) else [value]
    return tuple(
        "(not known yet)" if isinstance(x, Unknown) else str(x) for x in found if x is not None
    )


def statements(value: Any, *path: str) -> Iterator[Statement]:
    """The statements of a document (data or JSON text). Raises `UnknownValue`."""
    found = document(value, *path)
    if not isinstance(found, Mapping):
        if text(value, *path).strip():  # a text that cannot be read is no proof of anything
            raise UnknownValue(f"{'.'.join(path) or 'policy'} (not a JSON document)")
        return
    for entry in maps(found, "Statement"):
        condition = block(entry, "Condition")
        yield Statement(
            allows=raw(entry, "Effect") != "Deny",
            actions=tuple(texts(entry, "Action")),
            not_actions=tuple(texts(entry, "NotAction")),
            resources=_known(entry, "Resource"),
            not_resources=_known(entry, "NotResource"),
            principals=_principals(raw(entry, "Principal")),
            not_principal="NotPrincipal" in entry,
            condition=condition,
        )


def policies_of(resource: Resource) -> Iterator[Statement]:
    """The statements that a policy or a role's inline policies grant. Raises `UnknownValue`."""
    if resource.kind == ROLE:
        for inline in maps(resource.props, "inlinePolicies"):
            yield from statements(inline, "policy")
    else:
        yield from statements(resource.props, "policy")


def condition_values(statement: Statement, key: str) -> list[tuple[str, str]]:
    """(operator, value) of every condition on a key (its end suffices: `:sub`)."""
    return [
        (str(operator), str(value))
        for operator, keys in statement.condition.items()
        if isinstance(keys, Mapping)
        for name, values in keys.items()
        if str(name).lower().endswith(key.lower())
        for value in (values if isinstance(values, list) else [values])
    ]
