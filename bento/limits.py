"""What this container may really use: CPUs and memory by cgroup v2 or v1, else the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# What one worker needs besides the weights: interpreter, torch, BentoML, buffers (measured,
# docs/service.md).
WORKER_BYTES = 450 * 2**20
# cgroup v1 writes "no limit" as a huge number of bytes.
NO_LIMIT = 2**60


def _own_folder(root: Path, controller: str, proc: Path) -> Path:
    """The cgroup folder of this process; inside a container that is usually `root` itself."""
    try:
        lines = proc.read_text(encoding="ascii").splitlines()
    except OSError:
        return root
    for line in lines:
        _, names, path = line.split(":", 2)
        if names == controller or controller in names.split(","):
            own = root / path.lstrip("/")
            return own if own.is_dir() else root
    return root


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def cpu_limit(root: Path = CGROUP, proc: Path = Path("/proc/self/cgroup")) -> float:
    """CPUs this process may use; fractions as set by the quota, at least 0.1."""
    usable = float(len(os.sched_getaffinity(0)))
    text = _read(_own_folder(root, "", proc) / "cpu.max") or _read(root / "cpu.max")
    if text:  # v2: "<quota|max> <period>"
        quota, period = text.split()
        if quota != "max":
            usable = min(usable, int(quota) / int(period))
    else:
        v1 = _own_folder(root / "cpu", "cpu", proc)
        folder = v1 if (v1 / "cpu.cfs_quota_us").exists() else root / "cpu"
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            usable = min(usable, int(quota) / int(period))
    return max(usable, 0.1)


def memory_limit(root: Path = CGROUP, proc: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes this process may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = _read(_own_folder(root, "", proc) / "memory.max") or _read(root / "memory.max")
    if text is None:
        v1 = _own_folder(root / "memory", "memory", proc)
        folder = v1 if (v1 / "memory.limit_in_bytes").exists() else root / "memory"
        text = _read(folder / "memory.limit_in_bytes")
    if text is None or text == "max" or int(text) >= NO_LIMIT:
        return machine
    return min(machine, int(text))


def plan_workers(cpus: float, memory: int, model_bytes: int, most: int = 16) -> int:
    """Processes to run: one per whole CPU, as long as each copy of the model fits.

    A quarter of the memory stays free: a model swap holds two versions for a moment.
    """
    by_cpu = max(1, math.floor(cpus))
    # A swap doubles one worker's model, not all: workers swap one after the other.
    room = int(memory * 0.75) - model_bytes
    by_memory = max(1, room // (WORKER_BYTES + model_bytes))
    return int(max(1, min(by_cpu, by_memory, most)))


def plan_threads(cpus: float, workers: int) -> int:
    """Torch threads per worker; never more threads than CPUs in all."""
    return max(1, math.floor(cpus / workers))
