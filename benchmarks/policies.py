"""The rules against Checkov on the same manifests, and what the pack adds to a preview.

    python -m benchmarks.policies [--objects 500] [--runs 3] [--checkov PATH]

*Files*: `policies check --manifests` and `checkov --framework kubernetes`, each as its own process
over one folder of manifests (Deployments, Services, ConfigMaps, RBAC);
median wall time of the runs.
*Engine*: `pulumi preview` of a program with as many resources, without a pack, with one that judges
nothing (`benchmarks/peers/empty_pack`: what the engine asks for any pack in Python) and with ours,
against an API server of its own; runs alternate, so that a busy machine slows all. Checkov
comes into an environment of its own under out/bench, unless `--checkov` names one.
Writes out/bench/policies.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from policies.samples import HARDENED, IMAGE

OUT = Path("out/bench/policies.json")
PEER = "checkov==3.3.30"
ROOT = Path(__file__).resolve().parent.parent
FILES_AIM = 0.1  # of Checkov's wall time
ENGINE_AIM = 0.05  # added to a preview


def objects(number: int) -> list[dict[str, Any]]:
    """Manifests in equal parts; every tenth workload breaks a rule."""
    made: list[dict[str, Any]] = []
    for n in range(number):
        meta = {"name": f"app-{n}", "namespace": "shop", "labels": {"app": f"app-{n}"}}
        kind = n % 5
        if kind in (0, 1):
            container = {
                "name": "app", "image": IMAGE, "securityContext": {**HARDENED, "runAsUser": 20000},
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"},
                              "limits": {"memory": "64Mi"}},
                "livenessProbe": {"httpGet": {"path": "/livez", "port": 3000}},
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 3000}},
            }  # fmt: skip
            if n % 10 == 0:
                container["securityContext"] = {"privileged": True}
            spec: dict[str, Any] = {
                "replicas": 2, "selector": {"matchLabels": {"app": f"app-{n}"}},
                "template": {"metadata": {"labels": {"app": f"app-{n}"}},
                             "spec": {"containers": [container], "serviceAccountName": "app",
                                      "automountServiceAccountToken": False}},
            }  # fmt: skip
            made.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
                         "spec": spec})  # fmt: skip
        elif kind == 2:
            made.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {
                "selector": {"app": f"app-{n}"}, "ports": [{"port": 80}]}})  # fmt: skip
        elif kind == 3:
            made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
                         "data": {"LOG_LEVEL": "info", "app.ini": "[a]\nb = c\n"}})  # fmt: skip
        else:
            made.append({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta,
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
            })  # fmt: skip
    return made


def wall(command: Sequence[str], accepted: tuple[int, ...] = (0, 1), **options: Any) -> float:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    took = time.monotonic() - began
    if done.returncode not in accepted:
        tail = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(f"benchmarks.policies: {command[0]} exited {done.returncode}: {tail}")
    return took


def installed() -> str:
    """Path of the peer, in an environment of its own."""
    place = OUT.parent / PEER
    program = place.absolute() / "bin" / "checkov"
    if not program.is_file():
        uv = str(ROOT / "local/uv.sh")
        wall([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], (0,))
        wall([uv, "pip", "install", "--quiet", "--python", str(place), PEER], (0,))
    return str(program)


def files(number: int, runs: int, checkov: str) -> dict[str, Any]:
    """Both tools over one folder, taking turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "manifests"
        folder.mkdir()
        for n, each in enumerate(objects(number)):
            (folder / f"{n:04}.yaml").write_text(yaml.safe_dump(each))
        ours = [sys.executable, "-m", "policies", "check", "--manifests", str(folder),
                "--format", "json", "--output", str(Path(name) / "ours.json")]  # fmt: skip
        theirs = [checkov, "--framework", "kubernetes", "--directory", str(folder), "--quiet",
                  "--compact", "--output", "json", "--skip-download"]  # fmt: skip
        times: dict[str, list[float]] = {"policies": [], "checkov": []}
        for _ in range(runs):
            times["policies"].append(wall(ours, cwd=ROOT))
            times["checkov"].append(wall(theirs, cwd=name))
        rows = json.loads((Path(name) / "ours.json").read_text())
    medians = {tool: statistics.median(each) for tool, each in times.items()}
    return {
        "objects": number,
        "answers": len(rows),
        "seconds": times,
        "median": medians,
        "ratio": medians["policies"] / medians["checkov"],
    }


PROGRAM = """
import json, os
from pathlib import Path
import pulumi
import pulumi_kubernetes as k8s

there = pulumi.ResourceOptions(provider=k8s.Provider(
    "there", kubeconfig=Path(os.environ["TEST_KUBECONFIG"]).read_text()))
for each in json.loads(Path("objects.json").read_text()):
    kind = {"Deployment": k8s.apps.v1.Deployment, "Service": k8s.core.v1.Service,
            "ConfigMap": k8s.core.v1.ConfigMap, "Role": k8s.rbac.v1.Role}[each["kind"]]
    fields = {key: each[key] for key in ("metadata", "spec", "data", "rules") if key in each}
    kind(each["metadata"]["name"], opts=there, **fields)
"""


def engine(number: int, runs: int) -> dict[str, Any]:
    """A preview with and without the pack, taking turns, against a real API server."""
    from tests.plugins.cluster import Cluster
    from tests.plugins.engine import Project

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", controllers=False)
        try:
            cluster.start()
            cluster.request("POST", "/api/v1/namespaces", {
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})  # fmt: skip
            (folder / "kubeconfig").write_text(cluster.kubeconfig)
            os.environ["TEST_KUBECONFIG"] = str(folder / "kubeconfig")
            project = Project(folder / "project", PROGRAM)
            (project.program / "objects.json").write_text(json.dumps(objects(number)))
            (folder / "levels.json").write_text('{"all": "advisory"}')
            packs: dict[str, tuple[str, ...]] = {
                "without": (),
                "empty": ("--policy-pack", str(ROOT / "benchmarks/peers/empty_pack")),
                "with": ("--policy-pack", str(ROOT / "policies"),
                         "--policy-pack-config", str(folder / "levels.json")),
            }  # fmt: skip
            times: dict[str, list[float]] = {which: [] for which in packs}
            project.run("preview")  # caches of the engine and of the server
            for _ in range(runs):
                for which, words in packs.items():
                    began = time.monotonic()
                    project.run("preview", *words)
                    times[which].append(time.monotonic() - began)
        finally:
            cluster.stop()
    medians = {which: statistics.median(each) for which, each in times.items()}
    return {
        "resources": number,
        "seconds": times,
        "median": medians,
        "added": medians["with"] / medians["without"] - 1,
        "added to an empty pack": medians["with"] / medians["empty"] - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--checkov", metavar="PATH", help="one that is installed already")
    parser.add_argument("--skip-engine", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {"cpus": os.cpu_count()}
    print(f"{'':28}{'seconds':>10}{'ratio':>9}{'aim':>9}")
    found["files"] = one = files(given.objects, given.runs, given.checkov or installed())
    print(f"{'checkov, manifests':28}{one['median']['checkov']:10.2f}{1:9.3f}")
    print(f"{'policies, manifests':28}{one['median']['policies']:10.2f}"
          f"{one['ratio']:9.3f}{FILES_AIM:9.3f}")  # fmt: skip
    if not given.skip_engine:
        found["engine"] = one = engine(given.objects, given.runs)
        print(f"{'preview without the pack':28}{one['median']['without']:10.2f}{1:9.3f}")
        empty = one["median"]["empty"]
        print(f"{'preview, an empty pack':28}{empty:10.2f}{empty / one['median']['without']:9.3f}")
        print(f"{'preview with the pack':28}{one['median']['with']:10.2f}"
              f"{1 + one['added']:9.3f}{1 + ENGINE_AIM:9.3f}")  # fmt: skip
        print(f"{'  of the empty pack':38}{1 + one['added to an empty pack']:9.3f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
