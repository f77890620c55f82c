"""The embedded facilitator: Solana payments that this gateway verifies, signs as the fee payer, and sends itself.

    verify  the rules of ``signing_policy``, the payer's signature, then the x402 SDK's own verification, which ends
            in a simulation by the node
    settle  verify again, sign, let the signature be recorded, and only then send; then look until the transaction is
            confirmed. A look asks for the error before it asks how settled it is: what landed with an error paid
            nothing

Owns the key and the threads that verification runs on: the SDK is synchronous, and neither it nor a slow node may hold
up the event loop. Nothing that is signed leaves before its signature is recorded, so the simulation is of an unsigned
transaction, and the payer's signature is checked here. Until then a payment has certainly failed, whatever goes wrong:
only this key can complete it, and it signs a payment that is on record, once.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trustgate.errors import ChainError, FacilitatorUnavailable, RpcUnavailable, SettingsError, TrustGateError
from trustgate.formats.solana_transaction import SIGNATURE_BYTES, Transaction, b58encode
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.signing_policy import Terms, why_not
from trustgate.payment.interfaces import Kind, OnTransaction, Settlement, VerifyResult
from trustgate.payment.networks import SOLANA, SOLANA_DEVNET, v1_name_of
from trustgate.payment.payment_key import TOKEN_PROGRAMS, inner_of, payer_of, transaction_of
from trustgate.settings import Settings
from trustgate.solana.keypair import PayerKey, load_keypair
from trustgate.types import Payment

if TYPE_CHECKING:
    from trustgate.solana.rpc import RpcClient, Simulation

_logger = logging.getLogger("trustgate.payment")

_THREADS: Final = 8
#: A call to a node takes less; a thread that waits longer waits for an event loop that is gone.
_ANSWER_S: Final = 20.0
_POLL_S: Final = 0.1
_POLL_GROWTH: Final = 1.25
_POLL_MOST_S: Final = 1.0
_RESEND_S: Final = 2.0
_SIMULATION_FAILED: Final = "transaction_simulation_failed"
#: A simulation's error where the fee payer has no money: no fault of the client's.
_NO_FEE: Final = frozenset({"InsufficientFundsForFee", "AccountNotFound"})
_ALREADY_PROCESSED: Final = "AlreadyProcessed"
#: SPL Token's error number for a balance that is too small.
_INSUFFICIENT_FUNDS: Final = 1


class SettleTiming(NamedTuple):
    """Seconds. ``poll_s`` is before the first look; each later one waits a little longer."""

    verify_s: float
    settle_s: float
    poll_s: float = _POLL_S
    resend_s: float = _RESEND_S


class EmbeddedFacilitator:
    """A ``Facilitator``. Its key is read when it is first needed."""

    def __init__(self, settings: Settings, nodes: Nodes, *, timing: SettleTiming | None = None) -> None:
        self._settings = settings
        self._nodes = nodes
        payment = settings.payment
        self._timing = timing or SettleTiming(payment.verify_timeout_s, payment.settle_timeout_s)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="facilitator")
        self._key: PayerKey | None = None

    def key(self) -> PayerKey:
        """Returns the fee payer's. Raises ``SettingsError``."""
        if self._key is None:
            path = self._settings.payment_keypair
            try:
                self._key = load_keypair(path)
            except SettingsError as error:
                raise SettingsError(
                    error.message, hint="Make one with `trustgate payment keygen`, and send SOL to it."
                ) from None
        return self._key

    async def prepare(self) -> None:
        """Do ahead what the first payment would wait for: read the key, load the SDK. Raises ``SettingsError``."""
        self.key()
        await asyncio.get_running_loop().run_in_executor(self._threads, _load_sdk)

    async def supported(self) -> tuple[Kind, ...]:
        """Raises ``SettingsError`` where there is no key."""
        extra = {"feePayer": self.key().address}
        kinds = []
        for network in (SOLANA, SOLANA_DEVNET):
            kinds.append(Kind(x402_version=2, scheme="exact", network=network, extra=extra))
            kinds.append(Kind(x402_version=1, scheme="exact", network=v1_name_of(network) or "", extra=extra))
        return tuple(kinds)

    async def balance(self, network: str) -> int:
        """Lamports of the fee payer. Raises ``SettingsError``, ``ChainError``."""
        return await (await self._nodes.solana(network)).balance(self.key().address)

    async def verify(self, payment: Payment) -> VerifyResult:
        try:
            async with asyncio.timeout(self._timing.verify_s):
                return (await self._judge(payment)).verdict
        except TimeoutError:
            raise _unavailable("the Solana node does not answer in time") from None
        except (ChainError, SettingsError) as error:
            _logger.warning("a payment cannot be verified: %s", error.message)
            raise _unavailable("it is not available at present") from None

    async def settle(self, payment: Payment, on_transaction: OnTransaction) -> Settlement:
        sent = _Sent()
        try:
            async with asyncio.timeout(self._timing.settle_s):
                return await self._settle(payment, on_transaction, sent)
        except TimeoutError:
            why = f"not confirmed within {self._timing.settle_s:g} s"
        except TrustGateError as error:
            why = error.message
        except Exception as error:
            _logger.exception("the embedded facilitator failed to settle payment %s", payment.id)
            why = f"a fault of the gateway ({type(error).__name__})"
        if not sent.transaction:
            return Settlement("failed", reason=f"{why}; nothing was sent")
        return Settlement("unknown", transaction=sent.transaction, payer=sent.payer, reason=why)

    async def close(self) -> None:
        """Threads that wait for a node end with its answer or its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # verify

    async def _judge(self, payment: Payment) -> _Judgement:
        """Raises ``ChainError``, ``SettingsError``, and ``FacilitatorUnavailable`` where the fee payer has no money."""
        key = self.key()
        loop = asyncio.get_running_loop()
        payload = inner_of(payment.payload)
        transaction, payer = transaction_of(payload), payer_of(payload)
        if transaction is None:
            reason = "invalid_exact_svm_payload_transaction_could_not_be_decoded"
            return _Judgement(VerifyResult(valid=False, reason=reason))
        reason_against = await loop.run_in_executor(self._threads, _why_not_sign, transaction, payment, key.address)
        if reason_against is not None:
            return _Judgement(VerifyResult(valid=False, reason=reason_against, payer=payer))
        rpc = await self._nodes.solana(payment.offer.network)

        def simulate(raw: bytes) -> Simulation:
            """On a thread: asks on the event loop, which has the connections."""
            asked = asyncio.run_coroutine_threadsafe(rpc.simulate(raw, replace_blockhash=False), loop)
            return asked.result(_ANSWER_S)

        signer = _Signer(key.address, simulate)
        response = await loop.run_in_executor(self._threads, _sdk_verify, signer, transaction, payment, key.address)
        if signer.trouble is not None:
            raise signer.trouble
        if isinstance(signer.err, str) and signer.err in _NO_FEE:
            _logger.warning("the facilitator's key %s cannot pay the network's fee: send SOL to it", key.address)
            raise _unavailable("it cannot pay the network's fee at present")
        if response.is_valid:
            return _Judgement(VerifyResult(valid=True, payer=payer), transaction, rpc)
        reason = response.invalid_reason or _SIMULATION_FAILED
        if reason == _SIMULATION_FAILED:
            reason = _reason_of(signer.err)
        return _Judgement(
            VerifyResult(valid=False, reason=reason, payer=payer), was_sent_before=signer.err == _ALREADY_PROCESSED
        )

    # settle

    async def _settle(self, payment: Payment, on_transaction: OnTransaction, sent: _Sent) -> Settlement:
        if payment.transaction:
            # It was signed before, and may have been sent: only the chain can tell.
            sent.transaction = payment.transaction
            return Settlement("unknown", transaction=payment.transaction, reason="it was settled before")
        judged = await self._judge(payment)
        if judged.was_sent_before:
            return Settlement("unknown", payer=judged.verdict.payer, reason="the payment is on the chain already")
        if not judged.verdict.valid:
            return Settlement("failed", payer=judged.verdict.payer, reason=judged.verdict.reason)
        assert judged.transaction is not None, "a valid payment has been read"
        assert judged.rpc is not None, "and simulated"
        raw = _signed(judged.transaction, self.key())
        signature = b58encode(raw[1 : 1 + SIGNATURE_BYTES])
        await on_transaction(signature)
        sent.transaction, sent.payer = signature, judged.verdict.payer
        return await self._send(judged.rpc, raw, sent)

    async def _send(self, rpc: RpcClient, raw: bytes, sent: _Sent) -> Settlement:
        """Send and look, for as long as there is time: every failure in between only delays."""
        loop = asyncio.get_running_loop()
        resend_at, poll_s = 0.0, self._timing.poll_s
        while True:
            if loop.time() >= resend_at:
                # It was simulated a moment ago. A second look by the node would delay it, and refuse it where the node
                # lags behind the one that was asked before.
                await _patiently(lambda: rpc.send(raw, preflight=False))
                resend_at = loop.time() + self._timing.resend_s
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * _POLL_GROWTH, _POLL_MOST_S)
            answer = await _patiently(lambda: rpc.signature_status(sent.transaction))
            status = None if answer is None else answer.status
            if status is None:
                continue
            resend_at = float("inf")
            if status.err is None and status.has_reached("confirmed"):
                return Settlement("settled", transaction=sent.transaction, payer=sent.payer)
            if status.err is not None and status.has_reached("finalized"):
                reason = f"the transaction failed: {str(status.err)[:200]}"
                return Settlement("failed", transaction=sent.transaction, payer=sent.payer, reason=reason)


class _Sent:
    """What is known of the transaction once it may be on its way."""

    transaction = ""
    payer = ""


class _Judgement(NamedTuple):
    verdict: VerifyResult
    #: Of a valid payment.
    transaction: Transaction | None = None
    rpc: RpcClient | None = None
    was_sent_before: bool = False


class _Signer:
    """What the SDK's verification asks of a signer (its ``FacilitatorSvmSigner``), for one payment. Signs nothing."""

    def __init__(self, address: str, simulate: Callable[[bytes], Simulation]) -> None:
        self._address = address
        self._simulate = simulate
        #: Why the node could not be asked, and what it said of the transaction.
        self.trouble: ChainError | None = None
        self.err: Any = None

    def get_addresses(self) -> list[str]:
        return [self._address]

    def sign_transaction(self, tx_base64: str, fee_payer: str, network: str) -> str:
        """As it is: a simulation needs no signature, and a signed transaction could be sent by any observer."""
        del fee_payer, network
        return tx_base64

    def simulate_transaction(self, tx_base64: str, network: str) -> None:
        """Raises RuntimeError, which the SDK takes for a refusal."""
        del network
        try:
            simulation = self._simulate(base64.b64decode(tx_base64))
        except ChainError as error:
            self.trouble = error
            raise RuntimeError("the node cannot be asked") from None
        except (TimeoutError, CancelledError):
            self.trouble = RpcUnavailable("The event loop ended before the node had answered.")
            raise RuntimeError("the node was not asked") from None
        self.err = simulation.err
        if simulation.err is not None:
            raise RuntimeError("it would fail")

    def send_transaction(self, tx_base64: str, network: str) -> str:
        raise NotImplementedError("the gateway sends by itself")

    def confirm_transaction(self, signature: str, network: str) -> None:
        raise NotImplementedError("the gateway looks by itself")


def _why_not_sign(transaction: Transaction, payment: Payment, fee_payer: str) -> str | None:
    """Returns the policy, and the payer's signature. Takes a tenth of a millisecond or two."""
    from solders.pubkey import Pubkey
    from solders.signature import Signature

    from trustgate.formats.spl_token import associated_account

    offer = payment.offer
    terms = Terms(
        fee_payer=fee_payer,
        mint=offer.asset,
        decimals=offer.decimals,
        destinations={program: associated_account(offer.pay_to, offer.asset, program) for program in TOKEN_PROGRAMS},
        amount=int(payment.amount),
    )
    reason = why_not(transaction, terms)
    if reason is not None:
        return reason
    key, signature = transaction.keys[1], transaction.signatures[1]
    if not Signature.from_bytes(signature).verify(Pubkey.from_bytes(key), transaction.message):
        return "invalid_exact_svm_payload_signature"
    return None


def _load_sdk() -> None:
    import x402.mechanisms.svm.exact.facilitator  # noqa: F401 - for the half second that it takes


def _sdk_verify(signer: _Signer, transaction: Transaction, payment: Payment, fee_payer: str) -> Any:
    """Returns the SDK's verdict (its ``VerifyResponse``).

    It is shown the bytes that were read here, and the ledger's requirements: whatever the client's encoding may
    hide from one reader or the other.
    """
    from x402.mechanisms.svm.exact.facilitator import ExactSvmScheme
    from x402.schemas import PaymentPayload, PaymentRequirements

    offer = payment.offer
    requirements = PaymentRequirements(
        scheme=offer.scheme,
        network=offer.network,
        asset=offer.asset,
        amount=payment.amount,
        pay_to=offer.pay_to,
        max_timeout_seconds=60,
        extra={"feePayer": fee_payer},
    )
    payload = PaymentPayload(payload={"transaction": base64.b64encode(transaction.raw).decode()}, accepted=requirements)
    return ExactSvmScheme(signer).verify(payload, requirements)


def _signed(transaction: Transaction, key: PayerKey) -> bytes:
    """With the fee payer's signature in its place, the first."""
    raw = bytes([len(transaction.signatures)]) + key.sign(transaction.message)
    return raw + b"".join(transaction.signatures[1:]) + transaction.message


def _reason_of(err: Any) -> str:
    """Returns what a simulation's error is in x402's words."""
    if isinstance(err, str):
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in err if c.isalnum())[:64]
        return f"{_SIMULATION_FAILED}{snake if snake.startswith('_') else ''}"
    instruction_error = err.get("InstructionError") if isinstance(err, dict) else None
    if instruction_error == [2, {"Custom": _INSUFFICIENT_FUNDS}]:
        return "insufficient_funds"
    return _SIMULATION_FAILED


async def _patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Returns the answer; None where there is none now. A node's objection to a transaction proves nothing."""
    try:
        return await call()
    except ChainError as error:
        _logger.debug("while a payment settles: %s", error.message)
        return None


def _unavailable(why: str) -> FacilitatorUnavailable:
    return FacilitatorUnavailable(f"The payment cannot be checked now: {why}.", hint="Try again later.", retryable=True)
