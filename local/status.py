"""What runs: one line a part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from local import gpu, layout, proc
from local.artefacts import Artefacts
from local.control_plane import ControlPlane, http_ok, https_ok
from local.errors import StandError
from local.karpenter import PART as KARPENTER
from local.karpenter import Karpenter
from local.kube import ApiError
from local.layout import Layout, SiteLayout, real_node_names
from local.link.attached import PARTS as LINK_PARTS
from local.link.attached import StandLink
from local.node import Node, part_name
from local.paths import Folders
from local.proc import Record, record_path
from local.settings import SITES, StandSettings
from local.tools.resolve import Tools
from local.vault import Vault

State = Literal["up", "dead", "silent", "down"]


@dataclass(frozen=True)
class Line:
    """One part. `silent`: its process lives and does not answer; `dead`: its process is gone."""

    part: str
    state: State
    address: str
    version: str
    kind: str  # "real" or "simulated"
    pid: int | None
    memory: int  # bytes, shared pages divided among their users
    note: str = ""

    def plain(self) -> dict[str, object]:
        return asdict(self)


def expected(settings: StandSettings, where: Layout) -> list[str]:
    """Names of the parts that this stand should have."""
    found: list[str] = []
    for site in SITES:
        parts = ["etcd", "api", "controller-manager", "scheduler", "kwok", "artefacts"]
        if settings.site(site).autoscaler:
            parts.append(KARPENTER)
        if where.rooted:
            parts.append("dns")
            if settings.site(site).real_nodes:
                parts.append("proxy")
        found += [f"{site}/{part}" for part in parts]
        if where.rooted:
            names = real_node_names(site, settings.site(site).real_nodes)
            found += [part_name(site, name) for name in names]
    return [*found, "vault"]


def collect(folders: Folders, settings: StandSettings) -> list[Line]:
    """Ask every part, side by side."""
    where = layout.read(folders)
    if where is None:
        return []
    names = expected(settings, where)
    if StandLink(folders, where, _quiet).handed_over:
        names += LINK_PARTS
    names += [one.name for one in proc.records(folders) if one.name not in names]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(partial(_line, folders, where), names))


def _line(folders: Folders, where: Layout, name: str) -> Line:
    record = Record.read(record_path(folders, name))
    if record is None:
        kind = "simulated" if name.endswith(("kwok", KARPENTER)) else "real"
        return Line(name, "down", "", "", kind, None, 0)
    pid = record.identity.pid
    if not record.identity.alive():
        return Line(name, "dead", record.address, record.version, record.kind, None, 0)
    try:
        answers, note = _answers(folders, where, name)
    except (OSError, StandError) as error:
        answers, note = False, str(error)[:80]
    state: State = "up" if answers else "silent"
    return Line(name, state, record.address, record.version, record.kind, pid, memory(pid), note)


def _answers(folders: Folders, where: Layout, name: str) -> tuple[bool, str]:
    if name == "vault":
        return Vault(folders, where).open(), ""
    if name in LINK_PARTS:
        return StandLink(folders, where, _quiet).state(name)
    site_name, _, part = name.partition("/")
    site = next((one for one in where.sites.values() if one.name == site_name), None)
    if site is None:
        return True, ""  # another module's part
    plane = ControlPlane(folders, site, Tools({}))
    if part.startswith("node-"):
        index = int(part.removeprefix("node-")) - 1
        return Node(folders, plane, index, ()).ready(), ""
    if part == "kwok":
        try:
            return http_ok(site.address, site.ports["kwok"], "/healthz"), (
                f"{gpu.ready(plane.client)} simulated GPU nodes Ready"
            )
        except ApiError as error:
            return False, str(error)[:80]
    if part == KARPENTER:
        autoscaler = Karpenter(plane)
        try:
            return autoscaler.answers(), f"{autoscaler.ordered()} simulated GPU nodes ordered"
        except ApiError as error:
            return False, str(error)[:80]
    return _healthy(plane, site, part), ""


def _quiet(text: str) -> None:
    """Status asks and says nothing of its own."""
    del text


def _healthy(plane: ControlPlane, site: SiteLayout, part: str) -> bool:
    if part == "api":
        return plane.client.ready()
    if part in ("controller-manager", "scheduler"):
        return https_ok(site.address, site.ports[part], "/healthz", plane.ca.cert)
    if part == "artefacts":
        return Artefacts(plane).answers()
    if part == "dns":
        return http_ok(site.address, site.ports["dns-health"], "/ready")
    if part == "proxy":
        return http_ok(site.address, site.ports["proxy-health"], "/livez")
    return True  # etcd is reachable by its API server only, whose readiness includes it


def memory(pid: int) -> int:
    """Bytes of a process and everything below it (a node's containers too)."""
    total = 0
    for one in [pid, *descendants(pid)]:
        try:
            with open(f"/proc/{one}/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123
                total += sum(int(line.split()[1]) << 10 for line in file if line[:4] == "Pss:")
        except OSError:
            continue  # ended meanwhile
    return total


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for child, parent in proc.parents():
        parents.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def table(lines: list[Line]) -> str:
    """For people. Columns: part, state, real or simulated, version, memory, address."""
    if not lines:
        return "no stand here; `stand up` makes one"
    rows = [
        (
            line.part, line.state, line.kind, line.version or "-",
            f"{line.memory / 2**20:.0f} MiB" if line.memory else "-",
            " ".join(one for one in (line.address, line.note) if one),
        )
        for line in lines
    ]  # fmt: skip
    heads = ("part", "state", "kind", "version", "memory", "address")
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(5)]
    text = [
        "  ".join([*(row[i].ljust(widths[i]) for i in range(5)), row[5]]).rstrip()
        for row in [heads, *rows]
    ]
    total = sum(line.memory for line in lines)
    up = sum(line.state == "up" for line in lines)
    return "\n".join([*text, f"{up} of {len(lines)} parts up, {total / 2**30:.2f} GiB"])
