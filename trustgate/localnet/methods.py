"""Every method of the local chain by its name, and those about the chain as a whole.

Owns the table, and the methods about slots, blocks and the chain itself. Source of names, arguments and results:
Solana documentation, "RPC: HTTP methods".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from trustgate import __version__
from trustgate.formats.solana_transaction import b58encode
from trustgate.localnet.accounts import ACCOUNT_METHODS
from trustgate.localnet.chain import LocalChain
from trustgate.localnet.clock import SKIPPED_SLOTS, SLOTS_PER_EPOCH, block_height
from trustgate.localnet.encode import TRANSACTION_ENCODINGS, accounts_json, transaction_json
from trustgate.localnet.faults import BLOCK_NOT_AVAILABLE, METHOD_NOT_FOUND, SLOT_SKIPPED, RpcError, invalid
from trustgate.localnet.params import Params
from trustgate.localnet.transactions import TRANSACTION_METHODS

Method = Callable[[LocalChain, Params], Any]

_MOST_PARAMETERS = 3
_MOST_BLOCKS = 500_000
_SAMPLE_S = 60


def call(chain: LocalChain, name: str, params: Any) -> Any:
    """Returns the result of one call. Raises RpcError."""
    method = METHODS.get(name)
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, "Method not found")
    given = Params(params)
    given.limit(_MOST_PARAMETERS)
    return method(chain, given)


def _health(_chain: LocalChain, _params: Params) -> str:
    return "ok"


def _version(_chain: LocalChain, _params: Params) -> dict[str, Any]:
    # Some clients refuse what is no semantic version. The number is that of the interface that is imitated.
    return {"solana-core": "2.3.0-trustgate-localnet", "feature-set": 0, "trustgate-localnet": __version__}


def _genesis_hash(chain: LocalChain, _params: Params) -> str:
    return chain.genesis


def _identity(chain: LocalChain, _params: Params) -> dict[str, str]:
    return {"identity": _leader(chain)}


def _leader(chain: LocalChain) -> str:
    return b58encode(hashlib.sha256(f"trustgate localnet validator {chain.genesis}".encode()).digest())


def _slot(chain: LocalChain, params: Params) -> int:
    return params.config(0).slot(chain)


def _slot_leader(chain: LocalChain, _params: Params) -> str:
    return _leader(chain)


def _slot_leaders(chain: LocalChain, params: Params) -> list[str]:
    count = params.number(1)
    if not 1 <= count <= 5_000:
        raise invalid("Invalid limit; max 5000")
    return [_leader(chain)] * count


def _block_height(chain: LocalChain, params: Params) -> int:
    return block_height(params.config(0).slot(chain))


def _transaction_count(chain: LocalChain, params: Params) -> int:
    slot = params.config(0).slot(chain)
    return chain.count(slot)


def _epoch_info(chain: LocalChain, params: Params) -> dict[str, Any]:
    slot = params.config(0).slot(chain)
    return {
        "absoluteSlot": slot,
        "blockHeight": block_height(slot),
        "epoch": slot // SLOTS_PER_EPOCH,
        "slotIndex": slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": chain.count(slot),
    }


def _epoch_schedule(_chain: LocalChain, _params: Params) -> dict[str, Any]:
    return {
        "slotsPerEpoch": SLOTS_PER_EPOCH,
        "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
        "warmup": False,
        "firstNormalEpoch": 0,
        "firstNormalSlot": 0,
    }


def _first_block(_chain: LocalChain, _params: Params) -> int:
    return SKIPPED_SLOTS


def _performance_samples(chain: LocalChain, params: Params) -> list[dict[str, int]]:
    most = 720 if params.get(0) is None else params.number(0)
    tip = chain.slot
    started_s, now_s = chain.clock.time_s(SKIPPED_SLOTS), chain.clock.time_s(tip)
    if not most or now_s - started_s < _SAMPLE_S:
        return []
    recent = [entry for entry in chain.entries if chain.clock.time_s(entry.slot) > now_s - _SAMPLE_S]
    sample = {
        "slot": tip,
        "numTransactions": len(recent),
        "numNonVoteTransactions": len(recent),
        "numSlots": sum(
            1 for slot in range(max(SKIPPED_SLOTS, tip - 1_000), tip) if chain.clock.time_s(slot) > now_s - _SAMPLE_S
        ),
        "samplePeriodSecs": _SAMPLE_S,
    }
    return [sample]


# blocks


def _block(chain: LocalChain, params: Params) -> dict[str, Any] | None:
    slot = params.number(0)
    config = params.config_or_encoding(1)
    commitment = config.settled()
    encoding = config.encoding(TRANSACTION_ENCODINGS, "json")
    details = config.encoding(("full", "accounts", "signatures", "none"), "full", "transactionDetails")
    max_version = config.number("maxSupportedTransactionVersion")
    _check_slot(slot, chain.slot_at(commitment))
    block = chain.clock.hash_at(slot)
    told = {
        "blockhash": block.blockhash,
        "previousBlockhash": chain.clock.hash_at(max(SKIPPED_SLOTS, slot - 1)).blockhash,
        "parentSlot": max(SKIPPED_SLOTS, slot - 1),
        "blockHeight": block_height(slot),
        "blockTime": chain.clock.time_s(slot),
    }
    entries = chain.entries_in(slot)
    if details == "full":
        told["transactions"] = [transaction_json(entry, encoding, max_version) for entry in entries]
    elif details == "accounts":
        told["transactions"] = [accounts_json(entry, max_version) for entry in entries]
    elif details == "signatures":
        told["signatures"] = [entry.signature for entry in entries]
    if config.flag("rewards", default=True):
        told["rewards"] = []
    return told


def _block_time(chain: LocalChain, params: Params) -> int:
    slot = params.number(0)
    _check_slot(slot, chain.slot)
    return chain.clock.time_s(slot)


def _check_slot(slot: int, newest: int) -> None:
    if slot > newest:
        raise RpcError(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")
    if slot < SKIPPED_SLOTS:
        raise RpcError(SLOT_SKIPPED, f"Slot {slot} was skipped, or missing due to ledger jump to recent snapshot")


def _blocks(chain: LocalChain, params: Params) -> list[int]:
    first = params.number(0)
    named = isinstance(params.get(1), dict)
    commitment = params.config(1 if named else 2).settled()
    last = None if named or params.get(1) is None else params.number(1)
    newest = chain.slot_at(commitment)
    last = newest if last is None else min(last, newest)
    if last - first > _MOST_BLOCKS:
        raise invalid(f"Slot range too large; max {_MOST_BLOCKS}")
    return list(range(max(first, SKIPPED_SLOTS), last + 1))


def _blocks_with_limit(chain: LocalChain, params: Params) -> list[int]:
    first, count = max(params.number(0), SKIPPED_SLOTS), params.number(1)
    if count > _MOST_BLOCKS:
        raise invalid(f"Limit too large; max {_MOST_BLOCKS}")
    newest = chain.slot_at(params.config(2).settled())
    return list(range(first, min(first + count, newest + 1)))


METHODS: dict[str, Method] = {
    "getHealth": _health,
    "getVersion": _version,
    "getGenesisHash": _genesis_hash,
    "getIdentity": _identity,
    "getSlot": _slot,
    "getSlotLeader": _slot_leader,
    "getSlotLeaders": _slot_leaders,
    "getBlockHeight": _block_height,
    "getTransactionCount": _transaction_count,
    "getEpochInfo": _epoch_info,
    "getEpochSchedule": _epoch_schedule,
    "getFirstAvailableBlock": _first_block,
    "minimumLedgerSlot": _first_block,
    "getRecentPerformanceSamples": _performance_samples,
    "getBlock": _block,
    "getBlockTime": _block_time,
    "getBlocks": _blocks,
    "getBlocksWithLimit": _blocks_with_limit,
    **ACCOUNT_METHODS,
    **TRANSACTION_METHODS,
}
