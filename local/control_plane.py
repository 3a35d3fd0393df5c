"""The control plane of one site: etcd, the API server and what works beside it, as processes."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from local import gpu
from local.kube import Client, kubeconfig
from local.layout import SiteLayout
from local.paths import Folders, private_dir, write_private
from local.pki import Authority, Leaf, Pair, signing_pair
from local.proc import Part
from local.tools.resolve import Tools

NODE_MONITOR_GRACE = 30  # seconds of silence after which a node is NotReady
CLUSTER_DOMAIN = "cluster.local"


def http_ok(host: str, port: int, path: str) -> bool:
    """Whether a plain HTTP health address answers 200."""
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def https_ok(host: str, port: int, path: str, ca: Path) -> bool:
    """The same over TLS, with the site's own authority."""
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection(host, port, timeout=3, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class ControlPlane:
    """Certificates, kubeconfigs and parts of one site."""

    folders: Folders
    site: SiteLayout
    tools: Tools

    @property
    def root(self) -> Path:
        return self.folders.site(self.site.name)

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @cached_property
    def ca(self) -> Authority:
        return Authority(private_dir(self.pki), "ca")

    @cached_property
    def front_ca(self) -> Authority:
        return Authority(private_dir(self.pki), "front-ca")

    @property
    def issuer(self) -> str:
        """Of service-account tokens: different per site, so that Vault can tell them apart."""
        return f"https://{self.site.name}.stand.internal"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @cached_property
    def client(self) -> Client:
        admin = self.ca.issue("admin", Leaf("admin", "system:masters"))
        return Client(self.site.api, self.ca.cert, admin)

    def config(self, file: str, leaf: Leaf) -> Path:
        """A kubeconfig for one user of this site, with its own certificate."""
        return kubeconfig(
            self.root / f"{file}.kubeconfig",
            name=self.site.name, url=self.site.api, ca=self.ca.cert,
            pair=self.ca.issue(file, leaf),
        )  # fmt: skip

    def write_admin_config(self) -> Path:
        return self.config("admin", Leaf("admin", "system:masters"))

    def _name(self, part: str) -> str:
        return f"{self.site.name}/{part}"

    def _loopback(self, part: str) -> str:
        return f"127.0.0.1:{self.site.ports[part]}"

    def etcd(self) -> Part:
        data = private_dir(self.root / "etcd")
        pair = self.ca.issue("etcd", Leaf("etcd", hosts=("127.0.0.1", "localhost")))
        own, peer = f"https://{self._loopback('etcd')}", f"https://{self._loopback('etcd-peer')}"
        flags = {
            "name": "default", "data-dir": data,
            "listen-client-urls": own, "advertise-client-urls": own,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "cert-file": pair.cert, "key-file": pair.key, "trusted-ca-file": self.ca.cert,
            "client-cert-auth": "true",
            "peer-cert-file": pair.cert, "peer-key-file": pair.key,
            "peer-trusted-ca-file": self.ca.cert, "peer-client-cert-auth": "true",
            "log-level": "warn", "logger": "zap",
            # the stand's disk is a laptop's: compact hourly, no snapshot every 100 000 writes
            "auto-compaction-mode": "periodic", "auto-compaction-retention": "1h",
            "snapshot-count": "20000",
        }  # fmt: skip
        return self._part("etcd", "etcd", flags, address=own)

    def api_server(self) -> Part:
        site = self.site
        hosts = (
            site.address, "127.0.0.1", "localhost", str(site.service_cidr[1]),
            "kubernetes", "kubernetes.default", "kubernetes.default.svc",
            f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
        )  # fmt: skip
        serving = self.ca.issue("apiserver", Leaf("kube-apiserver", hosts=hosts))
        to_kubelet = self.ca.issue("to-kubelet", Leaf("kube-apiserver", "system:masters"))
        to_etcd = self.ca.issue("to-etcd", Leaf("kube-apiserver"))
        front = self.front_ca.issue("front-proxy", Leaf("front-proxy-client"))
        tokens = signing_pair(self.pki)
        flags = {
            "etcd-servers": f"https://{self._loopback('etcd')}",
            "etcd-cafile": self.ca.cert, "etcd-certfile": to_etcd.cert, "etcd-keyfile": to_etcd.key,
            "bind-address": site.address, "secure-port": site.ports["api"],
            "advertise-address": site.address,
            # an endpoint on 127.0.0.1 would be refused as an endpoint of a Service
            "endpoint-reconciler-type": "lease" if site.netns else "none",
            # Debian's etcd cannot stream a list, and KWOK would back off for a minute each time
            "feature-gates": "WatchList=false",
            "tls-cert-file": serving.cert, "tls-private-key-file": serving.key,
            "tls-min-version": "VersionTLS12",
            "client-ca-file": self.ca.cert,
            "service-account-issuer": self.issuer,
            "service-account-key-file": tokens.cert,
            "service-account-signing-key-file": tokens.key,
            "kubelet-client-certificate": to_kubelet.cert, "kubelet-client-key": to_kubelet.key,
            "kubelet-certificate-authority": self.ca.cert,
            "kubelet-preferred-address-types": "InternalIP",
            "requestheader-client-ca-file": self.front_ca.cert,
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": front.cert, "proxy-client-key-file": front.key,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-cluster-ip-range": site.service_cidr,
            "cert-dir": self.root / "apiserver",
            "profiling": "false",
            "watch-cache": "true",
        }  # fmt: skip
        return self._part(
            "api", "kube-apiserver", flags, address=site.api, ready=self.client.ready,
            files=(serving.cert, to_kubelet.cert, to_etcd.cert, front.cert, tokens.cert),
        )  # fmt: skip

    def controller_manager(self) -> Part:
        own = self.config("controller-manager", Leaf("system:kube-controller-manager"))
        tokens = signing_pair(self.pki)
        flags = {
            **self._own_configs(own, "controller-manager"),
            "use-service-account-credentials": "true",
            "service-account-private-key-file": tokens.key,
            "root-ca-file": self.ca.cert,
            "cluster-signing-cert-file": self.ca.cert, "cluster-signing-key-file": self.ca.key,
            "allocate-node-cidrs": "true",
            "cluster-cidr": self.site.pod_cidr, "node-cidr-mask-size": self.site.node_prefix,
            "service-cluster-ip-range": self.site.service_cidr,
            "node-monitor-grace-period": f"{NODE_MONITOR_GRACE}s",
            # the default of 20 makes 200 pods wait 20 s
            "kube-api-qps": 200, "kube-api-burst": 400,
        }  # fmt: skip
        return self._part(
            "controller-manager", "kube-controller-manager", flags, files=(own,),
            ready=self._serves("controller-manager"),
        )  # fmt: skip

    def scheduler(self) -> Part:
        own = self.config("scheduler", Leaf("system:kube-scheduler"))
        flags = {
            **self._own_configs(own, "scheduler"),
            "kube-api-qps": 200, "kube-api-burst": 400,
        }  # fmt: skip
        return self._part(
            "scheduler", "kube-scheduler", flags, files=(own,), ready=self._serves("scheduler")
        )

    def kwok(self) -> Part:
        """Keeps the simulated nodes and their pods alive, whoever made them."""
        own = self.config("kwok", Leaf("kwok", "system:masters"))
        flags = {
            "kubeconfig": own,
            "config": gpu.STAGES,
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": "kwok.x-k8s.io/node=fake",
            "node-lease-duration-seconds": 40,
            "cidr": self.site.pod_cidr,
            "node-ip": self.site.address,
            "server-address": f"{self.site.address}:{self.site.ports['kwok']}",
        }
        return self._part(
            "kwok", "kwok", flags, kind="simulated", files=(own, gpu.STAGES),
            ready=lambda: http_ok(self.site.address, self.site.ports["kwok"], "/healthz"),
        )  # fmt: skip

    def dns(self) -> Part:
        """Names of Services, for pods on real nodes; asked at the site's router address."""
        own = self.config("coredns", Leaf("system:coredns"))
        host, port = self.site.address, self.site.ports["dns"]
        file = self.root / "Corefile"
        text = f"""{CLUSTER_DOMAIN}:{port} in-addr.arpa:{port} {{
    bind {host}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {own}
        ttl 5
    }}
    cache 5
    ready {host}:{self.site.ports["dns-health"]}
}}
"""
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_private(file, text)
        return Part(
            name=self._name("dns"),
            argv=(str(self.tools.path("coredns")), "-conf", str(file)),
            version=self.tools.version("coredns"),
            address=f"{host}:{port}",
            netns=self.site.netns,
            files=(file, own),
            ready=lambda: http_ok(host, self.site.ports["dns-health"], "/ready"),
        )

    def router_proxy(self, node: str) -> Part:
        """kube-proxy on the router: the host, webhooks and the other site reach Services.

        It borrows the name of the first real node, because kube-proxy asks for a node's address.
        """
        file = self.root / "proxy.json"
        own = self.config("proxy", Leaf("system:kube-proxy"))
        write_proxy_config(file, own, node, self.site, self.site.address)
        return Part(
            name=self._name("proxy"),
            argv=(str(self.tools.path("kube-proxy")), f"--config={file}"),
            version=self.tools.version("kube-proxy"),
            netns=self.site.netns,
            files=(file, own),
            ready=lambda: http_ok(self.site.address, self.site.ports["proxy-health"], "/livez"),
        )

    def _own_configs(self, own: Path, part: str) -> dict[str, object]:
        serving = self._serving(part)
        return {
            "kubeconfig": own,
            "authentication-kubeconfig": own,
            "authorization-kubeconfig": own,
            "bind-address": self.site.address,
            "secure-port": self.site.ports[part],
            "tls-cert-file": serving.cert,
            "tls-private-key-file": serving.key,
            "leader-elect": "false",
            "profiling": "false",
        }

    def _serving(self, part: str) -> Pair:
        return self.ca.issue(f"{part}-serving", Leaf(part, hosts=(self.site.address, "localhost")))

    def _serves(self, part: str) -> Callable[[], bool]:
        return lambda: https_ok(self.site.address, self.site.ports[part], "/healthz", self.ca.cert)

    def _part(
        self, part: str, tool: str, flags: Mapping[str, object], *, kind: str = "real",
        address: str = "", ready: Callable[[], bool] = lambda: True,
        files: tuple[Path, ...] = (),
    ) -> Part:  # fmt: skip
        argv = (str(self.tools.path(tool)), *(f"--{key}={value}" for key, value in flags.items()))
        return Part(
            name=self._name(part),
            argv=argv,
            kind=kind,
            version=self.tools.version(tool),
            address=address,
            netns=self.site.netns,
            files=files,
            ready=ready,
        )


def write_proxy_config(file: Path, own: Path, node: str, site: SiteLayout, address: str) -> None:
    """kube-proxy's settings for one namespace; the machine's own sysctls are left alone."""
    text = json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(own)},
            "mode": "nftables",
            "clusterCIDR": str(site.pod_cidr),
            "hostnameOverride": node,
            "healthzBindAddress": f"{address}:{site.ports['proxy-health']}",
            "metricsBindAddress": f"127.0.0.1:{site.ports['proxy-metrics']}",
            "conntrack": {
                "maxPerCore": 0, "min": 0,
                "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
        },
        indent=1,
    )  # fmt: skip
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_private(file, text)
