"""The parts of the payment room, for the server and for commands that work offline.

Owns the order of its start: balances from the receipts, then what a dead process left in the ledger, then requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self

from trustgate.payment.balance import Balances
from trustgate.payment.cashier import Cashier
from trustgate.payment.chains.lookup import Chains
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.registry import Facilitators
from trustgate.payment.interfaces import Settlement
from trustgate.payment.ledger import Ledger
from trustgate.payment.paid_answers import Answers
from trustgate.payment.reconciler import Reconciler
from trustgate.receipts.log import Log
from trustgate.settings import Settings
from trustgate.store import Store
from trustgate.types import Payment


class OtherPayments(Protocol):
    """What several processes that take payments have together."""

    balances: Balances
    answers: Answers

    def node_id(self) -> str:
        """Returns this process's id among them. Raises ``Unavailable`` where it has none at the moment."""
        ...

    async def are_free(self, payments: Sequence[Payment]) -> list[Payment]:
        """Returns those of the payments that no other process's request has. Raises ``Unavailable``."""
        ...


class PaymentService:
    """Made by ``open``; to be closed before the log and the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: Log,
        balances: Balances,
        public_url: str,
        others: OtherPayments | None = None,
    ) -> None:
        ledger = Ledger(store) if others is None else Ledger(store, others.node_id)
        answers = (
            Answers(settings.kept_answers_folder, most_bytes=settings.payment.kept_answers_bytes)
            if others is None
            else others.answers
        )
        self.log = log
        self.balances = balances
        #: Set where a payment was refused for what its offer said: what was looked up may have changed.
        self.doubt = asyncio.Event()
        self.nodes = Nodes(settings)
        self.facilitators = Facilitators(settings, self.nodes)
        self.chains = Chains(self.nodes)
        self.cashier = Cashier(
            ledger,
            balances,
            log,
            self.facilitators,
            public_url=public_url,
            on_doubt=self.doubt.set,
            answers=answers,
            settle_within_s=settings.payment.settle_within_s,
            unsettled_per_payer=settings.payment.unsettled_per_payer,
            contact=settings.payment.contact,
        )
        self.reconciler = Reconciler(
            store,
            ledger,
            log,
            balances,
            self.chains,
            is_active=self.cashier.is_active,
            on_decided=self.cashier.decided,
            settle_again=self._settle_again,
            on_round=self.cashier.answers.sweep,
            are_free=None if others is None else others.are_free,
        )

    @classmethod
    async def open(
        cls, settings: Settings, store: Store, log: Log, *, public_url: str = "", others: OtherPayments | None = None
    ) -> Self:
        """Returns the service, once the log is recovered: the store has every receipt. Raises as the store does.

        ``others``: what several processes have together; None: this process is alone, and what was reserved was left by
        one that has ended.
        """
        balances = Balances(await store.balances()) if others is None else others.balances
        payment_service = cls(settings, store, log, balances, settings.payment.public_url or public_url, others)
        reconciler = payment_service.reconciler
        # Among several it is a role to settle what others have left, while they run.
        left = await (reconciler.recover() if others is None else reconciler.unknown())
        payment_service.cashier.undecided(left)
        return payment_service

    async def _settle_again(self, payment: Payment) -> Settlement:
        """Raises what finding the facilitator raises. The gateway's own sends nothing twice."""
        facilitator = await self.facilitators.get(payment.offer.facilitator)
        return await facilitator.settle(payment, _unheard)

    async def close(self) -> None:
        await self.reconciler.close()
        await self.cashier.close()
        await self.facilitators.close()
        await self.chains.close()
        await self.nodes.close()


async def _unheard(_: str) -> None:
    """A payment that is settled again has its transaction on record, where the gateway made it."""
