"""The parts of the payment room, for the server and for commands that work offline.

Owns the order of its start: balances from the receipts, then what a dead process left in the ledger, then requests.
"""

from __future__ import annotations

import asyncio
from typing import Self

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


class PaymentService:
    """Made by ``open``; to be closed before the log and the store."""

    def __init__(self, settings: Settings, store: Store, log: Log, balances: Balances, public_url: str) -> None:
        ledger = Ledger(store)
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
            answers=Answers(settings.kept_answers_folder, most_bytes=settings.payment.kept_answers_bytes),
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
        )

    @classmethod
    async def open(
        cls, settings: Settings, store: Store, log: Log, *, public_url: str = "", balances: Balances | None = None
    ) -> Self:
        """Returns the service, once the log is recovered: the store has every receipt. Raises as the store does.

        ``balances``: where several processes count them; None: as the receipts say.
        """
        payment_service = cls(
            settings,
            store,
            log,
            Balances(await store.balances()) if balances is None else balances,
            settings.payment.public_url or public_url,
        )
        payment_service.cashier.undecided(await payment_service.reconciler.recover())
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
