"""The verbs on passports and aliases, as data. PASSPORT is an id or a slug."""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.admin.commands import Command
from trustgate.models.passports import ImportedPassport, PassportFields
from trustgate.types import (
    Alias,
    Passport,
)


class PassportAdd(Command[Passport], frozen=True, kw_only=True, tag="passport.add"):
    slug: str
    fields: PassportFields
    result = Passport


class PassportSet(Command[Passport], frozen=True, kw_only=True, tag="passport.set"):
    """Change what is given. ``unset`` names optional members to set back to what a new passport has."""

    passport: str
    fields: PassportFields = PassportFields()
    unset: tuple[str, ...] = ()
    #: Prices by field name; the others stay. None for the cached price: cached tokens cost what others cost.
    prices: dict[str, int | None] = msgspec.field(default_factory=dict)
    #: The prices given hold under these conditions alone: members of types.ConditionalRates that are no rates.
    conditions: dict[str, int | str] = msgspec.field(default_factory=dict)
    #: Take away all prices that hold under a condition; before ``prices`` are set.
    clear_conditions: bool = False
    result = Passport


class PassportList(Command[tuple[Passport, ...]], frozen=True, kw_only=True, tag="passport.list"):
    revoked: bool = False
    result = tuple[Passport, ...]


class PassportShow(Command[Passport], frozen=True, kw_only=True, tag="passport.show"):
    passport: str
    result = Passport


class PassportStatus(Command[Passport], frozen=True, kw_only=True, tag="passport.status"):
    passport: str
    status: Literal["active", "deprecated", "revoked"]
    result = Passport


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int


class PassportImport(Command[ImportResult], frozen=True, kw_only=True, tag="passport.import"):
    """Add what is new; of what exists, change what the file gives. ``only_existing`` adds nothing (a price table)."""

    passports: tuple[ImportedPassport, ...]
    only_existing: bool = False
    #: What prices come from, for people.
    source: str = "an import"
    result = ImportResult


class AliasSet(Command[Alias], frozen=True, kw_only=True, tag="alias.set"):
    name: str
    target: str
    result = Alias


class AliasList(Command[tuple[Alias, ...]], frozen=True, kw_only=True, tag="alias.list"):
    result = tuple[Alias, ...]


class AliasRemove(Command[Alias], frozen=True, kw_only=True, tag="alias.remove"):
    name: str
    result = Alias
