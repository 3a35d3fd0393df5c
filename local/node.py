"""A real node: kubelet and containerd in their own network, mount and pid namespaces."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time

from local import cgroups
from local.control_plane import CLUSTER_DOMAIN, ControlPlane, write_proxy_config
from local.images import PAUSE
from local.kube import ApiError
from local.layout import PREFIX, real_node_names
from local.paths import Folders, private_dir, write_private
from local.pki import Leaf
from local.proc import Part, Record, record_path

LEASE_FRESH = 40.0  # seconds: a kubelet renews its lease every ten
# Made on the host when missing, because a mount needs a place; `down` removes them again.
MOUNT_POINTS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers")


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def part_name(site: str, node: str) -> str:
    return f"{site}/node-{node.rsplit('-', 1)[1]}"


@dataclass(frozen=True)
class Node:
    """Configuration and process of one real node."""

    folders: Folders
    plane: ControlPlane
    index: int
    images: tuple[Path, ...]

    @property
    def name(self) -> str:
        return real_node_names(self.plane.site.name, self.index + 1)[-1]

    @property
    def group(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def address(self) -> str:
        return str(self.plane.site.node_address(self.index))

    @property
    def root(self) -> Path:
        return self.folders.node(self.name)

    @property
    def part_name(self) -> str:
        return part_name(self.plane.site.name, self.name)

    def register(self) -> None:
        """The Node object with its pod range, before the allocator could give it another one."""
        pods = str(self.plane.site.node_pods(self.index))
        site = self.plane.site.name
        self.plane.client.apply(
            f"/api/v1/nodes/{self.name}",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": self.name,
                    "labels": {
                        "stand.hybrid-recommender/node": "real",
                        "topology.kubernetes.io/region": site,
                        "topology.kubernetes.io/zone": f"{site}-a",
                    },
                },
                "spec": {"podCIDR": pods, "podCIDRs": [pods]},
            },
        )

    def ready(self) -> bool:
        """Ready in the API, by the report of this very process and not of its predecessor.

        A new kubelet renews the lease before it reports its first status, so that for a moment
        "Ready" is still what the last one said; a report's time is in whole seconds.
        """
        record = Record.read(record_path(self.folders, self.part_name))
        if record is None:
            return False
        client = self.plane.client
        try:
            node = client.get(f"/api/v1/nodes/{self.name}")
            lease = client.get(
                f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
            )
        except (OSError, ApiError):
            return False
        since = record.identity.since()
        conditions = {one["type"]: one for one in node["status"].get("conditions") or ()}
        told = conditions.get("Ready")
        return (
            _seconds(lease["spec"]["renewTime"]) > max(since, time() - LEASE_FRESH)
            and told is not None
            and told["status"] == "True"
            and _seconds(told["lastHeartbeatTime"]) >= int(since)
        )

    def part(self, netns: str) -> Part:
        """Write the node's configuration and describe its process."""
        root = private_dir(self.root)
        tools = self.plane.tools
        files = (*self._containerd(), *self._kubelet(), *self._proxy())
        script = Path(__file__).with_name("node.sh")
        return Part(
            name=self.part_name,
            argv=("bash", str(script)),
            version=tools.version("kubelet"),
            address=self.address,
            netns=netns,
            env={
                "NODE_DIR": str(root),
                "NODE_NAME": self.name,
                "NODE_ADDRESS": self.address,
                "NODE_IMAGES": " ".join(str(image) for image in self.images),
                "NODE_CONTAINERD": str(tools.path("containerd")),
                "NODE_CTR": str(tools.path("ctr")),
                "NODE_KUBELET": str(tools.path("kubelet")),
                "NODE_PROXY": str(tools.path("kube-proxy")),
                # containerd looks for its shim and for runc there
                "PATH": f"{tools.path('containerd-shim-runc-v2').parent}:"
                f"{tools.path('runc').parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            },
            files=(*files, *self.images, script),
            ready=self.ready,
            # unshare ignores TERM; KILL takes the whole pid namespace down
            stop_with=signal.SIGKILL,
            unshare=(
                "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
                "--mount-proc",
            ),
        )  # fmt: skip

    def clean_groups(self) -> None:
        """Fresh control groups; those of pods that died with the node before go."""
        for tree in cgroups.trees():
            if (tree / self.group).exists():
                cgroups.remove(tree / self.group)
        cgroups.ensure(self.group)

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_private(path, text)
        return path

    def _containerd(self) -> tuple[Path, ...]:
        root = self.root
        cni = private_dir(root / "cni")
        conflist = {
            "cniVersion": "1.0.0",
            "name": "stand",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": str(self.plane.site.node_pods(self.index))}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        # in memory: after a power cut no address is still taken
                        "dataDir": "/run/cni-addresses",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        toml = f"""version = 3
root = "{root}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.tracing",
]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
# without CAP_SYS_RESOURCE no sandbox starts otherwise
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{cni}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
"""
        return (
            self._write("cni/10-stand.conflist", json.dumps(conflist, indent=1)),
            self._write("containerd.toml", toml),
        )

    def _kubelet(self) -> tuple[Path, ...]:
        ca, root = self.plane.ca, self.root
        serving = ca.issue(
            f"kubelet-{self.name}", Leaf(f"kubelet {self.name}", hosts=(self.address, self.name))
        )
        own = self.plane.config(
            f"node-{self.name}", Leaf(f"system:node:{self.name}", "system:nodes")
        )
        kubeconfig = self._write("kubelet.kubeconfig", own.read_text(encoding="utf-8"))
        resolv = self._write("resolv.conf", "")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(ca.cert)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.cert),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": ["pods"],
            "failSwapOn": False,
            "clusterDomain": CLUSTER_DOMAIN,
            "clusterDNS": [self.plane.site.address],
            "resolvConf": str(resolv),
            "podLogsDir": f"{root}/pod-logs",
            "volumePluginDir": f"{root}/volume-plugins",
            "registerNode": True,
            # a secret that a pod waits for is there at once, not after one and a half minutes:
            # Kueue looks for its own certificate after some 1, 4, 10 and 22 s
            "syncFrequency": "2s",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            # the disk and memory are the whole machine's: pods must not be evicted for its sake
            "evictionHard": {
                "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
            "shutdownGracePeriod": "0s",
            "containerLogMaxSize": "5Mi",
        }  # fmt: skip
        return (
            self._write("kubelet.json", json.dumps(config, indent=1)),
            kubeconfig, serving.cert,
        )  # fmt: skip

    def _proxy(self) -> tuple[Path, ...]:
        own = self.plane.config("proxy", Leaf("system:kube-proxy"))
        file = self.root / "proxy.json"
        write_proxy_config(file, own, self.name, self.plane.site, self.address)
        return (file, own)


def forget(root: Path) -> None:
    """Remove a node's containers and logs, for a node that is no longer wanted."""
    shutil.rmtree(root, ignore_errors=True)
