"""The account of one tenant in one month: every sum of a statement, and how it follows from the receipts.

Owns what is summed up, by what, and in which order the groups stand. Makers and checkers of a statement add up with the
same code, and examples/verify does it again in JavaScript. Which receipts count: those that were created in the month
(UTC), whatever their place in the log. Money is nano-USD; a balance is what was credited less what was charged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from trustgate.errors import Conflict
from trustgate.formats.written import INTEGER_MOST
from trustgate.receipts.receipt import balance_change, billed_of
from trustgate.statements.months import Month
from trustgate.types import COUNTED, FACTOR_ONE_PPM, Receipt

#: Counters of a receipt that are summed up over the requests that count (types.COUNTED).
COUNTERS = (
    *("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens"),
    *("images", "audio_ms", "characters", "searches"),
)


class AccountTotals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sums over requests. ``requests`` were answered (types.COUNTED); ``refused`` and ``failed`` cost nothing."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    #: How many of the requests were metered by an estimate, and how many had a model without a price.
    estimated: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    searches: int = 0
    #: What the models cost, what the tenant's plan makes of it, and what was taken from the balance for it.
    cost_nano_usd: int = 0
    billed_nano_usd: int = 0
    charged_nano_usd: int = 0


class AccountGroup(AccountTotals, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sums over one model as asked for, or over one key (its id)."""

    name: str


class PriceLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The requests of one model at one price and one factor of the plan, and when the first and the last came."""

    model: str
    price_hash: str
    price_factor_ppm: int
    first_us: int
    last_us: int
    requests: int
    cost_nano_usd: int
    billed_nano_usd: int


class MoneyLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came onto the balance, or was taken from it by other than a request.

    ``payment``: by x402. ``credit``: added by the operator, or by what is given back. ``refund``: paid back.
    """

    kind: Literal["payment", "credit", "refund"]
    receipt: str
    at_us: int
    credited_nano_usd: int
    charged_nano_usd: int
    payment: str
    network: str
    transaction: str
    asset: str
    amount: str
    payer: str


class StatementAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a statement claims. Times are microseconds UTC: ``from_us`` <= a receipt's time < ``until_us``."""

    tenant: str
    month: str
    from_us: int
    until_us: int
    issued_us: int
    #: How many receipts the month has, and the tenant's numbers (``tseq``) of the first and the last; 0 without any.
    receipts: int
    first: int
    last: int
    opening_nano_usd: int
    credited_nano_usd: int
    charged_nano_usd: int
    closing_nano_usd: int
    total: AccountTotals
    by_model: tuple[AccountGroup, ...]
    by_key: tuple[AccountGroup, ...]
    by_price: tuple[PriceLine, ...]
    money: tuple[MoneyLine, ...]

    @property
    def is_final(self) -> bool:
        """Whether the month was over when the statement was issued."""
        return self.issued_us >= self.until_us

    @property
    def has_balance(self) -> bool:
        """Whether money came onto a balance or left it, in the month or before."""
        return bool(self.opening_nano_usd or self.credited_nano_usd or self.charged_nano_usd)


class Adding:
    """Adds up a tenant's receipts. Those of other months are left out."""

    def __init__(self, tenant_id: str, month: Month) -> None:
        self._tenant_id = tenant_id
        self._month = month
        self._from_us, self._until_us = month.from_us, month.until_us
        self._total = _Sums()
        self._by_model: dict[str, _Sums] = {}
        self._by_key: dict[str, _Sums] = {}
        self._by_price: dict[tuple[str, str, int], list[int]] = {}
        self._money: list[MoneyLine] = []
        self._receipts = self._first = self._last = self._credited = self._charged = 0

    def counts(self, receipt: Receipt) -> bool:
        """Returns whether the receipt is one of the month."""
        return self._from_us <= receipt.created_us < self._until_us

    def add(self, receipt: Receipt) -> None:
        if not self.counts(receipt):
            return
        self._receipts += 1
        self._first = min(self._first, receipt.tseq) if self._first else receipt.tseq
        self._last = max(self._last, receipt.tseq)
        charged, credited = balance_change(receipt)
        self._charged += charged
        self._credited += credited
        is_credit = receipt.finish == "credited"
        if credited or is_credit:
            self._money.append(_money_line(receipt, credited, charged if is_credit else 0))
        if is_credit:
            return
        for sums in (
            self._total,
            self._by_model.setdefault(receipt.model, _Sums()),
            self._by_key.setdefault(receipt.key, _Sums()),
        ):
            sums.add(receipt, charged)
        if receipt.finish in COUNTED:
            self._add_price(receipt)

    def _add_price(self, receipt: Receipt) -> None:
        line = self._by_price.setdefault(
            (receipt.model, receipt.price_hash, factor_ppm(receipt)), [receipt.created_us, receipt.created_us, 0, 0, 0]
        )
        line[0] = min(line[0], receipt.created_us)
        line[1] = max(line[1], receipt.created_us)
        line[2] += 1
        line[3] += receipt.cost_nano_usd
        line[4] += billed_of(receipt)

    def account(self, *, opening_nano_usd: int, issued_us: int) -> StatementAccount:
        """Returns the sums. Raises ``Conflict`` where one is larger than a statement can hold (nine million USD)."""
        account = StatementAccount(
            tenant=self._tenant_id,
            month=str(self._month),
            from_us=self._from_us,
            until_us=self._until_us,
            issued_us=issued_us,
            receipts=self._receipts,
            first=self._first,
            last=self._last,
            opening_nano_usd=opening_nano_usd,
            credited_nano_usd=self._credited,
            charged_nano_usd=self._charged,
            closing_nano_usd=opening_nano_usd + self._credited - self._charged,
            total=self._total.totals(),
            by_model=_groups(self._by_model),
            by_key=_groups(self._by_key),
            by_price=tuple(
                PriceLine(
                    model=model,
                    price_hash=price_hash,
                    price_factor_ppm=factor,
                    first_us=first_us,
                    last_us=last_us,
                    requests=requests,
                    cost_nano_usd=cost,
                    billed_nano_usd=billed,
                )
                for (model, price_hash, factor), (first_us, last_us, requests, cost, billed) in sorted(
                    self._by_price.items(), key=lambda item: (utf16(item[0][0]), item[1][0], item[0][1:])
                )
            ),
            money=tuple(sorted(self._money, key=lambda line: (line.at_us, utf16(line.receipt)))),
        )
        if any(abs(number) > INTEGER_MOST for number in _numbers(msgspec.to_builtins(account))):
            raise Conflict(
                "A sum of the month is larger than a statement can hold exactly.", code="statement_too_large"
            )
        return account


class _Sums:
    """Sums that grow."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(AccountTotals.__struct_fields__, 0)

    def add(self, receipt: Receipt, charged: int) -> None:
        values = self._values
        values["charged_nano_usd"] += charged
        if receipt.finish not in COUNTED:
            values["refused" if receipt.finish == "refused" else "failed"] += 1
            return
        values["requests"] += 1
        values["estimated"] += receipt.usage_source == "estimate"
        values["unpriced"] += receipt.price_known is False
        for name in COUNTERS:
            value = getattr(receipt, name)
            if value is not UNSET:
                values[name] += value
        values["cost_nano_usd"] += receipt.cost_nano_usd
        values["billed_nano_usd"] += billed_of(receipt)

    def totals(self) -> AccountTotals:
        return AccountTotals(**self._values)

    def group(self, name: str) -> AccountGroup:
        return AccountGroup(name=name, **self._values)


def factor_ppm(receipt: Receipt) -> int:
    """Returns the factor of the tenant's plan, millionths; versions before 3 had none."""
    factor = receipt.price_factor_ppm
    return factor if isinstance(factor, int) else FACTOR_ONE_PPM


def utf16(text: str) -> bytes:
    """Returns what text is sorted by: its UTF-16 code units, as JavaScript and RFC 8785 sort."""
    return text.encode("utf-16-be", "surrogatepass")


def _groups(sums: dict[str, _Sums]) -> tuple[AccountGroup, ...]:
    """Returns the dearest first, then by name."""
    groups = [each.group(name) for name, each in sums.items()]
    return tuple(sorted(groups, key=lambda group: (-group.billed_nano_usd, utf16(group.name))))


def _money_line(receipt: Receipt, credited: int, charged: int) -> MoneyLine:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else ""

    return MoneyLine(
        kind="payment" if receipt.payment else "refund" if charged and not credited else "credit",
        receipt=receipt.id,
        at_us=receipt.created_us,
        credited_nano_usd=credited,
        charged_nano_usd=charged,
        payment=text(receipt.payment),
        network=text(receipt.payment_network),
        transaction=text(receipt.payment_transaction),
        asset=text(receipt.payment_asset),
        amount=text(receipt.payment_amount),
        payer=text(receipt.payment_payer),
    )


def _numbers(value: Any) -> Iterable[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _numbers(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _numbers(member)
