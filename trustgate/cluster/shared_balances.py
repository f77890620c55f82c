"""Balances that several processes draw on: what ``payment.balance`` is to one process alone.

A hold is a row's, taken in the books; what is charged and credited goes with a receipt, when that is closed. So what
changes a balance here is only noted, until the receipt that it goes with takes it along. Figures that are read are
those of the last ``refresh``.
"""

from __future__ import annotations

from trustgate.cluster.books import Books
from trustgate.cluster.holds import SharedMoney, UnheldMoney
from trustgate.payment.balance import BalanceHold, Balances


class SharedBalanceHold(BalanceHold):
    """A hold of money that its receipt settles."""

    __slots__ = ("_books", "_is_open", "money")

    def __init__(self, books: Books, money: SharedMoney | UnheldMoney) -> None:
        """``money``: what the receipt is to settle."""
        self._books = books
        self.money = money
        self._is_open = True

    @property
    def amount(self) -> int:
        """What is held, nano-USD; 0 once it is settled, or given to a receipt."""
        if not self._is_open:
            return 0
        return self.money.hold.amount if isinstance(self.money, SharedMoney) else self.money.amount or 0

    def settle(self, used_nano_usd: int) -> int:
        """Give the hold back: nothing is charged without a receipt, which ``charge`` prepares."""
        if self._is_open:
            self._is_open = False
            if isinstance(self.money, SharedMoney):
                _ = self._books.close(money=self.money)
        return 0

    def charge(self, used_nano_usd: int) -> int:
        """The request's receipt takes what was used, when it is closed. Returns what it is to take at most."""
        if not self._is_open:
            return 0
        self._is_open = False
        return used_nano_usd


class SharedBalances(Balances):
    """See ``payment.balance.Balances``."""

    def __init__(self, books: Books, counted: Balances) -> None:
        """``counted``: the books' own, into which rows are taken."""
        super().__init__()
        self._books = books
        self._counted = counted

    async def reserve(self, tenant_id: str, amount: int) -> BalanceHold | None:
        """Hold an amount. Raises ``Unavailable`` while the database is away."""
        money = await self._books.hold_money(tenant_id, amount)
        return None if money is None else SharedBalanceHold(self._books, money)

    def hold_at_least(self, tenant_id: str, amount: int) -> BalanceHold:
        """The request has been paid for: what it paid is credited with its receipt, and covers this."""
        return SharedBalanceHold(self._books, UnheldMoney(tenant_id, amount))

    def charge_unheld(self, tenant_id: str, nano_usd: int) -> BalanceHold | None:
        hold = SharedBalanceHold(self._books, UnheldMoney(tenant_id, None))
        hold.charge(nano_usd)
        return hold

    def change(self, tenant_id: str, nano_usd: int) -> None:
        """Nothing: the receipt of it changes the balance."""

    def settled(self, tenant_id: str, nano_usd: int) -> None:
        """Nothing: what was paid can be drawn on once its receipt is closed."""

    def recorded(self, tenant_id: str, nano_usd: int) -> None:
        """Nothing."""

    async def refresh(self, tenant_id: str | None = None) -> None:
        await self._books.refresh_balances(tenant_id)

    def balance(self, tenant_id: str) -> int:
        return self._counted.balance(tenant_id)

    def held(self, tenant_id: str) -> int:
        return self._counted.held(tenant_id)

    def on_record(self) -> dict[str, int]:
        return self._counted.on_record()

    def tenants(self) -> dict[str, int]:
        return self._counted.tenants()
