"""Settings for the cloud tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # The AWS SDK warns about its own old names while it imports them; ours are the new ones.
    config.addinivalue_line("filterwarnings", r"ignore:.*:DeprecationWarning:pulumi_aws\..*")
