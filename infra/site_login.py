"""One question to a site's API server, with the login of its kubeconfig. Used before an update."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import yaml

from infra.site_settings import Site

SECONDS = 5.0  # for an answer
LOGIN_SECONDS = 60.0  # for the command that a kubeconfig logs in with

Section = Mapping[str, Any]


class LoginError(Exception):
    """The kubeconfig's login cannot be used; says why, in words that end a sentence."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """What proves to an API server who asks."""

    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    """With its key, PEM."""


def ask(site: Site, path: str) -> tuple[int, str]:
    """Status and text of `GET path`. Raises `OSError`, `HTTPException` or `LoginError`."""
    where, login = urlsplit(site.api), login_of(site.kubeconfig.expanduser())
    host, port = where.hostname or "", where.port or 443
    context = ssl.create_default_context(cadata=site.ca_pem())
    if login.certificate is not None:
        # the TLS library reads files only: a private one, gone at once
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(login.certificate)
            file.flush()
            try:
                context.load_cert_chain(file.name)
            except ssl.SSLError:
                raise LoginError("its client certificate and key do not fit") from None
    headers = {"Accept": "application/json"}
    if login.token is not None:
        headers["Authorization"] = f"Bearer {login.token}"
    with socket.create_connection((host, port), timeout=SECONDS) as raw:
        connection = http.client.HTTPConnection(host, port)
        # by hand: the certificate may bear another name than the address
        connection.sock = context.wrap_socket(raw, server_hostname=site.route()[0] or host)
        try:
            connection.request("GET", where.path.rstrip("/") + path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()


def login_of(kubeconfig: Path) -> Login:
    """The login of the current context. Raises `LoginError`; no message repeats a secret."""
    user = _user(kubeconfig)
    if exec_ := user.get("exec"):
        user = _by_command(cast("Section", exec_), kubeconfig.parent)
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = _read(kubeconfig.parent, str(user["tokenFile"])).decode().strip()
    certificate = _material(user, "client-certificate", kubeconfig.parent)
    key = _material(user, "client-key", kubeconfig.parent)
    if not token and not (certificate and key):
        raise LoginError("it names no token, client certificate or login command")
    pair = certificate + b"\n" + key if certificate and key else None
    return Login(token=str(token) if token else None, certificate=pair)


def _user(kubeconfig: Path) -> Section:
    try:
        raw: Any = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        contexts = {one["name"]: one["context"] for one in raw["contexts"]}
        # like every client: the current context, or the only one
        current = raw.get("current-context") or (next(iter(contexts)) if len(contexts) == 1 else "")
        users = {one["name"]: one["user"] for one in raw["users"]}
        return cast("Section", users[contexts[current]["user"]])
    except OSError as error:
        raise LoginError(f"it cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise LoginError("its current context leads to no user") from None


def _by_command(exec_: Section, folder: Path) -> Section:
    """What a login command (`aws eks get-token`, …) answers, under a user's own keys."""
    command = str(exec_.get("command"))
    program = str(folder / command) if command.startswith(".") else command
    asked = {
        "apiVersion": exec_.get("apiVersion", "client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    env = {str(one["name"]): str(one["value"]) for one in exec_.get("env") or ()}
    try:
        done = subprocess.run(
            [program, *(str(word) for word in exec_.get("args") or ())],
            env={**os.environ, **env, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
            capture_output=True, check=True, timeout=LOGIN_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        status = json.loads(done.stdout)["status"]
        return {
            "token": status.get("token"),
            **{
                f"client-{part}-data": base64.b64encode(text.encode()).decode()
                for part in ("certificate", "key")
                if (text := status.get(f"client{part.title()}Data"))
            },
        }
    except subprocess.CalledProcessError as error:
        raise LoginError(f"its login command {command} ends with {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise LoginError(f"its login command {command} takes over {LOGIN_SECONDS:.0f} s") from None
    except OSError as error:
        raise LoginError(f"its login command {command} cannot be run ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LoginError(f"its login command {command} answers without credentials") from None


def _material(user: Section, key: str, folder: Path) -> bytes | None:
    """A certificate or key given inline (base64) or as a path."""
    if inline := user.get(f"{key}-data"):
        try:
            return base64.b64decode(str(inline), validate=True)
        except binascii.Error:
            raise LoginError(f"{key}-data is not base64") from None
    return _read(folder, str(user[key])) if user.get(key) else None


def _read(folder: Path, name: str) -> bytes:
    path = folder / Path(name).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoginError(f"{path} cannot be read ({error.strerror})") from None
