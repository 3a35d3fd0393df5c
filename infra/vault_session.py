"""A logged-in client of Vault, and what its failures look like: one line, found and to do.

The token is read from its file at the moment of a call. hvac is imported inside functions: a
preview does not pay for a library that it does not use.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

CONNECT_TIMEOUT = 3.0  # seconds; with the next one every failure is reported within ten
ANSWER_TIMEOUT = 6.0  # seconds
REMOVAL_TIMEOUT = 90.0  # seconds; Vault itself ends a request then


class VaultError(Exception):
    """A failure of Vault, told in one line: what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where Vault is and which files prove who we are. Holds paths, never their contents."""

    address: str
    ca_file: str
    token_file: str
    namespace: str = ""

    def props(self) -> dict[str, str]:
        return asdict(self)


def _read(path: str, what: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise VaultError(
            f"Vault {what} cannot be read from {path}: {error.strerror}; "
            "log in to Vault or correct the path in the stack's settings"
        ) from None


@contextmanager
def session(connection: Mapping[str, str]) -> Generator[Any]:
    """A logged-in hvac client; whatever goes wrong inside leaves as a one-line `VaultError`."""
    import hvac
    import requests
    from hvac import exceptions as refused

    address = connection["address"]
    token = _read(connection["token_file"], "token")
    ca_file = str(Path(connection["ca_file"]).expanduser())
    _read(ca_file, "CA certificate")
    direct = requests.Session()
    direct.trust_env = False  # no proxy and no netrc between us and the secrets
    direct.verify = ca_file
    client = hvac.Client(
        url=address,
        token=token,
        verify=ca_file,
        timeout=cast("int", (CONNECT_TIMEOUT, ANSWER_TIMEOUT)),
        namespace=connection.get("namespace") or None,
        session=direct,
    )
    try:
        yield client
    except requests.exceptions.SSLError:
        message = (
            f"Vault at {address} shows a certificate that {ca_file} does not sign; "
            "give the CA file of this Vault"
        )
    except requests.exceptions.Timeout:
        message = (
            f"Vault at {address} gave no answer within {CONNECT_TIMEOUT + ANSWER_TIMEOUT:.0f} s "
            f"({REMOVAL_TIMEOUT:.0f} s for a removal); look at its load and its storage, "
            "then run the command again"
        )
    except requests.exceptions.ConnectionError:
        message = f"Vault at {address} is not reachable; start it, then run the command again"
    except refused.VaultDown:
        message = f"Vault at {address} is sealed; unseal it, then run the command again"
    except (refused.Forbidden, refused.Unauthorized):
        message = (
            f"Vault at {address} refuses the token in {connection['token_file']}; "
            "log in again, or grant its policy the path that this stack writes"
        )
    except refused.InvalidPath as error:
        message = (
            f"Vault at {address} has nothing at {_path_of(error)}; "
            "create it or correct the path, then run the command again"
        )
    except refused.VaultError as error:
        reasons = cast("Sequence[str]", error.errors or []) or [type(error).__name__]
        told = " ".join("; ".join(str(reason) for reason in reasons).split())
        message = f"Vault at {address} refused {_path_of(error)}: {told}"
    else:
        return
    raise VaultError(message)


def remove_mount(client: Any, path: str) -> None:
    """Disable an engine (`mounts/…`) or a login method (`auth/…`).

    Vault first revokes all that it gave out there, entry by entry: a busy one needs far longer than
    for any other answer, and a client that hangs up makes it stop half-way.
    """
    client.adapter.delete(url=f"/v1/sys/{path}", timeout=(CONNECT_TIMEOUT, REMOVAL_TIMEOUT))


def _path_of(error: Any) -> str:
    return str(error.url or "").partition("/v1/")[2] or "the request"


def preflight(
    connection: Connection, *, kv_mount: str = "", must_exist: Sequence[str] = ()
) -> None:
    """Refuse an update before its first change when Vault cannot serve it.

    Looks at the seal, the token, and that every KV path in `must_exist` is there (metadata only:
    no value is read). Raises `VaultError`.
    """
    from hvac import exceptions as refused

    with session(connection.props()) as client:
        if client.seal_status["sealed"]:
            raise refused.VaultDown
        client.auth.token.lookup_self()
        for path in must_exist:
            client.secrets.kv.v2.read_secret_metadata(path, mount_point=kv_mount)
