"""Debian's Chromium, headless, driven by Playwright; installed as root where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")


def chromium() -> Path:
    """The browser; RuntimeError with what to do if it cannot be had."""
    if CHROMIUM.exists():
        return CHROMIUM
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"no {CHROMIUM}; as root on Debian: apt-get install chromium")
    install = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "install", "-y",
               "--no-install-recommends", "chromium", "fonts-dejavu-core"]  # fmt: skip
    for command in (install, ["apt-get", "-q", "update"], install):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        if done.returncode == 0 and CHROMIUM.exists():
            return CHROMIUM
    raise RuntimeError(f"apt-get install chromium failed: {done.stderr.strip()[-300:]}")


@contextmanager
def page(width: int = 1000, height: int = 760) -> Iterator[Page]:
    """An empty page; errors of its scripts fail the test that uses it."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        # root has no sandbox of user namespaces in a container; the page is our own
        browser = playwright.chromium.launch(
            executable_path=str(chromium()),
            headless=True,
            args=["--no-sandbox", "--no-proxy-server"],
        )
        try:
            opened = browser.new_page(viewport={"width": width, "height": height})
            opened.set_default_timeout(120_000)
            opened.on("pageerror", lambda error: errors.append(str(error)))
            yield opened
        finally:
            browser.close()
    assert not errors, f"scripts of the page failed: {errors}"
