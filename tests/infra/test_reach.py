"""Sites are looked at before an update: what answers, what is another, what is not asked."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from infra.reach import reach
from infra.settings import Settings
from infra.site_settings import SettingsError, Site
from local.pki import Authority, Leaf


@dataclass(frozen=True)
class Server:
    port: int
    authority: bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real TLS server whose certificate is for `api.internal` and not for its address."""
    folder = tmp_path_factory.mktemp("pki")
    pair = Authority(folder, "ca").issue("api", Leaf("api", hosts=("api.internal",)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    raw, _ = listening.accept()
                    context.wrap_socket(raw, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        yield Server(listening.getsockname()[1], (folder / "ca.crt").read_bytes())


def site(folder: Path, port: int, authority: bytes, **cluster: str) -> Any:
    given = {
        "certificate-authority-data": base64.b64encode(authority).decode(),
        "server": f"https://127.0.0.1:{port}", **cluster,
    }  # fmt: skip
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump({"clusters": [{"cluster": given}]}), encoding="utf-8")
    made = Site.model_validate(
        {"kubeconfig": file, "api": given["server"], "node_cidr": "10.1.0.0/24",
         "pod_cidr": "10.2.0.0/24", "service_cidr": "10.3.0.0/24"}
    )  # fmt: skip
    return cast("Settings", SimpleNamespace(sites={"private": made}, unreachable=()))


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_the_certificate_may_bear_the_name_that_the_kubeconfig_gives(
    server: Server, tmp_path: Path
) -> None:
    reach(site(tmp_path, server.port, server.authority, **{"tls-server-name": "api.internal"}))
    with pytest.raises(SettingsError, match=r"^site private at .* does not trust"):
        reach(site(tmp_path, server.port, server.authority))


def test_a_closed_port_is_a_site_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SettingsError, match=r"does not answer .* add it to `unreachable`"):
        reach(site(tmp_path, port, server.authority))


def test_what_only_a_proxy_reaches_is_not_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(site(tmp_path, 1, server.authority, **{"proxy-url": "http://proxy.internal:3128"}))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.internal:3128")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    reach(site(tmp_path, 1, server.authority))
