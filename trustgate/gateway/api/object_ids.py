"""Ids that upstreams gave out through this gateway: which tenant each belongs to, and which target made it.

All tenants share an upstream's account, so the upstream would answer any caller who knows an id. This is where an id is
tied to its tenant: for other tenants it does not exist. An id is told apart by its kind, its upstream
and itself: two servers may give out the same.

Owns the memory of ids: in the process, bounded, and where the bound is reached the tenant that has most forgets its
longest unused, so that no tenant's ids push out another's; and in a file in the home folder that each id is appended to
before its answer leaves (one write to the page cache, as the journal's), so that ids outlive a restart and a kill -9.
No database is asked while a request waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from trustgate.errors import NotFound
from trustgate.types import Prices

_logger = logging.getLogger("trustgate.gateway")

Kind = Literal[
    "response",
    "file",
    "batch",
    "item",
    "chat_completion",
    "conversation",
    "vector_store",
    "file_batch",
    "upload",
    "part",
    "container",
    "container_file",
    "video",
    "character",
    "assistant",
    "thread",
    "message",
    "run",
    "eval",
    "eval_run",
    "fine_tuning_job",
    "model",
    "skill",
    "voice",
    "voice_consent",
    "message_batch",
]

#: What upstreams work on after the request that made it.
BATCHES: tuple[Kind, ...] = ("batch", "message_batch")

#: Ids remembered; a line of the file has some 250 bytes, an id in memory some 500.
MOST_HANDLES = 200_000
#: An id longer than this is no id.
_ID_MOST = 256


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What the lines of a batch's file ask for: their number, and their worst case in all."""

    lines: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: By the prices when it was uploaded.
    cost_nano_usd: int = 0
    #: The largest prompt and the largest bound of one line, and what the lines are for: plans are checked against it.
    largest_prompt: int = 0
    largest_bound: int = 0
    endpoints: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    #: The id of the profile that the lines were judged by (``access.profiles``); "" without one.
    profile: str = ""
    #: Of the images of every line, where the model's price depends on them; "" otherwise.
    image_size: str = ""
    image_quality: str = ""
    #: What a call costs is charged for each one that was answered, when the work has ended. False: it was charged when
    #: the work began, as versions before did.
    owes_calls: bool = False
    #: The hashes of the prices, and the factor that the caller was billed at (millionths), by which ``cost_nano_usd``
    #: is the worst case. A batch is not begun at others. None: a version before has not kept them.
    prices: tuple[str, ...] | None = None
    factor_ppm: int = 0
    #: Of a response: the completion tokens that were made while its request lasted.
    made_tokens: int = 0


class AcceptedPrice(msgspec.Struct, frozen=True, array_like=True):
    """What work is charged by: as it was when its request was accepted, whatever is changed while it goes on."""

    prices: Prices
    #: What its tenant is billed of the cost, millionths.
    factor_ppm: int
    #: Whether the bill is taken from the tenant's balance. False: it owed nothing, or has paid its price a request.
    is_owed: bool


class StepReceipt(NamedTuple):
    """A receipt that charges work whose end was seen, or a part of it."""

    #: Of the price, that its calls have.
    step: int
    id: str


class Charging(msgspec.Struct, frozen=True, array_like=True):
    """The receipts that charge work whose end was seen, kept before the first of them is written."""

    #: What ``ObjectId.owed`` was.
    owed: int
    #: They are written in this order.
    receipts: tuple[StepReceipt, ...]


class ObjectId(msgspec.Struct, frozen=True, array_like=True):
    """One id. The passport and the upstream's name for the model say which target made it."""

    kind: Kind
    id: str
    tenant: str
    passport: str
    #: As the client asked for it: what its plan is checked against.
    model: str
    upstream_model: str
    #: Work that goes on upstream: the tokens charged so far. The rest is charged when its end is first seen. -1: none.
    owed: int = -1
    #: False: deleted.
    alive: bool = True
    #: Base URL of the server that gave it out; "": one that was written down before this was.
    upstream: str = ""
    #: The key with which it was made, for what is charged later; "" as above.
    key: str = ""
    #: Of a batch's file, and of a batch.
    work: Work | None = None
    #: The end user's pseudonym, for what is charged later, as ``Call`` has it.
    end_user: str | None = None
    #: Of work whose end was seen, until all of its receipts are written; None: none is missing. Such work of a process
    #: that was killed is unsettled again: what its receipts have charged is not charged another time.
    charging: Charging | None = None
    #: How many of ``owed`` are completion tokens, which cost more than those of the prompt.
    owed_completion: int = 0
    #: Of work that is to be charged. None: of a version before, whose work is charged by the prices of its end.
    accepted: AcceptedPrice | None = None

    @property
    def place(self) -> tuple[Kind, str, str]:
        """What no two objects share."""
        return self.kind, self.upstream, self.id


def is_id(text: str) -> bool:
    """Returns whether an upstream's text can be an id: neither a file nor a database keeps every character."""
    return 0 < len(text) <= _ID_MOST and text.isprintable()


_decode = msgspec.json.Decoder(ObjectId).decode
_encode = msgspec.json.Encoder().encode


class ObjectIds:
    def __init__(self, path: Path | None = None, most: int = MOST_HANDLES) -> None:
        """``path`` None: in memory only. Raises ``OSError`` when the file cannot be read or written."""
        self._most = most
        #: Of each tenant and kind the ids, the longest unused first; those of one name are of several upstreams.
        self._known: dict[tuple[str, Kind], dict[str, tuple[ObjectId, ...]]] = {}
        self._owners: dict[tuple[Kind, str, str], str] = {}
        self._file = -1
        self._path = path
        #: Lines of the file; while it is written anew, those that came meanwhile.
        self._lines = 0
        self._late: list[bytes] | None = None
        if path is not None:
            # Of a process that was killed while it wrote the file anew.
            _fresh(path).unlink(missing_ok=True)
            is_cut = self._load(path)
            if self._lines > 2 * len(self._owners) + _SPARE_LINES:
                _write(_fresh(path), self._all())
                _fresh(path).replace(path)
                self._lines, is_cut = len(self._owners), False
            self._file = _open(path)
            if is_cut:
                # A crash cut the last line short: what is appended must not become a part of it.
                os.write(self._file, b"\n")

    async def catch_up(self) -> None:
        """Take in what other processes have kept: none here."""

    def find(self, kind: Kind, object_id: str, tenant: str) -> ObjectId:
        """Returns the id of this tenant, the newest where several upstreams gave it out. Raises as ``find_all``."""
        return self.find_all(kind, object_id, tenant)[-1]

    def find_all(self, kind: Kind, object_id: str, tenant: str) -> tuple[ObjectId, ...]:
        """Returns what this tenant has of that id, one for each upstream that gave it out, newest last.

        Raises ``NotFound``, the same for an id that is unknown as for a stranger's.
        """
        own = self._known.get((tenant, kind), {})
        found = own.get(object_id)
        if found is None:
            raise _unknown(kind, object_id)
        # Used: it is forgotten last.
        del own[object_id]
        own[object_id] = found
        return found

    def of_id(self, kind: Kind, object_id: str, tenant: str) -> tuple[ObjectId, ...]:
        """Returns what ``find_all`` does, or nothing."""
        return self._known.get((tenant, kind), {}).get(object_id, ())

    def owns(self, kind: Kind, object_id: str, tenant: str) -> bool:
        return object_id in self._known.get((tenant, kind), {})

    def check_child(self, kind: str, object_id: str, parent: ObjectId) -> None:
        """Raise ``NotFound`` for an id below a tenant's own object that cannot be one, or is known as a stranger's."""
        owner = self._owners.get((kind, parent.upstream, object_id))  # type: ignore[arg-type]
        if not _CHILD.fullmatch(object_id) or (owner is not None and owner != parent.tenant):
            raise _unknown(kind, object_id)

    def is_strangers(self, kind: Kind, object_id: str, tenant: str) -> bool:
        """Returns whether an id is known as another tenant's, and not as this one's."""
        if self.owns(kind, object_id, tenant):
            return False
        return any(object_id in known for (_, each), known in self._known.items() if each == kind)

    def strangers_at(self, upstream: str, kind: Kind, object_ids: Iterable[str], tenant: str) -> frozenset[str]:
        """Returns those of the ids that an upstream gave to another tenant; ids of other upstreams do not count."""
        owner = self._owners.get
        return frozenset(each for each in object_ids if owner((kind, upstream, each), tenant) != tenant)

    def current(self, handle: ObjectId) -> ObjectId | None:
        """Returns the same object as it is now; None where it is forgotten."""
        found = self._known.get((handle.tenant, handle.kind), {}).get(handle.id, ())
        return next((each for each in found if each.upstream == handle.upstream), None)

    def can_keep(self, handle: ObjectId) -> bool:
        """Returns whether ``keep`` remembers it: its id can be one, and is no stranger's."""
        return is_id(handle.id) and self._owners.get(handle.place, handle.tenant) == handle.tenant

    def keep(self, handle: ObjectId) -> None:
        """Remember a new or changed id. A stranger's id is never taken over."""
        if not self.can_keep(handle):
            return
        if handle in self._known.get((handle.tenant, handle.kind), {}).get(handle.id, ()):
            return
        self._put(handle)
        self._append(handle)

    def charged(self, handle: ObjectId, receipt_id: str) -> None:
        """Note that a receipt of work is written; after the last of them nothing of it is missing."""
        now = self.current(handle)
        if now is not None and now.charging is not None and now.charging.receipts[-1][1] == receipt_id:
            self.keep(msgspec.structs.replace(now, charging=None, accepted=None))

    def forget(self, handle: ObjectId) -> None:
        if self._drop(handle):
            self._append(msgspec.structs.replace(handle, alive=False))

    def of_tenant(self, kind: Kind, tenant: str) -> list[ObjectId]:
        """Newest use last."""
        return [handle for handles in self._known.get((tenant, kind), {}).values() for handle in handles]

    def unsettled(self, kind: Kind) -> list[ObjectId]:
        """Returns those of all tenants whose work goes on upstream."""
        return [
            handle
            for (_, each), known in self._known.items()
            if each == kind
            for handles in known.values()
            for handle in handles
            if handle.owed >= 0
        ]

    def __len__(self) -> int:
        return len(self._owners)

    async def compact(self) -> None:
        """Write the file anew, without what is forgotten or has changed, if that is most of it; in a thread.

        Ids that are kept meanwhile are in both files. Raises ``OSError``; then the old file stays.
        """
        path = self._path
        if path is None or self._file < 0 or self._lines <= 2 * len(self._owners) + _SPARE_LINES:
            return
        fresh = _fresh(path)
        handles = self._all()
        self._late = []
        try:
            await asyncio.to_thread(_write, fresh, handles)
            file = _open(fresh)
            os.write(file, b"".join(self._late))
            fresh.replace(path)
            old, self._file = self._file, file
            os.close(old)
            self._lines = len(handles) + len(self._late)
        finally:
            self._late = None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # inside

    def _put(self, handle: ObjectId) -> None:
        own = self._known.setdefault((handle.tenant, handle.kind), {})
        others = tuple(each for each in own.pop(handle.id, ()) if each.upstream != handle.upstream)
        own[handle.id] = (*others, handle)
        self._owners[handle.place] = handle.tenant
        if len(self._owners) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        """Drop some of the longest unused ids of the tenant that has most."""
        key = max(self._known, key=lambda key: len(self._known[key]))
        largest = self._known[key]
        settled = (name for name, handles in largest.items() if all(each.owed < 0 for each in handles))
        # What goes on upstream is still to be charged.
        for object_id in list(itertools.islice(settled, max(1, len(largest) // 64))):
            for handle in largest.pop(object_id):
                self._owners.pop(handle.place, None)

    def _drop(self, handle: ObjectId) -> bool:
        """Take it out of memory; False where it was not there."""
        key = (handle.tenant, handle.kind)
        own = self._known.get(key, {})
        handles = own.get(handle.id, ())
        left = tuple(each for each in handles if each.upstream != handle.upstream)
        if len(left) == len(handles):
            return False
        if left:
            own[handle.id] = left
        else:
            del own[handle.id]
        if not own:
            del self._known[key]
        self._owners.pop(handle.place, None)
        return True

    def _append(self, handle: ObjectId) -> None:
        if self._file < 0:
            return
        line = _encode(handle) + b"\n"
        self._lines += 1
        if self._late is not None:
            self._late.append(line)
        try:
            os.write(self._file, line)
        except OSError as error:
            # The answer is worth more than finding it again after a restart.
            _logger.warning("an id cannot be written down: %s", error.strerror)

    def _load(self, path: Path) -> bool:
        """Read the file; whether its last line is cut short, which is passed over."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        lines = data.split(b"\n")
        for handle in _handles(lines):
            if not is_id(handle.id):
                continue  # of a version that kept it
            if handle.alive:
                self._put(handle)
            else:
                self._drop(handle)
        self._take_up_charging()
        self._lines = len(lines)
        return not data.endswith(b"\n") and data != b""

    def _take_up_charging(self) -> None:
        """Have work that was being charged when the process ended looked at again."""
        for handle in self._all():
            if handle.charging is not None and handle.owed < 0:
                self._put(msgspec.structs.replace(handle, owed=handle.charging.owed))

    def _all(self) -> list[ObjectId]:
        return [handle for known in self._known.values() for handles in known.values() for handle in handles]


#: What an id in a path may be made of; no ``..``.
_CHILD = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:\-]{1,256}")


def _unknown(kind: str, object_id: str) -> NotFound:
    shown = object_id if object_id.isascii() and object_id.isprintable() and len(object_id) <= 80 else "…"
    return NotFound(f"No such {kind.replace('_', ' ')}: {shown!r}.", code=f"{kind}_not_found")


#: So many lines more than twice the ids there are, and the file is written anew.
_SPARE_LINES = 1_000


def _fresh(path: Path) -> Path:
    return path.with_suffix(".new")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _write(path: Path, handles: Iterable[ObjectId]) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    with path.open("wb") as file:
        file.writelines(_encode(handle) + b"\n" for handle in handles)
        file.flush()
        os.fsync(file.fileno())


def _handles(lines: Iterable[bytes]) -> Iterable[ObjectId]:
    for line in lines:
        try:
            yield _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
