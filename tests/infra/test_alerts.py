"""Every alert fires when it must, stays silent otherwise, and the runbook knows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from local.paths import PROJECT
from local.tools import debian
from local.tools.table import PACKAGES

RULES = PROJECT / "infra" / "alerts"
RUNBOOK = PROJECT / "docs" / "runbook.md"


def alerts() -> dict[str, dict[str, Any]]:
    text = (RULES / "alerts.yaml").read_text(encoding="utf-8")
    groups = cast("list[dict[str, Any]]", yaml.safe_load(text)["groups"])
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@dataclass(frozen=True)
class Case:
    """Series over time (promtool's notation, one value a minute) and when to look, in minutes.

    `fires` replaces series of `quiet` by those that must raise the alert.
    """

    quiet: dict[str, str]
    fires: dict[str, str]
    at: int
    interval: str = "1m"
    labels: dict[str, str] = field(default_factory=dict[str, str])


def requests(bad: str, good: str = "0+600x500") -> dict[str, str]:
    name = 'recommender_requests_total{endpoint="/recommend"'
    return {f'{name},status="200"}}': good, f'{name},status="500"}}': bad}


def latency(slow: int) -> dict[str, str]:
    """600 answers a minute, `slow` of them above 100 ms."""
    name = 'recommender_latency_seconds_bucket{endpoint="/recommend",tier="ranker",le='
    fast = 600 - slow
    return {
        f'{name}"0.05"}}': f"0+{fast}x60",
        f'{name}"0.1"}}': f"0+{fast}x60",
        f'{name}"0.25"}}': "0+600x60",
        f'{name}"+Inf"}}': "0+600x60",
    }


def tiers(popular: int) -> dict[str, str]:
    name = 'recommender_latency_seconds_count{endpoint="/recommend",tier='
    return {f'{name}"ranker"}}': "0+600x60", f'{name}"popular"}}': f"0+{popular}x60"}


def scores(after: int) -> dict[str, str]:
    """Per hour 100 answers; their scores swing around 5 and are `after` in the last six hours."""
    before, total = [], 0
    for hour in range(220):
        total += 480 if hour % 2 else 520
        before.append(total)
    late = [total + after * 100 * (hour + 1) for hour in range(8)]
    values = " ".join(str(one) for one in [*before, *late])
    return {
        'recommender_top_score_sum{tier="ranker"}': values,
        'recommender_top_score_count{tier="ranker"}': "0+100x230",
    }


def queue(late: int) -> dict[str, str]:
    name = 'kueue_admission_wait_time_seconds_bucket{cluster_queue="team",le='
    return {
        f'{name}"3600"}}': f"0+{60 - late}x120",
        f'{name}"14400"}}': f"0+{60 - late}x120",
        f'{name}"28800"}}': "0+60x120",
        f'{name}"+Inf"}}': "0+60x120",
    }


GPU = 'DCGM_FI_DEV_GPU_UTIL{node="n1",gpu="0",pod="train-0"}'
ENDS = 'vault_agent_certificate_expiry_timestamp_seconds{job="gateway",instance="a",file="tls"}'
READ = 'vault_agent_last_read_timestamp_seconds{job="gateway",instance="a"}'
SAVED = 'training_last_checkpoint_timestamp_seconds{job_name="nightly"}'
TRAINS = 'training_running{job_name="nightly"}'
TUNNELS = ('vpn_tunnel_up{tunnel="1"}', 'vpn_tunnel_up{tunnel="2"}')
CREATED = "recommender_model_created_timestamp_seconds"

CASES: dict[str, Case] = {
    "RecommenderDown": Case({'up{job="bento"}': "1x20"}, {'up{job="bento"}': "0x20"}, 10),
    "RecommenderSlow": Case(latency(3), latency(60), 40),
    "ErrorBudgetBurnsFast": Case(requests("0+0x500"), requests("0+30x500"), 90),
    "ErrorBudgetBurnsSlowly": Case(requests("0+1x500"), requests("0+6x500"), 400),
    "AnswersDegraded": Case(tiers(60), tiers(300), 40),
    "EventStoreAway": Case({"recommender_store_up": "1x20"}, {"recommender_store_up": "0x20"}, 10),
    "GatewayWithoutService": Case(
        {'haproxy_backend_active_servers{proxy="bento"}': "2x20"},
        {'haproxy_backend_active_servers{proxy="bento"}': "0x20"},
        10,
    ),
    "ModelOld": Case({CREATED: f"{200 * 3600}x260"}, {CREATED: "3600x260"}, 220 * 60, "1h"),
    "ScoresDrift": Case(scores(5), scores(9), 227 * 60, "1h"),
    "CheckpointOld": Case(
        {SAVED: "0+60x120", TRAINS: "1x120"}, {SAVED: "60x120", TRAINS: "1x120"}, 110
    ),
    "GpuIdle": Case({GPU: "80x200"}, {GPU: "0x200"}, 180),
    "QueueWaitsLong": Case(queue(1), queue(40), 110),
    "CertificateEndsSoon": Case({ENDS: "259200x60"}, {ENDS: "21600x60"}, 30),
    "SecretsNotRefreshed": Case({READ: "0+60x60"}, {READ: "60x60"}, 50),
    "VaultSealed": Case(
        {"vault_core_unsealed": "1x20", 'up{job="vault"}': "1x20"},
        {"vault_core_unsealed": "0x20", 'up{job="vault"}': "1x20"},
        10,
    ),
    "TunnelDown": Case(dict.fromkeys(TUNNELS, "1x20"), {TUNNELS[0]: "0x20"}, 10),
    "LinkDown": Case(dict.fromkeys(TUNNELS, "1x20"), dict.fromkeys(TUNNELS, "0x20"), 10),
    "TargetDown": Case({'up{job="nats"}': "1x40"}, {'up{job="nats"}': "0x40"}, 30),
}


@pytest.fixture(scope="session")
def promtool() -> str:
    package = next(one for one in PACKAGES if one.name == "prometheus")
    found = debian.find(package, "promtool")
    assert found is not None, "no promtool: `stand tools` brings it"
    return str(found)


def groups(file: str) -> list[str]:
    """The names of a file's groups, in its order."""
    found = yaml.safe_load((RULES / file).read_text(encoding="utf-8"))["groups"]
    return [one["name"] for one in found]


def firing(promtool: str, folder: Path, alert: str, case: Case, series: dict[str, str]) -> str:
    """What promtool says when it expects silence: nothing, or the alerts that fire."""
    for file in RULES.glob("*.yaml"):
        shutil.copy(file, folder)
    test = {
        "rule_files": ["recording.yaml", "alerts.yaml"],
        "evaluation_interval": case.interval,
        # what is recorded is read by the alerts of the same moment; left alone, promtool takes the
        # groups in any order, and an hour's step is the difference
        "group_eval_order": groups("recording.yaml") + groups("alerts.yaml"),
        "tests": [
            {
                "interval": case.interval,
                "input_series": [{"series": one, "values": series[one]} for one in series],
                "alert_rule_test": [
                    {"eval_time": f"{case.at}m", "alertname": alert, "exp_alerts": []}
                ],
            }
        ],
    }  # fmt: skip
    (folder / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0 or "alertname" in told, told
    return "" if done.returncode == 0 else told


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_an_alert_is_silent_while_all_is_well(promtool: str, tmp_path: Path, alert: str) -> None:
    case = CASES[alert]
    assert firing(promtool, tmp_path, alert, case, case.quiet) == ""


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_an_alert_fires_when_it_must(promtool: str, tmp_path: Path, alert: str) -> None:
    case = CASES[alert]
    told = firing(promtool, tmp_path, alert, case, {**case.quiet, **case.fires})
    assert alert in told
    assert alerts()[alert]["labels"]["severity"] in told


def test_vault_that_does_not_answer_counts_as_sealed(promtool: str, tmp_path: Path) -> None:
    case = CASES["VaultSealed"]
    assert firing(promtool, tmp_path, "VaultSealed", case, {'up{job="vault"}': "0x20"})


def test_every_alert_has_a_case_and_no_case_is_without_its_alert() -> None:
    assert set(CASES) == set(alerts())


def test_every_alert_has_a_runbook_entry_with_meaning_causes_and_commands() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    entries = {
        part.splitlines()[0].strip(): part for part in re.split(r"^## ", text, flags=re.M)[1:]
    }
    assert set(entries) == set(alerts())
    for name, entry in entries.items():
        for part in ("Meaning:", "Likely causes:", "First commands:"):
            assert part in entry, f"{name} has no {part}"
        assert entry.count("    ") >= 1, f"{name} names no command"
