"""The stand's settings and addresses: what is refused, and that nothing overlaps."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from local import layout, settings
from local.errors import StandError
from local.layout import SiteLayout
from local.paths import Folders


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour: red", "colour = 'red'"),
        ("private: {real_nodes: many, gpu_nodes: {count: 1, gpus: 8}}",
         "private.real_nodes = 'many'"),
        ("cloud: {real_nodes: 1, gpu_nodes: {count: 999, gpus: 8}}", "cloud.gpu_nodes.count = 999"),
        ("ranges: [10.0.0.0/8, 10.1.0.0/16]", "give private /16 networks"),
        ("- a list", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_its_key_and_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    file = tmp_path / "stand.yaml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("STAND_SETTINGS", str(file))
    with pytest.raises(StandError) as refused:
        settings.load()
    assert named in str(refused.value)
    assert refused.value.code == 2


@given(second=some.integers(0, 255), index=some.integers(0, settings.MOST_NODES))
def test_the_parts_of_a_site_lie_in_its_range_and_apart(second: int, index: int) -> None:
    site = SiteLayout("private", IPv4Network(f"10.{second}.0.0/16"), None, {})
    wire = IPv4Network(f"{site.host_end}/30", strict=False)
    parts = [site.node_cidr, wire, site.service_cidr, site.pod_cidr]
    assert all(part.subnet_of(site.range) for part in parts)
    assert not any(one.overlaps(other) for one, other in combinations(parts, 2))
    assert site.node_pods(index).subnet_of(site.pod_cidr)
    assert site.node_pods(index).num_addresses > 110 + 2, "a kubelet takes 110 pods"
    assert site.most_nodes > settings.MOST_NODES
    assert site.node_address(index) in site.node_cidr


def test_a_site_avoids_every_network_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [(IPv4Network("10.77.0.0/16"), "a"), (IPv4Network("10.64.0.0/11"), "b")]
    monkeypatch.setattr(layout, "taken", lambda: busy)
    folders = Folders(tmp_path)
    made = layout.choose(folders, settings.StandSettings(), rooted=True, stand="s")
    for site in made.sites.values():
        assert not any(site.range.overlaps(network) for network, _ in busy)
    assert layout.read(folders) == made
    monkeypatch.setattr(layout, "taken", lambda: [(IPv4Network("10.0.0.0/8"), "a VPN")])
    with pytest.raises(StandError, match=r"which now overlaps 10\.0\.0\.0/8"):
        layout.choose(folders, settings.StandSettings(), rooted=True, stand="s")
    with pytest.raises(StandError, match="0 of the 50 networks"):
        layout.choose(Folders(tmp_path / "new"), settings.StandSettings(), rooted=True, stand="s")


def test_a_stand_keeps_the_size_of_its_nodes_ranges_and_says_when_they_do_not_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "taken", list[tuple[IPv4Network, str]])
    folders, usual = Folders(tmp_path), settings.StandSettings()
    made = layout.choose(folders, usual, rooted=True, stand="s")
    assert made.sites["private"].node_pods(0).prefixlen == 25
    assert layout.read(folders) == made

    old = json.loads(folders.layout.read_text(encoding="utf-8"))
    for site in old["sites"].values():
        del site["node_prefix"]
    folders.layout.write_text(json.dumps(old), encoding="utf-8")
    kept = layout.choose(folders, usual, rooted=True, stand="s")
    assert kept.sites["private"].node_pods(1).prefixlen == 24
    assert layout.read(folders) == kept
    pool = settings.GpuPool(count=200, gpus=8)
    large = usual.model_copy(
        update={"private": usual.private.model_copy(update={"gpu_nodes": pool})}
    )
    with pytest.raises(StandError, match="pod ranges for 128 nodes, the settings ask for 202"):
        layout.choose(folders, large, rooted=True, stand="s")
