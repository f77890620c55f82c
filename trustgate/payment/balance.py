"""Balances: what each paying tenant has left, and what of it is held for requests that run.

Owns the two figures, in memory, nano-USD. At start a balance is what the tenant's receipts say was credited less what
they say was charged; from then on every change here goes with a receipt. A hold takes a request's worst case out of
reach of others, so that concurrent requests cannot spend the same money; settling a hold takes what was really used,
which may pass the hold (and then the balance falls below zero) by no more than one request's use beyond its worst case.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustgate.store import Balance


class BalanceState(msgspec.Struct, array_like=True):
    """A tenant's figures, nano-USD, to be kept where several processes count them."""

    balance: int = 0
    held: int = 0
    unrecorded: int = 0


class _Figures:
    __slots__ = ("balance", "held", "unrecorded")

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance
        self.held = 0
        #: The part of the balance that no receipt records yet.
        self.unrecorded = 0


class BalanceHold:
    """A reservation on a tenant's balance. Settled once; settling again does nothing."""

    __slots__ = ("_amount", "_figures")

    def __init__(self, figures: _Figures, amount: int) -> None:
        self._figures: _Figures | None = figures
        self._amount = amount
        figures.held += amount

    @property
    def amount(self) -> int:
        """What is held, nano-USD; 0 once it is settled."""
        return 0 if self._figures is None else self._amount

    def settle(self, used_nano_usd: int) -> int:
        """Take what was used; what was held beyond it is free again.

        What was used beyond the hold is taken only while nothing is lacking for all that is held: of requests that run
        at once, and that all use more than their worst case, one can bring the balance below zero, the others cannot
        bring it further. Returns what was taken; 0 where the hold was settled before.
        """
        figures, self._figures = self._figures, None
        if figures is None:
            return 0
        taken = used_nano_usd if figures.balance >= figures.held else min(used_nano_usd, self._amount)
        figures.held -= self._amount
        figures.balance -= taken
        return taken

    def charge(self, used_nano_usd: int) -> int:
        """Settle the hold with the receipt that is being written. Returns what was taken."""
        return self.settle(used_nano_usd)


class Balances:
    """The balances of all tenants, as one process counts them."""

    def __init__(self, balances: Iterable[Balance] = ()) -> None:
        self._figures = {
            balance.tenant_id: _Figures(balance.credited_nano_usd - balance.charged_nano_usd) for balance in balances
        }

    def balance(self, tenant_id: str) -> int:
        """Returns what was credited and not charged; what is held is part of it."""
        figures = self._figures.get(tenant_id)
        return 0 if figures is None else figures.balance

    def held(self, tenant_id: str) -> int:
        figures = self._figures.get(tenant_id)
        return 0 if figures is None else figures.held

    def hold(self, tenant_id: str, amount: int) -> BalanceHold | None:
        """Reserve ``amount``; None, and no change, where less is free."""
        figures = self._of(tenant_id)
        return BalanceHold(figures, amount) if figures.balance - figures.held >= amount else None

    def hold_at_least(self, tenant_id: str, amount: int) -> BalanceHold:
        """Reserve ``amount`` whatever is free: for a request that has been paid for."""
        return BalanceHold(self._of(tenant_id), amount)

    async def reserve(self, tenant_id: str, amount: int) -> BalanceHold | None:
        """``hold``, wherever balances are counted. Raises ``Unavailable`` where that cannot be reached."""
        return self.hold(tenant_id, amount)

    def let_go(self, tenant_id: str, amount: int) -> None:
        """Give back what is held of a balance, by whichever process, nano-USD."""
        self._of(tenant_id).held -= amount

    def charge_unheld(self, tenant_id: str, nano_usd: int) -> BalanceHold | None:
        """Take what a request used of which nothing was held, with the receipt that is being written.

        Returns:
            What that receipt is to settle; None: it is done.
        """
        self.change(tenant_id, -nano_usd)
        return None

    async def refresh(self, tenant_id: str | None = None) -> None:
        """Read what other processes have counted, of one tenant or (None) of all. Raises as ``reserve``."""

    def change(self, tenant_id: str, nano_usd: int) -> None:
        """Add what a payment or the operator credits; below zero: take."""
        self._of(tenant_id).balance += nano_usd

    def settled(self, tenant_id: str, nano_usd: int) -> None:
        """Add what a payment brought whose receipt is yet to be written; ``recorded`` is to follow."""
        figures = self._of(tenant_id)
        figures.balance += nano_usd
        figures.unrecorded += nano_usd

    def recorded(self, tenant_id: str, nano_usd: int) -> None:
        """The receipt of what ``settled`` added is being written."""
        self._of(tenant_id).unrecorded -= nano_usd

    def on_record(self) -> dict[str, int]:
        """Returns what the receipts written up to this moment say is the balance of every tenant that ever had one."""
        return {tenant_id: figures.balance - figures.unrecorded for tenant_id, figures in self._figures.items()}

    def tenants(self) -> dict[str, int]:
        """Returns the balance of every tenant that ever had one."""
        return {tenant_id: figures.balance for tenant_id, figures in self._figures.items()}

    def take_in(self, tenant_id: str, state: BalanceState) -> None:
        """Put what others counted in place of what is counted here."""
        figures = self._of(tenant_id)
        figures.balance, figures.held, figures.unrecorded = state.balance, state.held, state.unrecorded

    def state(self, tenant_id: str) -> BalanceState:
        """Returns a tenant's figures of now."""
        figures = self._of(tenant_id)
        return BalanceState(figures.balance, figures.held, figures.unrecorded)

    def _of(self, tenant_id: str) -> _Figures:
        return self._figures.setdefault(tenant_id, _Figures())
