"""Texts that look like credentials: by their own shape, or by the name that they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SHAPES: dict[str, re.Pattern[str]] = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "an AWS secret key": re.compile(
        r"(?i)aws_?secret_?access_?key['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+=]{40}"
    ),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{60,}\b"),
    "a Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    "a Vault token": re.compile(r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    "a Google API key": re.compile(r"\bAIza[\w-]{35}\b"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s:/@$<{]+:[^\s@/$<{]{3,}@"),
}
_NAME = re.compile(
    r"(?i)(?:^|[^a-z])(?:\w*passw(?:or)?d|\w*passphrase|\w*passwrd|pwd|pswrd|pword|pass|\w*secret"
    r"(?:_?key)?|\w*_?token|api_?key|\w+_api_?key|access_?key(?:_?id)?|\w*_access_?key(?:_?id)?|"
    r"private_?key|\w*credentials?)$"
)
_HARMLESS = re.compile(
    r"(?i)^(|true|false|null|none|changeme-at-runtime|\d{1,6}|[<$].*|\{\{.*|/[\w./-]+|"
    r"file:.*|vault:.*|arn:.*|"
    r"[a-z_][\w.]*\(.*|(?:str|bytes)\b(?:\s*[|=].*)?)$"  # a call or a type: code, not a value
)
_AWS_KEY_NAME = re.compile(r"(?i)^aws_(?:access_key_id|secret_access_key)$")
_AWS_KEY_LENGTH = 16
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?['\"]?([\w.-]+)['\"]?\s*[=:]\s*(.*?)\s*$")


def _plain(name: str) -> str:
    # camelCase and dots as underscores, so that one expression reads them all
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace(".", "_").replace("-", "_")


def shapes_in(text: str) -> Iterator[str]:
    """What credentials a text holds, by their shape; the credential itself is not repeated."""
    for title, pattern in _SHAPES.items():
        if pattern.search(text):
            yield title


def is_secret_name(name: str) -> bool:
    """Whether a name promises a credential (`DB_PASSWORD`), not its place (`PASSWORD_FILE`).

    >>> [is_secret_name(n) for n in ("DB_PASSWORD", "apiKey", "PASSWORD_FILE", "TOKEN_TTL")]
    [True, True, False, False]
    """
    return _NAME.search(_plain(name)) is not None


def named_secret(name: str, value: str) -> bool:
    """Whether a named value is a credential: the name says so and the value is not a reference."""
    plain = value.strip().strip("'\"")
    if _AWS_KEY_NAME.search(_plain(name)) and len(plain) < _AWS_KEY_LENGTH:
        return False  # keys of AWS have a length: a shorter text stands in for one
    return is_secret_name(name) and not _HARMLESS.match(plain)


def secrets_in(name: str, value: str) -> Iterator[str]:
    """Descriptions of the credentials in a named text: its name, shapes, `key = value` lines."""
    yield from shapes_in(value)
    if "\n" not in value and named_secret(name, value):
        yield f"a value for {name}"
    for line in value.splitlines():
        if (match := _ASSIGNMENT.match(line)) and named_secret(*match.groups()):
            yield f"a value for {match.group(1)}"
