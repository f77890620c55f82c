"""What a batch's file asks for: one model for all of its lines, and what they may use at most.

A batch runs requests that never pass the gateway, so they are judged when their file does: each line like a request of
its own, by the endpoint that it names, and all for one and the same model.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBodyReader
from trustgate.gateway.api.member_names import misnamed
from trustgate.gateway.api.object_ids import Work

#: The longest line of a batch's file, bytes.
MOST_LINE_BYTES = 8 * 1024 * 1024


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class JudgedLine(msgspec.Struct, frozen=True):
    """What one line asks for, as a request of its own: its worst case."""

    endpoint: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_nano_usd: int
    #: Its bound on one completion; 0 without one.
    bound: int
    features: tuple[str, ...]
    #: As ``Work`` has them.
    profile: str = ""
    image_size: str = ""
    image_quality: str = ""
    prices: tuple[str, ...] = ()
    factor_ppm: int = 0


#: Judges a request by its method, URL and body. Raises what the request would be refused for.
JudgeLine = Callable[[str, str, bytes], JudgedLine]


class BatchFile:
    """Reads a file of JSON lines as it passes. ``feed`` and ``finish`` raise ``TrustGateError``."""

    def __init__(self, judge: JudgeLine) -> None:
        self.model = ""
        self.work = Work()
        self._judge = judge
        self._line = 0
        #: The pieces of the line that is not at its end yet; once it is large, it is taken apart instead.
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        #: A carriage return was read in this line.
        self._returned = False
        self._large: LargeBodyReader | None = None

    @property
    def is_in_large_line(self) -> bool:
        return self._large is not None

    def feed(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        self._go_on(first)
        for line in lines:
            self._end_line()
            self._go_on(line)

    def finish(self) -> None:
        self._end_line()
        if not self.model:
            raise InvalidRequest("The batch's file has no requests.", param="file", code="invalid_batch_file")

    def _go_on(self, part: bytes) -> None:
        # Many readers of lines end one at a carriage return, too, and would find another request behind it.
        if (self._returned and part.strip(b"\r")) or b"\r" in part.rstrip(b"\r"):
            self._line += 1
            raise self._bad("has a carriage return inside")
        self._returned = self._returned or part.endswith(b"\r")
        self._rest_bytes += len(part)
        if self._rest_bytes > MOST_LINE_BYTES:
            self._line += 1
            raise self._bad("is too long")
        if self._large is None and self._rest_bytes <= DIRECT_BYTES:
            self._rest.append(part)
            return
        if self._large is None:
            self._large = LargeBodyReader()
            part = b"".join([*self._rest, part])
            self._rest.clear()
        try:
            self._large.feed(part)
        except TrustGateError as refusal:
            self._line += 1
            raise self._in_line(refusal) from None

    def _end_line(self) -> None:
        line = b"".join(self._rest) if self._large is None else self._large.finish().skeleton
        self._rest, self._rest_bytes, self._returned, self._large = [], 0, False, None
        self._read(line)

    def _read(self, line: bytes) -> None:
        self._line += 1
        if not line.strip():
            return
        try:
            asked = _decode_line(line)
            members = _members(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._bad("is no request with custom_id, method, url and a body that names a model") from None
        # What is judged is what the upstream reads: no second body, nor one that counts for readers without case.
        if misnamed(line.strip(), members) is not None or any(
            name.casefold() in _Line.__struct_fields__ and name not in _Line.__struct_fields__ for name in members
        ):
            raise self._bad("names a member twice, or in another spelling")
        try:
            judged = self._judge(asked.method, asked.url, bytes(asked.body))
        except TrustGateError as refusal:
            raise self._in_line(refusal) from None
        if self.model and judged.model != self.model:
            raise self._bad(
                f"asks for the model {judged.model[:80]!r}, others for {self.model[:80]!r}: a batch has one model"
            )
        if not is_like(self.work, judged):
            raise self._bad(
                "asks for images of another size or quality than others: a batch has one, since they have prices of "
                "their own"
            )
        self.model = judged.model
        self.work = with_line(self.work, judged)

    def _in_line(self, refusal: TrustGateError) -> TrustGateError:
        """Returns the same refusal as for a request of its own, its status and code, and in which line it is."""
        told = refusal.message[:1].lower() + refusal.message[1:]
        refusal.message = f"Line {self._line} of the batch's file is refused: {told}"
        refusal.param = "file"
        return refusal

    def _bad(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"Line {self._line} of the batch's file {what}.", param="file", code="invalid_batch_file")


def is_like(work: Work, line: JudgedLine) -> bool:
    """Returns whether a line's images have the size and the quality of the lines before, where a price looks at it."""
    return not work.lines or (line.image_size, line.image_quality) == (work.image_size, work.image_quality)


def with_line(work: Work, line: JudgedLine) -> Work:
    """Returns what the lines ask for with another one."""
    return Work(
        lines=work.lines + 1,
        prompt_tokens=work.prompt_tokens + line.prompt_tokens,
        completion_tokens=work.completion_tokens + line.completion_tokens,
        cost_nano_usd=work.cost_nano_usd + line.cost_nano_usd,
        largest_prompt=max(work.largest_prompt, line.prompt_tokens),
        largest_bound=max(work.largest_bound, line.bound),
        endpoints=work.endpoints if line.endpoint in work.endpoints else (*work.endpoints, line.endpoint),
        features=tuple(dict.fromkeys((*work.features, *line.features))),
        profile=line.profile,
        image_size=line.image_size,
        image_quality=line.image_quality,
        # Where a price is changed while the lines are read, none holds for all of them.
        prices=line.prices if not work.lines or _is_priced_alike(work, line) else (),
        factor_ppm=line.factor_ppm,
    )


def _is_priced_alike(work: Work, line: JudgedLine) -> bool:
    return work.prices == line.prices and work.factor_ppm == line.factor_ppm
