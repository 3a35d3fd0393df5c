"""The whole deployment, top to bottom. Components know nothing of each other: their outputs are
passed on here."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from infra.components.secret_store import SecretStore, SecretStoreArgs, SiteLogin
from infra.components.team_namespace import TeamNamespace, TeamNamespaceArgs
from infra.naming import PROJECT, name
from infra.pods import Image
from infra.settings import Settings, Site
from infra.vault import Connection

TEAM = "recommender"


def connection(settings: Settings) -> Connection:
    """Where Vault is, and the files that let this program log in."""
    vault = settings.vault
    return Connection(
        address=vault.address,
        ca_file=str(vault.ca_file),
        token_file=str(vault.token_file),
        namespace=vault.namespace,
    )


def deploy(settings: Settings) -> None:
    """Declare every resource of the stack and export what its users need."""
    vault = connection(settings)
    image = Image(
        reference=settings.pod_image.image, host_paths=tuple(settings.pod_image.host_paths)
    )
    store = SecretStore(
        "secrets",
        SecretStoreArgs(
            environment=settings.stack,
            connection=vault,
            sites={site: _login(where) for site, where in settings.sites.items()},
        ),
    )
    for site, where in settings.sites.items():
        provider = k8s.Provider(
            site,
            # the path, not the text: its keys then reach neither the state nor a preview
            kubeconfig=str(where.kubeconfig.expanduser()),
            skip_update_unreachable=site in settings.unreachable,
            opts=ResourceOptions(depends_on=[store]),
        )
        team = TeamNamespace(
            f"{site}-{TEAM}",
            TeamNamespaceArgs(
                identity=settings.identity,
                site=site,
                team=TEAM,
                provider=provider,
                connection=vault,
                vault_ca_pem=settings.vault.ca_pem(),
                mount=store.mount,
                login=store.logins[site],
                mount_path=name(PROJECT, settings.stack),
                login_path=name(PROJECT, settings.stack, site),
                image=image,
                rotation=settings.secret_rotation,
                awaited=where.real_nodes and where.reaches_vault,
            ),
        )
        pulumi.export(
            site,
            {
                "api": where.api,
                "namespace": team.namespace,
                "canary": team.canary_url,
                "secretVersion": team.secret_version,
            },
        )
    pulumi.export("vault", vault.address)


def _login(site: Site) -> SiteLogin:
    """A site that gives its public key as a file is checked with it; any other is asked."""
    if site.service_account_key_file is not None:
        pem = Path(site.service_account_key_file).expanduser().read_text(encoding="utf-8")
        return SiteLogin(issuer=site.issuer, keys={"jwt_validation_pubkeys": [pem]})
    return SiteLogin(
        issuer=site.issuer,
        keys={"jwks_url": f"{site.api}/openid/v1/jwks", "jwks_ca_pem": site.ca_pem()},
    )
