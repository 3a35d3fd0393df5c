"""The whole deployment, top to bottom. Components know nothing of each other: their outputs are
passed on here."""

from __future__ import annotations

from ipaddress import collapse_addresses
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from infra import bento_reference, haproxy, kueue
from infra.components import event_store, gateway, recommender
from infra.components.event_store import EventStore, EventStoreArgs
from infra.components.gateway import Gateway, GatewayArgs
from infra.components.monitoring import Monitoring, MonitoringArgs, ScrapeTarget
from infra.components.recommender import Recommender, RecommenderArgs
from infra.components.secret_store import SecretStore, SecretStoreArgs, SiteLogin
from infra.components.team_namespace import TeamNamespace, TeamNamespaceArgs
from infra.components.vpn_gateway import PrivateGateway, PrivateGatewayArgs
from infra.components.vpn_settings import DataPath, LinkSettings, Timers
from infra.handover import Target
from infra.jobs import deploy_jobs, has_queues
from infra.jobs_cloud import leave, receive
from infra.naming import PROJECT, name, selector
from infra.pods import Image, Software
from infra.program_cloud import deploy_cloud, deploy_simulated
from infra.program_traffic import certificate_names, deploy_traffic
from infra.program_vault import vault_site
from infra.settings import PRODUCT_TEAM, Settings, SiteName
from infra.site_settings import SettingsError, Site
from infra.vault import Connection

TEAM = PRODUCT_TEAM
PROGRAMS = {"gateway": "haproxy", "nats": "nats-server", "prometheus": "prometheus"}
"""What the parts' own images call their program."""


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
    bento = _bento(settings)
    store = SecretStore(
        "secrets",
        SecretStoreArgs(
            environment=settings.stack,
            connection=vault,
            sites={site: _login(where) for site, where in settings.sites.items()},
            audit_file=settings.vault.audit_file,
            rotation=settings.secret_rotation,
        ),
    )
    link = _link(settings, vault, store)
    doors: dict[SiteName, pulumi.Output[list[str]]] = {}
    for site, where in settings.sites.items():
        provider = k8s.Provider(
            site,
            # the path, not the text: its keys then reach neither the state nor a preview
            kubeconfig=str(where.kubeconfig.expanduser()),
            skip_update_unreachable=site in settings.unreachable,
            # the cloud's workloads reach Vault over the link
            opts=ResourceOptions(depends_on=[store, *(link if site != "private" else ())]),
        )
        runs = where.real_nodes and (where.reaches_vault or bool(link))
        teams = {
            team: TeamNamespace(
                f"{site}-{team}",
                TeamNamespaceArgs(
                    identity=settings.identity,
                    provider=provider,
                    vault=vault_site(settings, vault, store, site, team),
                    image=image,
                    rotation=settings.secret_rotation,
                    awaited=runs,
                    marks={kueue.QUEUED: "true"} if has_queues(settings, site) else {},
                    # the gateway's door and no other
                    load_balancers=int(team == TEAM and where.way_in.kind == "load-balancer"),
                    node_ports=int(team == TEAM and where.way_in.port is not None),
                ),
            )
            for team in settings.teams
        }
        team = teams[TEAM]
        if site == "private" and has_queues(settings, site):
            spaces = {each: one.namespace for each, one in teams.items()}
            deploy_jobs(settings, provider, vault, store, image, spaces)
        if site == "cloud":
            deploy_simulated(settings, provider)
            if leave(settings):
                spaces = {each: one.namespace for each, one in teams.items()}
                receive(settings, provider, vault, store, spaces)
        serves = runs and site in settings.serving.sites
        way_in = _serve(settings, site, provider, store, image, bento, team) if serves else None
        if way_in is not None:
            doors[site] = way_in.addresses
        pulumi.export(
            site,
            {
                "api": where.api,
                "namespace": team.namespace,
                "canary": team.canary_url,
                "secretVersion": team.secret_version,
                "bento": bento.reference if way_in else None,
                "url": way_in.url if way_in else None,
                "gateway": way_in.address if way_in else None,
                "addresses": way_in.addresses if way_in else None,
            },
        )
    deploy_cloud(settings, vault, store.mount)
    deploy_traffic(settings, doors)
    pulumi.export("vault", vault.address)
    pulumi.export("servicesAuthority", store.authority)


def _serve(
    settings: Settings,
    site: SiteName,
    provider: k8s.Provider,
    store: SecretStore,
    agent: Image,
    bento: bento_reference.Bento,
    team: TeamNamespace,
) -> Gateway:
    """The event store, the bento's pods and the gateway of one site, in the team's namespace."""
    where, wanted = settings.sites[site], settings.serving
    vault = vault_site(settings, connection(settings), store, site, TEAM)
    inside = ResourceOptions(depends_on=team.fence)
    scrapers = [selector("prometheus")]
    events = EventStore(
        f"{site}-events",
        EventStoreArgs(
            identity=settings.identity,
            team=TEAM,
            provider=provider,
            vault=vault,
            agent=agent,
            software=_software(settings, "nats", agent),
            replicas=wanted.store_replicas,
            size=wanted.store_size,
            storage_class=where.storage_class,
            volumes=[volume.model_dump() for volume in where.volumes],
            clients=[selector(recommender.NAME)],
            scrapers=scrapers,
            rotation=settings.secret_rotation,
            certificate_ttl=wanted.certificate_ttl,
        ),
        opts=inside,
    )
    service = Recommender(
        f"{site}-service",
        RecommenderArgs(
            identity=settings.identity,
            team=TEAM,
            provider=provider,
            vault=vault,
            agent=agent,
            bento=bento.reference,
            image=_bento_image(bento, agent),
            command=bento.words(settings.pod_image.python),
            env={"RECOMMENDER__MODEL_DIR": bento.model_dir} if bento.model_dir else {},
            store_address=events.address,
            store_token=f"{event_store.NAME}#token",
            store_replicas=wanted.store_replicas,
            least=wanted.least,
            most=wanted.most,
            cpu=wanted.cpu,
            memory=wanted.memory,
            workers=wanted.workers,
            deadline_ms=wanted.deadline_ms,
            callers=[selector(gateway.NAME)],
            store=selector(event_store.NAME),
            store_port=event_store.CLIENT,
            scrapers=scrapers,
            after=events.login,
        ),
        opts=inside,
    )
    way_in = Gateway(
        f"{site}-gateway",
        GatewayArgs(
            identity=settings.identity,
            team=TEAM,
            provider=provider,
            vault=vault,
            agent=agent,
            software=_software(settings, "gateway", agent),
            host=where.service_host,
            names=certificate_names(settings.traffic, site),
            backend=service.host,
            backend_port=recommender.PORT,
            pods=selector(recommender.NAME),
            slots=wanted.most,
            clients=_may_ask(settings, where),
            door=_door(where),
            scrapers=scrapers,
            certificate_ttl=wanted.certificate_ttl,
        ),
        opts=inside,
    )
    parts = [
        ("bento", service.host, recommender.NAME, recommender.PORT, recommender.AGENT_METRICS),
        ("gateway", way_in.pods_host, gateway.NAME, haproxy.STATUS_PORT, gateway.AGENT_METRICS),
        ("nats", events.host, event_store.NAME, None, event_store.AGENT_METRICS),
    ]
    Monitoring(
        f"{site}-monitoring",
        MonitoringArgs(
            identity=settings.identity,
            team=TEAM,
            site=site,
            provider=provider,
            software=_software(settings, "prometheus", agent),
            targets=[
                ScrapeTarget(job=job, host=host, port=port, pods=selector(pods))
                for part, host, pods, own, of_agent in parts
                for job, port in ((part, own), (f"{part}-agent", of_agent))
                if port is not None
            ],
            vault_address=settings.vault.address,
            vault_ca_pem=settings.vault.ca_pem(),
        ),
        opts=inside,
    )
    return way_in


def _door(site: Site) -> gateway.Door:
    way_in = site.way_in
    return gateway.Door(
        kind=way_in.kind,
        port=way_in.port,
        health_port=way_in.health_port,
        nodes=[str(one) for one in way_in.nodes],
        clients=[str(one) for one in way_in.clients],
        annotations=way_in.annotations,
        balancer_class=way_in.balancer_class,
    )


def _may_ask(settings: Settings, site: Site) -> list[str]:
    """Ranges that a gateway's traffic may come from: the declared clients, and the stack's own
    nodes and pods at both ends of the link."""
    own = [net for one in settings.sites.values() for net in (one.node_cidr, one.pod_cidr)]
    cloud = [settings.burst.vpc_cidr] if settings.burst else []
    return [str(net) for net in collapse_addresses([*site.way_in.clients, *own, *cloud])]


def _bento(settings: Settings) -> bento_reference.Bento:
    store = settings.bento_store
    try:
        return bento_reference.find(settings.bento, store.expanduser() if store else None)
    except bento_reference.BentoReferenceError as error:
        raise SettingsError(str(error)) from None


def _bento_image(bento: bento_reference.Bento, base: Image) -> Image:
    """The bento's own image; a local bento runs in the stand's, beside the host's files."""
    if bento.image is not None:
        return Image(reference=bento.image)
    return Image(reference=base.reference, host_paths=(*base.host_paths, *bento.host_paths))


def _software(settings: Settings, part: str, base: Image) -> Software:
    """A part's own image, or on a stand its program among the host's files."""
    digest = {str(key): value for key, value in settings.images.items()}.get(part)
    if digest is not None:
        return Software(image=Image(reference=digest), program=PROGRAMS[part])
    found = settings.pod_image.programs[part]
    return Software(image=base, program=found.path, libraries=found.libraries)


def _link(settings: Settings, vault: Connection, store: SecretStore) -> tuple[PrivateGateway, ...]:
    """The private end of the link, where this program configures it; empty without one."""
    gateway = settings.private_gateway
    if gateway is None or "cloud" not in settings.sites:
        return ()
    return (
        PrivateGateway(
            "private",
            PrivateGatewayArgs(
                settings=LinkSettings(
                    gateway_address=gateway.address,
                    site_asn=65000,
                    inside=gateway.inside,
                    announced=settings.sites["private"].ranges,
                    accepted=settings.sites["cloud"].ranges,
                    # both ends are ours here: the cloud's speaks BFD too
                    timers=Timers(keepalive=3, hold=9),
                    bfd=True,
                    data_path=DataPath.LIBIPSEC,
                    key_step=settings.link_key_step,
                ),
                outside=gateway.outside,
                target=Target(folder=gateway.folder, apply=gateway.apply, remove=gateway.remove),
                connection=vault,
                mount=store.mount,
                mount_path=name(PROJECT, settings.stack),
            ),
        ),
    )


def _login(site: Site) -> SiteLogin:
    """A site that gives its public key as a file is checked with it; any other is asked."""
    if site.service_account_key_file is not None:
        pem = Path(site.service_account_key_file).expanduser().read_text(encoding="utf-8")
        return SiteLogin(issuer=site.issuer, keys={"jwt_validation_pubkeys": [pem]})
    return SiteLogin(
        issuer=site.issuer,
        keys={"jwks_url": f"{site.api}/openid/v1/jwks", "jwks_ca_pem": site.ca_pem()},
    )
