"""Leaving the machine as it was, and proving it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from local import cgroups, net, owner, proc
from local.errors import StandError
from local.owner import Owner
from local.paths import Folders, owner_file
from local.supervisor import Say, stop_all


def host_objects() -> list[str]:
    """Everything on this machine that carries our names: what `down` must leave empty."""
    return [
        *(f"namespace {name}" for name in net.namespaces()),
        *(f"link {name}" for name in net.host_links()),
        *(f"route {line}" for line in net.host_routes()),
        *(f"control group {path}" for path in cgroups.found()),
    ]


def remove_host_objects(record: Owner | None) -> None:
    """Namespaces, links, routes, groups and folders of a stand whose processes are gone."""
    for name in net.namespaces():
        for pid in (
            proc.run(["ip", "netns", "pids", name]).split() if net.is_namespace(name) else []
        ):
            identity = proc.Identity.of(int(pid))
            if identity is not None:
                proc.end(identity)
        net.remove_namespace(name)
    net.remove_host_links()
    for path in cgroups.found():
        for pid in cgroups.pids(path):
            identity = proc.Identity.of(pid)
            if identity is not None:
                proc.end(identity)
        cgroups.remove(path)
    if record is not None:
        for place in record.made_dirs:
            # kept when something else uses it by now
            with contextlib.suppress(OSError):
                Path(place).rmdir()
        if record.made_netns_mount:
            net.remove_netns_mount()


def clear_dead(state: Path, say: Say) -> None:
    """Remove what a dead stand of another clone or state folder left on this machine."""
    record = owner.read()
    if record is not None and record.state == state and record.boot == proc.boot_id():
        return  # our own: `up` repairs it in place
    left = host_objects()
    if record is None and not left:
        return
    if record is not None and record.state != state:
        say(f"clearing what a dead stand of {record.project} left ({len(left)} objects)")
        _clear_folder(record.state)
    remove_host_objects(record)
    owner_file().unlink(missing_ok=True)


def end_orphans(state: Path, say: Say) -> None:
    """End live stands whose state folder was deleted under them: nobody can use or end these."""
    for folder, pids in owner.others(state).items():
        # through each process's own root: a container's stand has its folder in the container.
        # The layout, not the folder: parts that still run make folders of theirs again.
        if any(Path(f"/proc/{pid}/root{folder}/layout.json").exists() for pid in pids):
            continue
        say(f"ending {len(pids)} processes of a stand whose state folder {folder} is gone")
        for pid in pids:
            identity = proc.Identity.of(pid)
            if identity is not None:
                proc.end(identity)


def _clear_folder(state: Path) -> None:
    """Run-time files of a dead stand. Its data (etcd, Vault, keys) stays: it may come back."""
    folders = Folders(state)
    if folders.layout.exists():
        shutil.rmtree(folders.parts, ignore_errors=True)
        shutil.rmtree(state / "nodes", ignore_errors=True)
        folders.endpoints.unlink(missing_ok=True)


def down(folders: Folders, say: Say, *, rooted: bool, purge: bool) -> list[str]:
    """End the stand of this state folder; what is still left of it, which should be nothing."""
    record = owner.read()
    end_orphans(folders.root, say)
    stop_all(folders, say)
    folders.endpoints.unlink(missing_ok=True)
    shutil.rmtree(folders.root / "nodes", ignore_errors=True)
    if purge and folders.layout.exists():
        shutil.rmtree(folders.root)
    left: list[str] = []
    if not owner.others(folders.root):
        # ours, or a dead one's that nobody else will clear
        if record is not None and record.state != folders.root:
            say(f"clearing what a dead stand of {record.project} left")
            _clear_folder(record.state)
        if rooted:
            remove_host_objects(record)
            left += host_objects()
        owner.release()
    elif record is None or record.state == folders.root:
        owner.release()
    left += [
        f"process {pid} ({part})" for pid, state, part in proc.marked() if state == folders.root
    ]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    left += [f"mount {line.split()[4]}" for line in mounts if str(folders.root) in line.split()[4]]
    return left


def check_place(folders: Folders) -> None:
    """Refuse a state folder that a node's private /run would hide."""
    for root in ("/run", "/proc", "/sys", "/dev", "/var/lib/kubelet", "/var/lib/cni"):
        if folders.root.is_relative_to(root):
            raise StandError(
                f"the state folder {folders.root} lies in {root}", "choose another STAND_STATE",
                code=2,
            )  # fmt: skip
