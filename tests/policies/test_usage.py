"""Right-sizing and idle findings: what a plan asks for beside what was measured."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.layout import free_port
from local.tools import debian
from local.tools.table import PACKAGES
from local.waiting import wait_for
from policies.cli import main
from policies.cost_settings import CostSettings
from policies.load import InputError, from_list
from policies.prometheus import Server, measure
from policies.resource import Stack
from policies.rightsize import USAGE_RULES, review
from policies.rule import Verdict
from policies.samples import container, deployment, manifest
from policies.usage import USAGE_IDS, ContainerUse, GpuUse, Usage, UsageSettings
from policies.values import UNKNOWN_GUID

GIB = 2**30


def asking(cpu: str = "1", memory: str = "1Gi", **more: str) -> dict[str, Any]:
    resources = {"requests": {"cpu": cpu, "memory": memory, **more}}
    return deployment(container(resources=resources))


def used(cpu: float, memory: float, hours: float = 300, pod: str = "sample-7d9f8b6c5-x2x4z"):
    return ContainerUse(
        namespace="shop", pod=pod, container="app", hours=hours, cpu_p95=cpu, memory_peak=memory
    )


def found(*asked: dict[str, Any], usage: Usage, **cost: Any) -> dict[str, str]:
    """Rule -> message of what failed."""
    stack = Stack(list(from_list(list(asked))))
    rows = review(stack, usage, UsageSettings(), CostSettings(**cost))
    return {row.rule: row.message for row in rows if row.verdict is Verdict.FAIL}


def unknown(*asked: dict[str, Any], usage: Usage) -> list[str]:
    rows = review(Stack(list(from_list(list(asked)))), usage, UsageSettings(), CostSettings())
    return [row.message for row in rows if row.verdict is Verdict.UNKNOWN]


def of(*uses: ContainerUse, gpus: tuple[GpuUse, ...] = ()) -> Usage:
    return Usage(days=14, containers=uses, gpus=gpus)


def test_a_request_that_fits_is_no_finding() -> None:
    assert found(asking("1", "1Gi"), usage=of(used(0.7, 0.7 * GIB))) == {}


def test_a_request_far_over_what_was_used_names_the_size_that_would_do_and_what_it_saves() -> None:
    message = found(asking("4", "8Gi"), usage=of(used(0.4, GIB)))["usage-oversized"]
    assert "cpu request is 4.000 vCPUs, 0.400 vCPUs were used; ask for 0.500 vCPUs" in message
    assert "memory request is 8192 MiB, 1024 MiB were used; ask for 1280 MiB" in message
    assert message.count("USD a month") == 2


def test_what_a_clouds_pods_would_save_is_their_nodes_and_is_not_counted_here() -> None:
    message = found(asking("4"), usage=of(used(0.4, GIB)), cloud_providers=("*",))
    assert "USD" not in message["usage-oversized"]


def test_the_busiest_pod_counts() -> None:
    quiet, busy = used(0.1, GIB), used(3.5, GIB, pod="sample-7d9f8b6c5-b7b8c")
    assert "usage-oversized" not in found(asking("4", "1Gi"), usage=of(quiet, busy))


def test_a_request_below_what_was_used_is_named() -> None:
    message = found(asking("500m", "1Gi"), usage=of(used(1.5, GIB)))["usage-undersized"]
    assert "cpu request is 0.500 vCPUs, 1.500 vCPUs were used; ask for 1.875 vCPUs" in message


def test_a_container_without_a_request_is_undersized_once_it_uses_something() -> None:
    assert "usage-undersized" in found(deployment(container()), usage=of(used(1.0, GIB)))


def test_what_runs_all_day_for_nothing_is_idle_and_a_job_never_is() -> None:
    still = used(0.0001, 50 * 2**20)
    assert "usage-idle" in found(asking("100m", "64Mi"), usage=of(still))
    job = manifest("batch/v1", "Job", spec={"template": {"spec": {"containers": [container()]}}})
    assert "usage-idle" not in found(job, usage=of(used(0.0001, 1, pod="sample-x2x4z")))


def test_a_gpu_that_does_nothing_is_named_with_its_price() -> None:
    card = {"namespace": "shop", "pod": "sample-7d9f8b6c5-x2x4z", "hours": 300}
    idle = (GpuUse(gpu="a", utilisation=1, **card), GpuUse(gpu="b", utilisation=3, **card))
    asked = asking("1", "1Gi", **{"nvidia.com/gpu": "2"})
    message = found(asked, usage=of(used(0.7, 0.7 * GIB), gpus=idle))["usage-gpu-idle"]
    assert message.startswith("GPUs held: 2, busy 2.0 % of 600 GPU-hours, saves ")
    busy = (GpuUse(gpu="a", utilisation=70, **card), idle[1])
    assert "usage-gpu-idle" not in found(asked, usage=of(used(0.7, 0.7 * GIB), gpus=busy))


@pytest.mark.parametrize(
    ("usage", "says"),
    [
        (of(), "no pod of shop/sample was measured"),
        (of(used(4, GIB, pod="sample-other-7d9f8b6c5-x2x4z")), "no pod of shop/sample"),
        (of(used(4, GIB, hours=2)), "measured for 2.0 h; 24 are wanted"),
    ],
    ids=["nothing", "another-workload", "too-short"],
)
def test_what_was_not_measured_long_enough_is_listed_as_unknown(usage: Usage, says: str) -> None:
    (message,) = unknown(asking(), usage=usage)
    assert says in message


@pytest.mark.parametrize(
    ("kind", "pod"),
    [
        ("apps/v1/StatefulSet", "sample-0"),
        ("apps/v1/DaemonSet", "sample-x2x4z"),
        ("batch/v1/Job", "sample-0-x2x4z"),
        ("batch/v1/Job", "sample-x2x4z"),
    ],
)
def test_pods_are_found_by_how_their_owner_names_them(kind: str, pod: str) -> None:
    version, _, name = kind.rpartition("/")
    spec = {"template": {"spec": {"containers": [container()]}}}
    assert unknown(manifest(version, name, spec=spec), usage=of(used(1, GIB, pod=pod))) == []


@pytest.mark.parametrize("path", [("replicas",), ("template",), ("template", "spec")])
def test_what_a_plan_does_not_know_yet_is_no_crash(path: tuple[str, ...]) -> None:
    asked = asking("4", "1Gi")
    place = asked["properties"]["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = UNKNOWN_GUID
    rows = review(
        Stack(list(from_list([asked]))), of(used(0.1, GIB)), UsageSettings(), CostSettings()
    )
    assert rows
    if path == ("replicas",):  # the finding stands, without a price
        (found,) = (row for row in rows if row.rule == "usage-oversized")
        assert found.verdict is Verdict.FAIL
        assert "USD" not in found.message
    else:
        assert {row.verdict for row in rows} == {Verdict.UNKNOWN}


def test_a_size_that_is_not_known_yet_makes_its_rules_unknown_and_no_others() -> None:
    asked = deployment(container(resources={"requests": {"cpu": UNKNOWN_GUID, "memory": "1Gi"}}))
    rows = review(
        Stack(list(from_list([asked]))), of(used(0.7, 0.7 * GIB)), UsageSettings(), CostSettings()
    )
    found = {row.rule: row.verdict for row in rows}
    assert found["usage-oversized"] is found["usage-undersized"] is Verdict.UNKNOWN
    assert found["usage-idle"] is Verdict.PASS


def test_every_rule_of_usage_is_known_to_waivers() -> None:
    assert {rule.id for rule in USAGE_RULES} == USAGE_IDS


@given(
    cpu=st.floats(0, 1e6), memory=st.floats(0, 1e15), asked=st.sampled_from(["0", "1m", "2", "1e3"])
)
def test_any_measurement_gives_one_verdict_for_each_rule(
    cpu: float, memory: float, asked: str
) -> None:
    rows = review(
        Stack(list(from_list([asking(asked)]))), of(used(cpu, memory)), UsageSettings(),
        CostSettings(),
    )  # fmt: skip
    rules = [row.rule for row in rows]
    assert len(rules) == len(set(rules)) == 3
    assert not {"usage-oversized", "usage-undersized"} <= {
        row.rule for row in rows if row.verdict is Verdict.FAIL and "cpu" in row.message
        and "memory" not in row.message
    }  # fmt: skip


def written(folder: Path, usage: Usage, *asked: dict[str, Any]) -> list[str]:
    (folder / "list.json").write_text(json.dumps(list(asked)))
    (folder / "usage.json").write_text(usage.model_dump_json())
    return [
        "usage", "--resources", str(folder / "list.json"),
        "--metrics", str(folder / "usage.json"),
    ]  # fmt: skip


def test_the_command_reports_in_every_format_and_its_code_says_whether_something_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = written(tmp_path, of(used(0.4, GIB)), asking("4", "1Gi"))
    for form in ("text", "json", "sarif", "junit", "markdown"):
        assert main([*words, "--format", form]) == 1
        assert "usage-oversized" in capsys.readouterr().out
    assert main(written(tmp_path, of(used(0.7, 0.7 * GIB)), asking())) == 0


def test_a_waiver_accepts_a_finding_of_usage(tmp_path: Path) -> None:
    words = written(tmp_path, of(used(0.4, GIB)), asking("4", "1Gi"))
    waiver = {
        "resource": "Deployment/shop/sample", "rule": "usage-oversized", "owner": "platform",
        "reason": "the sale of December", "ticket": "OPS-9", "expires": "2999-01-01",
    }  # fmt: skip
    (tmp_path / "waivers.yaml").write_text(json.dumps({"waivers": [waiver]}))
    assert main([*words, "--waivers", str(tmp_path / "waivers.yaml")]) == 0
    # `policies check` reads the same file and does not call it unused
    check = ["check", *words[1:3], "--rules", "k8s-pod-host-pid"]
    assert main([*check, "--waivers", str(tmp_path / "waivers.yaml")]) == 0


def test_metrics_of_one_site_are_not_held_against_the_same_names_on_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = "urn:pulumi:s::p::pulumi:providers:kubernetes::{}::id"
    both = [
        {**asking(cpu, "1Gi"), "provider": provider.format(site)}
        for cpu, site in (("4", "a"), ("1", "b"))
    ]
    words = written(tmp_path, of(used(0.7, 0.7 * GIB)), *both)
    assert main(words) == 2
    assert "workloads of several sites: a, b" in capsys.readouterr().err
    assert main([*words, "--site", "a"]) == 1
    assert main([*words, "--site", "b"]) == 0
    assert main([*words, "--site", "c"]) == 2
    assert "no workload of site 'c'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [("{}", "days"), ('{"days": 14, "pods": []}', "pods"), ("nonsense", "file")],
)
def test_a_file_of_something_else_is_refused_with_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    words = written(tmp_path, of(), asking())
    (tmp_path / "usage.json").write_text(text)
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_a_prometheus_that_does_not_answer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = written(tmp_path, of(), asking())[:3]
    assert main([*words, "--prometheus", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "gives no answer" in capsys.readouterr().err
    assert main([*words, "--prometheus", "file:///etc/passwd"]) == 2
    assert "is no address" in capsys.readouterr().err


def test_the_token_goes_into_a_header_and_nowhere_else(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("a-token\n")
    where = Server(
        url=f"http://127.0.0.1:{server.server_port}", token_file=tmp_path / "token"
    )  # fmt: skip
    try:
        with pytest.raises(InputError, match="answered 401") as raised:
            measure(where, 14)
    finally:
        server.shutdown()
    assert seen == ["Bearer a-token"]
    assert "a-token" not in str(raised.value)


def test_the_token_does_not_follow_a_redirect_and_never_goes_in_the_clear(tmp_path: Path) -> None:
    asked: list[str] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(307 if self.path.startswith("/api") else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None: ...

    (tmp_path / "token").write_text("a-token\n")
    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(InputError, match="answered 307"):
            measure(
                Server(url=f"http://127.0.0.1:{server.server_port}", token_file=tmp_path / "token"),
                14,
            )
    finally:
        server.shutdown()
    assert asked == ["/api/v1/query"]
    with pytest.raises(InputError, match="over https only"):
        measure(Server(url="http://prometheus.internal", token_file=tmp_path / "token"), 14)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus that holds two days of one pod with a GPU, and of a pod that was gone."""
    folder = tmp_path_factory.mktemp("prometheus")
    package = next(one for one in PACKAGES if one.name == "prometheus")
    server, tool = (debian.find(package, name) for name in ("prometheus", "promtool"))
    assert server is not None, "no prometheus: `stand tools` brings it"
    assert tool is not None
    step, count = 60, 2 * 24 * 60
    last = int(time.time()) // step * step
    times = [last - step * (count - 1 - n) for n in range(count)]
    labels = 'namespace="shop",pod="sample-7d9f8b6c5-x2x4z",container="app"'
    pause = 'namespace="shop",pod="sample-7d9f8b6c5-x2x4z",container="POD"'
    card = 'exported_namespace="shop",exported_pod="sample-7d9f8b6c5-x2x4z",namespace="gpu-operator",pod="dcgm-x2x4z",UUID="GPU-1"'  # noqa: E501
    lines = ["# TYPE container_cpu_usage_seconds counter"]
    # a quarter of a core, and one of every forty hours a whole one: p95 does not see it
    spent = 0.0
    for n, at in enumerate(times):
        spent += step * (1.0 if n < count // 40 else 0.25)
        lines.append(f"container_cpu_usage_seconds_total{{{labels}}} {spent} {at}")
    lines.append("# TYPE container_memory_working_set_bytes gauge")
    for n, at in enumerate(times):
        lines.append(f"container_memory_working_set_bytes{{{labels}}} {GIB if n == 5 else 9} {at}")
    lines += [f"container_memory_working_set_bytes{{{pause}}} 1 {at}" for at in times]
    lines.append("# TYPE DCGM_FI_DEV_GPU_UTIL gauge")
    lines += [f"DCGM_FI_DEV_GPU_UTIL{{{card}}} {n % 3} {at}" for n, at in enumerate(times)]
    (folder / "metrics.txt").write_text("\n".join([*lines, "# EOF", ""]))
    data = folder / "data"
    subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", folder / "metrics.txt", data],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "empty.yaml").write_text("scrape_configs: []\n")
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [server, f"--config.file={folder / 'empty.yaml'}", f"--storage.tsdb.path={data}",
             "--storage.tsdb.retention.time=30d", f"--web.listen-address={url[7:]}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready() -> bool:
        try:
            with opener.open(f"{url}/-/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        assert wait_for(ready, 60), (folder / "log").read_text()[-2000:]
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_real_prometheus_is_asked_for_peaks_percentiles_and_gpus(
    prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = written(tmp_path, of(), asking("4", "1Gi", **{"nvidia.com/gpu": "1"}))[:3]
    saved = tmp_path / "saved.json"
    assert main([*words, "--prometheus", prometheus, "--save", str(saved)]) == 1
    usage = Usage.model_validate_json(saved.read_bytes())
    (one,) = usage.containers
    assert one.cpu_p95 == pytest.approx(0.25, abs=0.01)
    assert one.memory_peak == GIB
    assert one.hours == pytest.approx(48, rel=0.05)
    (gpu,) = usage.gpus
    assert (gpu.namespace, gpu.pod, gpu.gpu) == ("shop", "sample-7d9f8b6c5-x2x4z", "GPU-1")
    assert gpu.utilisation == pytest.approx(1, abs=0.1)
    shown = capsys.readouterr().out
    assert "ask for 0.312 vCPUs" in shown or "ask for 0.313 vCPUs" in shown
    assert "usage-gpu-idle" in shown
    assert main([*words, "--metrics", str(saved)]) == 1
    assert "usage-gpu-idle" in capsys.readouterr().out
