"""The pinned table: every program that the stand runs, its version and where it comes from.

`mods/<group>/go.mod` and `go.sum` pin what a group is built from; both move with `version`. Groups
that stand on the same large libraries share one pair, so that these are compiled once.
An official release is fetched only where its checksum is pinned here. Pinned are sums that the
project publishes and that two sources, read independently, agree on; where none was found the sum
is `UNKNOWN` and the group is built from its verified module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

MODS = Path(__file__).with_name("mods")


@dataclass(frozen=True, kw_only=True)
class Release:
    """An official download for one machine type."""

    url: str
    sha256: str  # `UNKNOWN`: never fetched
    members: dict[str, str]  # program -> path in the archive; "" when the file is the program


UNKNOWN = ""  # the official file is there, its published sum was not to be had


def _official(
    url: str,
    members: dict[str, str],
    *,
    x86_64: str = UNKNOWN,
    aarch64: str = UNKNOWN,
    names: tuple[str, str] = ("amd64", "arm64"),
) -> dict[str, Release]:
    """One release for both machine types; `{arch}` in texts becomes the project's name of it."""
    return {
        machine: Release(
            url=url.format(arch=arch),
            sha256=checksum,
            members={program: path.format(arch=arch) for program, path in members.items()},
        )
        for machine, arch, checksum in zip(
            ("x86_64", "aarch64"), names, (x86_64, aarch64), strict=True
        )
    }


@dataclass(frozen=True, kw_only=True)
class Group:
    """Programs that are built together from one Go module."""

    name: str
    version: str  # without "v"
    programs: dict[str, str]  # program -> Go package
    asks: dict[str, tuple[str, ...]]  # program -> arguments that print its version
    ldflags: str = ""
    tags: str = ""
    release: dict[str, Release] = field(default_factory=dict[str, Release])  # by machine type
    shares: str = ""  # the group whose module file it is built from; "" for its own
    for_stand: bool = True  # False: only workloads of the platform need it
    module: str = ""  # the module that `files` are taken from
    files: dict[str, str] | None = None  # folder beside the programs -> folder in the module
    needs_root: bool = False  # used by real nodes only

    @property
    def folder(self) -> Path:
        return MODS / (self.shares or self.name)


_GITHUB = "https://github.com"
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
        release=_official(
            "https://dl.k8s.io/v1.36.3/kubernetes-server-linux-{arch}.tar.gz",
            {name: f"kubernetes/server/bin/{name}" for name in _KUBE},
        ),
    ),
    Group(
        name="vault",
        version="1.21.1",
        programs={"vault": "github.com/hashicorp/vault"},
        asks={"vault": ("version",)},
        tags="minimal",  # raft, kv, pki, ssh, transit, approle, cert, jwt, userpass
        # the project's own formula (hashicorp/homebrew-tap); this build has every plugin
        release=_official(
            "https://releases.hashicorp.com/vault/1.21.1/vault_1.21.1_linux_{arch}.zip",
            {"vault": "vault"},
            x86_64="4088617653eba4ea341b6166130239fcbe42edc7839c7f7c6209d280948769c7",
            aarch64="f83f541e4293289bf1cc3f1e62e41a29a9ce20aeb9a152ada2b00ca42e7e856d",
        ),
    ),
    Group(
        name="pulumi",
        version="3.255.0",
        programs={"pulumi": "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"},
        asks={"pulumi": ("version",)},
        ldflags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.255.0",
        # from pulumi-3.255.0-checksums.txt, as several installers repeat it
        release=_official(
            "https://get.pulumi.com/releases/sdk/pulumi-v3.255.0-linux-{arch}.tar.gz",
            {"pulumi": "pulumi/pulumi"},
            x86_64="cf559568e2c32f7fae56ea3de8ae5fa48973ba8c5aa9dd2b3dc0c8898fe50dba",
            aarch64="699fbc6ea848d997e9b3645487f108d27b1b55ec807c7576406131e6e080f0e3",
            names=("x64", "arm64"),
        ),
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
        release=_official(
            f"{_GITHUB}/containerd/containerd/releases/download/v2.4.2/"
            "containerd-2.4.2-linux-{arch}.tar.gz",
            {name: f"bin/{name}" for name in ("containerd", "ctr", "containerd-shim-runc-v2")},
        ),
        needs_root=True,
    ),
    Group(
        name="coredns",
        version="1.15.0",
        # a main of our own with the plugins that a site needs; a release has every plugin
        programs={"coredns": "hybrid-recommender/tools/containerd/coredns"},
        asks={"coredns": ("-version",)},
        shares="containerd",
        release=_official(
            f"{_GITHUB}/coredns/coredns/releases/download/v1.15.0/coredns_1.15.0_linux_{{arch}}.tgz",
            {"coredns": "coredns"},
        ),
        needs_root=True,
    ),
    Group(
        name="kwok",
        version="0.8.0",
        programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        asks={"kwok": ("--version",)},
        ldflags="-X sigs.k8s.io/kwok/pkg/consts.Version=v0.8.0",
        shares="kubernetes",
        release=_official(
            f"{_GITHUB}/kubernetes-sigs/kwok/releases/download/v0.8.0/kwok-linux-{{arch}}",
            {"kwok": ""},
        ),
    ),
    Group(
        name="pause",
        version="1.0.0",
        programs={"pause": "hybrid-recommender/tools/pause"},
        asks={},  # our own: holds the namespaces of a pod
        # no release: its source is in mods/pause
        needs_root=True,
    ),
    Group(
        name="nats-server",
        version="2.15.2",
        programs={"nats-server": "github.com/nats-io/nats-server/v2"},
        asks={"nats-server": ("--version",)},
        release=_official(
            f"{_GITHUB}/nats-io/nats-server/releases/download/v2.15.2/"
            "nats-server-v2.15.2-linux-{arch}.tar.gz",
            {"nats-server": "nats-server-v2.15.2-linux-{arch}/nats-server"},
        ),
        for_stand=False,
    ),
    Group(
        name="versitygw",
        version="1.8.0",
        programs={"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
        asks={"versitygw": ("--version",)},
        ldflags="-X main.Version=v1.8.0",
        # the sums beside the release, as several installers repeat them
        release=_official(
            f"{_GITHUB}/versity/versitygw/releases/download/v1.8.0/"
            "versitygw_v1.8.0_Linux_{arch}.tar.gz",
            {"versitygw": "versitygw_v1.8.0_Linux_{arch}/versitygw"},
            x86_64="2ba2c734d10d2c4e651d03182cb4b246656bc735a2f282db7b0b73fba6073467",
            aarch64="b34051d33f5a9c457f790896acb7bd7d7e15ad8d92efb70616b924f37e401910",
            names=("x86_64", "arm64"),
        ),
    ),
    Group(
        name="kueue",
        version="0.19.2",
        programs={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        asks={},  # prints no version: never taken from PATH
        shares="kubernetes",
        # no release: a container image only
        module="sigs.k8s.io/kueue",
        # its CRDs, roles and webhooks, of the very version that is built
        files={"manifests": "config/components"},
        for_stand=False,
    ),
    Group(
        name="karpenter",
        version="1.14.1",
        # with the provider whose instances are simulated nodes
        programs={"karpenter": "sigs.k8s.io/karpenter/kwok"},
        asks={},  # prints no version: never taken from PATH
        ldflags="-X sigs.k8s.io/karpenter/pkg/operator.Version=1.14.1",
        shares="kubernetes",
        # no release: of this provider there is not even an image
        module="sigs.k8s.io/karpenter",
        files={"crds": "pkg/apis/crds", "kwok-crds": "kwok/apis/crds"},
    ),
    Group(
        name="trainer",
        version="2.3.0",
        programs={},  # not run: what we write for it is held against its CRDs
        asks={},
        module="github.com/kubeflow/trainer/v2",
        files={"crds": "manifests/base/crds"},
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
    libraries: tuple[str, ...] = ()  # packages unpacked beside it: what its programs link to


PACKAGES: tuple[Package, ...] = (
    Package(
        name="etcd-server",
        programs=("etcd",),
        why="the database of both control planes",
        unpack=True,
        needs_root=False,
        least="3.4.13",
    ),
    Package(
        name="haproxy",
        programs=("haproxy",),
        why="the gateway in front of the service",
        unpack=True,
        needs_root=False,
        libraries=("liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
    ),
    Package(
        name="prometheus",
        programs=("prometheus", "promtool"),
        why="metrics and alerts of the platform, and the tests of its rules",
        unpack=True,
        needs_root=False,
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
