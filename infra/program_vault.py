"""Vault as the workloads of one site and team see it. Part of `infra.program`."""

from __future__ import annotations

from infra.components.secret_store import SecretStore, pki_path
from infra.naming import PROJECT, name
from infra.settings import Settings, SiteName
from infra.vault import Connection
from infra.workloads import VaultSite


def vault_site(
    settings: Settings, vault: Connection, store: SecretStore, site: SiteName, team: str
) -> VaultSite:
    """The stack's engines and the site's login, for workloads in the team's namespace."""
    return VaultSite(
        connection=vault,
        ca_pem=settings.vault.ca_pem(),
        site=site,
        team=team,
        mount=store.mount,
        mount_path=name(PROJECT, settings.stack),
        login=store.logins[site],
        login_path=name(PROJECT, settings.stack, site),
        pki=store.pki,
        pki_path=pki_path(settings.stack),
    )
