"""The pinned table: every program that the stand runs, its version and where it comes from.

`mods/<group>/go.mod` and `go.sum` pin what a group is built from; both move with `version`.
A group has an official `release` only where its checksum is known from the project that signs it;
where it is None the reason stands beside it, and the group is built from its verified module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MODS = Path(__file__).with_name("mods")


@dataclass(frozen=True, kw_only=True)
class Release:
    """An official download for one machine type."""

    url: str
    sha256: str
    members: dict[str, str]  # program -> path in the archive; "" when the file is the program


@dataclass(frozen=True, kw_only=True)
class Group:
    """Programs that are built together from one Go module."""

    name: str
    version: str  # without "v"
    programs: dict[str, str]  # program -> Go package
    asks: dict[str, tuple[str, ...]]  # program -> arguments that print its version
    ldflags: str = ""
    tags: str = ""
    release: dict[str, Release] | None = None  # by platform.machine()
    why_no_release: str = ""
    for_stand: bool = True  # False: only workloads of the platform need it
    needs_root: bool = False  # used by real nodes only

    @property
    def folder(self) -> Path:
        return MODS / self.name


NO_SUM = "no checksum of the official file is known to this project yet"
_KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
_K8S = "k8s.io/component-base/version"

GROUPS: tuple[Group, ...] = (
    # the long builds first: with two at a time the short ones fill the gaps
    Group(
        name="kubernetes",
        version="1.36.3",
        programs={name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBE},
        asks=dict.fromkeys(_KUBE, ("--version",)),
        ldflags=f"-X {_K8S}.gitVersion=v1.36.3 -X {_K8S}.gitMajor=1 -X {_K8S}.gitMinor=36",
        why_no_release=NO_SUM,
    ),
    Group(
        name="vault",
        version="1.21.1",
        programs={"vault": "github.com/hashicorp/vault"},
        asks={"vault": ("version",)},
        tags="minimal",  # raft, kv, pki, ssh, transit, approle, cert, jwt, userpass
        why_no_release=NO_SUM,
    ),
    Group(
        name="pulumi",
        version="3.255.0",
        programs={"pulumi": "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"},
        asks={"pulumi": ("version",)},
        ldflags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.255.0",
        why_no_release=NO_SUM,
    ),
    Group(
        name="containerd",
        version="2.4.2",
        programs={
            name: f"github.com/containerd/containerd/v2/cmd/{name}"
            for name in ("containerd", "ctr", "containerd-shim-runc-v2")
        },
        asks={
            "containerd": ("--version",), "ctr": ("--version",),
            "containerd-shim-runc-v2": ("-v",),
        },
        why_no_release=NO_SUM,
        needs_root=True,
    ),
    Group(
        name="coredns",
        version="1.15.0",
        programs={"coredns": "github.com/coredns/coredns"},
        asks={"coredns": ("-version",)},
        why_no_release=NO_SUM,
        needs_root=True,
    ),
    Group(
        name="kwok",
        version="0.7.0",
        programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        asks={"kwok": ("--version",)},
        ldflags="-X sigs.k8s.io/kwok/pkg/consts.Version=v0.7.0",
        why_no_release=NO_SUM,
    ),
    Group(
        name="pause",
        version="1.0.0",
        programs={"pause": "hybrid-recommender/tools/pause"},
        asks={},  # our own: holds the namespaces of a pod
        why_no_release="its source is in mods/pause",
        needs_root=True,
    ),
    Group(
        name="nats-server",
        version="2.15.2",
        programs={"nats-server": "github.com/nats-io/nats-server/v2"},
        asks={"nats-server": ("--version",)},
        why_no_release=NO_SUM,
        for_stand=False,
    ),
    Group(
        name="versitygw",
        version="1.8.0",
        programs={"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
        asks={"versitygw": ("--version",)},
        ldflags="-X main.Version=v1.8.0",
        why_no_release=NO_SUM,
    ),
    Group(
        name="kueue",
        version="0.19.2",
        programs={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        asks={},  # prints no version: never taken from PATH
        why_no_release="released as a container image only",
        for_stand=False,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package and the programs that we use of it."""

    name: str
    programs: tuple[str, ...]  # names on PATH, or absolute paths
    why: str
    unpack: bool = False  # unpacked in the cache: installing it would start a service
    needs_root: bool = True
    least: str = ""  # lowest version that is known to work, asked with `--version`


PACKAGES: tuple[Package, ...] = (
    Package(
        name="etcd-server",
        programs=("etcd",),
        why="the database of both control planes",
        unpack=True,
        needs_root=False,
        least="3.4.13",
    ),
    Package(name="iproute2", programs=("ip",), why="namespaces, links and routes"),
    Package(name="util-linux", programs=("nsenter", "unshare", "mount"), why="namespaces"),
    Package(name="runc", programs=("runc",), why="containers on real nodes", least="1.1.0"),
    Package(
        name="containernetworking-plugins",
        programs=("/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/lib/cni/loopback"),
        why="addresses of pods",
    ),
    Package(name="nftables", programs=("nft",), why="Services (kube-proxy)"),
    Package(name="iptables", programs=("iptables",), why="the link's MSS clamp"),
    Package(name="conntrack", programs=("conntrack",), why="Services (kube-proxy)"),
)

_VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+)(?![\w.]*-(?:alpha|beta|rc))")


def parse_version(text: str) -> str | None:
    """The first released `x.y.z` in a program's answer; None when there is none."""
    found = _VERSION.search(text)
    return found.group(1) if found else None


def at_least(version: str, least: str) -> bool:
    """Compare `x.y.z` by number."""
    return [int(one) for one in version.split(".")] >= [int(one) for one in least.split(".")]
