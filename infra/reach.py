"""Whether every site answers, asked before an update changes the first thing."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from infra.settings import Settings
from infra.site_settings import SettingsError, Site

SECONDS = 5.0  # for a connection and its TLS handshake


def reach(settings: Settings) -> None:
    """Raises `SettingsError` with one line for each site that does not answer.

    Sites in `unreachable` are not asked, nor is one behind a proxy (only the engine's provider
    knows the way to it). Nothing is read: the API server must only show its certificate.
    """
    lines = [
        line
        for name, site in settings.sites.items()
        if name not in settings.unreachable
        if (line := _problem(name, site))
    ]
    if lines:
        raise SettingsError("\n".join(lines))


def direct(site: Site) -> bool:
    """Whether clients connect to the site's API server itself, not to a proxy before it."""
    proxied = "https" in getproxies() and not proxy_bypass(urlsplit(site.api).hostname or "")
    return not (site.route()[1] or proxied)


def _problem(name: str, site: Site) -> str | None:
    if not direct(site):
        return None
    where, shown = urlsplit(site.api), site.route()[0]
    host, port = where.hostname or "", where.port or 443
    context = ssl.create_default_context(cadata=site.ca_pem())
    try:
        with (
            socket.create_connection((host, port), timeout=SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=shown or host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return (
            f"site {name} at {site.api} shows a certificate that {site.kubeconfig} does not trust "
            f"({error.verify_message}); give the kubeconfig of this cluster"
        )
    except OSError as error:
        return (
            f"site {name} at {site.api} does not answer ({error or type(error).__name__}); start "
            f"it, or add it to `unreachable` to leave what it holds as it is"
        )
