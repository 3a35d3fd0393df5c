"""The AWS site as a graph: what is declared, what refers to what, and what each policy says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pulumi_aws as aws
import pytest

from infra.clouds import aws as burst_aws
from infra.clouds.aws_karpenter import INTERRUPTIONS
from tests.clouds.engine import REFERENCE, Engine, build, strings
from tests.clouds.samples import ARGS, NAT, changed

REQUIRED_TAGS = {"owner", "cost-centre", "environment", "data-class", "Name"}
# What an input may point at: property (last part of its path) -> type that must have made it.
POINTS_AT = {
    "vpcId": "Vpc",
    "subnetId": "Subnet",
    "subnetIds": "Subnet",
    "routeTableId": "RouteTable",
    "routeTableIds": "RouteTable",
    "natGatewayId": "NatGateway",
    "gatewayId": "InternetGateway",
    "allocationId": "Eip",
    "securityGroupId": "SecurityGroup",
    "securityGroupIds": "SecurityGroup",
    "securityGroups": "SecurityGroup",
    "referencedSecurityGroupId": "SecurityGroup",
    "prefixListId": "VpcEndpoint",
    "logDestination": "LogGroup",
    "iamRoleArn": "Role",
    "nodeRoleArn": "Role",
    "principalArn": "Role",
    "roleArn": "Role",
    "kmsKeyId": "Key",
    "kmsKey": "Key",
    "kmsMasterKeyId": "Key",
    "keyArn": "Key",
    "targetKeyId": "Key",
    "queueUrl": "Queue",
    "monitorArnLists": "AnomalyMonitor",
    "address": "Topic",
    "topic": "Topic",
    "subscriberSnsTopicArns": "Topic",
}


def policies(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for each in engine.made:
        for key in ("policy", "assumeRolePolicy"):
            if key in each.inputs and "Version" in str(each.inputs[key]):
                found.append((f"{each.short} {each.name}", json.loads(each.inputs[key])))
    return found


def test_every_reference_leads_to_a_declared_resource_of_the_right_kind(either: Engine) -> None:
    known = {(each.type, each.name) for each in either.made}
    seen = 0
    for each in either.made:
        for path, text in strings(each.inputs):
            for typ, name, _ in REFERENCE.findall(text):
                seen += 1
                assert (typ, name) in known, f"{each.name}.{path} points at nothing: {name}"
                kind = POINTS_AT.get(path.rsplit(".", 1)[-1])
                assert kind is None or typ.endswith(f":{kind}"), f"{each.name}.{path} -> {typ}"
    assert seen > 150, "the graph lost its references"


def test_a_gpu_node_has_a_plugin_that_tells_of_its_gpus(site: Engine) -> None:
    release = site.of("Release")["cloud-devices"]
    assert release["chart"] == "oci://registry.example/mirror/nvidia-device-plugin"
    image = release["values"]["image"]
    assert f"{image['repository']}:{image['tag']}" == ARGS.device_plugin.image
    (taint,) = site.of("NodePool")["cloud-karpenter-training-spot"]["spec"]["template"]["spec"][
        "taints"
    ]
    assert release["values"]["tolerations"][0]["key"] == taint["key"]
    public = replace(ARGS.device_plugin, charts="https://charts.example", image=None)
    nat = build(lambda: burst_aws.AwsBurst("cloud", replace(NAT, device_plugin=public)))
    release = nat.of("Release")["cloud-devices"]
    assert (release["chart"], release["repositoryOpts"]) == (
        "nvidia-device-plugin", {"repo": "https://charts.example"},
    )  # fmt: skip
    assert "image" not in release["values"]


def test_the_cluster_is_private_logged_encrypted_and_opened_by_access_entries_alone(
    site: Engine,
) -> None:
    cluster = site.one("Cluster")
    assert cluster["vpcConfig"]["endpointPrivateAccess"] is True
    assert cluster["vpcConfig"]["endpointPublicAccess"] is False
    assert cluster["accessConfig"] == {
        "authenticationMode": "API",
        "bootstrapClusterCreatorAdminPermissions": False,
    }
    assert cluster["encryptionConfig"]["resources"] == ["secrets"]
    assert "-secrets|arn" in cluster["encryptionConfig"]["provider"]["keyArn"]
    assert set(cluster["enabledClusterLogTypes"]) >= {"api", "audit", "authenticator"}
    assert cluster["deletionProtection"] is True
    assert cluster["bootstrapSelfManagedAddons"] is False
    entries = site.of("AccessEntry").values()
    assert {got["type"] for got in entries} == {"STANDARD", "EC2_LINUX"}
    association = site.one("AccessPolicyAssociation")
    assert association["policyArn"] == (
        "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
    )


def test_the_control_plane_log_group_is_ours_before_eks_can_make_its_own(site: Engine) -> None:
    groups = {got["name"]: got for got in site.of("LogGroup").values()}
    got = groups[f"/aws/eks/{site.one('Cluster')['name']}/cluster"]
    assert got["retentionInDays"] >= 365
    assert "-logs|arn" in got["kmsKeyId"]


def test_node_templates_need_imdsv2_and_encrypt_every_disk(site: Engine) -> None:
    template = site.one("LaunchTemplate")
    assert template["metadataOptions"]["httpTokens"] == "required"
    assert template["metadataOptions"]["httpPutResponseHopLimit"] == 1
    assert [m["ebs"]["encrypted"] for m in template["blockDeviceMappings"]] == ["true"]
    assert [n["associatePublicIpAddress"] for n in template["networkInterfaces"]] == ["false"]
    assert "keyName" not in template
    assert "userData" not in template
    group = site.one("NodeGroup")
    assert "remoteAccess" not in group
    assert group["scalingConfig"]["maxSize"] <= 5, "GPU and peak load are Karpenter's, not its"


def test_spot_outweighs_on_demand_and_the_two_limits_make_the_ceiling(site: Engine) -> None:
    pools = site.of("NodePool")
    for pool in ARGS.gpu_pools:
        spot = pools[f"cloud-karpenter-{pool.name}-spot"]["spec"]
        demand = pools[f"cloud-karpenter-{pool.name}-on-demand"]["spec"]
        assert spot["weight"] > demand["weight"]
        limits = [int(each["limits"]["nvidia.com/gpu"]) for each in (spot, demand)]
        assert sum(limits) == pool.ceiling
        assert spot["disruption"]["consolidateAfter"] == f"{pool.idle_minutes}m"
        for each, gpus in zip((spot, demand), limits, strict=True):
            template = each["template"]["spec"]
            kinds = {r["key"]: r["values"] for r in template["requirements"]}
            allowed = kinds["node.kubernetes.io/instance-type"]
            assert set(allowed) <= set(pool.instance_types)
            assert all(burst_aws.CAPABILITIES.gpu_types[t].gpus <= gpus for t in allowed)
            assert template["expireAfter"] == f"{pool.expire_hours}h"
            assert template["taints"][0]["key"] == "nvidia.com/gpu"


def test_burst_nodes_are_as_closed_as_system_nodes(site: Engine) -> None:
    for got in site.of("EC2NodeClass").values():
        spec = got["spec"]
        assert spec["metadataOptions"]["httpTokens"] == "required"
        assert spec["metadataOptions"]["httpPutResponseHopLimit"] == 1
        assert spec["associatePublicIPAddress"] is False
        assert all(each["ebs"]["encrypted"] for each in spec["blockDeviceMappings"])
        assert "role" not in spec, "a role would make Karpenter create instance profiles"
        assert set(spec["tags"]) >= REQUIRED_TAGS


def test_karpenter_is_installed_with_its_rights_and_before_its_pools(site: Engine) -> None:
    types, controller = (
        site.of("Release")[f"cloud-karpenter-{n}"] for n in ("types", "controller")
    )
    assert types["version"] == controller["version"]
    assert controller["skipCrds"] is True, "Helm never updates types that a chart brings itself"
    settings = controller["values"]["settings"]
    assert settings["interruptionQueue"] == site.one("Queue")["name"]
    assert settings["isolatedVPC"] is True
    image = controller["values"]["controller"]["image"]
    assert f"{image['repository']}@{image['digest']}" == ARGS.autoscaler.image
    login = site.of("PodIdentityAssociation")["cloud-karpenter"]
    assert login["serviceAccount"] == controller["values"]["serviceAccount"]["name"]


def test_every_interruption_event_reaches_the_queue_that_only_those_rules_may_fill(
    site: Engine,
) -> None:
    rules, targets = site.of("EventRule"), site.of("EventTarget")
    assert len(rules) == len(targets) == len(INTERRUPTIONS) == 4
    for name, rule in rules.items():
        assert json.loads(rule["eventPattern"])["source"] in (["aws.ec2"], ["aws.health"])
        assert targets[name]["rule"] == rule["name"]
        assert targets[name]["arn"].endswith("|arn»")
    policy = json.loads(site.one("QueuePolicy")["policy"])
    allowed = [s for s in policy["Statement"] if s["Effect"] == "Allow"]
    sources = allowed[0]["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert sorted(arn.split("rule/")[1] for arn in sources) == sorted(
        rule["name"] for rule in rules.values()
    )
    assert allowed[0]["Resource"] == [
        f"arn:aws:sqs:eu-central-1:123456789012:{site.one('Queue')['name']}"
    ]


def test_every_allow_on_everything_is_held_by_a_condition(either: Engine) -> None:
    bare = {"pricing:GetProducts"}  # AWS offers no condition that narrows it
    found = policies(either)
    assert len(found) > 30
    for where, policy in found:
        assert policy["Version"] == "2012-10-17"
        for statement in policy["Statement"]:
            if statement["Effect"] == "Deny":
                continue
            key_owner = statement["Sid"] == "IamDecides"
            if statement.get("Resource") == "*" and not key_owner:
                assert statement.get("Condition") or set(statement["Action"]) <= bare, where
            public = statement.get("Principal") in ("*", {"AWS": "*"})
            if public and statement["Sid"] != "ImageLayers":
                assert statement["Condition"]["StringEquals"]["aws:PrincipalAccount"]
            if "VpcEndpoint" not in where and not key_owner:
                assert not [a for a in statement["Action"] if a.endswith((":*", "*:")) or a == "*"]


def test_a_role_can_be_assumed_only_by_the_service_and_account_it_is_for(site: Engine) -> None:
    for name, role in site.of("Role").items():
        (statement,) = json.loads(role["assumeRolePolicy"])["Statement"]
        service = statement["Principal"]["Service"]
        assert service.endswith(".amazonaws.com")
        if service == "pods.eks.amazonaws.com":
            conditions = statement["Condition"]["StringEquals"]
            assert conditions["aws:SourceAccount"] == ARGS.account, name
            assert conditions["aws:RequestTag/kubernetes-service-account"], name
            assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(
                f"cluster/{site.one('Cluster')['name']}"
            )
        elif service != "ec2.amazonaws.com":  # EC2 sets no source keys when it assumes
            assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == ARGS.account


def test_the_only_role_that_karpenter_may_pass_is_the_nodes_own(site: Engine) -> None:
    passing = [
        statement
        for _, policy in policies(site)
        for statement in policy["Statement"]
        if "iam:PassRole" in statement["Action"]
    ]
    assert len(passing) == 1
    role = next(r for n, r in site.of("Role").items() if n.endswith("-node"))
    assert passing[0]["Resource"] == [f"arn:aws:iam::123456789012:role/{role['name']}"]
    assert passing[0]["Condition"]["StringEquals"]["iam:PassedToService"] == ["ec2.amazonaws.com"]


def test_a_workload_reads_and_writes_its_own_prefixes_only(site: Engine) -> None:
    by_name = site.of("RolePolicy")
    trainer = json.loads(by_name["cloud-store-training-trainer"]["policy"])
    bucket = site.of("Bucket")["cloud-store-artefacts"]["bucket"]
    for statement in trainer["Statement"]:
        for resource in statement["Resource"]:
            assert resource.startswith(f"arn:aws:s3:::{bucket}")
    writes = next(s for s in trainer["Statement"] if s["Sid"] == "Write")
    assert writes["Resource"] == [f"arn:aws:s3:::{bucket}/checkpoints/*"]
    bento = json.loads(by_name["cloud-store-recsys-bento"]["policy"])
    assert not [s for s in bento["Statement"] if "s3:PutObject" in s["Action"]]


@pytest.mark.parametrize("kind", ["artefacts", "backups", "access-logs"])
def test_a_bucket_is_private_versioned_encrypted_swept_and_tls_only(
    site: Engine, kind: str
) -> None:
    name = f"cloud-store-{kind}"
    block = site.of("BucketPublicAccessBlock")[name]
    assert [v for k, v in sorted(block.items()) if k != "bucket"] == [True] * 4
    assert site.of("BucketOwnershipControls")[name]["rule"] == {
        "objectOwnership": "BucketOwnerEnforced"
    }
    assert site.of("BucketVersioning")[name]["versioningConfiguration"] == {"status": "Enabled"}
    (rule,) = site.of("BucketServerSideEncryptionConfiguration")[name]["rules"]
    algorithm = rule["applyServerSideEncryptionByDefault"]["sseAlgorithm"]
    assert algorithm == ("AES256" if kind == "access-logs" else "aws:kms")
    lifecycle = site.of("BucketLifecycleConfiguration")[name]["rules"]
    assert any("abortIncompleteMultipartUpload" in each for each in lifecycle)
    deny = json.loads(site.of("BucketPolicy")[name]["policy"])["Statement"][0]
    assert (deny["Effect"], deny["Condition"]) == (
        "Deny",
        {"Bool": {"aws:SecureTransport": "false"}},
    )
    bucket = site.of("Bucket")[name]["bucket"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket)
    assert deny["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    if kind != "access-logs":
        assert site.of("BucketLogging")[name]["targetPrefix"] == f"{kind}/"


def test_images_are_immutable_scanned_encrypted_and_expire(site: Engine) -> None:
    repositories = site.of("Repository")
    assert len(repositories) == len(ARGS.repositories)
    for name, got in repositories.items():
        assert got["imageTagMutability"] == "IMMUTABLE"
        assert got["imageScanningConfiguration"] == {"scanOnPush": True}
        assert got["encryptionConfigurations"][0]["encryptionType"] == "KMS"
        rules = json.loads(site.of("LifecyclePolicy")[name]["policy"])["rules"]
        assert [rule["rulePriority"] for rule in rules] == [1, 2]


def test_keys_rotate_wait_thirty_days_and_know_only_this_account(site: Engine) -> None:
    keys = site.of("Key")
    assert len(keys) == 4
    for name, got in keys.items():
        assert got["enableKeyRotation"] is True
        assert got["deletionWindowInDays"] == 30
        for statement in json.loads(got["policy"])["Statement"]:
            principal = statement["Principal"]
            assert principal == {"AWS": "arn:aws:iam::123456789012:root"} or (
                "Service" in principal and statement["Condition"]
            ), name
    logs = json.loads(keys["cloud-keys-logs"]["policy"])["Statement"]
    contexts = [s["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"] for s in logs[1:]]
    for group in site.of("LogGroup").values():
        arn = f"arn:aws:logs:eu-central-1:123456789012:log-group:{group['name']}"
        assert any(
            re.fullmatch(re.escape(context).replace(r"\*", ".*"), arn) for context in contexts
        ), f"CloudWatch could not write {group['name']} with this key"


def test_the_budget_warns_before_and_after_and_anomalies_at_once(site: Engine) -> None:
    budget = site.one("Budget")
    assert budget["limitAmount"] == "20000"
    assert {(n["threshold"], n["notificationType"]) for n in budget["notifications"]} == {
        (50, "ACTUAL"), (80, "ACTUAL"), (100, "ACTUAL"), (100, "FORECASTED"),
    }  # fmt: skip
    assert all("|arn»" in n["subscriberSnsTopicArns"][0] for n in budget["notifications"])
    assert budget["costFilters"] == [
        {"name": "TagKeyValue", "values": ["user:environment$prod"]}
    ]  # fmt: skip
    subscription = site.one("AnomalySubscription")
    assert subscription["frequency"] == "IMMEDIATE"


def test_everything_that_can_carry_tags_carries_the_required_ones(either: Engine) -> None:
    tagged = 0
    for each in either.made:
        if not each.type.startswith("aws:"):
            continue
        module = getattr(aws, each.type.split(":")[1].split("/")[0])
        if not hasattr(getattr(module, each.short), "tags"):
            continue
        tagged += 1
        missing = REQUIRED_TAGS - set(each.inputs.get("tags") or {})
        assert not missing, f"{each.type} {each.name} lacks {missing}"
    assert tagged > 60


def test_a_second_preview_declares_exactly_the_same(site: Engine) -> None:
    again = build(lambda: burst_aws.AwsBurst("cloud", ARGS))
    assert {(m.type, m.name): m.inputs for m in again.made} == {
        (m.type, m.name): m.inputs for m in site.made
    }


def test_a_range_of_the_site_may_have_any_name_that_a_rule_of_ours_has() -> None:
    named = dict(zip(("nodes", "self", "endpoints"), ARGS.site_cidrs.values(), strict=True))
    made = build(lambda: burst_aws.AwsBurst("cloud", changed(site_cidrs=named)))
    reached = {rule.get("cidrIpv4") for rule in made.of("SecurityGroupIngressRule").values()}
    assert reached >= {str(net) for net in named.values()}
