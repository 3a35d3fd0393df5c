"""Cost: who pays for what, and where bursts, machines and idle extras end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, containers, pod_of
from policies.resource import Resource
from policies.rule import Context, Missing, Option, Severity, each, rule
from policies.samples import container, deployment, manifest
from policies.samples import resource as res
from policies.selectors import same_namespace
from policies.values import (
    Unknown,
    at,
    block,
    given,
    maps,
    number,
    quantity,
    raw,
    text,
    texts,
)

GPU = "nvidia.com/gpu"
NODE_GROUP, ASG = "aws:eks/nodeGroup:NodeGroup", "aws:autoscaling/group:Group"
INSTANCE, VOLUME = "aws:ec2/instance:Instance", "aws:ebs/volume:Volume"
NODE_POOL = "karpenter.sh/NodePool"
NAT, EIP = "aws:ec2/natGateway:NatGateway", "aws:ec2/eip:Eip"
TAGGED = frozenset({
    NODE_GROUP, INSTANCE, VOLUME, NAT, EIP, "aws:ec2/vpc:Vpc", "aws:ec2/subnet:Subnet",
    "aws:ec2/securityGroup:SecurityGroup", "aws:ec2/vpnConnection:VpnConnection",
    "aws:ec2/launchTemplate:LaunchTemplate", "aws:eks/cluster:Cluster", "aws:kms/key:Key",
    "aws:s3/bucket:Bucket", "aws:ecr/repository:Repository", "aws:sqs/queue:Queue",
    "aws:cloudwatch/logGroup:LogGroup", "aws:lb/loadBalancer:LoadBalancer", "aws:iam/role:Role",
    "/Namespace",
})  # fmt: skip
_TAGS = {"owner": "shop", "cost-centre": "cc-1", "environment": "prod", "data-class": "internal"}


def _tagged(**tags: str) -> dict[str, Any]:
    return res("aws:s3/bucket:Bucket", tags=tags)


@rule(
    "cost-tags",
    "Everything that costs says who pays",
    Severity.MEDIUM,
    anchors="CKV_AWS_153, Gatekeeper requiredlabels, Kyverno require-kubecost-labels",
    applies=TAGGED,
    config={
        "required": Option(list(_TAGS), "array", "Tags (labels) that must be set."),
        "permanent": Option(
            ["prod", "production", "staging"], "array", "Environments that need no expiry."
        ),
    },
    fix="Set tags owner, cost-centre, environment, data-class; expiry unless permanent.",
    allowed=[_tagged(**_TAGS), _tagged(**{**_TAGS, "environment": "dev"}, expiry="2027-01-31")],
    refused=[
        _tagged(),
        _tagged(**{**_TAGS, "owner": ""}),
        _tagged(**{**_TAGS, "environment": "dev"}),
    ],
)
def tags(resource: Resource, context: Context) -> Findings:
    found: dict[str, Any] = {}
    paths = (("metadata", "labels"),) if resource.is_kubernetes else (("tagsAll",), ("tags",))
    unknown = False
    for path in paths:
        value = raw(resource.props, *path)
        unknown = unknown or isinstance(value, Unknown)
        found |= dict(value) if isinstance(value, Mapping) else {}
    wanted = list(context["required"])
    if raw(found, "environment") not in context["permanent"]:
        wanted.append("expiry")
    if missing := [name for name in wanted if not given(found, name)]:
        said = f"no tag {', '.join(missing)}"
        yield Missing(said) if unknown else said


_ALLOWED = ["t3*.*", "t4g.*", "m5*.*", "m6*.*", "m7*.*", "c5*.*", "c6*.*", "c7*.*", "r5*.*",
            "r6*.*", "r7*.*", "g4dn.*", "g5.*", "g6*.*"]  # fmt: skip


@rule(
    "cost-instance-types",
    "Machines are of agreed types",
    Severity.HIGH,
    anchors="AutoScaling.6, Kyverno restrict-node-types",
    applies=[NODE_GROUP, INSTANCE],
    config={"types": Option(_ALLOWED, "array", "Shell-style patterns of instance types.")},
    fix="Use a type from the list, or add one in a reviewed change.",
    allowed=[res(NODE_GROUP, instanceTypes=["g5.xlarge"]), res(INSTANCE, instanceType="t3.small")],
    refused=[
        res(NODE_GROUP, instanceTypes=["g5.xlarge", "p5.48xlarge"]),
        res(INSTANCE, instanceType="u-6tb1.metal"),
    ],
)
def instance_types(resource: Resource, context: Context) -> Findings:
    names = [*texts(resource.props, "instanceTypes"), text(resource.props, "instanceType")]
    for name in filter(None, names):
        if not any(fnmatchcase(name, pattern) for pattern in context["types"]):
            yield f"{name} is not on the list"


def _sizes(low: int, high: int | None, **more: Any) -> dict[str, Any]:
    scaling = {"minSize": low, "desiredSize": low, **({"maxSize": high} if high else {})}
    return res(NODE_GROUP, scalingConfig=scaling, **more)


def _pool(**spec: Any) -> dict[str, Any]:
    return manifest("karpenter.sh/v1", "NodePool", spec=spec)


@rule(
    "cost-max-nodes",
    "A group of machines has an end",
    Severity.HIGH,
    anchors="AutoScaling.6, Karpenter limits",
    applies=[NODE_GROUP, ASG, NODE_POOL],
    config={"maximum": Option(20, "integer", "Most machines of one group.")},
    fix="Set maxSize within the agreed number; on a NodePool set spec.limits.",
    allowed=[_sizes(0, 8), res(ASG, minSize=0, maxSize=4), _pool(limits={"cpu": "64"})],
    refused=[_sizes(0, None), _sizes(0, 500), res(ASG, minSize=0, maxSize=100), _pool()],
)
def max_nodes(resource: Resource, context: Context) -> Findings:
    if resource.kind == NODE_POOL:
        if not at(resource.props, "spec", "limits"):
            yield "spec.limits is absent"
        return
    group = resource.kind == NODE_GROUP
    holder = block(resource.props, "scalingConfig") if group else resource.props
    most = number(holder, "maxSize")
    if most is None or most > context["maximum"]:
        yield f"maxSize is {'absent' if most is None else int(most)}"


def _gpu_types(resource: Resource) -> bool:
    return any(name.startswith(("g", "p")) for name in texts(resource.props, "instanceTypes"))


@rule(
    "cost-gpu-spot-from-zero",
    "GPU machines of a burst are spot and start at zero",
    Severity.HIGH,
    anchors="AutoScaling.6, Karpenter limits",
    applies=[NODE_GROUP],
    fix="Set capacityType to SPOT and scalingConfig.minSize to 0.",
    allowed=[
        _sizes(0, 4, instanceTypes=["g5.xlarge"], capacityType="SPOT"),
        _sizes(2, 4, instanceTypes=["m6i.large"]),
    ],
    refused=[
        _sizes(1, 4, instanceTypes=["g5.xlarge"], capacityType="SPOT"),
        _sizes(0, 4, instanceTypes=["g5.xlarge"]),
    ],
)
def gpu_spot(resource: Resource, _: Context) -> Findings:
    if not _gpu_types(resource):
        return
    if (low := number(block(resource.props, "scalingConfig"), "minSize")) != 0:
        yield f"minSize is {'absent' if low is None else int(low)}"
    if text(resource.props, "capacityType") != "SPOT":
        yield "capacityType is not SPOT"


@rule(
    "cost-job-ttl",
    "A finished job goes by itself",
    Severity.LOW,
    anchors="kube-linter job-ttl-seconds-after-finished",
    applies=["batch/Job"],
    fix="Set ttlSecondsAfterFinished.",
    allowed=[manifest("batch/v1", "Job", spec={"ttlSecondsAfterFinished": 3600})],
    refused=[manifest("batch/v1", "Job", spec={})],
)
def job_ttl(resource: Resource, _: Context) -> Findings:
    if number(resource.props, "spec", "ttlSecondsAfterFinished") is None:
        yield "spec.ttlSecondsAfterFinished is absent"


def _gpus(one: Container, side: str) -> Any:
    return at(one.spec, "resources", side, GPU)


def _asks(resource: Resource) -> Iterator[Container]:
    for one in containers(pod_of(resource)):
        if _gpus(one, "limits") is not None or _gpus(one, "requests") is not None:
            yield one


def _gpu(limits: Any = 1, requests: Any = None, **spec: Any) -> dict[str, Any]:
    sides = {"limits": {GPU: limits}, **({"requests": {GPU: requests}} if requests else {})}
    return deployment(container(resources=sides), **spec)


_TOLERATES = {"tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]}


@rule(
    "cost-gpu-whole",
    "A container asks for whole GPUs, as limit and as request",
    Severity.MEDIUM,
    anchors="Kubernetes scheduling GPUs",
    applies=WORKLOADS,
    fix=f"Set limits {GPU} to a whole number, and requests to the same or to nothing.",
    allowed=[deployment(), _gpu(1), _gpu("2", "2")],
    refused=[_gpu("0.5"), _gpu(2, 1), deployment(container(resources={"requests": {GPU: 1}}))],
)
def gpu_whole(resource: Resource, _: Context) -> Findings:
    def judge(one: Container) -> Findings:
        limit, request = quantity(_gpus(one, "limits")), quantity(_gpus(one, "requests"))
        if limit is None or limit != int(limit):
            yield f"{one.label}: the limit {GPU} is {limit}"
        elif request is not None and request != limit:
            yield f"{one.label}: requests {request:g}, limits {limit:g}"

    yield from each(_asks(resource), judge)


@rule(
    "cost-gpu-toleration",
    "Only what needs a GPU stands on a GPU node",
    Severity.LOW,
    anchors="Kubernetes taints and tolerations",
    applies=WORKLOADS,
    fix=f"Tolerate the taint {GPU}.",
    allowed=[deployment(), _gpu(**_TOLERATES), _gpu(tolerations=[{"operator": "Exists"}])],
    refused=[_gpu(), _gpu(tolerations=[{"key": "other", "operator": "Exists"}])],
)
def gpu_toleration(resource: Resource, _: Context) -> Findings:
    if next(_asks(resource), None) is None:
        return
    keys = [text(entry, "key") for entry in maps(pod_of(resource).spec, "tolerations")]
    if not any(key in {"", GPU} for key in keys):
        yield f"no toleration of the taint {GPU}"


def _gpu_quota(**hard: str) -> dict[str, Any]:
    return manifest("v1", "ResourceQuota", spec={"hard": hard})


@rule(
    "cost-gpu-quota",
    "A namespace that uses GPUs has a quota of them",
    Severity.HIGH,
    anchors="Kubernetes resource quotas",
    applies=WORKLOADS,
    fix=f"Add a ResourceQuota with requests.{GPU}.",
    allowed=[deployment(), [_gpu(), _gpu_quota(**{f"requests.{GPU}": "4"})]],
    refused=[_gpu(), [_gpu(), _gpu_quota(pods="10")]],
)
def gpu_quota(resource: Resource, context: Context) -> Findings:
    if next(_asks(resource), None) is None:
        return
    for quota in context.stack.of("/ResourceQuota"):
        hard = at(quota.props, "spec", "hard")
        if given(hard, f"requests.{GPU}") and same_namespace(resource, quota, context.stack):
            return
    yield f"no ResourceQuota of the namespace bounds requests.{GPU}"
