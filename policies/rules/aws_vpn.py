"""AWS site-to-site VPN: two tunnels, strong keys, quick recovery, logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Severity, each, rule
from policies.samples import resource as res
from policies.values import Secret, Unknown, block, flag, given, number, raw, text, texts

CONNECTION = "aws:ec2/vpnConnection:VpnConnection"
GATEWAY = "aws:ec2/customerGateway:CustomerGateway"
TUNNELS = ("tunnel1", "tunnel2")


def _vpn(one: dict[str, Any], two: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A connection whose tunnels have these options (one set for both, unless two are given)."""
    tunnels = zip(TUNNELS, (one, one if two is None else two), strict=True)
    options = {f"{tunnel}{key}": value for tunnel, found in tunnels for key, value in found.items()}
    return res(CONNECTION, type="ipsec.1", **options, **more)


def _odd(key: str, judge: Any) -> Findings:
    """What `judge` says about an option of each tunnel; it gets the option's full name."""

    def of(tunnel: str) -> Findings:
        said = judge(f"{tunnel}{key}")
        if said:
            yield said

    yield from each(TUNNELS, of)


_OPTIONS = ("IkeVersions", "InsideCidr", "PresharedKey", "Phase1DhGroupNumbers", "StartupAction",
            "DpdTimeoutAction", "Phase1EncryptionAlgorithms", "LogOptions")  # fmt: skip


@rule(
    "aws-vpn-two-tunnels",
    "Both tunnels are set up, each with a range of its own",
    Severity.HIGH,
    anchors="EC2.20",
    applies=[CONNECTION],
    fix="Set the options of tunnel1 and tunnel2, with two different inside ranges.",
    allowed=[
        _vpn({"IkeVersions": ["ikev2"]}),
        _vpn({"InsideCidr": "169.254.10.0/30"}, {"InsideCidr": "169.254.10.4/30"}),
    ],
    refused=[
        _vpn({}),
        _vpn({"IkeVersions": ["ikev2"]}, {}),
        _vpn({"InsideCidr": "169.254.10.0/30"}),
    ],
)
def two_tunnels(resource: Resource, _: Context) -> Findings:
    for tunnel in TUNNELS:
        if not any(given(resource.props, tunnel + option) for option in _OPTIONS):
            yield f"{tunnel} has no options"
    ranges = [raw(resource.props, f"{tunnel}InsideCidr") for tunnel in TUNNELS]
    if isinstance(ranges[0], str) and ranges[0] == ranges[1]:
        yield f"both tunnels have the inside range {ranges[0]}"


@rule(
    "aws-vpn-dynamic-routing",
    "Routes over the link follow the tunnels that are up",
    Severity.HIGH,
    anchors="EC2.20, own rule",
    applies=[CONNECTION],
    fix="Set staticRoutesOnly to false; give the customer gateway its ASN.",
    allowed=[_vpn({}), _vpn({}, staticRoutesOnly=False)],
    refused=[_vpn({}, staticRoutesOnly=True)],
)
def dynamic_routing(resource: Resource, _: Context) -> Findings:
    if flag(resource.props, "staticRoutesOnly"):
        yield "staticRoutesOnly is true"


@rule(
    "aws-vpn-gateway-asn",
    "The private gateway has an AS number",
    Severity.MEDIUM,
    anchors="own rule",
    applies=[GATEWAY],
    fix="Set bgpAsn to the private site's number (64512 to 65534, or bgpAsnExtended above that).",
    allowed=[res(GATEWAY, bgpAsn="65010"), res(GATEWAY, bgpAsnExtended="4200000010")],
    refused=[res(GATEWAY, ipAddress="203.0.113.10"), res(GATEWAY, bgpAsn="0")],
)
def gateway_asn(resource: Resource, _: Context) -> Findings:
    found = number(resource.props, "bgpAsn") or number(resource.props, "bgpAsnExtended")
    if not found or found < 1:
        yield "neither bgpAsn nor bgpAsnExtended is set"


@rule(
    "aws-vpn-ikev2",
    "Tunnels speak IKEv2 only",
    Severity.HIGH,
    anchors="own rule, AWS VPN tunnel options",
    applies=[CONNECTION],
    fix="Set tunnel1IkeVersions and tunnel2IkeVersions to [ikev2].",
    allowed=[_vpn({"IkeVersions": ["ikev2"]})],
    refused=[
        _vpn({}),
        _vpn({"IkeVersions": ["ikev1", "ikev2"]}),
        _vpn({"IkeVersions": ["ikev2"]}, {"IkeVersions": ["ikev1"]}),
    ],
)
def ikev2(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        found = texts(resource.props, key)
        shown = ", ".join(found) or "absent, which allows ikev1"
        return "" if found == ["ikev2"] else f"{key} is {shown}"

    yield from _odd("IkeVersions", judge)


def _phases(name: str) -> tuple[str, str]:
    return f"Phase1{name}", f"Phase2{name}"


def _both(name: str, *values: Any) -> dict[str, Any]:
    return {key: list(values) for key in _phases(name)}


@rule(
    "aws-vpn-encryption",
    "Tunnels are encrypted with AES-256",
    Severity.HIGH,
    anchors="own rule, AWS VPN tunnel options",
    applies=[CONNECTION],
    fix="Set the encryption algorithms of both phases and tunnels to [AES256-GCM-16].",
    allowed=[
        _vpn(_both("EncryptionAlgorithms", "AES256-GCM-16")),
        _vpn(_both("EncryptionAlgorithms", "AES256", "AES256-GCM-16")),
    ],
    refused=[
        _vpn({}),
        _vpn(_both("EncryptionAlgorithms", "AES128")),
        _vpn(_both("EncryptionAlgorithms", "AES256"), _both("EncryptionAlgorithms", "AES128")),
    ],
)
def encryption(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        found = texts(resource.props, key)
        if not found:
            return f"{key} is absent, which allows AES128"
        strong = any(name.upper().startswith("AES256") for name in found)
        return "" if strong else f"{key} is {', '.join(found)}"

    for key in _phases("EncryptionAlgorithms"):
        yield from _odd(key, judge)


@rule(
    "aws-vpn-integrity",
    "Tunnels do not trust SHA-1",
    Severity.HIGH,
    anchors="own rule, AWS VPN tunnel options",
    applies=[CONNECTION],
    fix="Set the integrity algorithms of both phases and tunnels to [SHA2-384] or [SHA2-512].",
    allowed=[_vpn(_both("IntegrityAlgorithms", "SHA2-384"))],
    refused=[
        _vpn({}),
        _vpn(_both("IntegrityAlgorithms", "SHA1")),
        _vpn(_both("IntegrityAlgorithms", "SHA2-256", "SHA1")),
    ],
)
def integrity(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        found = texts(resource.props, key)
        if not found:
            return f"{key} is absent, which allows SHA1"
        weak = any(name.upper() in {"SHA1", "SHA-1", "MD5"} for name in found)
        return f"{key} is {', '.join(found)}" if weak else ""

    for key in _phases("IntegrityAlgorithms"):
        yield from _odd(key, judge)


@rule(
    "aws-vpn-key-exchange",
    "Tunnels agree on keys in a group of 2048 bits or more",
    Severity.HIGH,
    anchors="own rule, AWS VPN tunnel options",
    applies=[CONNECTION],
    fix="Set the DH group numbers of both phases and tunnels to 14 or higher (20 is a good one).",
    allowed=[_vpn(_both("DhGroupNumbers", 20)), _vpn(_both("DhGroupNumbers", 14, 19))],
    refused=[
        _vpn({}),
        _vpn(_both("DhGroupNumbers", 2)),
        _vpn(_both("DhGroupNumbers", 20), _both("DhGroupNumbers", 5, 20)),
    ],
)
def key_exchange(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        found = texts(resource.props, key)
        if not found:
            return f"{key} is absent, which allows group 2"
        weak = [name for name in found if not _is_number_from(name, 14)]
        return f"{key} holds {', '.join(weak)}" if weak else ""

    for key in _phases("DhGroupNumbers"):
        yield from _odd(key, judge)


def _is_number_from(value: str, least: int) -> bool:
    found = number({"value": value}, "value")
    return found is not None and found >= least


@rule(
    "aws-vpn-restart",
    "A tunnel comes back by itself",
    Severity.MEDIUM,
    anchors="AWS VPN endpoint replacement, EC2.20",
    applies=[CONNECTION],
    fix="Set startupAction to start (it needs ikev2) and dpdTimeoutAction to restart.",
    allowed=[
        _vpn({"StartupAction": "start", "DpdTimeoutAction": "restart", "IkeVersions": ["ikev2"]})
    ],
    refused=[
        _vpn({}),
        _vpn({"StartupAction": "start", "DpdTimeoutAction": "clear"}),
        _vpn({"StartupAction": "add", "DpdTimeoutAction": "restart"}),
    ],
)
def restart(resource: Resource, _: Context) -> Findings:
    for option, wanted in (("StartupAction", "start"), ("DpdTimeoutAction", "restart")):

        def judge(key: str, wanted: str = wanted) -> str:
            found = text(resource.props, key)
            return "" if found == wanted else f"{key} is {found or 'absent'}, not {wanted}"

        yield from _odd(option, judge)


@rule(
    "aws-vpn-dead-peer",
    "A dead peer is noticed within 40 seconds",
    Severity.MEDIUM,
    anchors="AWS VPN tunnel options",
    applies=[CONNECTION],
    fix="Set dpdTimeoutSeconds to 30 or 40 (30 is the least that AWS takes).",
    allowed=[_vpn({}), _vpn({"DpdTimeoutSeconds": 30}), _vpn({"DpdTimeoutSeconds": 40})],
    refused=[_vpn({"DpdTimeoutSeconds": 300}), _vpn({}, {"DpdTimeoutSeconds": 41})],
)
def dead_peer(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        found = number(resource.props, key)
        if found is None or 30 <= found <= 40:
            return ""
        return f"{key} is {found:g}"

    yield from _odd("DpdTimeoutSeconds", judge)


def _logs(**options: Any) -> dict[str, Any]:
    return {"LogOptions": {"cloudwatchLogOptions": options}}


@rule(
    "aws-vpn-logs",
    "Tunnels write a log",
    Severity.MEDIUM,
    anchors="EC2.171",
    applies=[CONNECTION],
    fix="Set logOptions.cloudwatchLogOptions with logEnabled and logGroupArn on both tunnels.",
    allowed=[_vpn(_logs(logEnabled=True, logGroupArn="arn:aws:logs:eu-west-1:1:log-group:vpn"))],
    refused=[
        _vpn({}),
        _vpn(_logs(logEnabled=True)),
        _vpn(_logs(logEnabled=False, logGroupArn="arn:aws:logs:eu-west-1:1:log-group:vpn")),
    ],
)
def tunnel_logs(resource: Resource, _: Context) -> Findings:
    def judge(key: str) -> str:
        options = block(block(resource.props, key), "cloudwatchLogOptions")
        if not flag(options, "logEnabled"):
            return f"{key}: logEnabled is not true"
        return "" if given(options, "logGroupArn") else f"{key}: logGroupArn is absent"

    yield from _odd("LogOptions", judge)


def _keys(resource: Resource) -> Iterator[tuple[str, Any]]:
    for tunnel in TUNNELS:
        yield f"{tunnel}PresharedKey", raw(resource.props, f"{tunnel}PresharedKey")


@rule(
    "aws-vpn-key-secret",
    "The tunnels' keys are secrets",
    Severity.CRITICAL,
    anchors="own rule",
    applies=[CONNECTION],
    fix="Pass both preshared keys as secrets read from Vault (32 characters or more).",
    allowed=[_vpn({"PresharedKey": "[secret]"})],
    refused=[
        _vpn({}),
        _vpn({"PresharedKey": "correct-horse-battery-staple-000"}),
        _vpn({"PresharedKey": "[secret]"}, {"PresharedKey": "short"}),
    ],
)
def key_secret(resource: Resource, _: Context) -> Findings:
    for key, value in _keys(resource):
        if isinstance(value, Secret):
            continue
        if isinstance(value, Unknown):
            yield Missing(f"{key}, and whether it is a secret")
        elif value is None:
            yield f"{key} is absent: AWS makes one that nobody rotates"
        else:
            yield f"{key} stands in the plan as plain text"
