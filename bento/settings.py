"""What the operator may set, read once from `RECOMMENDER__*` environment variables.

The double underscore keeps clear of the variables that Kubernetes injects for a Service named
`recommender` (`RECOMMENDER_SERVICE_HOST`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

PREFIX = "RECOMMENDER__"


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message says which and what to give."""


def state_root(environ: Mapping[str, str]) -> Path:
    """Where the service keeps what must outlive it on one machine."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "hybrid-recommender" / "bento"


def cache_root(environ: Mapping[str, str]) -> Path:
    """Where downloadable or rebuildable things lie."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hybrid-recommender"


UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class ServiceSettings(BaseModel):
    """Frozen settings of one service process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_dir: UserPath | None = Field(
        default=None,
        description="Bundle or checkpoint folder, or a link that is moved to publish a new "
        "version. Unset: the bento's own model, else the cached synthetic one.",
    )
    model_poll_s: float = Field(default=2.0, gt=0, le=3600, description="How often to look there.")
    nats_url: str | None = Field(
        default=None,
        pattern=r"^(nats|tls)://",
        description="JetStream address. Unset: an embedded nats-server for this machine.",
    )
    nats_creds: UserPath | None = Field(default=None, description="NATS credentials file.")
    nats_token: UserPath | None = Field(
        default=None, description="File with the NATS token; read anew for every connection."
    )
    nats_ca: UserPath | None = Field(default=None, description="CA certificate for tls://.")
    nats_replicas: int = Field(default=1, ge=1, le=5, description="Copies of each stream.")
    nats_server: UserPath | None = Field(
        default=None, description="The nats-server binary for the embedded store."
    )
    state_dir: UserPath = Field(description="Embedded store and cached models.")
    store: Literal["required", "optional", "off"] = Field(
        default="required",
        description="required: not ready until the history store answered once; "
        "optional: ready without it; off: histories come from requests only.",
    )
    history_length: int = Field(default=100, ge=1, le=1000, description="Events kept per user.")
    history_timeout_ms: float = Field(
        default=25, gt=0, le=1000, description="Longest wait for a history before going without."
    )
    event_wait_s: float = Field(
        default=8, gt=0, le=60, description="Longest wait for a store that is coming back."
    )
    event_max_age_days: float = Field(default=365, gt=0, description="Older events are refused.")
    dedupe_window_s: float = Field(
        default=3600, ge=1, description="The log drops a repeated event id within this time."
    )
    deadline_ms: float = Field(
        default=50, ge=5, le=10_000, description="Answer time a request gets unless it asks."
    )
    max_batch: int = Field(default=32, ge=1, le=1024, description="Most requests per model call.")
    max_in_flight: int = Field(
        default=512, ge=1, description="Requests in one worker before 429, whatever their delay."
    )
    workers: int | None = Field(default=None, ge=1, le=64, description="Unset: by CPU and memory.")
    torch_threads: int | None = Field(default=None, ge=1, description="Unset: CPUs per worker.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tracing: bool = Field(
        default=False, description="OpenTelemetry spans per request (costs about 0.3 ms each)."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> ServiceSettings:
        """Read `RECOMMENDER__*`; an unknown or ill-typed one is a SettingsError naming it."""
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(PREFIX)
        }
        given.setdefault("state_dir", str(state_root(environ)))
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = [
                f"{PREFIX}{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}"
                for e in error.errors(include_url=False)
            ]
            raise SettingsError(
                "settings refused:\n  " + "\n  ".join(lines) + "\nsee docs/service.md, Settings"
            ) from None
