"""The verbs of the control plane that deal with money: terms, payments, balances, and the audit of the books."""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.admin.commands import Command, Feed
from trustgate.admin.log_commands import AnchorKey, ReceiptDetail
from trustgate.payment.interfaces import OfferFact
from trustgate.statements.making import StatementMade
from trustgate.types import Payment, PaymentFlow, PaymentState, PaymentTerms, Prices, Tenant

# payments


class OfferWanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One way to pay as an operator gives it: names of network and asset, or their ids. Checked before it is kept."""

    network: str
    pay_to: str
    asset: str = "usdc"
    #: ``embedded``, the base URL of a remote one; None: what suits the network (admin.payment_terms).
    facilitator: str | None = None
    #: Of a token that is not well known, where the chain cannot be asked for them.
    decimals: int | None = None
    asset_name: str = ""
    asset_version: str = ""
    #: Keep it although the facilitator cannot be reached; on EVM networks alone.
    unchecked: bool = False


class TermsDetail(msgspec.Struct, frozen=True, kw_only=True):
    """How a tenant pays, and what it has left. ``notes``: what its operator should know of it."""

    tenant: Tenant
    terms: PaymentTerms
    balance_nano_usd: int
    notes: tuple[str, ...] = ()


class PaymentSet(Command[TermsDetail], frozen=True, kw_only=True, tag="payment.set"):
    """Switch payment on for a tenant, or change how it pays. What is not given stays; of the offers, those of other
    networks.
    """

    tenant: str
    mode: Literal["per-request", "prepaid"] | None = None
    #: What every request costs. ``by_passport``: what passports say, instead.
    price_nano_usd: int | None = None
    by_passport: bool = False
    top_up_nano_usd: int | None = None
    offers: tuple[OfferWanted, ...] = ()
    flow: PaymentFlow | None = None
    #: How the tenant gets more credit, for people.
    contact: str | None = None
    result = TermsDetail


class PaymentOff(Command[TermsDetail], frozen=True, kw_only=True, tag="payment.off"):
    """Let a tenant owe nothing; or, with a network, no longer pay there."""

    tenant: str
    network: str | None = None
    result = TermsDetail


class PaymentOpen(Command[TermsDetail], frozen=True, kw_only=True, tag="payment.open"):
    """Sell to callers without a key, at a tenant's terms and within its plan."""

    tenant: str
    result = TermsDetail


class PaymentClose(Command[TermsDetail], frozen=True, kw_only=True, tag="payment.close"):
    """End the sale without a key."""

    tenant: str
    result = TermsDetail


class PaymentLookAgain(Command[tuple[OfferFact, ...]], frozen=True, kw_only=True, tag="payment.look_again"):
    """What the facilitators of all offers say now. Changes nothing: ``PaymentFollow`` does."""

    result = tuple[OfferFact, ...]


class PaymentFollow(Command[tuple[str, ...]], frozen=True, kw_only=True, tag="payment.follow"):
    """Change offers to what their facilitator reports now. Returns the names of the tenants whose offers changed."""

    fact: OfferFact
    result = tuple[str, ...]


class PaymentTermsList(Command[tuple[TermsDetail, ...]], frozen=True, kw_only=True, tag="payment.terms"):
    """Of one tenant, or of all that ever had terms."""

    tenant: str | None = None
    result = tuple[TermsDetail, ...]


class PaymentList(Command[tuple[Payment, ...]], frozen=True, kw_only=True, tag="payment.list"):
    """Without what was signed; newest first."""

    tenant: str | None = None
    states: tuple[PaymentState, ...] = ()
    before_id: str | None = None
    limit: int = 50
    result = tuple[Payment, ...]


class PaymentDetail(msgspec.Struct, frozen=True, kw_only=True):
    payment: Payment
    #: The receipt that records it; None while there is none.
    receipt: ReceiptDetail | None = None


class PaymentShow(Command[PaymentDetail], frozen=True, kw_only=True, tag="payment.show"):
    payment: str
    result = PaymentDetail


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """A payment that was open: how it stood before, and how it stands now.

    ``released``: it had only been claimed, and no facilitator was asked to settle it. ``problem``: why nothing could be
    learnt.
    """

    before: PaymentState
    payment: Payment
    released: bool = False
    problem: str = ""


class ReconcileState(msgspec.Struct, frozen=True, kw_only=True):
    """A look at the open payments at work, or at its end: ``payments`` is there then."""

    stage: str
    payments: tuple[Reconciled, ...] | None = None


class PaymentReconcile(Command[ReconcileState], frozen=True, kw_only=True, tag="payment.reconcile"):
    """Look at what is open, or how far that is: as ``AnchorFlush`` does, with ``reconcile`` an id of the caller's."""

    reconcile: str
    result = ReconcileState


class PaymentResolve(Command[PaymentDetail], frozen=True, kw_only=True, tag="payment.resolve"):
    """End a payment whose outcome no node can report: the operator has looked it up elsewhere.

    ``settled``: the transaction that carried it, and the tenant's balance is credited; None: the money did not move.
    """

    payment: str
    settled: str | None = None
    result = PaymentDetail


class BalanceChange(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's balance, and the receipt of the change ("" where nothing was changed)."""

    tenant: Tenant
    balance_nano_usd: int
    #: What requests in flight have reserved of it.
    held_nano_usd: int
    receipt: str = ""
    #: The reference had been used for the same before: nothing was added now.
    repeated: bool = False


class TenantCredit(Command[BalanceChange], frozen=True, kw_only=True, tag="tenant.credit"):
    """Show a tenant's balance, or add to it; with a reference, once."""

    tenant: str
    add_nano_usd: int = 0
    reference: str = ""
    result = BalanceChange


class CorrectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """The requests for one model that were billed by another price: what was billed, and what it is by this one."""

    model: str
    requests: int
    billed_nano_usd: int
    now_nano_usd: int


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What a mistaken price has billed a tenant beyond the price now; below zero: it was billed less.

    Left out: the ``same`` by both prices, those ``corrected`` before, those charged ``otherwise`` than by their model's
    price, and those whose model is ``unpriced`` now.
    """

    tenant: Tenant
    rows: tuple[CorrectionRow, ...]
    credit_nano_usd: int
    same: int
    corrected: int
    otherwise: int
    unpriced: int
    #: Whether the tenant's requests draw on its balance: else the credit is to be taken off its invoice.
    draws: bool
    #: The credit, where it was booked.
    change: BalanceChange | None = None


class TenantCorrect(Command[Correction], frozen=True, kw_only=True, tag="tenant.correct"):
    """Compare what a tenant was billed with the price now, or the one given; with ``book_nano_usd`` credit that much.

    Of one receipt, or of those of a time and a model (a shell glob).
    """

    tenant: str
    receipt: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    model: str | None = None
    prices: Prices = Prices()
    #: In place of the factor of the receipts.
    price_factor_ppm: int | None = None
    reference: str = ""
    book_nano_usd: int | None = None
    result = Correction


class Payer(msgspec.Struct, frozen=True, kw_only=True):
    """What one address has paid for a tenant, in one asset."""

    payer: str
    network: str
    asset: str
    decimals: int
    #: Atomic units.
    amount: str
    value_nano_usd: int


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    change: BalanceChange
    refunded_nano_usd: int
    #: Who paid, the last to pay first.
    payers: tuple[Payer, ...]


class PaymentRefundCredit(Command[Refund], frozen=True, kw_only=True, tag="payment.refund_credit"):
    """Take from a balance what the operator pays back; all that is free of it unless an amount is given.

    With a reference, once.
    """

    tenant: str
    amount_nano_usd: int | None = None
    reference: str = ""
    result = Refund


class PaymentKeygen(Command[AnchorKey], frozen=True, kw_only=True, tag="payment.keygen"):
    """Make the key that pays fees where the gateway itself settles payments. Refuses to replace one."""

    keypair: str | None = None
    result = AnchorKey


class PaymentFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that ``doctor`` found of payments."""

    status: Literal["ok", "warn", "fail"]
    message: str
    hint: str | None = None


class PaymentCheck(Command[tuple[PaymentFinding, ...]], frozen=True, kw_only=True, tag="payment.check"):
    """Whether tenants that pay can: facilitators, fee payer, prices, payments that wait. Moves nothing."""

    result = tuple[PaymentFinding, ...]


# the audit of the books


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two books that say different things: of which record, and what."""

    record: str
    detail: str


class BooksReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit read, what it comes to, and every difference (the first thousand of them)."""

    receipts: int
    tenants: int
    payments: int
    #: Payments that have not come to their end.
    open_payments: int
    #: What payments brought, what the operator added and took; then the receipts' sums, with these in them.
    paid_nano_usd: int
    added_nano_usd: int
    refunded_nano_usd: int
    credited_nano_usd: int
    charged_nano_usd: int
    balance_nano_usd: int
    #: Without a server there are no quotas in memory.
    quotas_checked: bool
    differences: tuple[Difference, ...]
    difference_count: int


class AuditState(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    report: BooksReport | None = None


class BooksAudit(Command[AuditState], frozen=True, kw_only=True, tag="books.audit"):
    """Compare all the books with each other, or look how far that is: as ``AnchorFlush`` does."""

    audit: str
    result = AuditState


class PriceCheck(Command[tuple[PaymentFinding, ...]], frozen=True, kw_only=True, tag="price.check"):
    """Whether limits on money meet models without a price: of one plan, or of all."""

    plan: str | None = None
    result = tuple[PaymentFinding, ...]


class PriceFound(msgspec.Struct, frozen=True, kw_only=True):
    """A price: of which model, where it comes from and since when (0: not known), and the hash that receipts carry."""

    model: str
    passport: str
    prices: Prices
    source: str
    from_us: int
    price_hash: str


class PriceShow(Command[tuple[PriceFound, ...]], frozen=True, kw_only=True, tag="price.show"):
    """What a model's name costs now; or, by a receipt's ``price_hash``, which price that was: all that had it."""

    name: str
    result = tuple[PriceFound, ...]


class PriceHistory(Command[tuple[PriceFound, ...]], frozen=True, kw_only=True, tag="price.history"):
    """The prices that a passport has had of its own, the oldest first."""

    passport: str
    result = tuple[PriceFound, ...]


class PriceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose price another list changes."""

    name: str
    before: Prices
    after: Prices


class PriceUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What another price list changes. ``changed`` has the first of them; the counts are of all."""

    source: str
    as_of: str
    before: str
    models: int
    added: int
    removed: int
    changes: int
    changed: tuple[PriceChanged, ...]
    installed: bool


class PriceListUpdate(Command[PriceUpdate], frozen=True, kw_only=True, tag="price.update"):
    """Compare a price list with the one that holds, and with ``install`` take it from now on."""

    data: bytes
    install: bool = False
    result = PriceUpdate


# statements


class StatementMonths(Command[tuple[str, ...]], frozen=True, kw_only=True, tag="statement.months"):
    """The months (UTC, ``2026-10``) in which a tenant has receipts, the newest first."""

    tenant: str
    result = tuple[str, ...]


class StatementExport(Feed[StatementMade], frozen=True, kw_only=True, tag="statement.export"):
    """A tenant's statement of a month, as a document (statements.document). ``issuer``: for people."""

    tenant: str
    month: str
    issuer: str = ""
    result = StatementMade
