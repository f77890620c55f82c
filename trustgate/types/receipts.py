"""What is on record of a request, and of the log: usage, receipts, entries, anchors."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request used, in OpenAI's words: every counter that a price may look at.

    Details are part of their sum: ``cached_tokens``, ``cache_write_tokens``, ``audio_prompt_tokens`` and
    ``image_prompt_tokens`` are part of ``prompt_tokens``; ``reasoning_tokens``, ``audio_completion_tokens`` and
    ``image_completion_tokens`` part of ``completion_tokens``; ``cache_write_1h_tokens`` part of ``cache_write_tokens``.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    #: Prompt tokens written to the upstream's cache, and those of them that it keeps for an hour (Anthropic).
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_completion_tokens: int = 0
    #: What some endpoints are priced by besides tokens or instead of them: images made, milliseconds of audio,
    #: characters to be spoken, searches that a tool made.
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    searches: int = 0
    #: The service tier that the upstream names (OpenAI's ``service_tier``); "" where it names none.
    service_tier: str = ""
    #: Of the images made, as the request names them; "" where it does not.
    image_size: str = ""
    image_quality: str = ""
    #: The upstream did not report it; the gateway estimated.
    estimated: bool = False
    #: What the upstream reported contradicts itself (parts above their sum, another total); the reading is marked.
    contradictory: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


#: How a request ended. ``complete``: the client got it all. ``client_gone``: it hung up. ``upstream_cut``: the
#: upstream broke off in mid-answer. ``cut``: the gateway broke off (key revoked, deadline, shutdown).
#: ``upstream_error``: the upstream refused or failed before the first byte; nothing is charged.
#: ``refused``: a quota refused it, or its payment did not do. ``credited``: no request of a model; its receipt has
#: what a payment or the operator added to the tenant's balance, or took from it.
Finish = Literal["complete", "client_gone", "upstream_cut", "cut", "upstream_error", "refused", "credited"]

#: The endings that count against quotas. The others gave their hold back.
COUNTED: frozenset[str] = frozenset({"complete", "client_gone", "upstream_cut", "cut"})


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """One leaf of the log; times are microseconds UTC, money nano-USD.

    On the path of a request its members are given by position, in this order: by name they cost four times as much.

    Odd versions are receipts of tenants that owe nothing; even ones have RECEIPT_PAYMENT_MEMBERS besides, those from 3
    on RECEIPT_PRICE_MEMBERS, 5, 6, 9 and 10 ``end_user``, and 7 to 10 RECEIPT_WORK_MEMBERS. Within a version every
    member is always present, so each has one canonical form.
    """

    v: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    id: str
    created_us: int
    tenant: str
    key: str
    #: The tenant's own count of receipts, from 1, and the leaf hash of the one before (hex; 64 zeros for the
    #: first): a tenant can notice an omitted receipt without seeing other tenants' receipts.
    tseq: int
    tprev: str
    endpoint: str
    #: As the client asked for it; the id of the passport that answered; as the upstream named it.
    model: str
    passport: str
    upstream_model: str
    request_commitment: str
    response_commitment: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usage_source: Literal["provider", "estimate"]
    cost_nano_usd: int
    #: SHA-256 (hex) of the prices and of the plan and key limits that applied: they settle disputes.
    price_hash: str
    policy_hash: str
    #: To the first byte and to the end of the answer.
    latency_first_ms: int
    latency_total_ms: int
    status: int
    finish: Finish
    stream: bool
    #: What was taken from the tenant's balance, and what a payment (or the operator) added to it. A tenant's balance is
    #: the sum of what was credited less the sum of what was charged, over all of its receipts.
    charged_nano_usd: int | UnsetType = UNSET
    credited_nano_usd: int | UnsetType = UNSET
    #: The payment's id, network (CAIP-2), transaction, asset, amount (atomic units) and payer; "" where none was made.
    payment: str | UnsetType = UNSET
    payment_network: str | UnsetType = UNSET
    payment_transaction: str | UnsetType = UNSET
    payment_asset: str | UnsetType = UNSET
    payment_amount: str | UnsetType = UNSET
    payment_payer: str | UnsetType = UNSET
    #: Whether the model had a price: without one ``cost_nano_usd`` is 0, for want of a price.
    price_known: bool | UnsetType = UNSET
    #: What the tenant's plan makes of the cost: the cost times a factor in millionths, rounded up.
    billed_nano_usd: int | UnsetType = UNSET
    price_factor_ppm: int | UnsetType = UNSET
    #: What the price looked at besides (types.Usage), and whether the usage that was reported contradicts itself.
    cache_write_tokens: int | UnsetType = UNSET
    cache_write_1h_tokens: int | UnsetType = UNSET
    audio_prompt_tokens: int | UnsetType = UNSET
    audio_completion_tokens: int | UnsetType = UNSET
    image_prompt_tokens: int | UnsetType = UNSET
    image_completion_tokens: int | UnsetType = UNSET
    images: int | UnsetType = UNSET
    audio_ms: int | UnsetType = UNSET
    characters: int | UnsetType = UNSET
    searches: int | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    image_size: str | UnsetType = UNSET
    image_quality: str | UnsetType = UNSET
    usage_contradictory: bool | UnsetType = UNSET
    #: The pseudonym of the end user that the app behind the key named; "" where it named none.
    end_user: str | UnsetType = UNSET
    #: Of work that went on upstream: how many answered calls the receipt sums up, each of which is priced by itself.
    #: 0: none; what is charged belongs to a call that has its receipt already, or nothing was answered.
    calls: int | UnsetType = UNSET
    #: The step of the price that holds for each of them: the prompt of every call has more tokens than this, and no
    #: more than the table's next step. 0: below the first step.
    price_above_prompt_tokens: int | UnsetType = UNSET


#: The members of a receipt of a tenant that pays, in the order in which a Receipt has them.
RECEIPT_PAYMENT_MEMBERS = (
    *("charged_nano_usd", "credited_nano_usd", "payment", "payment_network", "payment_transaction"),
    *("payment_asset", "payment_amount", "payment_payer"),
)
#: The members that receipts have from version 3 on, in the order in which a Receipt has them.
RECEIPT_PRICE_MEMBERS = (
    *("price_known", "billed_nano_usd", "price_factor_ppm"),
    *("cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "audio_completion_tokens"),
    *("image_prompt_tokens", "image_completion_tokens", "images", "audio_ms", "characters", "searches"),
    *("service_tier", "image_size", "image_quality", "usage_contradictory"),
)
#: The member of receipts of keys whose requests name end users.
RECEIPT_END_USER_MEMBERS = ("end_user",)
#: The endpoint of receipts that may be the bill of many calls.
BATCHES_ENDPOINT: Final = "batches"
#: The members of receipts of work that went on upstream after its request (batches, responses in the background).
RECEIPT_WORK_MEMBERS = ("calls", "price_above_prompt_tokens")
#: The versions whose receipts have each of these.
PAYMENT_VERSIONS: frozenset[int] = frozenset({2, 4, 6, 8, 10})
PRICE_VERSIONS: frozenset[int] = frozenset({3, 4, 5, 6, 7, 8, 9, 10})
END_USER_VERSIONS: frozenset[int] = frozenset({5, 6, 9, 10})
WORK_VERSIONS: frozenset[int] = frozenset({7, 8, 9, 10})


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A receipt in its place in the log: ``seq`` counts from 1 without gaps; ``secret`` is 32 bytes."""

    seq: int
    receipt: Receipt
    secret: bytes


class LogName(msgspec.Struct, frozen=True, kw_only=True, tag="log_name"):
    """A name the log has had: the verifier key (C2SP signed-note) of its checkpoints, which begins with the origin."""

    vkey: str
    created_us: int


class AnchorAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signed transaction of an anchor, recorded before it is sent: its base58 signature and its own bytes."""

    signature: str
    transaction: bytes
    #: After this block height the chain no longer takes the transaction.
    last_valid_block_height: int
    created_us: int
    #: ``open``: it may still land. ``final``: it is the anchor. ``failed``: it landed with an error and did nothing
    #: but cost its fee. ``expired``: it can never land.
    outcome: Literal["open", "final", "failed", "expired"] = "open"
    detail: str = ""


class Anchor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="anchor"):
    """One state of the log on its way to a chain, or there. At most one is planned for each chain at a time."""

    id: str
    state: Literal["planned", "anchored"] = "planned"
    #: The chain: the hash of its genesis block, base58; identifies the cluster whatever the RPC's address.
    genesis: str
    #: Who signs and pays, base58.
    fee_payer: str
    tree_size: int
    #: Root hash, 64 hexadecimal digits.
    root: str
    #: The signed checkpoint, which the memo carries verbatim.
    note: str
    created_us: int
    attempts: tuple[AnchorAttempt, ...] = ()
    #: Of the transaction that landed, once the state is ``anchored``.
    signature: str = ""
    slot: int = 0
    fee_lamports: int = 0
    anchored_us: int = 0
