"""Training on one site: the run at home, and in the cloud what a run that left finds there.

Part of `infra.program`. A run is its name in one artefact store, the private site's: a pod in the
cloud reads the same state, with the same key, as the one before it at home. Its pods name an
account, files and a service; the cloud has each under that name, with its own login to Vault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

from infra.components.gpu_site import GpuSite
from infra.components.secret_store import SecretStore
from infra.components.training import ArtefactStore, Run, Training, TrainingArgs
from infra.pods import Image
from infra.program_vault import vault_site
from infra.settings import PRODUCT_TEAM, Settings, SiteName, text_of
from infra.site_settings import SettingsError
from infra.vault import Connection


def deploy_training(
    settings: Settings,
    site: SiteName,
    provider: k8s.Provider,
    vault: Connection,
    store: SecretStore,
    namespace: pulumi.Output[str],
    gpu: GpuSite,
    *,
    queues: Mapping[str, pulumi.Output[str]] | None = None,
    tolerations: Sequence[Mapping[str, str]] = (),
) -> None:
    """What the product's team trains with; its run where there are `queues` to submit it to."""
    artefacts, pods, wanted = (
        settings.artefacts.get("private"),
        settings.pod_image,
        settings.training,
    )
    if artefacts is None or (queues is None and not (wanted and wanted.may_leave)):
        return
    Training(
        "training" if site == "private" else f"{site}-training",
        TrainingArgs(
            identity=settings.identity,
            provider=provider,
            namespace=namespace,
            vault=vault_site(settings, vault, store, site, PRODUCT_TEAM),
            store=ArtefactStore(
                endpoint=artefacts.endpoint,
                region=artefacts.region,
                bucket=artefacts.bucket,
                access_key=pulumi.Output.secret(text_of(artefacts.access_key_file)),
                secret_key=pulumi.Output.secret(text_of(artefacts.secret_key_file)),
                ca_pem=text_of(artefacts.ca_file) if artefacts.ca_file else None,
            ),
            image=Image(reference=pods.image, host_paths=tuple(pods.host_paths)),
            python=pods.python,
            folder=pods.project,
            run=Run(**wanted.model_dump()) if wanted and queues is not None else None,
            receives=queues is None,
            queues=queues or {},
            runtime_class=gpu.runtime_class,
            tolerations=tolerations,
            trainer=settings.sites[site].trainer,
        ),
    )


def store_port(settings: Settings) -> int | None:
    """Where cloud nodes reach the private site's artefact store; None where the link leads to none.

    Raises `SettingsError` when a run may leave and could not reach it.
    """
    artefacts = settings.artefacts.get("private")
    if artefacts is None:
        return None
    where = urlsplit(artefacts.endpoint)
    try:
        address = IPv4Address(where.hostname or "")
    except ValueError:
        return where.port or 443  # a name: only its server knows where it leads
    ranges = settings.sites["private"].ranges
    if any(address in net for net in ranges.values()):
        return where.port or 443
    if settings.training is not None and settings.training.may_leave:
        told = ", ".join(str(net) for net in ranges.values())
        raise SettingsError(
            f"artefacts.private.endpoint is {artefacts.endpoint}, which is not in the private "
            f"site's ranges ({told}), so the link leads no job in the cloud to it"
        )
    return None
