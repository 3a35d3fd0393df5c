"""A month's bill of a stack, from the plan itself.

Everything with a price becomes lines of an `infra.pricing.Estimate`; what has no price, or a size
that the plan does not know, is *unpriced*: listed, and an error. What a plan cannot know
(gigabytes, requests, busy hours) comes from the stack's settings and is marked as assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from infra.naming import PROJECT
from infra.pricing import HOURS_PER_MONTH, Estimate, Line, PriceTable, Unpriced, prices
from policies.cost_settings import CostSettings
from policies.pods import JOBS, TEMPLATE_PATHS, containers, pod_of
from policies.resource import Resource, Stack
from policies.values import (
    Unknown,
    UnknownValue,
    at,
    flag,
    maps,
    number,
    quantity,
    raw,
    text,
    texts,
)

GPU = "nvidia.com/gpu"
GIB = Decimal(2**30)
NOT_KNOWN = "is not known yet"

# kind -> what runs all month, what is used by quantity
_FIXED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "aws:cloudwatch/logGroup:LogGroup": ((), ("logs.ingest", "logs.storage")),
    "aws:cloudwatch/metricAlarm:MetricAlarm": (("cloudwatch.alarm",), ()),
    "aws:ec2/eip:Eip": (("vpc.public-ipv4",), ()),
    "aws:ec2/natGateway:NatGateway": (("vpc.nat",), ("vpc.nat.data",)),
    "aws:ec2/vpnConnection:VpnConnection": (("vpn.connection",), ("transfer.internet",)),
    "aws:ecr/repository:Repository": ((), ("ecr.storage",)),
    "aws:eks/cluster:Cluster": (("eks.cluster",), ()),
    "aws:kms/key:Key": (("kms.key",), ("kms.requests",)),
    "aws:route53/zone:Zone": (("route53.zone",), ("route53.queries",)),
    "aws:s3/bucket:Bucket": ((), ("s3.standard", "s3.put", "s3.get")),
    "aws:sns/topic:Topic": ((), ("sns.requests",)),
    "aws:sqs/queue:Queue": ((), ("sqs.requests",)),
}
# Nothing on the bill bears their name: what they cause is billed with what they belong to.
_FREE = (
    "aws:budgets/*", "aws:cloudwatch/event*", "aws:costexplorer/*", "aws:ec2/customerGateway:*",
    "aws:ec2/default*", "aws:ec2/flowLog:*", "aws:ec2/internetGateway:*",
    "aws:ec2/launchTemplate:*", "aws:ec2/*oute*", "aws:ec2/network*", "aws:ec2/securityGroup*",
    "aws:ec2/subnet:*", "aws:ec2/vpc:*", "aws:ec2/vpnConnectionRoute:*", "aws:ec2/vpnGateway*",
    "aws:ecr/lifecyclePolicy:*", "aws:eks/access*", "aws:eks/addon:*", "aws:eks/podIdentity*",
    "aws:iam/*", "aws:kms/alias:*", "aws:lb/listener*", "aws:lb/targetGroup*",
    "aws:route53/record:*", "aws:s3/bucket?*:*", "aws:sns/topicPolicy:*",
    "aws:sns/topicSubscription:*", "aws:sqs/queuePolicy:*", "aws:vpc/securityGroup*",
    f"{PROJECT}:*", "pulumi-python:*", "random:*", "recsys:*", "tls:*",
)  # fmt: skip
# Groups whose objects only steer what is priced by itself (pods, nodes, volumes).
_STEERING = frozenset(
    {
        "", "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io",
        "apps", "autoscaling", "batch", "cert-manager.io", "coordination.k8s.io",
        "discovery.k8s.io", "flowcontrol.apiserver.k8s.io", "gateway.networking.k8s.io",
        "jobset.x-k8s.io", "karpenter.k8s.aws", "keda.sh", "kueue.x-k8s.io",
        "monitoring.coreos.com", "networking.k8s.io", "node.k8s.io", "policy",
        "rbac.authorization.k8s.io", "scheduling.k8s.io", "storage.k8s.io",
        "trainer.kubeflow.org",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """A quantity of something on the price list."""

    sku: str
    quantity: Decimal
    ceiling: Decimal | None = None
    gpu: str = ""
    gpu_hours: Decimal = Decimal(0)
    usd: Decimal | None = None  # a price of our own, per unit
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """The estimate and what it lacks: a text per resource."""

    estimate: Estimate
    unpriced: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Books:
    stack: Stack
    settings: CostSettings
    table: PriceTable

    def instance(self, kind: str) -> tuple[Decimal, int, str]:
        """USD an hour, GPUs and their kind of an instance type. Raises `Unpriced`."""
        price = self.table.get(f"ec2.{kind}", self.settings.region)
        return price.usd, price.gpus, price.gpu


def bill(stack: Stack, settings: CostSettings, table: PriceTable | None = None) -> Bill:
    """The monthly bill of a stack."""
    books = _Books(stack, settings, table or prices())
    lines: list[Line] = []
    unpriced: list[tuple[str, str]] = []
    for resource in stack.resources:
        try:
            lines += [_line(resource, item, books) for item in _items(resource, books)]
        except Unpriced as error:
            unpriced.append((resource.label, str(error)))
        except UnknownValue as unknown:
            unpriced.append((resource.label, f"{unknown} {NOT_KNOWN}"))
    return Bill(Estimate(tuple(lines)), tuple(unpriced))


def _line(resource: Resource, item: Item, books: _Books) -> Line:
    component, team = _whose(resource)
    if item.usd is None:
        price = books.table.get(item.sku, books.settings.region)
        usd, unit, basis = price.usd, price.unit, price.basis
    else:
        usd, unit, basis = item.usd, item.unit, "own"
    most = item.quantity if item.ceiling is None else item.ceiling
    return Line(
        resource=resource.label,
        component=component,
        team=team,
        sku=item.sku,
        quantity=item.quantity,
        unit=unit,
        usd=usd * item.quantity,
        ceiling=usd * most,
        basis=basis,
        gpu=item.gpu,
        gpu_hours=item.gpu_hours,
        note=item.note,
    )


def _whose(resource: Resource) -> tuple[str, str]:
    labels = raw(resource.props, "metadata", "labels")
    tags = raw(resource.props, "tags")
    known: dict[str, str] = {}
    for source in (labels, tags):
        if isinstance(source, Mapping):
            known |= {key: value for key, value in source.items() if isinstance(value, str)}
    component = known.get("component") or known.get("app.kubernetes.io/name") or "(none)"
    return component, known.get("owner", "(none)")


def _items(resource: Resource, books: _Books) -> Iterator[Item]:
    kind = resource.kind
    if any(fnmatchcase(kind, pattern) for pattern in books.settings.free):
        return
    if kind in _FIXED:
        running, used = _FIXED[kind]
        for sku in running:
            yield _all_month(sku, books)
        for sku in used:
            amount = books.settings.usage.get(sku, Decimal(0))
            if amount:
                yield Item(sku, amount, note="assumed use")
    elif kind in _HANDLERS:
        yield from _HANDLERS[kind](resource, books)
    elif not _bears_no_price(resource):
        raise Unpriced(
            f"{resource.type} is not on the price list; add it to policies/cost.py, "
            "or its pattern to cost.free with a reason"
        )


def _bears_no_price(resource: Resource) -> bool:
    if resource.is_kubernetes and resource.kind.split("/")[0] in _STEERING:
        return True
    return any(fnmatchcase(resource.kind, pattern) for pattern in _FREE)


def _all_month(sku: str, books: _Books, count: Decimal = Decimal(1)) -> Item:
    unit = books.table.get(sku, books.settings.region).unit
    return Item(sku, count * (HOURS_PER_MONTH if unit == "hour" else 1))


def _count(resource: Resource, *path: str) -> Decimal:
    found = number(resource.props, *path)
    if found is None:
        raise Unpriced(f"{'.'.join(path)} says no number; the bill depends on it")
    return Decimal(str(found))


def _endpoint(resource: Resource, books: _Books) -> Iterator[Item]:
    if text(resource.props, "vpcEndpointType") in ("", "Gateway"):
        return
    declared = raw(resource.props, "subnetIds")
    zones = len(declared) if isinstance(declared, list) else len(texts(resource.props, "subnetIds"))
    yield _all_month("vpc.endpoint", books, Decimal(zones))
    yield Item("vpc.endpoint.data", books.settings.usage.get("vpc.endpoint.data", Decimal(0)),
               note="assumed use")  # fmt: skip


def _load_balancer(resource: Resource, books: _Books) -> Iterator[Item]:
    kind = text(resource.props, "loadBalancerType") or "application"
    yield _all_month(f"elb.{kind}", books)
    yield Item(f"elb.{kind}.capacity", HOURS_PER_MONTH, note="assumed: one unit all month")


def _health_check(resource: Resource, books: _Books) -> Iterator[Item]:
    """The price of an endpoint outside AWS, and of each option by itself."""
    yield _all_month("route53.health-check", books)
    kind = text(resource.props, "type")
    options = [
        kind.startswith("HTTPS"),
        kind.endswith("STR_MATCH"),
        number(resource.props, "requestInterval") == 10,
        flag(resource.props, "measureLatency") is True,
    ]
    if any(options):
        yield _all_month("route53.health-check.option", books, Decimal(sum(options)))


def _node_group(resource: Resource, books: _Books) -> Iterator[Item]:
    nodes = _count(resource, "scalingConfig", "desiredSize")
    most = _count(resource, "scalingConfig", "maxSize")
    kinds = texts(resource.props, "instanceTypes")
    if not kinds:
        raise Unpriced("instanceTypes is empty; name the types")
    _, gpus, gpu = books.instance(kinds[0])
    share = books.settings.spot_share if text(resource.props, "capacityType") == "SPOT" else 1
    hours = nodes * HOURS_PER_MONTH
    yield Item(
        f"ec2.{kinds[0]}", hours * share, most * HOURS_PER_MONTH * share, gpu, hours * gpus,
        note="spot" if share != 1 else "",
    )  # fmt: skip
    disk = _disk(resource, books)
    yield Item("ebs.gp3", disk * nodes, disk * most)


def _disk(resource: Resource, books: _Books) -> Decimal:
    """GB of one node's disks: of its launch template, else the group's own."""
    for template in books.stack.of("aws:ec2/launchTemplate:LaunchTemplate"):
        if raw(resource.props, "launchTemplate") is not None and books.stack.refers(
            resource, "launchTemplate.id", template
        ):
            sizes = [number(disk, "ebs", "volumeSize")
                     for disk in maps(template.props, "blockDeviceMappings")]  # fmt: skip
            return sum((Decimal(str(size)) for size in sizes if size), Decimal(0))
    return Decimal(str(number(resource.props, "diskSize") or 20))  # the API's default


def _instance(resource: Resource, books: _Books) -> Iterator[Item]:
    kind = text(resource.props, "instanceType")
    _, gpus, gpu = books.instance(kind)
    yield Item(f"ec2.{kind}", HOURS_PER_MONTH, gpu=gpu, gpu_hours=HOURS_PER_MONTH * gpus)


def _volume(resource: Resource, _: _Books) -> Iterator[Item]:
    yield Item(f"ebs.{text(resource.props, 'type') or 'gp2'}", _count(resource, "size"))


def _node_pool(resource: Resource, books: _Books) -> Iterator[Item]:
    """Nodes from zero: the cheapest type for the expected hours, the dearest for the ceiling."""
    requirements = list(maps(resource.props, "spec", "template", "spec", "requirements"))
    wanted = {text(each, "key"): texts(each, "values") for each in requirements}
    kinds = wanted.get("node.kubernetes.io/instance-type", [])
    limit = quantity(at(resource.props, "spec", "limits", GPU))
    if limit is None or not kinds:
        raise Unpriced(
            f"limits.{GPU} and the instance types must be named; else no bill is bounded"
        )
    spot = wanted.get("karpenter.sh/capacity-type") == ["spot"]
    share = books.settings.spot_share if spot else Decimal(1)
    rates: list[tuple[Decimal, str]] = []
    for kind in kinds:
        usd, gpus, gpu = books.instance(kind)
        if not gpus:
            raise Unpriced(f"{kind} has no GPU; a pool of GPUs cannot be priced by it")
        rates.append((usd / gpus * share, gpu))
    (low, gpu), (high, _) = min(rates), max(rates)
    most = Decimal(str(limit)) * HOURS_PER_MONTH
    hours = most * books.settings.burst_utilisation
    yield Item(
        f"karpenter.{'spot' if spot else 'on-demand'}", hours, most * high / low, gpu, hours, low,
        "GPU-hour", f"assumed {books.settings.burst_utilisation:%} of the limit",
    )  # fmt: skip


def _workload(resource: Resource, books: _Books) -> Iterator[Item]:
    """Pods of the private site by their requests; a cloud's pods are billed as its nodes."""
    settings = books.settings
    provider = resource.provider
    if any(fnmatchcase(provider, pattern) for pattern in settings.cloud_providers):
        return
    copies, most = copies_of(resource, books.stack, books.settings)
    cpu, memory, gpus = _requests(resource)
    hours = _hours(resource, settings)
    server = settings.server()
    for sku, amount, usd, unit in (
        ("private.vcpu", cpu, server.vcpu_hour, "vCPU-hour"),
        ("private.memory", memory, server.gib_hour, "GiB-hour"),
    ):
        yield Item(sku, amount * copies * hours, amount * most * hours, usd=usd, unit=unit)
    if gpus:
        yield Item(
            f"private.gpu.{server.gpu}", gpus * copies * hours, gpus * most * hours, server.gpu,
            gpus * copies * hours, server.gpu_hour, "GPU-hour",
        )  # fmt: skip


def _hours(resource: Resource, settings: CostSettings) -> Decimal:
    """Hours a month of a workload's pods; a Job runs once, no longer than its deadline."""
    if resource.kind not in JOBS:
        return HOURS_PER_MONTH
    deadline = number(resource.props, "spec", "activeDeadlineSeconds")
    if resource.kind != "batch/Job" or deadline is None:
        return settings.job_hours
    return min(settings.job_hours, Decimal(str(deadline)) / 3600)


def copies_of(resource: Resource, stack: Stack, settings: CostSettings) -> tuple[Decimal, Decimal]:
    """Pods of a workload as it is declared, and at the most. Raises `Unpriced`."""
    if resource.kind == "batch/Job":
        copies = Decimal(str(number(resource.props, "spec", "parallelism") or 1))
    elif resource.kind.endswith("DaemonSet"):
        copies = Decimal(settings.private_nodes)
    else:
        declared = number(resource.props, "spec", "replicas")
        copies = Decimal(1) if declared is None else Decimal(str(declared))
    most = copies
    for scaler in stack.of("autoscaling/HorizontalPodAutoscaler"):
        target = raw(scaler.props, "spec", "scaleTargetRef", "name")
        if target == resource.object_name and scaler.namespace == resource.namespace:
            most = max(most, _count(scaler, "spec", "maxReplicas"))
    return copies, most


def _requests(resource: Resource) -> tuple[Decimal, Decimal, Decimal]:
    """vCPUs, GiB and GPUs of one pod: the sum of containers, or the largest init container."""
    pod = pod_of(resource)
    together = {"cpu": Decimal(0), "memory": Decimal(0), GPU: Decimal(0)}
    alone = dict(together)
    for container in containers(pod, ("containers", "initContainers")):
        for name in together:
            asked = raw(container.spec, "resources", "requests", name)
            asked = raw(container.spec, "resources", "limits", name) if asked is None else asked
            if isinstance(asked, Unknown):
                raise UnknownValue(f"{container.label} resources.requests.{name}")
            if asked is None and name != GPU:
                raise Unpriced(f"{container.label} requests no {name}; its share has no size")
            amount = Decimal(str(quantity(asked) or 0)) if asked is not None else Decimal(0)
            if container.list == "initContainers":
                alone[name] = max(alone[name], amount)
            else:
                together[name] += amount
    cpu, memory, gpus = (max(together[name], alone[name]) for name in together)
    return cpu, memory / GIB, gpus


def _claim(resource: Resource, books: _Books) -> Iterator[Item]:
    asked = quantity(at(resource.props, "spec", "resources", "requests", "storage"))
    if asked is None:
        raise Unpriced("spec.resources.requests.storage says no size")
    yield Item(
        "private.storage", Decimal(str(asked)) / 10**9, usd=books.settings.storage_usd_gb_month,
        unit="GB-month",
    )  # fmt: skip


_Handler = Callable[[Resource, _Books], Iterator[Item]]
_HANDLERS: dict[str, _Handler] = {
    "aws:ec2/vpcEndpoint:VpcEndpoint": _endpoint,
    "aws:lb/loadBalancer:LoadBalancer": _load_balancer,
    "aws:route53/healthCheck:HealthCheck": _health_check,
    "aws:eks/nodeGroup:NodeGroup": _node_group,
    "aws:ec2/instance:Instance": _instance,
    "aws:ebs/volume:Volume": _volume,
    "karpenter.sh/NodePool": _node_pool,
    "/PersistentVolumeClaim": _claim,
    **dict.fromkeys(set(TEMPLATE_PATHS) - {"/PodTemplate"}, _workload),
}
