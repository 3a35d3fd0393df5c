"""Types that no rule needs to judge: they carry no setting that could open a hole or a bill."""

from __future__ import annotations

PLAIN_TYPES = frozenset(
    {
        "aws:ec2/internetGateway:InternetGateway",
        "aws:ec2/mainRouteTableAssociation:MainRouteTableAssociation",
        "aws:ec2/route:Route",
        "aws:ec2/routeTable:RouteTable",
        "aws:ec2/routeTableAssociation:RouteTableAssociation",
        "aws:ec2/vpnGateway:VpnGateway",
        "aws:ec2/vpnGatewayAttachment:VpnGatewayAttachment",
        "aws:ec2/vpnGatewayRoutePropagation:VpnGatewayRoutePropagation",
        "aws:eks/accessEntry:AccessEntry",
        "aws:eks/addon:Addon",
        "aws:kms/alias:Alias",
        "/Event",
        "/Endpoints",
        "/PersistentVolume",
        "/Secret",
        "apps/ControllerRevision",
        "apiextensions.k8s.io/CustomResourceDefinition",
        "coordination.k8s.io/Lease",
        "discovery.k8s.io/EndpointSlice",
        "karpenter.kwok.sh/KWOKNodeClass",
        "kueue.x-k8s.io/AdmissionCheck",
        "kueue.x-k8s.io/ClusterQueue",
        "kueue.x-k8s.io/Cohort",
        "kueue.x-k8s.io/LocalQueue",
        "kueue.x-k8s.io/MultiKueueCluster",
        "kueue.x-k8s.io/MultiKueueConfig",
        "kueue.x-k8s.io/ResourceFlavor",
        "kueue.x-k8s.io/WorkloadPriorityClass",
        "node.k8s.io/RuntimeClass",
        "scheduling.k8s.io/PriorityClass",
        "storage.k8s.io/StorageClass",
    }
)
