"""What a training run tells: a progress bar, `metrics.jsonl`, and a Prometheus text file.

`metrics.prom` is in the format of node_exporter's textfile collector and is replaced whole, so a
scrape never sees half of it. Without a terminal the bar becomes a line every half minute.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from model.loop import Place

QUIET_EVERY_S = 30.0
PROM_EVERY_S = 10.0


class RunLog:
    """The watcher of `model.loop.Fit` for one stage of a run."""

    def __init__(
        self, work: Path, stage: str, steps: int, *, resumed_at: int = 0, every: int = 1,
        quiet: bool = False,
    ) -> None:  # fmt: skip
        self.work, self.stage, self.steps, self.every, self.quiet = work, stage, steps, every, quiet
        self.path = work / "metrics.jsonl"
        self._forget_after(resumed_at)
        self._file = self.path.open("a", encoding="utf-8")
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps  {task.fields[told]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(stage, total=steps, completed=resumed_at, told="")
            self._bar.start()
        now = time.monotonic()
        self._started, self._said, self._written = now, now, 0.0
        self._from, self._items, self._first_items = resumed_at, 0, now
        self._values: dict[str, float] = {}

    def _forget_after(self, step: int) -> None:
        """Drop lines of this stage that a killed run wrote after its last saved state."""
        if not self.path.exists():
            return
        kept: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run was killed
            if row.get("stage") != self.stage or row.get("step", 0) <= step:
                kept.append(line)
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def step(self, place: Place, loss: float, targets: int) -> None:
        """Called after every update."""
        now = time.monotonic()
        self._items += targets
        speed = self._items / max(now - self._first_items, 1e-9)
        left = (self.steps - place.total) * (now - self._started) / max(1, place.total - self._from)
        if place.total % self.every == 0:
            self._write({"step": place.total, "epoch": place.epoch, "loss": loss})
        self._values |= {
            "loss": loss,
            "items_per_second": speed,
            "step": place.total,
            "epoch": place.epoch,
            "seconds_left": left,
        }
        told = f"loss {loss:.4f}  {speed:,.0f} items/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=place.total, told=told)
        elif not self.quiet and now - self._said > QUIET_EVERY_S:
            self._said = now
            self._say(f"{self.stage} {place.total}/{self.steps} {told}, at most {left:.0f} s left")
        if now - self._written > PROM_EVERY_S:
            self._prometheus()
            self._written = now

    def evaluated(self, place: Place, metrics: dict[str, float]) -> None:
        """Called after every evaluation."""
        self._write({"step": place.total, "epoch": place.epoch, "validation": metrics})
        self._values |= {f"validation_{k.replace('@', '_at_')}": v for k, v in metrics.items()}
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        better = " (best)" if place.since_best == 0 else ""
        self._say(f"{self.stage} epoch {place.epoch}: validation {numbers}{better}")

    def close(self) -> None:
        """Write what is pending."""
        if self._bar is not None:
            self._bar.stop()
        self._prometheus()
        self._file.close()

    def _say(self, text: str) -> None:
        if not self.quiet:
            self._console.print(text, highlight=False, soft_wrap=True)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps({"stage": self.stage, **row}) + "\n")
        self._file.flush()

    def _prometheus(self) -> None:
        lines: list[str] = []
        for name, value in self._values.items():
            metric = f"recommender_training_{name}"
            lines += [f"# TYPE {metric} gauge", f'{metric}{{stage="{self.stage}"}} {value:.10g}']
        part = self.work / ".metrics.prom.part"
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(self.work / "metrics.prom")


class Silence:
    """The watcher of every worker but the first."""

    def step(self, place: Place, loss: float, targets: int) -> None:
        """Say nothing."""

    def evaluated(self, place: Place, metrics: dict[str, float]) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to close."""


def say(text: str) -> None:
    """A line to the user, on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)
