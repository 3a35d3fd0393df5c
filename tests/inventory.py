"""Everything that a site and Vault hold, by name: what a test compares before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import hvac

from local.kube import ApiError, Client
from tests.conftest import RunningStand

# heartbeats, notes and copies that a control plane keeps by itself and drops in its own time
PASSING = {"events", "leases", "endpoints", "endpointslices", "componentstatuses", "ipaddresses"}
# whose names carry a hash, and which come and go with what owns them
OWNED = {"pods", "replicasets", "controllerrevisions", "workloads"}


def _kinds(client: Client) -> Iterator[tuple[str, str]]:
    """(plural, path) of every type that the API server can list, in its preferred version."""
    groups = cast("list[dict[str, Any]]", client.get("/apis")["groups"])
    places = ["/api/v1", *(f"/apis/{one['preferredVersion']['groupVersion']}" for one in groups)]
    for place in places:
        for kind in cast("list[dict[str, Any]]", client.get(place)["resources"]):
            if "list" in kind["verbs"] and "/" not in kind["name"]:
                yield str(kind["name"]), f"{place}/{kind['name']}"


def objects(client: Client, *, owned: bool = True) -> set[str]:
    """`path namespace/name` of every object of a site; without `owned`, not what others made."""
    found: set[str] = set()
    for plural, path in _kinds(client):
        if plural in PASSING or (plural in OWNED and not owned):
            continue
        try:
            held = client.items(path)
        except ApiError as error:
            if error.status in (404, 405):  # a type that went meanwhile, or one without a list
                continue
            raise
        for one in held:
            metadata = one["metadata"]
            found.add(f"{path} {metadata.get('namespace', '')}/{metadata['name']}")
    return found


def root(stand: RunningStand) -> hvac.Client:
    """The stand's Vault, seen by its root token."""
    vault = stand.endpoints["vault"]
    token = (stand.state / "vault" / "root-token").read_text(encoding="ascii").strip()
    return hvac.Client(url=vault["address"], token=token, verify=vault["ca_file"], timeout=10)


def in_vault(client: hvac.Client) -> set[str]:
    """Engines, logins, policies, audit devices and identities; of KV engines every path."""
    engines = cast("dict[str, Any]", client.sys.list_mounted_secrets_engines()["data"])
    found = {f"engine {path} {one['type']}" for path, one in engines.items()}
    found |= {f"login {path}" for path in client.sys.list_auth_methods()["data"]}
    found |= {f"policy {name}" for name in client.sys.list_policies()["data"]["policies"]}
    found |= {f"audit {path}" for path in client.sys.list_enabled_audit_devices()["data"]}
    aliases = client.list("identity/entity-alias/id")
    whose = {
        one["canonical_id"]: f"{one['mount_path']}{one['name']}"
        for one in (aliases["data"]["key_info"] if aliases else {}).values()
    }
    for entity in _listed(client, "identity/entity/id"):  # ids are random, logins are not
        found.add(f"identity {whose.get(entity, 'that no login has')}")
    for path, one in engines.items():
        if one["type"] == "kv":
            found |= {f"secret {each}" for each in _paths(client, f"{path}metadata/")}
    return found


def _listed(client: hvac.Client, path: str) -> list[str]:
    answer = client.list(path)
    return [] if answer is None else list(answer["data"]["keys"])


def _paths(client: hvac.Client, folder: str) -> Iterator[str]:
    for name in _listed(client, folder):
        if name.endswith("/"):
            yield from _paths(client, folder + name)
        else:
            yield folder + name


def everything(stand: RunningStand, *, owned: bool = True) -> dict[str, set[str]]:
    """Both sites and Vault."""
    held = {site: objects(stand.client(site), owned=owned) for site in ("private", "cloud")}
    return {**held, "vault": in_vault(root(stand))}


def settled(stand: RunningStand, seconds: float = 120.0) -> dict[str, set[str]]:
    """The same once a fresh control plane has made its own objects: two looks that agree."""
    end, before = time.monotonic() + seconds, everything(stand)
    while True:
        time.sleep(3)
        now = everything(stand)
        # the certificates that each namespace gets come last
        roots = [
            sum("/configmaps " in one and one.endswith("/kube-root-ca.crt") for one in held)
            for held in (now["private"], now["cloud"])
        ]
        spaces = [
            sum("/namespaces " in one for one in held) for held in (now["private"], now["cloud"])
        ]
        if now == before and roots == spaces:
            return now
        assert time.monotonic() < end, f"the sites do not come to rest: {more(now, before)}"
        before = now


def more(after: dict[str, set[str]], before: dict[str, set[str]]) -> dict[str, list[str]]:
    """What is there now and was not before, empty places left out."""
    return {place: sorted(new) for place in after if (new := after[place] - before[place])}
