"""What the engine runs: settings from the stack, one look at Vault and the sites, then `deploy`."""

from __future__ import annotations

import os

import pulumi
from pulumi.runtime import config as stack_config

from infra.clouds.burst import UnsupportedBurstError
from infra.definitions import require
from infra.kueue import KueueError
from infra.program import connection, deploy
from infra.reach import reach
from infra.settings import parse
from infra.site_settings import SettingsError
from infra.vault import VaultError, preflight


def main() -> None:
    """Declare the stack. A user's mistake ends in one error without a traceback."""
    try:
        settings = parse(
            pulumi.get_stack(),
            {**stack_config.get_config_env(), **stack_config.CONFIG.get()},
            endpoints_file=os.environ.get("HYBRID_RECOMMENDER_ENDPOINTS"),
        )
        if not pulumi.runtime.is_dry_run():  # a preview asks Vault nothing
            preflight(connection(settings))
            reach(settings)
            require(settings)
        deploy(settings)
    except (KueueError, SettingsError, UnsupportedBurstError, VaultError) as error:
        raise pulumi.RunError(str(error)) from None


main()
