"""What a stack adopts: clusters, Vault, the image of helper pods, the link's private gateway.

On the stand `stand up` writes all of it; elsewhere `Pulumi.<stack>.yaml` does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infra.cloud_settings import Karpenter
from infra.queue_settings import CpuPool, GpuOperator, GpuPool


class SettingsError(Exception):
    """Settings that cannot work; each line names the key, the value and the rule."""


class FromStand(BaseModel):
    """Written by `stand up`, which may say more than this program needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _private(net: IPv4Network) -> IPv4Network:
    if not net.is_private:
        raise ValueError("must be a private range (RFC 1918)")
    return net


AWS_SCHEME = "service.beta.kubernetes.io/aws-load-balancer-scheme"
PrivateCidr = Annotated[IPv4Network, AfterValidator(_private)]


class Volume(FromStand):
    """A folder of one node that a database may keep: the stand's answer to a storage class."""

    node: str
    path: str = Field(pattern=r"^/")


class WayIn(BaseModel):
    """How clients outside a site's cluster reach its gateway.

    With every kind but `cluster` a node passes on only what its own gateway pod takes: the client's
    address is kept, and a node without power takes no part of the traffic of the others with it,
    as clients (the entrance, a load balancer) see for each node whether it answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cluster", "node-port", "load-balancer"] = "cluster"
    """`cluster`: from inside only, and a lost node costs a share of new connections until the
    cluster notices. `node-port`: the nodes themselves, behind an entrance that tries each of them.
    `load-balancer`: what the cluster's controller for them provides."""
    port: int | None = Field(default=None, ge=30000, le=32767)
    """On the nodes. A load balancer needs none unless it sends to nodes instead of pods."""
    health_port: int | None = Field(default=None, ge=30000, le=32767)
    """For a load balancer's checks: there kube-proxy answers 200 on nodes with a ready gateway."""
    nodes: tuple[IPv4Address, ...] = ()
    """With `node-port`: the addresses that clients try."""
    clients: tuple[IPv4Network, ...] = ()
    """Ranges that may ask, beside the stack's own nodes and pods."""
    annotations: dict[str, str] = Field(default_factory=dict[str, str])
    """What the load balancer's controller wants to read."""
    balancer_class: str | None = Field(default=None, pattern=r"^[a-z0-9.-]+(/[a-z0-9.-]+)?$")
    """Which controller, where a cluster has several."""

    @property
    def faces_internet(self) -> bool:
        """Whether it asks for a load balancer with public addresses (AWS's controller)."""
        return self.annotations.get(AWS_SCHEME) == "internet-facing"

    @model_validator(mode="after")
    def _shoppers(self) -> Self:
        public = [str(net) for net in self.clients if not net.is_private]
        if public and not (self.kind == "load-balancer" and self.faces_internet):
            raise ValueError(
                f"clients holds {', '.join(public)}, which must be a private range (RFC 1918): "
                f"only a load balancer with {AWS_SCHEME}: internet-facing takes others"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind != "cluster" and not self.clients:
            raise ValueError(f"kind is {self.kind}, but clients is empty; name who may ask")
        if self.kind == "node-port" and not (self.port and self.nodes):
            raise ValueError("kind is node-port; give its port and the nodes that clients try")
        if len(set(self.nodes)) < len(self.nodes):
            raise ValueError("nodes names an address twice; give each once")
        wrong = [
            key
            for key, kinds in {
                "port": ("node-port", "load-balancer"),
                "nodes": ("node-port",),
                "health_port": ("load-balancer",),
                "annotations": ("load-balancer",),
                "balancer_class": ("load-balancer",),
            }.items()
            if getattr(self, key) and self.kind not in kinds
        ]
        if wrong:
            raise ValueError(f"kind is {self.kind}, which has no {', '.join(wrong)}; remove it")
        if self.port is not None and self.port == self.health_port:
            raise ValueError(f"port and health_port are both {self.port}; give two")
        return self


class Site(FromStand):
    """One cluster that the program adopts."""

    kubeconfig: Path
    api: str = Field(pattern=r"^https://")
    node_cidr: PrivateCidr
    pod_cidr: PrivateCidr
    service_cidr: PrivateCidr
    real_nodes: bool = True
    """False on a stand without root: pods are scheduled but nothing runs them."""
    reaches_vault: bool = True
    """False while no link joins the site to Vault's: its workloads are declared and wait for it."""
    issuer: str = "https://kubernetes.default.svc"
    """`iss` of the cluster's service-account tokens."""
    gpu_pool: GpuPool | None = None
    cpu_pool: CpuPool = CpuPool()
    gpu_operator: GpuOperator | None = None
    """NVIDIA's, where the site has it: fields of its ClusterPolicy that become ours."""
    trainer: bool = False
    """The site has Kubeflow Trainer and JobSet: runs are TrainJobs, and TrainJobs are queued."""
    karpenter: Karpenter | None = None
    """Stand only: the autoscaler with simulated nodes that `cloud-pools` are given to."""
    service_account_key_file: Path | None = None
    """PEM with the public key of those tokens; without it Vault asks the API server's JWKS."""
    storage_class: str | None = None
    """Of the volumes that databases keep; None for the cluster's default."""
    volumes: tuple[Volume, ...] = ()
    """Stand only: declared as volumes, as nothing provisions them there."""
    dns: str | None = None
    """Address of a name server outside the cluster, `ip:port`; None for the cluster's own."""
    service_host: str = Field(
        default="", pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+)?$"
    )
    """Name by which clients reach the site's gateway; it stands on the certificate."""
    way_in: WayIn = WayIn()

    @model_validator(mode="after")
    def _own_nodes(self) -> Self:
        for one in self.way_in.nodes:
            if one not in self.node_cidr:
                raise ValueError(
                    f"way_in.nodes holds {one}, which is not in node_cidr {self.node_cidr}; "
                    "give addresses of this site's nodes"
                )
        return self

    @property
    def ranges(self) -> dict[str, IPv4Network]:
        """Everything of the site that the link may announce, by name."""
        return {"nodes": self.node_cidr, "pods": self.pod_cidr, "services": self.service_cidr}

    def route(self) -> tuple[str | None, bool]:
        """Name on the API server's certificate where the kubeconfig gives another than its address,
        and whether clients reach it through a proxy that the kubeconfig names."""
        try:
            cluster = self._cluster()
        except (OSError, KeyError, IndexError, TypeError, yaml.YAMLError):
            return None, False  # `ca_pem` says what is wrong with the file
        return cluster.get("tls-server-name"), "proxy-url" in cluster

    def _cluster(self) -> Mapping[str, Any]:
        raw: Any = yaml.safe_load(self.kubeconfig.expanduser().read_text(encoding="utf-8"))
        return cast("Mapping[str, Any]", raw["clusters"][0]["cluster"])

    def ca_pem(self) -> str:
        """The certificate that signs the API server's, from the kubeconfig.

        Raises `SettingsError` when the file is missing or holds none.
        """
        where = self.kubeconfig.expanduser()
        try:
            cluster = self._cluster()
            if "certificate-authority-data" in cluster:
                return base64.b64decode(cluster["certificate-authority-data"]).decode()
            file = where.parent / str(cluster["certificate-authority"])
            return file.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"kubeconfig is {where}: {error.strerror}; start the site or correct the path"
            ) from None
        except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError):
            raise SettingsError(
                f"kubeconfig is {where}: it names no cluster with a certificate authority"
            ) from None


class VaultServer(FromStand):
    """Vault, and the files on this machine that let the program log in."""

    address: str = Field(pattern=r"^https://[^/:]+(:\d+)?$")
    ca_file: Path
    token_file: Path
    namespace: str = ""
    audit_file: str | None = None
    """On the Vault server: a log that this stack keeps of every request; None to keep none."""

    def ca_pem(self) -> str:
        """The certificate that signs Vault's own. Raises `SettingsError` when it cannot be read."""
        where = self.ca_file.expanduser()
        try:
            return where.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"vault.ca_file is {where}: {error.strerror}; start Vault or correct the path"
            ) from None


class Program(FromStand):
    """A program that the stand's pods run from the host, and where its own libraries are."""

    path: str = Field(pattern=r"^/")
    libraries: str = ""


class PodImage(FromStand):
    """What small helper pods run: a Python 3.11 or newer with its standard library."""

    image: str
    host_paths: tuple[str, ...] = ()
    """Stand only: there is no registry, so the host's own files are mounted, read-only."""
    python: str = "python3"
    """Interpreter with the product's packages, for a local bento."""
    project: str | None = None
    """Where this project lies in the image, when it is not installed as a package."""
    programs: dict[str, Program] = Field(default_factory=dict[str, Program])
    """Stand only: what stands in for the images of `images`."""


class PrivateGateway(FromStand):
    """The machine at the private end of the link, where this program may write and run things."""

    address: IPv4Address
    """As the internet sees it."""
    outside: tuple[IPv4Address, IPv4Address]
    """The cloud's ends of the tunnels."""
    inside: tuple[IPv4Network, IPv4Network]
    """The /30 inside each tunnel."""
    folder: str
    """Where its files belong."""
    apply: tuple[str, ...]
    remove: tuple[str, ...]
    """Commands that put the files to use, and that undo it."""
