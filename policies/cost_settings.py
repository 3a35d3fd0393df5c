"""What a plan does not say about a month's bill, and the limits of that bill."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

from infra.pricing import Guardrail, OnPremise

_USAGE = {
    "logs.ingest": 10, "logs.storage": 30, "vpc.nat.data": 100, "vpc.endpoint.data": 50,
    "transfer.internet": 50, "ecr.storage": 20, "kms.requests": 10, "route53.queries": 10,
    "s3.standard": 500, "s3.put": 100, "s3.get": 1000, "sns.requests": "0.01", "sqs.requests": 1,
}  # fmt: skip


class PrivateServer(BaseModel):
    """One server model of the private site; the fields of `infra.pricing.OnPremise`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capex_usd: Decimal = Decimal(250_000)
    years: Decimal = Decimal(4)
    interest: Decimal = Decimal("0.05")
    power_kw: Decimal = Decimal(8)
    pue: Decimal = Decimal("1.4")
    usd_per_kwh: Decimal = Decimal("0.20")
    rack_usd_month: Decimal = Decimal(800)
    support_share: Decimal = Decimal("0.05")
    gpus: int = 8
    gpu: str = "H100"
    vcpus: int = 192
    memory_gib: int = 2048
    utilisation: Decimal = Decimal("0.7")


class CostSettings(BaseModel):
    """`cost:` of a stack's file. Quantities are per resource and month."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: str = "eu-central-1"
    usage: dict[str, Decimal] = Field(
        default_factory=lambda: {sku: Decimal(amount) for sku, amount in _USAGE.items()}
    )
    """How much of what is sold by quantity one resource uses."""
    burst_utilisation: Decimal = Field(default=Decimal("0.1"), ge=0, le=1)
    """Share of a burst pool's limit that is used over a month."""
    spot_share: Decimal = Field(default=Decimal("0.45"), gt=0, le=1)
    """Price of spot capacity as a share of on-demand."""
    job_hours: Decimal = Field(default=Decimal(20), ge=0)
    """Hours a month that one Job or CronJob runs."""
    private_nodes: int = Field(default=2, ge=1)
    """Nodes of the private site: copies of a DaemonSet."""
    storage_usd_gb_month: Decimal = Field(default=Decimal("0.05"), gt=0)
    private_server: PrivateServer = PrivateServer()
    cloud_providers: tuple[str, ...] = ("*cloud*", "*-k8s")
    """Patterns of provider names whose pods run on nodes that this stack already pays for."""
    free: tuple[str, ...] = ()
    """Patterns of types that are priced elsewhere by agreement."""
    total_usd: Decimal | None = None
    ceiling_usd: Decimal | None = None
    rise_usd: Decimal | None = None
    rise_percent: Decimal | None = None

    def server(self) -> OnPremise:
        """The arithmetic of the private site's server."""
        return OnPremise(**self.private_server.model_dump())

    def guardrail(self) -> Guardrail:
        """The limits of the bill."""
        return Guardrail(
            total_usd=self.total_usd,
            ceiling_usd=self.ceiling_usd,
            rise_usd=self.rise_usd,
            rise_percent=self.rise_percent,
        )
