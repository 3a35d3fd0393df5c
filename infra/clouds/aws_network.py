"""The VPC: three kinds of subnets over the zones, private endpoints, flow logs, groups.

No subnet gives public addresses. Without NAT the nodes have no way to the internet at all, and
every AWS API that they need answers on an interface endpoint inside the VPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from infra import cidr
from infra.clouds.aws_account import Account, allow, document, service_trust
from infra.clouds.burst import Internet

ENDPOINTS = (
    "ec2",
    "ecr.api",
    "ecr.dkr",
    "eks",
    "eks-auth",
    "logs",
    "sqs",
    "ssm",
    "ssmmessages",
    "sts",
)
"""Interface endpoints that a node, the CNI, pod identity, Karpenter and Session Manager call."""


@dataclass(frozen=True, kw_only=True)
class AwsNetworkArgs:
    account: Account
    vpc_cidr: IPv4Network
    zones: tuple[str, ...]
    site_cidrs: Mapping[str, IPv4Network]
    site_ports: Mapping[str, int]
    internet: Internet
    extra_endpoints: tuple[str, ...]
    logs_key_arn: pulumi.Input[str]
    log_days: int


class AwsNetwork(pulumi.ComponentResource):
    """VPC, subnets, routes, endpoints and the three security groups."""

    vpc: aws.ec2.Vpc
    node_subnets: dict[str, aws.ec2.Subnet]
    control_subnets: dict[str, aws.ec2.Subnet]
    route_tables: dict[str, aws.ec2.RouteTable]
    control_group: aws.ec2.SecurityGroup
    node_group: aws.ec2.SecurityGroup
    endpoint_group: aws.ec2.SecurityGroup

    def __init__(
        self, name: str, args: AwsNetworkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Network", name, None, opts)
        self._name, self._args, self._account = name, args, args.account
        self._child = pulumi.ResourceOptions(parent=self)
        self.vpc = aws.ec2.Vpc(
            name,
            cidr_block=str(args.vpc_cidr),
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags=self._tags("vpc"),
            opts=self._child,
        )
        # Adopted only to be emptied: nothing may land in it by omission.
        aws.ec2.DefaultSecurityGroup(
            f"{name}-default",
            vpc_id=self.vpc.id,
            ingress=[],
            egress=[],
            tags=self._tags("default-unused"),
            opts=self._child,
        )
        self._flow_logs()
        layout = cidr.subnet_layout(args.vpc_cidr, args.zones)
        self.node_subnets, self.control_subnets, self.route_tables = {}, {}, {}
        for zone in layout:
            self._zone(zone)
        if args.internet is Internet.NAT:
            self._internet(layout)
        self._groups()
        self._endpoints()
        self.register_outputs({"vpc_id": self.vpc.id})

    def _tags(self, *parts: str) -> dict[str, str]:
        return self._account.tags("network", self._account.name(*parts))

    def _flow_logs(self) -> None:
        account, args = self._account, self._args
        group_name = f"/{account.prefix}/vpc-flow"
        group = aws.cloudwatch.LogGroup(
            f"{self._name}-flow",
            name=group_name,
            retention_in_days=args.log_days,
            kms_key_id=args.logs_key_arn,
            tags=self._tags("vpc-flow"),
            opts=self._child,
        )
        role = aws.iam.Role(
            f"{self._name}-flow",
            name=account.name("vpc-flow", limit=64),
            description="VPC flow logs write to their own log group only",
            assume_role_policy=service_trust(
                "vpc-flow-logs.amazonaws.com",
                {
                    "StringEquals": {"aws:SourceAccount": account.id},
                    "ArnLike": {"aws:SourceArn": account.arn("ec2", "vpc-flow-log/*")},
                },
            ),
            tags=self._tags("vpc-flow"),
            opts=self._child,
        )
        aws.iam.RolePolicy(
            f"{self._name}-flow",
            role=role.name,
            policy=document(
                allow(
                    "WriteOwnGroup",
                    ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                    [account.arn("logs", f"log-group:{group_name}:*")],
                ),
                # the delivery looks for its group first; AWS narrows this to no group's name
                allow(
                    "FindGroup", ["logs:DescribeLogGroups"], [account.arn("logs", "log-group:*")]
                ),
            ),
            opts=self._child,
        )
        aws.ec2.FlowLog(
            self._name,
            vpc_id=self.vpc.id,
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            max_aggregation_interval=60,
            tags=self._tags("vpc-flow"),
            opts=self._child,
        )

    def _subnet(self, kind: str, zone: str, net: IPv4Network) -> aws.ec2.Subnet:
        tags = self._tags(kind, zone)
        if kind == "nodes":
            # Karpenter finds subnets by this tag; internal load balancers by the other.
            tags |= {"karpenter.sh/discovery": self._account.prefix,
                     "kubernetes.io/role/internal-elb": "1"}  # fmt: skip
        if kind == "edge":
            # where a load balancer that faces the internet may stand
            tags |= {"kubernetes.io/role/elb": "1"}
        return aws.ec2.Subnet(
            f"{self._name}-{kind}-{zone}",
            vpc_id=self.vpc.id,
            availability_zone=zone,
            cidr_block=str(net),
            map_public_ip_on_launch=False,
            tags=tags,
            opts=self._child,
        )

    def _zone(self, plan: cidr.ZoneSubnets) -> None:
        zone = plan.zone
        self.node_subnets[zone] = self._subnet("nodes", zone, plan.nodes)
        self.control_subnets[zone] = self._subnet("control", zone, plan.control)
        table = aws.ec2.RouteTable(
            f"{self._name}-{zone}",
            vpc_id=self.vpc.id,
            tags=self._tags("routes", zone),
            # The VPN gateway propagates the site's routes into this table; they are not ours to
            # list, and an update here must not remove them.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["propagatingVgws", "routes"]),
        )
        self.route_tables[zone] = table
        for kind, subnet in (("nodes", self.node_subnets), ("control", self.control_subnets)):
            aws.ec2.RouteTableAssociation(
                f"{self._name}-{kind}-{zone}",
                subnet_id=subnet[zone].id,
                route_table_id=table.id,
                opts=self._child,
            )

    def _internet(self, layout: tuple[cidr.ZoneSubnets, ...]) -> None:
        gateway = aws.ec2.InternetGateway(
            self._name, vpc_id=self.vpc.id, tags=self._tags("internet"), opts=self._child
        )
        edge_routes = aws.ec2.RouteTable(
            f"{self._name}-edge",
            vpc_id=self.vpc.id,
            tags=self._tags("routes", "edge"),
            opts=self._child,
        )
        aws.ec2.Route(
            f"{self._name}-edge",
            route_table_id=edge_routes.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=self._child,
        )
        for plan in layout:
            edge = self._subnet("edge", plan.zone, plan.edge)
            aws.ec2.RouteTableAssociation(
                f"{self._name}-edge-{plan.zone}",
                subnet_id=edge.id,
                route_table_id=edge_routes.id,
                opts=self._child,
            )
            address = aws.ec2.Eip(
                f"{self._name}-nat-{plan.zone}",
                domain="vpc",
                tags=self._tags("nat", plan.zone),
                opts=self._child,
            )
            nat = aws.ec2.NatGateway(
                f"{self._name}-nat-{plan.zone}",
                subnet_id=edge.id,
                allocation_id=address.allocation_id,
                connectivity_type="public",
                tags=self._tags("nat", plan.zone),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[gateway]),
            )
            aws.ec2.Route(
                f"{self._name}-nat-{plan.zone}",
                route_table_id=self.route_tables[plan.zone].id,
                destination_cidr_block="0.0.0.0/0",
                nat_gateway_id=nat.id,
                opts=self._child,
            )

    def _group(self, kind: str, description: str) -> aws.ec2.SecurityGroup:
        # No inline rules: mixed with rule resources, each would undo the other's work.
        return aws.ec2.SecurityGroup(
            f"{self._name}-{kind}",
            name=self._account.name(kind),
            description=description,
            vpc_id=self.vpc.id,
            tags=self._tags(kind),
            opts=self._child,
        )

    def _groups(self) -> None:
        self.control_group = self._group("control", "Cluster API endpoint inside the VPC")
        self.node_group = self._group("nodes", "Cluster nodes, system and burst")
        self.endpoint_group = self._group("endpoints", "Private endpoints of AWS services")
        control, nodes, ends = self.control_group, self.node_group, self.endpoint_group
        self._rule("in", control, "nodes-api", 443, nodes, "Nodes and pods call the cluster API")
        for site, net in self._args.site_cidrs.items():
            self._rule(
                "in", control, f"site-{site}-api", 443, net, f"Private site ({site}) calls the API"
            )
            self._rule(
                "in", nodes, f"site-{site}-bento", 3000, net, f"Private site ({site}) to bento"
            )
            self._rule(
                "out",
                nodes,
                f"site-{site}-tls",
                443,
                net,
                f"TLS services of the private site ({site})",
            )
            self._rule("out", nodes, f"site-{site}-vault", 8200, net, f"Vault at the site ({site})")
            for service, port in self._args.site_ports.items():
                self._rule(
                    "out", nodes, f"site-{site}-{service}", port, net,
                    f"The private site's {service} ({site})",
                )  # fmt: skip
            self._rule(
                "out", nodes, f"site-{site}-nats", 7422, net, f"Event leaf link to site ({site})"
            )
        self._rule("in", nodes, "self", None, nodes, "Pods and nodes of the cluster to each other")
        self._rule("out", nodes, "self", None, nodes, "Pods and nodes of the cluster to each other")
        for port, use in (
            (443, "admission webhooks"),
            (8443, "admission webhooks (Karpenter)"),
            (9443, "admission webhooks (controllers)"),
            (10250, "kubelet: logs, exec, metrics"),
            (10251, "the metrics server, which autoscaling asks"),
        ):
            self._rule("in", nodes, f"control-{port}", port, control, f"Control plane to {use}")
            self._rule("out", control, f"nodes-{port}", port, nodes, f"Control plane to {use}")
        self._rule("out", nodes, "api", 443, control, "Nodes and pods call the cluster API")
        self._rule("out", nodes, "endpoints", 443, ends, "AWS APIs through private endpoints")
        self._rule("in", ends, "nodes", 443, nodes, "AWS APIs for nodes and pods")
        resolver = IPv4Network((int(self._args.vpc_cidr[2]), 32))
        for proto in ("udp", "tcp"):
            self._rule("out", nodes, f"dns-{proto}", 53, resolver, "VPC resolver", proto)
        if self._args.internet is Internet.NAT:
            world = IPv4Network("0.0.0.0/0")
            self._rule("out", nodes, "internet", 443, world, "HTTPS out through NAT")

    def _rule(
        self,
        way: str,
        group: aws.ec2.SecurityGroup,
        label: str,
        port: int | None,
        peer: aws.ec2.SecurityGroup | IPv4Network | pulumi.Output[str],
        description: str,
        protocol: str = "tcp",
    ) -> None:
        """One rule to or from `peer` (a group, a range, or the id of a prefix list); port None is
        every protocol, allowed only inside a group."""
        rule = aws.vpc.SecurityGroupIngressRule if way == "in" else aws.vpc.SecurityGroupEgressRule
        kind = {
            id(self.control_group): "control",
            id(self.node_group): "nodes",
            id(self.endpoint_group): "endpoints",
        }[id(group)]
        name = f"{self._name}-{kind}-{way}-{label}"
        rule(
            name,
            security_group_id=group.id,
            description=description,
            ip_protocol="-1" if port is None else protocol,
            from_port=port,
            to_port=port,
            referenced_security_group_id=(
                peer.id if isinstance(peer, aws.ec2.SecurityGroup) else None
            ),
            cidr_ipv4=str(peer) if isinstance(peer, IPv4Network) else None,
            prefix_list_id=peer if isinstance(peer, pulumi.Output) else None,
            tags=self._tags(kind, way, label),
            opts=self._child,
        )

    def _endpoints(self) -> None:
        account = self._account
        own = {"StringEquals": {"aws:PrincipalAccount": account.id}}
        storage = aws.ec2.VpcEndpoint(
            f"{self._name}-s3",
            vpc_id=self.vpc.id,
            service_name=f"com.amazonaws.{account.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id for table in self.route_tables.values()],
            policy=document(
                allow(
                    "OwnBuckets",
                    ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket",
                     "s3:GetBucketLocation", "s3:AbortMultipartUpload",
                     "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads"],
                    [f"arn:{account.partition}:s3:::{account.prefix}-*"],
                    own,
                    {"AWS": "*"},
                ),
                # Layers of images lie in a bucket of AWS's own, named in the ECR user guide.
                allow(
                    "ImageLayers",
                    ["s3:GetObject"],
                    [f"arn:{account.partition}:s3:::prod-{account.region}-starport-layer-bucket/*"],
                    principal={"AWS": "*"},
                ),
            ),
            tags=self._tags("s3"),
            opts=self._child,
        )  # fmt: skip
        # S3 keeps its public addresses behind a gateway endpoint, and layers of images lie there
        self._rule(
            "out", self.node_group, "s3", 443, storage.prefix_list_id,
            "S3 through its gateway endpoint: images and artefacts",
        )  # fmt: skip
        for service in (*ENDPOINTS, *self._args.extra_endpoints):
            aws.ec2.VpcEndpoint(
                f"{self._name}-{service}",
                vpc_id=self.vpc.id,
                service_name=f"com.amazonaws.{account.region}.{service}",
                vpc_endpoint_type="Interface",
                subnet_ids=[subnet.id for subnet in self.control_subnets.values()],
                security_group_ids=[self.endpoint_group.id],
                private_dns_enabled=True,
                policy=document(
                    allow("OwnAccountOnly", ["*"], "*", own, {"AWS": "*"}),
                ),
                tags=self._tags(service.replace(".", "-")),
                opts=self._child,
            )
