"""The arguments of a JSON-RPC call, read strictly.

Owns the errors for arguments that are missing, too many or of the wrong type: -32602, saying which. As nodes do, it
takes no notice of options it does not know, and takes null for an argument that was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from solders.pubkey import Pubkey

from trustgate.formats.solana_transaction import b58decode
from trustgate.localnet.chain import Commitment, LocalChain
from trustgate.localnet.encode import ACCOUNT_ENCODINGS, Slice
from trustgate.localnet.faults import SLOT_NOT_REACHED, RpcError, invalid

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_U64_MOST = 2**64 - 1
#: Names that clients of old still use.
_OLD_COMMITMENTS = {
    "recent": "processed",
    "single": "confirmed",
    "singleGossip": "confirmed",
    "root": "finalized",
    "max": "finalized",
}


class Params:
    """The arguments, by place."""

    def __init__(self, values: Any) -> None:
        if values is not None and not isinstance(values, list):
            raise invalid("Invalid params: give them by place, as an array")
        self.values: list[Any] = values or []

    def limit(self, most: int) -> None:
        if len(self.values) > most:
            raise RpcError(
                -32602, f"Invalid parameters: Expected from 0 to {most} parameters.", f'"Got: {len(self.values)}"'
            )

    def get(self, place: int) -> Any:
        return self.values[place] if place < len(self.values) else None

    def need(self, place: int) -> Any:
        value = self.get(place)
        if value is None:
            raise invalid(f"`params` should have at least {place + 1} argument(s)")
        return value

    def text(self, place: int) -> str:
        value = self.need(place)
        if not isinstance(value, str):
            raise _wrong_type(value, "a string")
        return value

    def pubkey(self, place: int) -> Pubkey:
        return to_pubkey(self.need(place))

    def number(self, place: int) -> int:
        return to_number(self.need(place))

    def array(self, place: int, most: int, what: str) -> list[Any]:
        value = self.need(place)
        if not isinstance(value, list):
            raise _wrong_type(value, "a sequence")
        if len(value) > most:
            raise invalid(f"Too many {what} provided; max {most}")
        return value

    def config(self, place: int) -> Config:
        value = self.get(place)
        if value is not None and not isinstance(value, dict):
            raise _wrong_type(value, "an object of options")
        return Config(value or {})

    def config_or_encoding(self, place: int) -> Config:
        """For methods to which clients of old give the encoding alone."""
        value = self.get(place)
        return Config({"encoding": value}) if isinstance(value, str) else self.config(place)


class Config:
    """The last argument: options by name."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def commitment(self, name: str = "commitment", *, default: Commitment = "finalized") -> Commitment:
        value = self.values.get(name)
        if value is None:
            return default
        value = _OLD_COMMITMENTS.get(value, value) if isinstance(value, str) else value
        if value not in get_args(Commitment):
            raise invalid(
                f"Invalid params: unknown variant `{_brief(value)}`, expected one of {', '.join(get_args(Commitment))}."
            )
        return cast(Commitment, value)

    def settled(self) -> Commitment:
        """For history, which consists of full blocks."""
        commitment = self.commitment()
        if commitment == "processed":
            raise invalid("Method does not support commitment below `confirmed`")
        return commitment

    def slot(self, chain: LocalChain) -> int:
        """Returns the slot to answer for: as settled as asked for, and not before ``minContextSlot``."""
        slot = chain.slot_at(self.commitment())
        least = self.number("minContextSlot")
        if least is not None and slot < least:
            raise RpcError(SLOT_NOT_REACHED, "Minimum context slot has not been reached", {"contextSlot": slot})
        return slot

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _wrong_type(value, f"a boolean for {name}")
        return value

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        return None if value is None else to_number(value)

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(value, f"a string for {name}")
        return value

    def encoding(self, known: Sequence[str], default: str, name: str = "encoding") -> str:
        value = self.text(name) or default
        if value not in known:
            raise invalid(f"Invalid params: unknown {name} `{_brief(value)}`, expected one of {', '.join(known)}.")
        return value

    def data_slice(self) -> Slice | None:
        value = self.values.get("dataSlice")
        if value is None:
            return None
        if not isinstance(value, dict):
            raise _wrong_type(value, "an object for dataSlice")
        return Slice(to_number(value.get("offset")), to_number(value.get("length")))

    def account_encoding(self) -> str:
        return self.encoding(ACCOUNT_ENCODINGS, "binary")


def to_pubkey(value: Any) -> Pubkey:
    if not isinstance(value, str):
        raise _wrong_type(value, "a string")
    return Pubkey.from_bytes(_base58(value, _KEY_BYTES))


def to_signature(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "a string")
    _base58(value, _SIGNATURE_BYTES)
    return value


def to_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _U64_MOST:
        raise _wrong_type(value, "u64")
    return value


def _base58(text: str, size: int) -> bytes:
    try:
        data = b58decode(text)
    except ValueError:
        raise invalid("Invalid param: Invalid") from None
    if len(data) != size:
        raise invalid("Invalid param: WrongSize")
    return data


def _wrong_type(value: Any, expected: str) -> RpcError:
    return invalid(f"Invalid params: invalid type: {_brief(value)}, expected {expected}.")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
