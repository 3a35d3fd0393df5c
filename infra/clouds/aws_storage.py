"""Buckets (artefacts, backups, their access logs), container registries, and who may read what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.clouds.aws_account import (
    Account,
    Statement,
    allow,
    deny_plain_http,
    document,
    pod_trust,
)
from infra.clouds.burst import Workload, dump

ABORT_UPLOAD_DAYS = 3


@dataclass(frozen=True, kw_only=True)
class AwsStorageArgs:
    account: Account
    data_key_arn: pulumi.Input[str]
    cluster_name: pulumi.Input[str]
    repositories: tuple[str, ...]
    workloads: tuple[Workload, ...]
    log_days: int


class AwsStorage(pulumi.ComponentResource):
    """What jobs read and write in the cloud. The core data never comes here."""

    artefacts: aws.s3.Bucket
    backups: aws.s3.Bucket
    repositories: dict[str, aws.ecr.Repository]

    def __init__(
        self, name: str, args: AwsStorageArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Storage", name, None, opts)
        self._name, self._args, self._account = name, args, args.account
        self._child = pulumi.ResourceOptions(parent=self)
        logs = self._bucket(
            "access-logs",
            # S3 delivers access logs only to a bucket with S3-managed keys (S3 user guide,
            # "Enabling server access logging").
            key=False,
            lifecycle=[{"id": "expire", "status": "Enabled", "filter": {"prefix": ""},
                        "expiration": {"days": args.log_days}}],
        )  # fmt: skip
        self._policy("access-logs", logs, self._log_delivery())
        self.artefacts = self._bucket(
            "artefacts",
            lifecycle=[
                {"id": "old-versions", "status": "Enabled", "filter": {"prefix": ""},
                 "noncurrent_version_expiration":
                     {"noncurrent_days": 30, "newer_noncurrent_versions": 3}},
                {"id": "scratch", "status": "Enabled", "filter": {"prefix": "scratch/"},
                 "expiration": {"days": 7}},
            ],
        )  # fmt: skip
        self.backups = self._bucket(
            "backups",
            lifecycle=[
                {"id": "cool", "status": "Enabled", "filter": {"prefix": ""},
                 "transitions": [{"days": 30, "storage_class": "GLACIER_IR"}],
                 "expiration": {"days": 400},
                 "noncurrent_version_expiration": {"noncurrent_days": 90}},
            ],
        )  # fmt: skip
        for kind, bucket in (("artefacts", self.artefacts), ("backups", self.backups)):
            self._policy(kind, bucket)
            aws.s3.BucketLogging(
                f"{name}-{kind}",
                bucket=bucket.bucket,
                target_bucket=logs.bucket,
                target_prefix=f"{kind}/",
                opts=self._child,
            )
        self.repositories = {each: self._repository(each) for each in args.repositories}
        for workload in args.workloads:
            self._workload(workload)
        self.register_outputs({"artefacts": self.artefacts.bucket})

    def _bucket(
        self,
        kind: str,
        *,
        lifecycle: Sequence[aws.s3.BucketLifecycleConfigurationRuleArgsDict],
        key: bool = True,
    ) -> aws.s3.Bucket:
        """A private, versioned, encrypted bucket; uploads that stop half way are swept."""
        name = f"{self._name}-{kind}"
        bucket = aws.s3.Bucket(
            name,
            bucket=self._account.global_name(kind),
            force_destroy=False,
            tags=self._account.tags("storage", self._account.name(kind)),
            opts=self._child,
        )
        aws.s3.BucketPublicAccessBlock(
            name,
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=self._child,
        )
        aws.s3.BucketOwnershipControls(
            name,
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=self._child,
        )
        versioning = aws.s3.BucketVersioning(
            name,
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=self._child,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            name,
            bucket=bucket.bucket,
            rules=[
                {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms" if key else "AES256",
                        "kms_master_key_id": self._args.data_key_arn if key else None,
                    },
                    "bucket_key_enabled": key,
                }
            ],
            opts=self._child,
        )
        aws.s3.BucketLifecycleConfiguration(
            name,
            bucket=bucket.bucket,
            rules=[
                *lifecycle,
                {
                    "id": "abandoned-uploads",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "abort_incomplete_multipart_upload": {
                        "days_after_initiation": ABORT_UPLOAD_DAYS
                    },
                },
            ],
            # Rules on old versions are refused while versioning is off.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[versioning]),
        )
        return bucket

    def _arns(self, kind: str) -> list[str]:
        bucket = f"arn:{self._account.partition}:s3:::{self._account.global_name(kind)}"
        return [bucket, f"{bucket}/*"]

    def _policy(self, kind: str, bucket: aws.s3.Bucket, *more: Statement) -> None:
        aws.s3.BucketPolicy(
            f"{self._name}-{kind}",
            bucket=bucket.bucket,
            policy=document(deny_plain_http("s3:*", self._arns(kind)), *more),
            opts=self._child,
        )

    def _log_delivery(self) -> Statement:
        account = self._account
        sources = [self._arns(kind)[0] for kind in ("artefacts", "backups")]
        return allow(
            "AccessLogDelivery",
            ["s3:PutObject"],
            [self._arns("access-logs")[1]],
            {
                "StringEquals": {"aws:SourceAccount": account.id},
                "ArnLike": {"aws:SourceArn": sources},
            },
            {"Service": "logging.s3.amazonaws.com"},
        )

    def _repository(self, repository: str) -> aws.ecr.Repository:
        name = f"{self._name}-{repository}"
        made = aws.ecr.Repository(
            name,
            name=f"{self._account.prefix}/{repository}",
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[
                {"encryption_type": "KMS", "kms_key": self._args.data_key_arn}
            ],
            force_delete=False,
            tags=self._account.tags("registry", self._account.name(repository)),
            opts=self._child,
        )
        aws.ecr.LifecyclePolicy(
            name,
            repository=made.name,
            policy=dump(
                {
                    "rules": [
                        {
                            "rulePriority": 1,
                            "description": "untagged images are left-overs of builds",
                            "selection": {"tagStatus": "untagged", "countType": "sinceImagePushed",
                                          "countUnit": "days", "countNumber": 7},
                            "action": {"type": "expire"},
                        },
                        {
                            "rulePriority": 2,
                            "description": "keep the last 50 releases to roll back to",
                            "selection": {"tagStatus": "any", "countType": "imageCountMoreThan",
                                          "countNumber": 50},
                            "action": {"type": "expire"},
                        },
                    ]
                }
            ),
            opts=self._child,
        )  # fmt: skip
        return made

    def _workload(self, workload: Workload) -> None:
        """A role for one service account: its prefixes of the artefacts bucket and no more."""
        account, args = self._account, self._args
        short = f"{workload.namespace}-{workload.service_account}"
        name = f"{self._name}-{short}"
        role = aws.iam.Role(
            name,
            name=account.name(short, limit=64),
            description=f"Artefacts for {workload.namespace}/{workload.service_account}",
            assume_role_policy=pod_trust(
                account, account.prefix, workload.namespace, workload.service_account
            ),
            tags=account.tags("workload", account.name(short)),
            opts=self._child,
        )
        bucket, _ = self._arns("artefacts")
        prefixes = sorted({*workload.reads, *workload.writes})
        statements = [
            allow(
                "ListOwnPrefixes",
                ["s3:ListBucket"],
                [bucket],
                {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}},
            ),
            allow("Read", ["s3:GetObject"], [f"{bucket}/{prefix}*" for prefix in prefixes]),
        ]
        if workload.writes:
            statements.append(
                allow(
                    "Write",
                    ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                    [f"{bucket}/{prefix}*" for prefix in workload.writes],
                )
            )
        aws.iam.RolePolicy(
            name, name="artefacts", role=role.name, policy=document(*statements), opts=self._child
        )
        crypt = ["kms:Decrypt", *(["kms:GenerateDataKey"] if workload.writes else [])]
        via_s3 = {"StringEquals": {"kms:ViaService": f"s3.{account.region}.amazonaws.com"}}
        # Apart from the rest: AWS invents the key's id, so only this document waits for it.
        aws.iam.RolePolicy(
            f"{name}-key",
            name="artefacts-key",
            role=role.name,
            policy=pulumi.Output.from_input(args.data_key_arn).apply(
                lambda arn: document(allow("DataKeyThroughS3", crypt, [arn], via_s3))
            ),
            opts=self._child,
        )
        aws.eks.PodIdentityAssociation(
            name,
            cluster_name=args.cluster_name,
            namespace=workload.namespace,
            service_account=workload.service_account,
            role_arn=role.arn,
            tags=account.tags("workload", account.name(short)),
            opts=self._child,
        )
