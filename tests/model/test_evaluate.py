"""Reports: judged lists by hand, segments, and drift that an alert can use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model import evaluate
from model.corpus import build
from model.drift import drift_report, psi

SEQUENCES = "a 1 2 3\nb 2 3 1\nc 3 4 5\nd 9\n"


def test_a_report_on_lists_by_hand() -> None:
    corpus = build([(p[0], p[1:]) for p in (x.split() for x in SEQUENCES.splitlines())])
    # a: first place, b: second place, c has no list and is a miss, d has nothing to hold out
    report = evaluate.judge(corpus, {"a": ["3", "5"], "b": ["5", "1"]})
    assert report["users"] == 3
    means = {name: one["mean"] for name, one in report["metrics"].items()}
    assert means["hr@10"] == pytest.approx(2 / 3)
    assert means["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 3)
    assert means["mrr"] == pytest.approx(1.5 / 3)
    assert report["coverage"] == pytest.approx(3 / 6)
    cold = [s for s in report["segments"] if s["range"] == "0 to 0"]
    assert [(s["users"], s["hr@10"]) for s in cold] == [(1, 0.0)]  # c's target was never seen
    by_axis = {s["axis"] for s in report["segments"]}
    for axis in by_axis:
        assert sum(s["users"] for s in report["segments"] if s["axis"] == axis) == 3


def test_the_command_judges_a_file_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(SEQUENCES, encoding="utf-8")
    (tmp_path / "pred.tsv").write_text("a\t3 5\nb\t5 1\n", encoding="utf-8")
    out = tmp_path / "report.json"
    code = evaluate.main(
        ["file", "--predictions", str(tmp_path / "pred.tsv"),
         "--sequences", str(tmp_path / "all.txt"), "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    assert json.loads(out.read_text())["metrics"]["hr@10"]["mean"] == pytest.approx(2 / 3)


def test_predictions_without_tabs_are_the_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.txt").write_text(SEQUENCES, encoding="utf-8")
    (tmp_path / "pred.tsv").write_text("a 3 5\n", encoding="utf-8")
    arguments = [
        "--predictions",
        str(tmp_path / "pred.tsv"),
        "--sequences",
        str(tmp_path / "all.txt"),
    ]
    assert evaluate.main(["file", *arguments]) == 2
    assert "line 1 holds no tab" in capsys.readouterr().err


def test_psi_by_hand() -> None:
    before, after = np.array([50, 50]), np.array([80, 20])
    p, q = np.array([50.5, 50.5]) / 101, np.array([80.5, 20.5]) / 101
    assert psi(before, after) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(before, before) == 0


def windows(shift: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(300):
        items = shift + (rng.random(8) ** 2 * 200).astype(int)
        rows.append(f"u{user} " + " ".join(map(str, items)))
    return "\n".join(rows) + "\n"


def test_drift_is_silent_on_a_new_sample_and_alerts_on_a_new_assortment(tmp_path: Path) -> None:
    for name, text in (
        ("old", windows(0, 1)), ("same", windows(0, 2)), ("moved", windows(150, 3)),
    ):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")

    def run(after: str) -> int:
        return evaluate.main(
            ["drift", "--before", str(tmp_path / "old"), "--after", str(tmp_path / after)]
        )

    assert run("same") == 0
    assert run("moved") == 3


def test_a_drift_report_names_each_check_that_moved() -> None:
    old = build([(f"u{n}", [str(n % 20), str((n + 1) % 20)]) for n in range(100)])
    new = build([(f"u{n}", [str(n % 20), str(100 + n % 20)]) for n in range(100)])
    checks = {c["what"]: c for c in drift_report(old, new)["checks"]}
    assert checks["share of events on new items"]["value"] == pytest.approx(0.5)
    assert checks["share of events on new items"]["verdict"] == "alert"
    assert checks["PSI of history length"]["verdict"] == "stable"
