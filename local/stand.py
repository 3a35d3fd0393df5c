"""The stand itself: what `up` does, in order."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from local import cleanup, gpu, images, karpenter, layout, net, owner, proc
from local.artefacts import Artefacts
from local.control_plane import ControlPlane
from local.errors import StandError
from local.karpenter import Karpenter
from local.kube import Json
from local.layout import Layout, real_node_names
from local.link.attached import StandLink
from local.node import MOUNT_POINTS, Node, part_name
from local.paths import PROJECT, Folders, private_dir, write_private
from local.pki import signing_pair
from local.proc import Record, record_path
from local.settings import SITES, SiteName, StandSettings
from local.supervisor import Say, Supervisor
from local.tools import debian, resolve
from local.tools.resolve import Tools
from local.vault import Vault
from local.waiting import wait_for

T = TypeVar("T")
STORAGE_CLASS = "stand"  # of the folders in `volumes`; a name that no provisioner claims
PROGRAMS = {"gateway": "haproxy", "nats": "nats-server", "prometheus": "prometheus"}
GATEWAY_PORT = 30443  # on the real nodes
ROOM = 2 << 30  # bytes that a running stand may come to need: databases, logs, audit file
DNS_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "system:coredns"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ],
}
DNS_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "system:coredns"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:coredns",
    },
    "subjects": [
        {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:coredns"}
    ],
}


def can_root() -> bool:
    """Whether this process may make namespaces, which real nodes need. Root alone is not enough."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@dataclass
class Stand:
    """One run of `up` over a state folder."""

    folders: Folders
    settings: StandSettings
    rooted: bool
    say: Say
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def up(self) -> Layout:
        """Bring everything to the wanted state; may be run at any time, over any wreck."""
        cleanup.check_place(self.folders)
        private_dir(self.folders.root)
        self._check_room()
        cleanup.end_orphans(self.folders.root, self.say)
        owner.refuse_others(self.folders.root)
        owner.bind(self.folders.root)
        tools = self._timed(
            "tools",
            lambda: resolve.resolve(
                self.say, rooted=self.rooted, extra=self.settings.workload_tools
            ),
        )
        resolve.link_all(tools, self.folders.root / "bin")
        supervisor = Supervisor(self.folders, self.say, seconds=self.seconds)
        supervisor.end_strays()
        if self.rooted:
            cleanup.clear_dead(self.folders.root, self.say)
        kept = layout.read(self.folders)
        where = layout.choose(
            self.folders, self.settings, rooted=self.rooted,
            stand=kept.stand if kept else secrets.token_hex(4),
        )  # fmt: skip
        self._own(where)
        archives: tuple[Path, ...] = ()
        if self.rooted:
            archives = tuple(images.write(self.folders.images, tools.path("pause")))
            self._timed("network", lambda: self._network(where))
        planes: dict[SiteName, ControlPlane] = {
            name: ControlPlane(self.folders, where.sites[name], tools) for name in SITES
        }
        jobs: dict[str, Callable[[], None]] = {
            name: lambda name=name: self._site(supervisor, planes[name], archives) for name in SITES
        }
        jobs["vault"] = lambda: self._vault(supervisor, Vault(self.folders, where), tools)
        together(jobs)
        self._forget_old_parts(supervisor)
        link = StandLink(self.folders, where, self.say)
        if self.rooted and link.handed_over:
            self._timed("link", link.repair)
        write_endpoints(self.folders, self.settings, where, planes, tools)
        return where

    def _timed(self, name: str, step: Callable[[], T]) -> T:
        began = time.monotonic()
        result = step()
        self.seconds[name] = time.monotonic() - began
        return result

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folders.root).free
        if free < ROOM:
            raise StandError(
                f"{free / 2**30:.1f} GiB free at {self.folders.root}",
                f"the stand needs {ROOM / 2**30:.0f}: make room or move it with STAND_STATE",
            )

    def _own(self, where: Layout) -> None:
        before = owner.read()
        made = set(before.made_dirs if before else ())
        mount = before.made_netns_mount if before else not net.NETNS.exists()
        if self.rooted:
            for place in MOUNT_POINTS:
                path = Path(place)
                for folder in (*reversed(path.parents), path):
                    if not folder.exists():
                        made.add(str(folder))
        # written before the first of them is made: a kill in between must not leave them behind
        owner.Owner(
            self.folders.root, PROJECT, where.stand, proc.boot_id(),
            tuple(sorted(made, reverse=True)), mount and self.rooted,
        ).write()  # fmt: skip
        if self.rooted:
            for place in MOUNT_POINTS:
                Path(place).mkdir(parents=True, exist_ok=True)

    def _network(self, where: Layout) -> None:
        for site in where.sites.values():
            net.ensure_site(site)

    def _site(
        self, supervisor: Supervisor, plane: ControlPlane, archives: tuple[Path, ...]
    ) -> None:
        site = plane.site.name
        wanted = self.settings.site(site)
        plane.write_admin_config()
        supervisor.ensure(plane.etcd())
        supervisor.ensure(plane.api_server())
        self.say(f"{site}: API server ready at {plane.site.api}")
        nodes = [
            Node(self.folders, plane, index, archives)
            for index in range(wanted.real_nodes if self.rooted else 0)
        ]
        for node in nodes:
            node.register()
        jobs: dict[str, Callable[[], object]] = {
            "controller-manager": lambda: supervisor.ensure(plane.controller_manager()),
            "scheduler": lambda: supervisor.ensure(plane.scheduler()),
            "gpu": lambda: self._gpu(supervisor, plane),
            "artefacts": lambda: supervisor.ensure(Artefacts(plane).part()),
        }
        if wanted.autoscaler:
            jobs["karpenter"] = lambda: self._karpenter(supervisor, Karpenter(plane))
        if self.rooted:
            jobs["dns"] = lambda: self._dns(supervisor, plane)
        for node in nodes:
            jobs[node.name] = lambda node=node: self._node(supervisor, node)
        if nodes:
            jobs["proxy"] = lambda: supervisor.ensure(plane.router_proxy(nodes[0].name))
        together(jobs)
        simulated = len(gpu.existing(plane.client))
        self.say(f"{site}: {len(nodes)} real nodes, {simulated} simulated GPU nodes")

    def _dns(self, supervisor: Supervisor, plane: ControlPlane) -> None:
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        plane.client.apply(f"{rbac}/clusterroles/system:coredns", DNS_ROLE)
        plane.client.apply(f"{rbac}/clusterrolebindings/system:coredns", DNS_BINDING)
        supervisor.ensure(plane.dns())

    def _gpu(self, supervisor: Supervisor, plane: ControlPlane) -> None:
        supervisor.ensure(plane.kwok())
        site = plane.site.name
        pool = self.settings.site(site).gpu_nodes
        gpu.add(plane.client, site, pool, pool.count)
        want = len(gpu.existing(plane.client))
        if not wait_for(lambda: gpu.ready(plane.client) >= want, 180):
            raise StandError(
                f"{site}: {gpu.ready(plane.client)} of {want} simulated nodes are Ready",
                f"read {self.folders.logs}/{site}.kwok.log",
            )

    def _karpenter(self, supervisor: Supervisor, autoscaler: Karpenter) -> None:
        autoscaler.define()
        supervisor.ensure(autoscaler.part())

    def _node(self, supervisor: Supervisor, node: Node) -> None:
        netns = net.ensure_node(node.plane.site, node.name, node.index)
        part = node.part(netns)
        record = Record.read(record_path(self.folders, part.name))
        if record is None or not record.identity.alive():
            node.clean_groups()
        supervisor.ensure(part)

    def _vault(self, supervisor: Supervisor, vault: Vault, tools: Tools) -> None:
        part = vault.part(tools.path("vault"), tools.version("vault"))
        supervisor.ensure(part)
        if vault.first_run_was_cut():
            self.say("vault: its first start was cut short before anybody had its key; again")
            record = Record.read(record_path(self.folders, part.name))
            if record is not None:
                proc.stop(self.folders, record)
            shutil.rmtree(vault.root / "raft")
            part = vault.part(tools.path("vault"), tools.version("vault"))
            supervisor.ensure(part)
        vault.unseal()
        self.say(f"vault: unsealed at {vault.layout.vault_address}")

    def _forget_old_parts(self, supervisor: Supervisor) -> None:
        """End parts that the settings no longer ask for, such as a third node."""
        for record in proc.records(self.folders):
            if record.name not in supervisor.parts and not record.name.startswith("link/"):
                self.say(f"{record.name}: no longer wanted, ending it")
                proc.stop(self.folders, record)


def together(jobs: Mapping[str, Callable[[], object]]) -> None:
    """Run steps side by side; one error that names every step that failed."""
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        running = {name: pool.submit(job) for name, job in jobs.items()}
    broken = [
        (name, error) for name, job in running.items() if (error := job.exception()) is not None
    ]
    for name, error in broken:
        if not isinstance(error, (StandError, OSError)):
            raise error
        if len(broken) == 1:
            raise StandError(str(error)) from error
        if name == broken[-1][0]:
            raise StandError("; ".join(f"{one}: {cause}" for one, cause in broken)) from error


def write_endpoints(
    folders: Folders,
    settings: StandSettings,
    where: Layout,
    planes: dict[SiteName, ControlPlane],
    tools: Tools,
) -> None:
    """The file that a stack's settings read: where everything is, never a secret itself."""
    vault = Vault(folders, where)
    link = StandLink(folders, where, lambda _: None)
    linked = where.rooted and link.is_up()
    sites: dict[str, Json] = {}
    for name, plane in planes.items():
        site, pool = plane.site, settings.site(name).gpu_nodes
        real = real_node_names(name, settings.site(name).real_nodes if where.rooted else 0)
        sites[name] = {
            "kubeconfig": str(plane.kubeconfig),
            "api": site.api,
            "range": str(site.range),
            "node_cidr": str(site.node_cidr),
            "pod_cidr": str(site.pod_cidr),
            "service_cidr": str(site.service_cidr),
            "real_nodes": bool(real),
            # Vault lives in the private site; the cloud's nodes get there over a link only
            "reaches_vault": name == "private" or linked,
            "nodes": real,
            "netns": site.netns,
            "storage_class": STORAGE_CLASS,
            "volumes": [{"node": node, "path": str(path)} for node, path in volumes(folders, real)],
            "service_host": f"recommend.{name}.stand.internal",
            # this host and the other site ask; there is no load balancer here
            **({"way_in": {
                "kind": "node-port",
                "port": GATEWAY_PORT,
                "nodes": [str(site.node_address(index)) for index in range(len(real))],
                "clients": [str(one.range) for one in where.sites.values()],
            }} if real else {}),
            "dns": f"{site.address}:{site.ports['dns']}" if where.rooted else None,
            "issuer": plane.issuer,
            "service_account_key_file": str(signing_pair(plane.pki).cert),
            "gpu_pool": {
                "count": pool.count, **gpu.shape(site.name, pool),
            },
            "karpenter": karpenter.described() if settings.site(name).autoscaler else None,
        }  # fmt: skip
    described = {
        "stand": where.stand,
        "rooted": where.rooted,
        "sites": sites,
        "vault": {
            "address": where.vault_address,
            "ca_file": str(vault.ca_file),
            "token_file": str(vault.deployer_file),
        },
        # one per site: its pods reach it without the link
        "artefacts": {name: Artefacts(plane).described() for name, plane in planes.items()},
        "pod_image": {
            "image": images.BASE,
            "host_paths": [str(path) for path in images.host_paths()],
            "user": images.USER,
            "python": str(images.interpreter()),
            # what pods run in place of an image of their own
            "programs": {
                part: {
                    "path": str(tools.path(program)),
                    "libraries": debian.library_path(tools.path(program)),
                }
                for part, program in PROGRAMS.items()
                if program in tools.found
            },
            "project": str(PROJECT),
        },
        "private_gateway": link.described() if where.rooted else None,
        "tools": {name: str(one.path) for name, one in sorted(tools.found.items())},
        "manifests": {name: str(path) for name, path in sorted(tools.files.items())},
    }
    write_private(folders.endpoints, json.dumps(described, indent=1))


def volumes(folders: Folders, nodes: Sequence[str]) -> list[tuple[str, Path]]:
    """A folder per real node that a database may keep; made here, as nothing provisions volumes.

    Its content goes with the state folder (`down --purge`)."""
    made = [(node, folders.root / "volumes" / node) for node in nodes]
    for _, path in made:
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    return made


def note_link(folders: Folders, up: bool) -> None:
    """Write down whether the cloud site reaches Vault now."""
    described = json.loads(folders.endpoints.read_text(encoding="utf-8"))
    described["sites"]["cloud"]["reaches_vault"] = up
    write_private(folders.endpoints, json.dumps(described, indent=1))


def node_record(folders: Folders, node: str) -> Record:
    """The process of a real node. Raises `StandError` naming the nodes there are."""
    name = part_name(node.rsplit("-", 1)[0], node) if "-" in node else node
    record = Record.read(record_path(folders, name))
    if record is None:
        known = [
            one.name.replace("/node-", "-") for one in proc.records(folders) if "/node-" in one.name
        ]
        raise StandError(f"no node {node}; running: {', '.join(known) or 'none'}", code=2)
    return record
