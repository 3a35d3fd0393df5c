"""What can be said of a resource before any cluster is asked: its name, and what none can take."""

from __future__ import annotations

import threading
from typing import Any

import yaml
from pulumi.runtime.proto import provider_pb2

from local.plugins.kubernetes import kubeconfig, naming
from local.plugins.kubernetes.request import RefusedError
from local.plugins.kubernetes.settings import ProviderSettings
from local.plugins.kubernetes.values import UNKNOWN, Secret, has_unknown, reveal


class Names:
    """Automatic names, the same from one operation to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._old: dict[str, str] = {}  # URN -> automatic name before this operation

    def give(
        self, request: Any, olds: dict[str, Any], news: dict[str, Any], space: str | None
    ) -> Any:
        """Give an object its name and the namespace `space`, in place, where it has none.

        Returns a CheckFailure or None.
        """
        metadata = news.get("metadata")
        if isinstance(metadata, Secret) or metadata is UNKNOWN:
            return None
        metadata = dict(metadata or {})
        if space and "namespace" not in metadata:
            metadata["namespace"] = space
        old_name = (reveal(olds.get("metadata")) or {}).get("name")
        if isinstance(old_name, str):
            with self._lock:
                self._old[request.urn] = old_name
        if metadata.get("name") is None and not metadata.get("generateName"):
            if naming.is_patch(request.urn, reveal(news)):
                return provider_pb2.CheckFailure(
                    property="metadata.name", reason="a patch must name the object it patches"
                )
            was_automatic = naming.annotation(reveal(olds), naming.AUTONAMED) is not None
            mode = request.autonaming.mode if request.HasField("autonaming") else None
            if was_automatic and isinstance(old_name, str):
                metadata["name"] = old_name
            elif mode == provider_pb2.CheckRequest.AutonamingOptions.DISABLE:
                return provider_pb2.CheckFailure(
                    property="metadata.name",
                    reason="automatic names are turned off (pulumi:autonaming); give metadata.name",
                )
            elif mode is not None:
                metadata["name"] = request.autonaming.proposed_name
            else:
                with self._lock:
                    previous = self._old.get(request.urn)
                metadata["name"] = naming.automatic_name(request.urn, previous)
            annotations = metadata.get("annotations")
            if not isinstance(annotations, Secret) and annotations is not UNKNOWN:
                metadata["annotations"] = {**(annotations or {}), naming.AUTONAMED: "true"}
        news["metadata"] = metadata
        return None


def misuse(urn: str, news: dict[str, Any]) -> Any:
    """A CheckFailure for what no cluster can take, or None."""
    try:
        gvk = naming.kind_of(urn, reveal(news))
    except ValueError as error:
        return provider_pb2.CheckFailure(property="apiVersion", reason=str(error))
    if gvk.kind.endswith("List") and "items" in news:
        return provider_pb2.CheckFailure(
            property="items",
            reason=f"{gvk.kind} is not an object of its own; declare each item as a resource",
        )
    return None


def same_fixed_name(olds: dict[str, Any], news: dict[str, Any]) -> bool:
    """Whether old and new object cannot exist beside each other."""
    before, after = reveal(olds.get("metadata")) or {}, reveal(news.get("metadata"))
    if not isinstance(after, dict) or naming.annotation(reveal(news), naming.AUTONAMED):
        return False
    return after.get("name") is not None and all(
        before.get(name) == after.get(name) for name in ("name", "namespace")
    )


def another_cluster(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the resources must move: a new identifier, or another name and address.

    A changed address alone is the same cluster somewhere else (a restarted stand, a new load
    balancer); replacing everything in it would be the costlier mistake.
    """
    if has_unknown(new):
        return False
    before, after = ProviderSettings.parse(old), ProviderSettings.parse(new)
    if before.cluster_identifier or after.cluster_identifier:
        return before.cluster_identifier != after.cluster_identifier
    try:
        names, servers = zip(
            *(
                kubeconfig.identify(each.kubeconfig, context=each.context, cluster=each.cluster)
                for each in (before, after)
            ),
            strict=True,
        )
    except kubeconfig.KubeconfigError:
        return False
    return names[0] != names[1] and servers[0] != servers[1]


def manifests(text: str, space: str | None) -> list[dict[str, Any]]:
    """The objects of a manifest, those without a namespace in `space`. Raises `RefusedError`."""
    try:
        objects = [each for each in yaml.safe_load_all(text) if each]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise RefusedError(f"the manifest is not valid YAML{line}") from error
    found = [part for each in objects for part in _flat(each)]
    for each in found:
        if space and isinstance(each.get("metadata"), dict):
            each["metadata"].setdefault("namespace", space)
    return found


def _flat(obj: dict[str, Any]) -> list[dict[str, Any]]:
    """A manifest's List is as good as its items."""
    if str(obj.get("kind", "")).endswith("List") and isinstance(obj.get("items"), list):
        return list(obj["items"])
    return [obj]
