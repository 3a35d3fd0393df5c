"""AWS machines: metadata service, public addresses, start-up scripts and disks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Severity, each, rule
from policies.samples import manifest
from policies.samples import resource as res
from policies.secrets_found import secrets_in
from policies.values import Secret, Unknown, at, block, flag, given, maps, number, raw, text

TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
CONFIGURATION = "aws:ec2/launchConfiguration:LaunchConfiguration"
INSTANCE = "aws:ec2/instance:Instance"
VOLUME = "aws:ebs/volume:Volume"
NODE_CLASS = "karpenter.k8s.aws/EC2NodeClass"
MACHINES = frozenset({TEMPLATE, CONFIGURATION, INSTANCE, NODE_CLASS})


def _class(**spec: Any) -> dict[str, Any]:
    return manifest("karpenter.k8s.aws/v1", "EC2NodeClass", spec=spec)


def _fields(resource: Resource) -> Mapping[str, Any]:
    return block(resource.props, "spec") if resource.kind == NODE_CLASS else resource.props


TOKENS = {"httpTokens": "required"}


@rule(
    "aws-imds-v2",
    "The metadata service answers signed questions only",
    Severity.HIGH,
    anchors="CKV_AWS_79, AWS-0130, AWS-0028, EC2.8, AutoScaling.3",
    applies=MACHINES,
    fix="Set metadataOptions.httpTokens to required.",
    allowed=[
        res(TEMPLATE, metadataOptions=TOKENS),
        res(INSTANCE, metadataOptions={"httpEndpoint": "disabled"}),
        _class(),
    ],
    refused=[
        res(TEMPLATE),
        res(CONFIGURATION, metadataOptions={"httpTokens": "optional"}),
        res(INSTANCE, metadataOptions={}),
        _class(metadataOptions={"httpTokens": "optional"}),
    ],
)
def imds_v2(resource: Resource, _: Context) -> Findings:
    options = block(_fields(resource), "metadataOptions")
    if text(options, "httpEndpoint") == "disabled":
        return
    # Karpenter's own default is required
    tokens = text(options, "httpTokens") or ("required" if resource.kind == NODE_CLASS else "")
    if tokens != "required":
        yield f"metadataOptions.httpTokens is {tokens or 'absent'}"


@rule(
    "aws-imds-hop-limit",
    "Pods do not reach the node's credentials",
    Severity.HIGH,
    anchors="CKV_AWS_341, AutoScaling.4",
    applies=MACHINES,
    fix="Set metadataOptions.httpPutResponseHopLimit to 1; use pod identity.",
    allowed=[
        res(TEMPLATE, metadataOptions={**TOKENS, "httpPutResponseHopLimit": 1}),
        res(TEMPLATE),
    ],
    refused=[
        res(TEMPLATE, metadataOptions={**TOKENS, "httpPutResponseHopLimit": 2}),
        res(CONFIGURATION, metadataOptions={"httpPutResponseHopLimit": "3"}),
        _class(metadataOptions={"httpPutResponseHopLimit": 2}),
    ],
)
def hop_limit(resource: Resource, _: Context) -> Findings:
    hops = number(block(_fields(resource), "metadataOptions"), "httpPutResponseHopLimit")
    if hops is not None and hops > 1:
        yield f"metadataOptions.httpPutResponseHopLimit is {int(hops)}"


@rule(
    "aws-node-public-address",
    "Machines have no public address",
    Severity.HIGH,
    anchors="CKV_AWS_88, AWS-0009, EC2.25, EC2.9, AutoScaling.5",
    applies=MACHINES,
    fix="Set associatePublicIpAddress to false.",
    allowed=[
        res(TEMPLATE, networkInterfaces=[{"associatePublicIpAddress": "false"}]),
        res(TEMPLATE),
        res(INSTANCE, associatePublicIpAddress=False),
    ],
    refused=[
        res(TEMPLATE, networkInterfaces=[{"deviceIndex": 0}, {"associatePublicIpAddress": "true"}]),
        res(INSTANCE, associatePublicIpAddress=True),
        res(CONFIGURATION, associatePublicIpAddress=True),
        _class(associatePublicIPAddress=True),
    ],
)
def public_address(resource: Resource, _: Context) -> Findings:
    fields = _fields(resource)
    for key in ("associatePublicIpAddress", "associatePublicIPAddress"):
        if flag(fields, key):
            yield f"{key} is true"

    def judge(interface: Mapping[str, Any]) -> Findings:
        if flag(interface, "associatePublicIpAddress"):
            yield "a network interface has associatePublicIpAddress true"

    yield from each(maps(fields, "networkInterfaces"), judge)


def _scripts(resource: Resource) -> Iterator[tuple[str, Any]]:
    for key in ("userData", "userDataBase64"):
        value = raw(_fields(resource), key)
        if value is not None:
            yield key, value


def _readable(value: str) -> str:
    """The text itself, and what it decodes to when it is base64."""
    try:
        return value + "\n" + base64.b64decode(value, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return value


def _encoded(script: str) -> str:
    return base64.b64encode(script.encode()).decode()


_KEYS = "export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\n"  # AWS's own documentation key


@rule(
    "aws-user-data-secret",
    "A start-up script holds no credential",
    Severity.CRITICAL,
    anchors="CKV_AWS_46, CKV_AWS_45, AWS-0029, AWS-0129",
    applies=MACHINES,
    fix="Let the machine read its secret from Vault by its role; user data can be read by all.",
    allowed=[
        res(TEMPLATE, userData=_encoded("#!/bin/sh\necho ready\n")),
        res(TEMPLATE),
        res(INSTANCE, userData="#!/bin/sh\nexport PASSWORD_FILE=/run/secret\n"),
    ],
    refused=[
        res(TEMPLATE, userData=_encoded(_KEYS)),
        res(INSTANCE, userData=_KEYS),
        res(INSTANCE, userDataBase64=_encoded("DB_PASSWORD=hunter2hunter2\n")),
        res(TEMPLATE, userData="[secret]"),
    ],
)
def user_data_secret(resource: Resource, _: Context) -> Findings:
    for key, value in _scripts(resource):
        if isinstance(value, Secret):
            yield f"{key} is made of a secret"
        elif isinstance(value, Unknown):
            yield Missing(key)
        elif isinstance(value, str):
            for found in dict.fromkeys(secrets_in(key, _readable(value))):
                yield f"{key} holds {found}"


def _disks(resource: Resource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every disk that a resource writes down, and where."""
    fields = _fields(resource)
    if resource.kind == VOLUME:
        yield "volume", fields
        return
    for position, mapping in enumerate(maps(fields, "blockDeviceMappings")):
        if not raw(mapping, "noDevice") and not raw(mapping, "virtualName"):
            yield f"blockDeviceMappings[{position}].ebs", block(mapping, "ebs")
    if resource.kind in {CONFIGURATION, INSTANCE}:
        yield "rootBlockDevice", block(fields, "rootBlockDevice")
        for position, disk in enumerate(maps(fields, "ebsBlockDevices")):
            yield f"ebsBlockDevices[{position}]", disk


def _mapping(**ebs: Any) -> dict[str, Any]:
    return {"deviceName": "/dev/xvda", "ebs": ebs}


@rule(
    "aws-disk-encrypted",
    "Every disk is encrypted",
    Severity.HIGH,
    anchors="CKV_AWS_3, CKV_AWS_8, AWS-0008, AWS-0026, AWS-0131, EC2.3",
    applies=MACHINES | {VOLUME},
    fix="Set encrypted to true on the volume and on every block device mapping.",
    allowed=[
        res(VOLUME, encrypted=True),
        res(TEMPLATE, blockDeviceMappings=[_mapping(encrypted="true")]),
        res(TEMPLATE),
        res(INSTANCE, rootBlockDevice={"encrypted": True}),
        res(INSTANCE, rootBlockDevice={"encrypted": True}, ebsBlockDevices=[{"snapshotId": "s"}]),
    ],
    refused=[
        res(VOLUME),
        res(VOLUME, encrypted=False),
        res(TEMPLATE, blockDeviceMappings=[_mapping(encrypted="true"), _mapping(volumeSize=9)]),
        res(INSTANCE),
        res(CONFIGURATION, rootBlockDevice={"encrypted": True}, ebsBlockDevices=[{}]),
        _class(blockDeviceMappings=[_mapping(encrypted=False)]),
    ],
)
def disk_encrypted(resource: Resource, _: Context) -> Findings:
    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        where, disk = entry
        encrypted = flag(disk, "encrypted")
        from_snapshot = resource.kind != VOLUME and at(disk, "snapshotId")
        if not encrypted and not (encrypted is None and from_snapshot):
            yield f"{where}.encrypted is {'absent' if encrypted is None else 'false'}"

    yield from each(_disks(resource), judge)


@rule(
    "aws-volume-own-key",
    "A volume is encrypted by a key of our own",
    Severity.LOW,
    anchors="CKV_AWS_189, AWS-0027",
    applies=[VOLUME],
    fix="Set kmsKeyId.",
    allowed=[res(VOLUME, encrypted=True, kmsKeyId="arn:aws:kms:eu-west-1:111122223333:key/1")],
    refused=[res(VOLUME, encrypted=True), res(VOLUME)],
)
def volume_own_key(resource: Resource, _: Context) -> Findings:
    if not given(resource.props, "kmsKeyId"):
        yield "kmsKeyId is absent"
