"""A Kubernetes control plane of a test's own: etcd, API server and, if asked, controllers.

Free ports on 127.0.0.1, certificates made on the spot, everything in one folder, no root. There is
no scheduler and no node: Pods stay Pending, which is what the tests of stalls want; tests that need
a Pod to run or finish write its status themselves.
"""

from __future__ import annotations

import base64
import datetime
import functools
import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local.layout import free_port
from local.tools import debian, resolve
from local.tools.table import GROUPS, PACKAGES

START_SECONDS = 90


@functools.cache
def tool(name: str) -> str:
    """A pinned program of the stand's tool table; brings it when this machine lacks it.

    $TEST_TOOLS names a folder to look in first (one that a developer has built already).
    """
    ready = shutil.which(name, path=os.environ.get("TEST_TOOLS", os.devnull))
    if ready is not None:
        return ready
    package = next((each for each in PACKAGES if name in each.programs), None)
    if package is not None:
        debian.ensure(rooted=False, say=print)
        found = debian.find(package, name)
        assert found is not None, f"{name} of {package.name} is missing after its installation"
        return str(found)
    group = next(each for each in GROUPS if name in each.programs)
    have = resolve.on_path(group, print) or resolve.in_cache(group) or resolve.make(group, print)
    return str(have[name].path)


@dataclass
class Authority:
    """A certificate authority that lives as long as the test."""

    folder: Path
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        self.certificate = self._sign(self.name, self.key.public_key(), authority=True)
        self._write("ca", self.certificate, self.key)

    def issue(self, file: str, common_name: str, group: str = "", server: bool = False) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if group:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        name = x509.Name(attributes)
        self._write(file, self._sign(name, key.public_key(), server=server), key)

    def _sign(
        self, subject: Any, public: Any, *, authority: bool = False, server: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if server:
            names: list[x509.GeneralName] = [
                x509.DNSName("localhost"),
                x509.DNSName("kubernetes.default.svc"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("10.96.0.1")),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if not authority:
            usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, file: str, certificate: x509.Certificate, key: Any) -> None:
        pem = serialization.Encoding.PEM
        (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(pem))
        private = self.folder / f"{file}.key"
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


class Cluster:
    """Start with `start()`, end with `stop()`; `kubeconfig` is its text."""

    def __init__(self, folder: Path, *, controllers: bool) -> None:
        self.folder = folder
        self.controllers = controllers
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd = f"http://127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(folder)
        authority.issue("server", "kube-apiserver", server=True)
        authority.issue("admin", "admin", "system:masters")
        authority.issue("controllers", "system:kube-controller-manager")
        signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / "sa.key").touch(mode=0o600)
        (folder / "sa.key").write_bytes(
            signer.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "sa.pub").write_bytes(
            signer.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.kubeconfig = self._kubeconfig("admin")
        (folder / "admin.kubeconfig").write_text(self.kubeconfig)
        (folder / "controllers.kubeconfig").write_text(self._kubeconfig("controllers"))
        self._tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self._tls.load_cert_chain(folder / "admin.crt", folder / "admin.key")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _kubeconfig(self, user: str) -> str:
        def inline(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        cluster = {"server": self.url, "certificate-authority-data": inline("ca.crt")}
        login = {
            "client-certificate-data": inline(f"{user}.crt"),
            "client-key-data": inline(f"{user}.key"),
        }
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": user, "user": login}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            },
            indent=1,
        )

    def start(self) -> None:
        data = self.folder / "etcd"
        self._run(
            "etcd", "--data-dir", str(data), "--listen-client-urls", self._etcd,
            "--advertise-client-urls", self._etcd, "--listen-peer-urls", self._peer,
            "--initial-advertise-peer-urls", self._peer,
            "--initial-cluster", f"default={self._peer}", "--log-level", "warn",
            "--unsafe-no-fsync",
        )  # fmt: skip
        self.start_api_server()
        if self.controllers:
            config = str(self.folder / "controllers.kubeconfig")
            self._run(
                "kube-controller-manager", "--kubeconfig", config,
                "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
                "--bind-address=127.0.0.1", f"--secure-port={free_port()}",
                "--leader-elect=false", "--use-service-account-credentials",
                "--service-account-private-key-file", str(self.folder / "sa.key"),
                "--root-ca-file", str(self.folder / "ca.crt"),
                "--kube-api-qps=200", "--kube-api-burst=400",
            )  # fmt: skip
            self._wait(
                lambda: self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
            )

    def start_api_server(self) -> None:
        def at(name: str) -> str:
            return str(self.folder / name)

        self._run(
            "kube-apiserver", f"--etcd-servers={self._etcd}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            "--tls-cert-file", at("server.crt"), "--tls-private-key-file", at("server.key"),
            "--client-ca-file", at("ca.crt"),
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file", at("sa.pub"),
            "--service-account-signing-key-file", at("sa.key"),
            "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16",
            "--cert-dir", at("apiserver"), "--watch-cache=true", "--allow-privileged=true",
            *([] if self.controllers else ["--disable-admission-plugins=ServiceAccount"]),
        )  # fmt: skip
        self._wait(lambda: self.request("GET", "/readyz"))

    def stop_api_server(self) -> None:
        self._end("kube-apiserver")

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name)

    def _run(self, name: str, *arguments: str) -> None:
        path = tool(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen([path, *arguments], stdout=log, stderr=log)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM if name == "etcd" else signal.SIGKILL)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, probe: Any) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                probe()
                return
            except (OSError, urllib.error.URLError) as error:
                dead = [n for n, p in self._processes.items() if p.poll() is not None]
                if dead or time.monotonic() > end:
                    logs = "\n".join(
                        (self.folder / f"{n}.log").read_text(errors="replace")[-2000:]
                        for n in dead or self._processes
                    )
                    raise AssertionError(
                        f"the test cluster did not start: {error}\n{logs}"
                    ) from error
                time.sleep(0.1)

    # What tests ask the server past the provider.

    def request(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", content)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        with opener.open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    def get(self, path: str) -> Any:
        """The object, or None when there is none."""
        try:
            return self.request("GET", path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def names(self, path: str) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self.request("GET", path)["items"])
