"""The tour: a plain, a streamed, a refused and a paid request, an anchor, a verified receipt.

Owns the order, and what was really seen at each station: the answer that the client got, the receipt that the gateway
wrote, the state of the chain. Each step is reported as it happens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from trustgate.admin.commands import Command, KeyCreate, KeyShow, NewKey, TenantAdd, TenantShow, TenantWithKey
from trustgate.admin.log_commands import AnchorFlush, AnchorKeygen, AnchorStatus, ReceiptExport, ReceiptShow
from trustgate.admin.model_commands import PassportSet, PassportShow
from trustgate.admin.money import OfferWanted, PaymentKeygen, PaymentSet
from trustgate.admin.walk import ClientAnswer, Refusal, Seen
from trustgate.demo.client import MODEL, Client, open_client
from trustgate.demo.environment import DemoEnvironment, RequestEnd
from trustgate.demo.money import DECIMALS, PlayMoney, fund, open_rpc
from trustgate.errors import NotFound, OperatorError, UpstreamFailed
from trustgate.ids import new_id, now_us
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.verify import Check, Verdict, verify_bundle
from trustgate.solana.reports import FlushOutcome
from trustgate.solana.rpc import RpcClient
from trustgate.solana.verify import verify_on_chain
from trustgate.types import NANO_USD_PER_USD, Limits

R = TypeVar("R")

ENDPOINT = "chat.completions"
#: What the receipts of credits name.
_CREDITS = "credits"

#: What a paid request costs: a cent; that in units of the token; and what tokens cost, as those of a small model.
PRICE_NANO_USD = 10_000_000
PRICE_UNITS = PRICE_NANO_USD * 10**DECIMALS // NANO_USD_PER_USD
_PRICES: Mapping[str, int | None] = {"input_pico_usd": 500_000, "output_pico_usd": 1_500_000}
#: What the key of the tour may ask: a plain and a streamed request, and nothing more.
_REQUESTS = 2
_QUESTION = "What is a receipt worth?"


# The events, in this order


class Working(NamedTuple):
    """Something that takes a moment."""

    what: str


class Begun(NamedTuple):
    """The gateway and the chain are there."""

    address: str
    chain_url: str
    home: str
    model: str
    took_s: float


class Asked(NamedTuple):
    """A request of the tour."""

    name: str
    title: str
    seen: Seen


class Moved(NamedTuple):
    """The balances of buyer and seller of a paid request on the chain, atomic units, before it and after."""

    buyer: tuple[int, int]
    seller: tuple[int, int]


class AnchoredReceipt(NamedTuple):
    outcome: FlushOutcome


class Verified(NamedTuple):
    """A receipt's bundle, verified offline; and one with a single figure changed, which must not pass."""

    receipt_id: str
    file: str
    verdict: Verdict
    forged: Verdict


class Toured(NamedTuple):
    """It is over; the key is for users who go on."""

    base_url: str
    key: str
    model: str
    home: str
    took_s: float


Event = Working | Begun | Asked | Moved | AnchoredReceipt | Verified | Toured


class Tour:
    def __init__(self, environment: DemoEnvironment, report: Callable[[Event], None], began: float) -> None:
        """``began``: when the demo did, on ``time.monotonic``."""
        self._environment = environment
        self._admin = environment.admin
        self._report = report
        self._began = began

    async def run(self) -> None:
        """Raises ``OperatorError`` where something is not as it should be."""
        stand = self._environment
        async with open_rpc(stand.chain) as rpc, open_client(stand.address) as client:
            money = await PlayMoney.made(stand.chain, rpc)
            added = await self._admin.execute(TenantAdd(name="demo"))
            limits = Limits(requests_per_month=_REQUESTS)
            limited = await self._admin.execute(KeyCreate(tenant="demo", name="tour", limits=limits))
            await self._admin.execute(PassportSet(passport=MODEL, prices=dict(_PRICES)))
            self._report(Begun(stand.address, stand.chain.url, str(stand.home), MODEL, self._elapsed_s()))
            await self._ask(client, limited)
            paid = await self._pay(client, money)
            await self._anchor()
            await self._verify(rpc, paid)
            self._environment.forget()
            self._report(Toured(f"{stand.address}/v1", added.secret, MODEL, str(stand.home), self._elapsed_s()))

    async def watch(self) -> None:
        """Tell of every request that others send, until the gateway stops."""
        told: set[str] = set()
        while (ended := await self._environment.next_request()) is not None:
            # A recorded refusal is reported twice; an operator's credit is not a request.
            if ended.receipt_id not in told and ended.endpoint != _CREDITS:
                told.add(ended.receipt_id)
                self._report(Asked("yours", "Your request", await self._look(ended)))

    # requests

    async def _ask(self, client: Client, limited: NewKey) -> None:
        """Two requests that the key may make, and one that is too many."""
        plain = await client.chat(limited.secret, "Hello!")
        await self._told("plain", "A plain request", plain, limited)
        streamed = await client.chat(limited.secret, "Hello, word by word!", stream=True)
        await self._told("streamed", "A streamed request", streamed, limited)
        refused = await client.chat(limited.secret, "Hello once more!")
        title = f"One too many: this key may make {_REQUESTS} requests a month"
        await self._told("refused", title, refused, limited, status=429)

    async def _pay(self, client: Client, money: PlayMoney) -> ClientAnswer:
        """Returns a request of a tenant that pays for each one, without a payment and with one."""
        self._report(Working("Loading the x402 SDK"))
        fee_payer = await self._admin.execute(PaymentKeygen())
        fund(self._environment.chain, fee_payer.pubkey)
        await money.load()
        await money.final()
        agent = await self._admin.execute(TenantAdd(name="agent"))
        offer = OfferWanted(network="solana-devnet", pay_to=money.seller, asset=money.mint, facilitator="embedded")
        await self._admin.execute(PaymentSet(tenant="agent", price_nano_usd=PRICE_NANO_USD, offers=(offer,)))
        before = await money.units(money.buyer), await money.units(money.seller)
        demand = await client.chat(agent.secret, _QUESTION)
        await self._told("unpaid", "A request without its payment (x402)", demand, agent, status=402)
        self._report(Working("The buyer signs, the gateway settles"))
        paid = await client.chat(agent.secret, _QUESTION, headers=await money.sign(demand))
        await self._told("paid", "The same request, paid", paid, agent)
        after = await money.units(money.buyer), await money.units(money.seller)
        moved = Moved(buyer=(before[0], after[0]), seller=(before[1], after[1]))
        if moved.seller[1] - moved.seller[0] != PRICE_UNITS or moved.buyer[0] - moved.buyer[1] != PRICE_UNITS:
            raise _wrong(f"the chain says that {moved.seller[1] - moved.seller[0]} units moved, not {PRICE_UNITS}")
        self._report(moved)
        return paid

    async def _told(
        self, name: str, title: str, answer: ClientAnswer, key: NewKey | TenantWithKey, *, status: int = 200
    ) -> None:
        if answer.status != status:
            raise _wrong(f"a request was answered with {answer.status} instead of {status} ({answer.text})")
        refusal = None if status == 200 else Refusal(status, answer.code, answer.text)
        seen = Seen(ENDPOINT, answer=answer, refusal=refusal, key=key.key)
        self._report(Asked(name, title, await self._filled(seen, answer.receipt_id)))

    async def _look(self, ended: RequestEnd) -> Seen:
        error = ended.error
        refusal = None
        if error is not None:
            refusal = Refusal(error.status, error.code or "", error.message, isinstance(error, UpstreamFailed))
        return await self._filled(Seen(ended.endpoint, refusal=refusal), ended.receipt_id)

    async def _filled(self, seen: Seen, receipt_id: str | None) -> Seen:
        """With the receipt, and with what that names."""
        receipt, key = None, seen.key
        if receipt_id is not None:
            receipt = await self._find(ReceiptShow(receipt=receipt_id))
        if receipt is not None and key is None:
            key = await self._find(KeyShow(key=receipt.receipt.key))
        detail = None
        if key is not None:
            detail = await self._find(TenantShow(tenant=key.tenant_id))
        passport = None
        if receipt is not None and receipt.receipt.passport:
            passport = await self._find(PassportShow(passport=receipt.receipt.passport))
        tenant = None if detail is None else detail.tenant
        return seen._replace(receipt=receipt, key=key, tenant=tenant, passport=passport)

    async def _find(self, command: Command[R]) -> R | None:
        """None where it is not there: a refusal need not have a receipt, and what it names may be removed by now."""
        with contextlib.suppress(NotFound):
            return await self._admin.execute(command)
        return None

    # proof

    async def _anchor(self) -> None:
        """As ``trustgate anchor flush`` does."""
        self._report(Working("Posting the log's checkpoint to the chain"))
        payer = await self._admin.execute(AnchorKeygen())
        fund(self._environment.chain, payer.pubkey)
        flush = AnchorFlush(flush=new_id("flush", now_us()))
        while (outcome := (await self._admin.execute(flush)).outcome) is None:
            pass  # each answer takes a moment: it waits for the flush
        if not outcome.anchored:
            raise _wrong("nothing was anchored")
        self._report(AnchoredReceipt(outcome))

    async def _verify(self, rpc: RpcClient, answer: ClientAnswer) -> None:
        """As ``trustgate receipt export`` and ``verify`` do, with everything disclosed."""
        assert answer.receipt_id is not None, "it was answered"
        export = ReceiptExport(receipt=answer.receipt_id, disclose=("request", "response"))
        bundle = (await self._admin.execute(export)).encode()
        file = self._environment.home / "receipt.json"
        file.write_bytes(bundle)
        published = await self._admin.execute(AnchorStatus())
        key = VerifierKey.parse(published.vkey)
        verdict = verify_bundle(
            bundle, key=key, request=answer.request, response=answer.body, fee_payer=published.pubkey
        )
        verdict.require()
        assert verdict.transaction is not None, "it is anchored"
        on_chain = await verify_on_chain(rpc, verdict.transaction)
        verdict = verdict.plus(Check("chain", "passed", on_chain))
        forged = verify_bundle(_forged(bundle), key=key, fee_payer=published.pubkey)
        if forged.ok:
            raise _wrong("a forged receipt passed the checks")
        self._report(Verified(answer.receipt_id, str(file), verdict, forged))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began


def _forged(bundle: bytes) -> bytes:
    """Returns the bundle with one figure of its receipt changed: one token less."""
    document = msgspec.json.decode(bundle)
    document["receipt"]["completion_tokens"] -= 1
    return msgspec.json.encode(document)


def _wrong(what: str) -> OperatorError:
    return OperatorError(f"The demo failed: {what}.", hint="This is a bug in TrustGate; please report it.")
