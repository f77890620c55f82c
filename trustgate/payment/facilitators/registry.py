"""The facilitators by name: created when first needed, closed at the end.

Owns the names: ``embedded`` is this gateway, everything else the base URL of a remote facilitator, in whose place
``X402_FACILITATOR_URL`` stands where it is set. Nothing of the SDK, of Solana or of HTTP is imported before the first
payment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from trustgate.errors import InvalidRequest, SettingsError, TrustGateError
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.auth import FacilitatorAuth, is_cdp
from trustgate.payment.interfaces import Facilitator
from trustgate.settings import Settings
from trustgate.types import Offer

if TYPE_CHECKING:
    from trustgate.payment.facilitators.embedded import EmbeddedFacilitator

_logger = logging.getLogger("trustgate.payment")

EMBEDDED: Final = "embedded"


class Facilitators:
    """To be closed, before its nodes are."""

    def __init__(self, settings: Settings, nodes: Nodes) -> None:
        """Raises ``SettingsError`` for an override that is not a facilitator's URL, and for unknown forms of auth."""
        self._settings = settings
        self._nodes = nodes
        self._made: dict[str, Facilitator] = {}
        self._embedded: EmbeddedFacilitator | None = None
        self._auth = FacilitatorAuth(settings.payment.facilitator_auth, settings.home)
        self._override = settings.facilitator_override()
        if self._override is not None:
            from trustgate.payment.facilitators.remote import check_facilitator_url

            try:
                check_facilitator_url(self._override)
            except InvalidRequest as error:
                raise SettingsError(f"X402_FACILITATOR_URL: {error.message}", hint=error.hint) from None

    def embedded(self) -> EmbeddedFacilitator:
        """Returns this gateway's own."""
        if self._embedded is None:
            from trustgate.payment.facilitators.embedded import EmbeddedFacilitator

            self._embedded = EmbeddedFacilitator(self._settings, self._nodes)
            self._made[EMBEDDED] = self._embedded
        return self._embedded

    async def get(self, name: str) -> Facilitator:
        """Returns the facilitator of an offer: ``embedded`` or a base URL."""
        if name == EMBEDDED:
            return self.embedded()
        url = self._override or name
        found = self._made.get(url)
        if found is None:
            from trustgate.payment.facilitators.remote import RemoteFacilitator

            payment = self._settings.payment
            found = self._made[url] = RemoteFacilitator(
                url,
                verify_timeout_s=payment.verify_timeout_s,
                settle_timeout_s=payment.settle_timeout_s,
                auth=self._auth.find(url),
            )
        return found

    def extension_responses(self, name: str) -> dict[str, str]:
        """Returns what an offer's facilitator last said of x402 extensions, by the extension's name."""
        found = self._made.get(name if name == EMBEDDED else self._override or name)
        return dict(getattr(found, "extension_responses", {}))

    def check_key(self, name: str) -> None:
        """Raises ``InvalidRequest`` for Coinbase's facilitator where there is no key for it.

        It lists what it supports without one, and would refuse the first payment.
        """
        url = name if name == EMBEDDED else self._override or name
        if url != EMBEDDED and is_cdp(url) and self._auth.find(url) is None:
            raise InvalidRequest(
                "Coinbase's facilitator takes payments only with a key.",
                param="facilitator",
                code="facilitator_key_missing",
                hint="Make one at Coinbase's portal and export CDP_API_KEY_ID and CDP_API_KEY_SECRET for the server "
                "and for this command, or name a file: payment.facilitator_auth.",
            )

    async def prepare(self, offers: Iterable[Offer]) -> None:
        """Do ahead what the first payment by one of these would wait for. May be called again.

        Raises nothing: what is amiss is logged, and reported again at the next payment.
        """
        offers = tuple(offers)
        await self._nodes.prepare({offer.network for offer in offers})
        if any(offer.facilitator == EMBEDDED for offer in offers):
            try:
                await self.embedded().prepare()
            except TrustGateError as error:
                _logger.warning("payments cannot be settled here: %s %s", error.message, error.hint or "")

    async def close(self) -> None:
        made, self._made, self._embedded = self._made, {}, None
        for facilitator in made.values():
            await facilitator.close()
