"""What a server answers over HTTP: the public application, the admin socket's, and refusals at the door."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from trustgate.admin.commands import Admin
from trustgate.admin.money import TenantCredit
from trustgate.admin.routes import admin_routes
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.app import Views, make_app
from trustgate.gateway.path.shedding import Shedding
from trustgate.gateway.views.account import Reads
from trustgate.gateway.views.credit_webhooks import CreditWebhooks
from trustgate.gateway.views.health import Health
from trustgate.gateway.views.keys import TenantKeys
from trustgate.gateway.views.log import Transparency
from trustgate.gateway.views.page import Page
from trustgate.gateway.views.payments import Payments
from trustgate.gateway.views.statements import TenantStatements
from trustgate.gateway.views.storefront import Storefront
from trustgate.server.own_keys import OwnKeys
from trustgate.server.pages import account_routes, asset_routes
from trustgate.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from trustgate.server.parts import Server


def public_app(server: Server, settings: Settings) -> ASGIApp:
    """Returns the application of the public listener: the request path, what is read, pages, remote management."""
    reads = Reads(
        directory=server.directory,
        catalog=server.catalog,
        targets=server.targets,
        quota=server.quota,
        budgets=server.budgets,
        log=server.accounting.log,
        store=server.store,
        archive=server.archive,
    )
    reads.on_refusal = server.events.on_unserved
    reads.check_serving = server.accounting.check_serving
    if server.online.shared is not None:
        reads.refresh_counts = server.online.shared.refresh_counts
    url = (settings.payment.public_url or server.address).rstrip("/")
    storefront = Storefront(server.directory, server.catalog, server.targets, url)
    server.payment_step.quote_example = storefront.quote_example
    key = settings.admin_key()
    extra = [
        *(admin_routes(server.admin, key=key) if key is not None else ()),
        *asset_routes(),
        *server.console.routes(),
        *account_routes(lambda: server.settings.serve.account, server.directory, server.payments.nodes.solana),
    ]
    views = Views(
        reads=reads,
        credits=server.credits,
        payments=Payments(server.store),
        statements=TenantStatements(
            server.directory, server.catalog, server.accounting.log, server.store, server.archive
        ),
        keys=TenantKeys(server.directory, OwnKeys(server.admin), lambda: server.settings.serve),
        health=Health(server.gateway_status.check, server.gateway_status.notes, lambda: server.running.leaving),
        log=Transparency(server.archive),
        metrics=server.metrics,
        page=Page(server.gateway_status.page, lambda: server.settings.serve.page),
        storefront=storefront,
        webhooks=CreditWebhooks(partial(_add_credit, server.admin), partial(_credit_secrets, server), server.notices),
    )
    return make_app(server.pipeline, views, extra, settings.serve.cors_origins)


def admin_app(server: Server) -> ASGIApp:
    """Returns the application of the socket beside the database: operators' commands, without a key."""
    return Starlette(routes=admin_routes(server.admin, key=None))


def shedding(server: Server, settings: Settings) -> Shedding:
    """Returns what answers at the door under overload."""
    return Shedding(
        ENDPOINTS,
        server.directory,
        server.running,
        server.events.on_end,
        count=server.events.count_shed,
        trusts_id=lambda: server.settings.serve.trust_request_id,
        has_cors=bool(settings.serve.cors_origins),
    )


def _credit_secrets(server: Server) -> dict[str, tuple[str, ...]]:
    """Returns the secrets of the settings that hold now."""
    return server.settings.credit_secrets()


async def _add_credit(admin: Admin, tenant: str, nano_usd: int, reference: str) -> tuple[str, bool]:
    """Returns the receipt of the credit, and whether it had been added before. Raises as ``tenant credit``."""
    change = await admin.execute(TenantCredit(tenant=tenant, add_nano_usd=nano_usd, reference=reference))
    return change.receipt, change.repeated
