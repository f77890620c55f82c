"""The commands that open and close the sale to callers without a key.

Owns that at most one tenant sells so, and that such callers have a key of that tenant's in the books: its limits narrow
what they may do, revoking it ends the sale, and receipts and usage name it. Its secret is never given out.
"""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from trustgate.admin.commands import KeyCreate
from trustgate.admin.context import AdminContext
from trustgate.admin.keys import key_create
from trustgate.admin.money import PaymentClose, PaymentOpen, TermsDetail
from trustgate.errors import Conflict, NotFound
from trustgate.ids import now_us
from trustgate.types import PaymentTerms, Tenant

_KEY_NAME = "callers without a key"


async def payment_open(context: AdminContext, command: PaymentOpen) -> TermsDetail:
    """Raises ``NotFound``, ``Conflict`` where payment is off, no network is set or another tenant sells so already."""
    tenant = context.tenant(command.tenant)
    terms = context.directory.terms(tenant.id)
    if tenant.status != "active" or terms is None or terms.mode == "off" or not terms.offers:
        raise Conflict(
            f"{tenant.name} does not take payments, so nothing can be sold at its terms.",
            hint=f"trustgate payment set {shlex.quote(tenant.name)} --network solana-devnet --pay-to ADDRESS"
            if tenant.status == "active"
            else f"The tenant is {tenant.status}.",
            code="payment_not_enabled",
        )
    seller = context.directory.keyless(now_us())
    if seller is not None and seller.tenant.id != tenant.id:
        raise Conflict(
            f"{seller.tenant.name} sells to callers without a key already; one tenant can.",
            hint=f"trustgate payment close {shlex.quote(seller.tenant.name)}",
            code="sale_open",
        )
    if seller is None:
        made = await key_create(context, KeyCreate(tenant=tenant.id, name=_KEY_NAME))
        terms = replace(terms, keyless_key_id=made.key.id)
        await context.keep(terms)
    return await _detail(context, tenant, terms)


async def payment_close(context: AdminContext, command: PaymentClose) -> TermsDetail:
    """Running requests end as they began. Raises ``NotFound`` where the tenant does not sell so."""
    tenant = context.tenant(command.tenant)
    terms = context.directory.terms(tenant.id)
    if terms is None or not terms.keyless_key_id:
        raise NotFound(
            f"{tenant.name} does not sell to callers without a key.", hint="trustgate payment terms", code="no_sale"
        )
    key = context.directory.key(terms.keyless_key_id)
    terms = replace(terms, keyless_key_id="")
    await context.keep(terms, *(() if key.revoked_us is not None else (replace(key, revoked_us=now_us()),)))
    return await _detail(context, tenant, terms)


async def _detail(context: AdminContext, tenant: Tenant, terms: PaymentTerms) -> TermsDetail:
    balance = (await context.books.balances()).balance(tenant.id)
    others = [
        key for key in context.directory.keys_of(tenant.id) if key.revoked_us is None and key.id != terms.keyless_key_id
    ]
    notes = []
    if terms.keyless_key_id and not context.settings.payment.public_url:
        notes.append(
            "What is published names the address that the gateway listens on. Set the one that others use: "
            "payment.public_url in trustgate.toml."
        )
    if terms.keyless_key_id and others:
        notes.append(
            f"{len(others)} {'key' if len(others) == 1 else 'keys'} of this tenant can spend what it owes to callers "
            "whose paid request failed. A tenant without keys of its own is better: trustgate key list "
            f"{shlex.quote(tenant.name)}"
        )
    return TermsDetail(tenant=tenant, terms=terms, balance_nano_usd=balance, notes=tuple(notes))
