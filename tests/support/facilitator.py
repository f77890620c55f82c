"""A scripted x402 facilitator over real sockets, with every fault that a real one may have.

It verifies and settles whatever it is asked to, once each; ``on_verify`` and ``on_settle`` script what the next calls
get instead, in order. What moved money is counted by what was signed, so that a test can say "exactly once":

    facilitator.on_settle(HTML_502, moved(HANGS))      # fails, then moves the money and never says so
    gate = Gate()
    facilitator.on_settle(held(gate))                  # settles once the test opens the gate
    ...
    assert facilitator.moves == 1

By default moving money is only written down. With ``mover`` it is done: a function that takes a payment (the request's
``paymentPayload``) and gives the transaction's id, such as ``tests.support.tokens.Mint.settle``.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Self

from tests.support.upstream import CLOSE, HANG, RESET, Gate, Recorded, Reply, Upstream
from trustgate.formats.solana_transaction import b58encode
from trustgate.payment.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET, caip2_of, v1_name_of
from trustgate.payment.payment_key import payer_of, payment_key

Document = dict[str, Any]
Mover = Callable[[Document], str]

#: Who pays for the network where the double is told nothing else: an address without a known key.
FEE_PAYER = b58encode(hashlib.sha256(b"the double's fee payer").digest())


class Call:
    """One call of verify or settle, as it arrived."""

    def __init__(self, facilitator: FacilitatorDouble, request: Recorded) -> None:
        self.facilitator = facilitator
        self.request = request
        self.body: Document = request.json()
        self.payload: Document = self.body["paymentPayload"]
        self.requirements: Document = self.body["paymentRequirements"]

    @property
    def network(self) -> str:
        """As the requirements have it: CAIP-2, or a name in version 1."""
        return str(self.requirements["network"])

    @property
    def key(self) -> str:
        """What tells payments apart, however they are encoded."""
        return payment_key(
            self.body["x402Version"],
            self.requirements["scheme"],
            caip2_of(self.network),
            self.requirements["asset"],
            self.payload["payload"],
        )

    @property
    def payer(self) -> str:
        return payer_of(self.payload["payload"]) or "0x" + "11" * 20


Answer = Reply | Callable[[Call], Reply]


class FacilitatorDouble:
    """The server. ``url`` is what a facilitator is named by."""

    def __init__(self, *, fee_payer: str = FEE_PAYER, mover: Mover | None = None) -> None:
        self.fee_payer = fee_payer
        self.mover = mover
        self.verifies: list[Call] = []
        self.settles: list[Call] = []
        #: By the keys of payments: the transaction that moved the money, and how often settling it was asked for.
        self.transactions: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        #: What GET /supported gives instead of the usual kinds, when set.
        self.kinds: list[Document] | None = None
        self._scripts: dict[str, deque[Answer]] = {"verify": deque(), "settle": deque()}
        self._changed = threading.Condition()
        self._server = Upstream()
        self._server.default = self._answer
        self._server.probe = self._supported

    # for tests

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self) -> None:
        """Raises AssertionError if the double itself went wrong, or scripts answers that were not asked for."""
        self._server.stop()
        unused = {name: len(script) for name, script in self._scripts.items() if script}
        assert not unused, f"what is scripted was not asked for: {unused}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{self._server.url}/facilitator"

    def on_verify(self, *answers: Answer) -> None:
        self._scripts["verify"].extend(answers)

    def on_settle(self, *answers: Answer) -> None:
        self._scripts["settle"].extend(answers)

    @property
    def moves(self) -> int:
        """How many payments moved money."""
        return len(self.transactions)

    @property
    def requests(self) -> list[Recorded]:
        """Every POST, in order."""
        return self._server.requests

    def wait_for_settles(self, count: int = 1, timeout_s: float = 15.0) -> Call:
        """Block until that many calls of settle have arrived; gives the last of them."""
        return self._wait(self.settles, count, timeout_s)

    def wait_for_verifies(self, count: int = 1, timeout_s: float = 15.0) -> Call:
        return self._wait(self.verifies, count, timeout_s)

    # what it does

    def move(self, call: Call) -> str:
        """Move the payment's money, if that was not done yet; gives the transaction."""
        if call.key not in self.transactions:
            if self.mover is not None:
                moved = self.mover(call.payload)
            elif caip2_of(call.network).startswith("solana:"):
                moved = b58encode(hashlib.sha512(call.key.encode()).digest())
            else:
                moved = "0x" + hashlib.sha256(call.key.encode()).hexdigest()
            self.transactions[call.key] = moved
        return self.transactions[call.key]

    def _answer(self, request: Recorded) -> Reply:
        name = request.path.rpartition("/")[2]
        if name not in self._scripts:
            return Reply.json({"error": "no such path"}, status=404)
        call = Call(self, request)
        with self._changed:
            (self.verifies if name == "verify" else self.settles).append(call)
            self.asked[call.key] += name == "settle"
            answer = self._scripts[name].popleft() if self._scripts[name] else (VALID if name == "verify" else SETTLES)
            self._changed.notify_all()
        return answer if isinstance(answer, Reply) else answer(call)

    def _supported(self, request: Recorded) -> Reply:
        if not request.path.endswith("/supported"):
            return Reply.json({"status": "ok"})
        return Reply.json(
            {"kinds": self._kinds() if self.kinds is None else self.kinds, "extensions": [], "signers": {}}
        )

    def _kinds(self) -> list[Document]:
        kinds: list[Document] = []
        for network in (SOLANA_DEVNET, BASE_SEPOLIA, BASE):
            extra = {"extra": {"feePayer": self.fee_payer}} if network == SOLANA_DEVNET else {}
            kinds.append({"x402Version": 2, "scheme": "exact", "network": network, **extra})
            kinds.append({"x402Version": 1, "scheme": "exact", "network": v1_name_of(network), **extra})
        return kinds

    def _wait(self, calls: list[Call], count: int, timeout_s: float) -> Call:
        with self._changed:
            assert self._changed.wait_for(lambda: len(calls) >= count, timeout_s), f"{len(calls)} of {count} calls"
            return calls[count - 1]


# what goes well


def VALID(call: Call) -> Reply:  # noqa: N802 - stands beside the other answers
    return Reply.json({"isValid": True, "payer": call.payer})


def SETTLES(call: Call) -> Reply:  # noqa: N802 - stands beside the other answers
    """Moves the money the first time; afterwards it says so, as real ones do."""
    facilitator = call.facilitator
    if call.key in facilitator.transactions:
        return _settle_error(call, "duplicate_settlement")
    return Reply.json(success(call, facilitator.move(call)))


def success(call: Call, transaction: str, **members: Any) -> Document:
    """The body of a successful settle."""
    return {"success": True, "transaction": transaction, "network": call.network, "payer": call.payer, **members}


def held(gate: Gate, answer: Answer = SETTLES) -> Answer:
    """This answer once the gate is open. What it does is done when the call arrives."""
    return lambda call: (answer if isinstance(answer, Reply) else answer(call)).held(gate)


def moved(answer: Answer) -> Answer:
    """Moves the money, and then answers like this."""

    def reply(call: Call) -> Reply:
        call.facilitator.move(call)
        return answer if isinstance(answer, Reply) else answer(call)

    return reply


# what is refused


def invalid(reason: str = "insufficient_funds") -> Answer:
    """Verify says no."""
    return lambda call: Reply.json({"isValid": False, "invalidReason": reason, "payer": call.payer})


def fails(reason: str = "insufficient_funds") -> Answer:
    """Settle says that it failed, for this reason: nothing was moved."""
    return lambda call: _settle_error(call, reason)


# faults: an answer that says nothing about whether the money moved

HANGS = Reply(steps=(HANG,))
RESETS = Reply(steps=(RESET,))
CLOSES = Reply(steps=(CLOSE,))
HTML_502 = Reply.html(502)
HTML_200 = Reply.html(200)
NOT_JSON = Reply.body(b"success", content_type="text/plain")
EMPTY = Reply.body(b"")
NO_OBJECT = Reply.json([True])
HUGE = Reply.body(b'{"success":true,"transaction":"' + b"1" * 20_000_000 + b'"}')


def REDIRECTS(call: Call) -> Reply:  # noqa: N802 - stands beside the other answers
    """To itself: a client that follows is seen."""
    return Reply.body(b"", status=307, headers={"location": call.facilitator.url + "/elsewhere"})


def SUCCESS_503(call: Call) -> Reply:  # noqa: N802
    """A body of success under a status that says otherwise."""
    return Reply.json(success(call, "1" * 64), status=503)


def TRUNCATED(call: Call) -> Reply:  # noqa: N802
    """Half of a success; the connection breaks."""
    head, body = Reply.json(success(call, "1" * 64)).steps
    assert isinstance(body, bytes)
    return Reply.raw(head, body[: len(body) // 2], CLOSE)


def NO_TRANSACTION(call: Call) -> Reply:  # noqa: N802
    """Success, by no transaction."""
    return Reply.json(success(call, ""))


def OTHER_NETWORK(call: Call) -> Reply:  # noqa: N802
    """Success, on a network that was not asked for."""
    return Reply.json(success(call, "1" * 64, network="eip155:1"))


def PENDING(call: Call) -> Reply:  # noqa: N802
    """It was sent, and may land yet."""
    return _settle_error(call, "settlement_pending", transaction=call.facilitator.transactions.get(call.key, ""))


def BAD_STATE(call: Call) -> Reply:  # noqa: N802
    return _settle_error(call, "invalid_transaction_state")


#: Every fault of settle by its name; after each of them it cannot be told whether the money moved.
SETTLE_FAULTS: dict[str, Answer] = {
    "hangs": HANGS,
    "resets": RESETS,
    "closes": CLOSES,
    "html 502": HTML_502,
    "html 200": HTML_200,
    "503 with a success body": SUCCESS_503,
    "not json": NOT_JSON,
    "empty": EMPTY,
    "no object": NO_OBJECT,
    "huge": HUGE,
    "truncated": TRUNCATED,
    "redirects": REDIRECTS,
    "success without transaction": NO_TRANSACTION,
    "other network": OTHER_NETWORK,
    "settlement_pending": PENDING,
    "invalid_transaction_state": BAD_STATE,
    "duplicate_settlement": fails("duplicate_settlement"),
    "unexpected_settle_error": fails("unexpected_settle_error"),
}


def _settle_error(call: Call, reason: str, transaction: str = "") -> Reply:
    return Reply.json(
        {
            "success": False,
            "errorReason": reason,
            "transaction": transaction,
            "network": call.network,
            "payer": call.payer,
        }
    )
