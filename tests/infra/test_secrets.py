"""Twenty random secrets on every path that the program has; none comes out anywhere."""

from __future__ import annotations

import base64
import json
import secrets
import string
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from local.paths import PROJECT
from tests.conftest import RunningStand
from tests.inventory import root
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
MANY = 20
PROGRAM = """
import base64, json, os
from pathlib import Path
import pulumi
import pulumi_kubernetes as k8s
from infra.vault import Connection, KvSecret, Mount

here = json.loads(Path(os.environ["HYBRID_RECOMMENDER_ENDPOINTS"]).read_text())
vault = here["vault"]
connection = Connection(
    address=vault["address"], ca_file=vault["ca_file"], token_file=vault["token_file"]
)
names = [f"key-{i}" for i in range(20)]
# the ways that a secret takes in the program: born in the provider, or in a file named by its path
mount = Mount("engine", connection, path="hybrid-recommender-secrets-test", kind="kv",
    description="t", options={"version": "2"})
KvSecret("made", connection, mount=mount.path, path="made",
    generate={name: 24 for name in names}, rotation=os.environ["TEST_ROTATION"])
kubeconfig = here["sites"]["private"]["kubeconfig"]
if os.environ.get("TEST_OBJECTS"):
    # ways that the program does not take, because the engine's own log at -v=9 prints their values:
    # secret settings, a kubeconfig as text, values in objects and outputs
    values = {name: pulumi.Config().require_secret(name) for name in names}
    KvSecret("given", connection, mount=mount.path, path="given", data=values)
    kubeconfig = pulumi.Output.secret(Path(kubeconfig).read_text())
site = k8s.Provider("site", kubeconfig=kubeconfig)
there = pulumi.ResourceOptions(provider=site)
space = k8s.core.v1.Namespace("space", metadata={"name": "hr-secrets-test"}, opts=there)
inside = {"namespace": space.metadata.name}
if os.environ.get("TEST_OBJECTS"):
    k8s.core.v1.Secret("plain", metadata={**inside, "name": "plain"}, string_data=values,
        opts=there)
    k8s.core.v1.Secret("encoded", metadata={**inside, "name": "encoded"}, opts=there, data={
        name: value.apply(lambda text: base64.b64encode(text.encode()).decode())
        for name, value in values.items()})
    k8s.core.v1.ConfigMap("map", metadata={**inside, "name": "map"}, opts=there, data=values)
    variables = [{"name": name.upper(), "value": value} for name, value in values.items()]
    k8s.apps.v1.Deployment("pods", opts=there,
        metadata={**inside, "name": "pods", "annotations": {"pulumi.com/skipAwait": "true"}},
        spec={"replicas": 0, "selector": {"match_labels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "none", "env": variables}]}}})
    pulumi.export("values", values)
"""


def one() -> str:
    """A random value with what each kind of encoding changes."""
    letters = string.ascii_letters + string.digits
    word = "".join(secrets.choice(letters) for _ in range(12))
    return f"{word} +/={secrets.choice('&?#%')}\"{secrets.token_hex(8)}'<é>"


def forms(secret: str) -> set[str]:
    """The plain text and its encodings; base64 also from the middle of a longer text."""
    data = secret.encode()
    found = {
        secret, quote(secret), quote(secret, safe=""), quote_plus(secret),
        json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1],
    }  # fmt: skip
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * shift + data).decode().rstrip("=")
            found.add(text[4 if shift else 0 : -2])  # without the letters that neighbours share
    return found


class Ears:
    """All that anybody could read while the engine works."""

    def __init__(self) -> None:
        self.heard: dict[str, str] = {}
        self.arguments: set[bytes] = set()

    @contextmanager
    def on_arguments(self) -> Iterator[None]:
        """Collect the command line of every process of this machine."""
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                for entry in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        self.arguments.add(entry.read_bytes())
                    except OSError:
                        continue
                time.sleep(0.05)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            text = b"\n".join(self.arguments).decode(errors="replace")
            self.heard["process arguments"] = text

    def leaks(self, hidden: dict[str, str]) -> dict[str, list[str]]:
        """Place -> which secrets, never a secret itself: a failing test must not print it."""
        return {
            place: names
            for place, text in self.heard.items()
            if (
                names := [
                    name for name, one in hidden.items() if any(f in text for f in forms(one))
                ]
            )
        }


def folder_text(folder: Path) -> str:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return "\n".join(path.read_bytes().decode(errors="replace") for path in sorted(files))


def test_no_secret_comes_out_in_any_form_on_any_path(stand: RunningStand, tmp_path: Path) -> None:
    project, backend = tmp_path / "project", tmp_path / "state"
    project.mkdir()
    backend.mkdir()
    (project / "Pulumi.yaml").write_text(
        "name: hr-secrets\nruntime:\n  name: python\n  options:\n    toolchain: pip\n"
        f"    virtualenv: {PROJECT / '.venv'}\n",
        encoding="utf-8",
    )
    (project / "__main__.py").write_text(PROGRAM, encoding="utf-8")
    env = {**stand.environment(), "PULUMI_BACKEND_URL": f"file://{backend}?metadata=skip"}
    stack, ears, hidden = Stack(project, env, "t"), Ears(), dict[str, str]()
    stack.run("stack", "init", "t")

    def give() -> None:
        values = {f"key-{i}": one() for i in range(MANY)}
        hidden.update({f"given {len(hidden) + n}": one for n, one in enumerate(values.values())})
        for name, value in values.items():
            subprocess.run(
                ["pulumi", "config", "set", "--secret", name, "--non-interactive"],
                cwd=project, env=env, input=value, text=True, check=True, capture_output=True,
            )  # fmt: skip

    def loud(name: str, *words: str, **more: str) -> None:
        done = stack.run(*words, "-v=9", "--logtostderr", "--logflow", check=False, **more)
        ears.heard[f"{name}, output"] = done.stdout
        ears.heard[f"{name}, log"] = done.stderr
        assert done.returncode == 0, f"{name} failed: " + "".join(
            line for line in done.stdout.splitlines(True) if "error" in line
        )
        assert len(done.stderr) > 100_000, "-v=9 says more than this"

    def remember_made() -> None:
        answer = root(stand).secrets.kv.v2.read_secret_version(
            "made", mount_point="hybrid-recommender-secrets-test", raise_on_deleted_version=True
        )
        made = answer["data"]["data"].values()
        hidden.update({f"made {len(hidden) + n}": one for n, one in enumerate(made)})

    def quiet(name: str, *words: str) -> None:
        done = stack.run(*words, TEST_ROTATION="2", TEST_OBJECTS="1")
        ears.heard[name] = done.stdout + done.stderr

    yes = ("--yes", "--skip-preview")
    with ears.on_arguments():
        try:
            loud("preview", "preview", "--json", TEST_ROTATION="1")
            loud("first up", "up", *yes, TEST_ROTATION="1")
            remember_made()
            loud("second up", "up", *yes, "--diff", TEST_ROTATION="2")
            remember_made()
            loud("refresh", "refresh", *yes, TEST_ROTATION="2")
            give()
            quiet("preview with objects", "preview", "--diff")
            quiet("preview JSON with objects", "preview", "--json")
            quiet("up with objects", "up", *yes, "--diff")
            quiet("state export", "stack", "export")
            quiet("outputs", "stack", "output", "--json")
            ears.heard["the backend's files"] = folder_text(backend)
            ears.heard["the project's files"] = folder_text(project)
        finally:
            quiet("destroy", "destroy", *yes)
    for name, file in {
        "token": stand.state / "vault" / "deployer-token",
        "root token": stand.state / "vault" / "root-token",
        "unseal key": stand.state / "vault" / "unseal-key",
        "passphrase": Path(env["PULUMI_CONFIG_PASSPHRASE_FILE"]),
    }.items():
        hidden[name] = file.read_text(encoding="ascii").strip()
    hidden |= {f"private key {n}": line for n, line in enumerate(private_key(stand))}
    assert len(set(hidden.values())) > 3 * MANY
    assert "hr-secrets-test" in ears.heard["state export"], "the listening hears nothing"
    assert b"pulumi" in b"".join(ears.arguments)
    assert ears.leaks(hidden) == {}


def private_key(stand: RunningStand) -> list[str]:
    """The base64 lines of the administrator's key that the kubeconfig holds."""
    config = json.loads(
        Path(stand.endpoints["sites"]["private"]["kubeconfig"]).read_text(encoding="utf-8")
    )
    encoded = config["users"][0]["user"]["client-key-data"]
    lines = base64.b64decode(encoded).decode().splitlines()
    return [encoded[40:120], *(line for line in lines if len(line) > 40)]
