"""Which cluster a provider talks to and how it logs in, from a kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class KubeconfigError(Exception):
    """The kubeconfig cannot be used; one line that says what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster and one way to log in."""

    name: str
    context: str
    server: str  # https://host:port[/path]
    namespace: str
    tls: ssl.SSLContext | None = field(repr=False)
    token: str | None = field(default=None, repr=False)
    tls_server_name: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.server)
        if parts.hostname is None:
            raise KubeconfigError(f"cluster {self.name!r}: server {self.server!r} is not a URL")
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def prefix(self) -> str:
        return urlsplit(self.server).path.rstrip("/")


def text_of(kubeconfig: str | None) -> tuple[str, Path]:
    """The kubeconfig's text and the folder that its relative paths start from.

    `kubeconfig` is a path, the contents themselves, or None for $KUBECONFIG or ~/.kube/config.
    """
    if kubeconfig is not None and ("\n" in kubeconfig or kubeconfig.lstrip().startswith("{")):
        return kubeconfig, Path.cwd()
    places = (kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)
    path = next(
        (place for each in places if (place := Path(each).expanduser()).is_file()),
        Path(places[0]).expanduser(),
    )
    try:
        return path.read_text(encoding="utf-8"), path.parent.absolute()
    except OSError as error:
        reason = error.strerror or error
        raise KubeconfigError(f"cannot read the kubeconfig {path}: {reason}") from error


def looks_like_contents(kubeconfig: str) -> bool:
    return "\n" in kubeconfig or kubeconfig.lstrip().startswith("{")


def _named(config: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    kind = {"clusters": "cluster", "users": "user", "contexts": "context"}[section]
    entries: list[dict[str, Any]] = config.get(section) or []
    for entry in entries:
        if entry.get("name") == name:
            return entry.get(kind) or {}
    known = ", ".join(sorted(str(entry.get("name")) for entry in entries)) or "none"
    raise KubeconfigError(f"the kubeconfig has no {kind} {name!r}; it has: {known}")


def identify(
    kubeconfig: str | None, *, context: str | None = None, cluster: str | None = None
) -> tuple[str, str]:
    """(cluster name, server) without opening certificates; raises KubeconfigError."""
    config = _parse(text_of(kubeconfig)[0])
    _, name, _ = _choose(config, context, cluster)
    return name, str(_named(config, "clusters", name).get("server", ""))


def _parse(text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # The parser quotes the offending line, which may hold a key.
        raise KubeconfigError("the kubeconfig is not valid YAML") from error
    if not isinstance(config, dict):
        raise KubeconfigError("the kubeconfig is empty or not a mapping")
    return config


def _choose(
    config: Mapping[str, Any], context: str | None, cluster: str | None
) -> tuple[str, str, dict[str, Any]]:
    name = context or str(config.get("current-context") or "")
    if not name:
        contexts = config.get("contexts") or []
        if len(contexts) != 1:
            raise KubeconfigError(
                "the kubeconfig names no current-context; give the provider a `context`"
            )
        name = str(contexts[0].get("name"))
    chosen = _named(config, "contexts", name)
    return name, cluster or str(chosen.get("cluster", "")), chosen


def load(
    kubeconfig: str | None,
    *,
    context: str | None = None,
    cluster: str | None = None,
    namespace: str | None = None,
) -> Cluster:
    """Read and check everything that a connection needs; raises KubeconfigError."""
    text, folder = text_of(kubeconfig)
    config = _parse(text)
    context_name, cluster_name, chosen = _choose(config, context, cluster)
    place = _named(config, "clusters", cluster_name)
    user = _named(config, "users", str(chosen["user"])) if chosen.get("user") else {}
    server = str(place.get("server") or "")
    if urlsplit(server).scheme not in ("http", "https"):
        raise KubeconfigError(f"cluster {cluster_name!r}: server {server!r} is not an http(s) URL")
    for unsupported in ("exec", "auth-provider", "username"):
        if user.get(unsupported):
            raise KubeconfigError(
                f"user {chosen['user']!r} logs in by {unsupported!r}, which this stand-in does not"
                " do; give a client certificate or a token"
            )
    if place.get("proxy-url"):
        raise KubeconfigError(f"cluster {cluster_name!r} asks for a proxy, which is not supported")
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = _read(folder, str(user["tokenFile"])).decode().strip()
    return Cluster(
        name=cluster_name,
        context=context_name,
        server=server,
        namespace=namespace or str(chosen.get("namespace") or "default"),
        tls=_tls(place, user, folder) if server.startswith("https") else None,
        token=str(token) if token else None,
        tls_server_name=place.get("tls-server-name"),
    )


def _read(folder: Path, name: str) -> bytes:
    path = folder / Path(name).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"cannot read {path}: {error.strerror or error}") from error


def _material(section: Mapping[str, Any], key: str, folder: Path) -> bytes | None:
    """A certificate or key given inline (base64) or as a path."""
    if inline := section.get(f"{key}-data"):
        try:
            return base64.b64decode(str(inline), validate=True)
        except binascii.Error as error:
            raise KubeconfigError(f"{key}-data in the kubeconfig is not base64") from error
    return _read(folder, str(section[key])) if section.get(key) else None


def _tls(place: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    try:
        authority = _material(place, "certificate-authority", folder)
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if place.get("insecure-skip-tls-verify"):
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        certificate = _material(user, "client-certificate", folder)
        key = _material(user, "client-key", folder)
        if certificate and key:
            # The TLS library reads these from files only: private ones, gone at once.
            with tempfile.NamedTemporaryFile(prefix="k8s-", suffix=".pem") as file:
                file.write(certificate + b"\n" + key)
                file.flush()
                tls.load_cert_chain(file.name)
        return tls
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise KubeconfigError(
            "a certificate or key in the kubeconfig cannot be used: "
            f"{getattr(error, 'reason', None) or type(error).__name__}"
        ) from error
