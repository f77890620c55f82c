"""What is fuzzed: everything that parses bytes from outside, each with what must hold for any bytes whatever.

A target takes bytes and returns; what the code under it raises on purpose (``TrustGateError``, ``InvalidHttp``,
``ValueError`` where that is its contract) is caught here, everything else is a finding. Where there is a second way to
the same result (split differently, written back, judged by another reader), the two have to agree.

Owns the list of targets. Seeds are valid inputs; ``corpus/NAME`` has what a run has found besides.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.fuzz import seeds
from trustgate.errors import StoreTooNew, TrustGateError
from trustgate.formats.solana_transaction import b58decode, b58encode, read_transaction
from trustgate.gateway.api.batch_files import BatchFile, JudgedLine
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.api.form_heads import boundary_of
from trustgate.gateway.api.large_body import LargeBodyReader
from trustgate.gateway.api.multipart import FormScanner
from trustgate.gateway.path.json_edit import outgoing
from trustgate.http.parser import ChunkedBody, InvalidHttp, find_head_end, read_head
from trustgate.models.importing.litellm import read_import_file
from trustgate.models.metering import whole
from trustgate.models.metering.answer import failure_of
from trustgate.models.metering.audio_length import Recording, audio_ms
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import EventMeter, MessagesMeter
from trustgate.models.metering.sse import SseScanner, frame_data, frame_event
from trustgate.models.pricelist import PriceBook
from trustgate.payment.payment_key import payer_of, payment_key, transaction_of
from trustgate.payment.x402_wire import read_payment
from trustgate.receipts.bundle import read_bundle
from trustgate.receipts.checkpoint import open_checkpoint, parse_checkpoint
from trustgate.receipts.note import VerifierKey, format_note, parse_note
from trustgate.receipts.proof import format_proof, parse_proof
from trustgate.receipts.segment import Segment, records, scan
from trustgate.receipts.tiles import parse_tile_path, tile_path
from trustgate.receipts.verify import verify_bundle
from trustgate.settings import load_settings
from trustgate.store.changes import read_changes
from trustgate.types import Usage


class Target(NamedTuple):
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def http_head(data: bytes) -> None:
    """A head that is read is read the same with whatever behind it; a name is a token, a value has no line end."""
    with contextlib.suppress(InvalidHttp):
        end = find_head_end(data, 0)
        if not end:
            return
        head = read_head(data[:end])
        assert all(name == name.lower() and b":" not in name for name, _ in head.headers)
        assert not any(byte in value for _, value in head.headers for byte in b"\r\n\0")
        assert not (head.is_chunked and head.length), "two framings"


def http_chunked(data: bytes) -> None:
    """A chunked body is the same whole and byte by byte, and never takes what is behind it."""
    cut, stream = data[:1], data[1:]
    at_once, in_pieces = _chunks([stream]), _chunks(_pieces(stream, 1 + (cut[0] % 7 if cut else 0)))
    assert at_once == in_pieces, (at_once, in_pieces)


def _chunks(pieces: list[bytes]) -> tuple[str, bytes, bytes]:
    body, behind, chunked = b"", b"", ChunkedBody()
    for index, piece in enumerate(pieces):
        try:
            found, behind = chunked.feed(piece)
        except InvalidHttp as error:
            return error.code, b"", b""
        body += found
        if chunked.is_whole:
            return "whole", body, behind + b"".join(pieces[index + 1 :])
    return "part", body, b""


def multipart(data: bytes) -> None:
    """What is passed on is the form byte for byte, however it was split."""
    head, _, form = data.partition(b"\n")
    with contextlib.suppress(TrustGateError):
        boundary = boundary_of(head)
        at_once = _form(boundary, [form])
        in_pieces = _form(boundary, _pieces(form, 1 + len(form) % 13))
        assert at_once == in_pieces


def _form(boundary: bytes, pieces: list[bytes]) -> tuple[bytes, dict[str, str], bytes]:
    scanner = FormScanner(boundary, frozenset({"model", "stream", "n", "purpose"}))
    file = bytearray()
    scanner.on_file = file.extend
    out = b""
    for piece in pieces:
        for found in scanner.feed(piece):
            out += found if isinstance(found, bytes) else found.value
    scanner.finish()
    assert out == b"".join(pieces), "a form that was taken has to go on as it came"
    return out, scanner.fields, bytes(file)


def sse(data: bytes) -> None:
    """Frames put together are the stream, and the same however it was split."""
    with contextlib.suppress(TrustGateError):
        at_once, in_pieces = _frames([data]), _frames(_pieces(data, 3))
        assert at_once == in_pieces
        assert b"".join(at_once) == data


def _frames(pieces: list[bytes]) -> list[bytes]:
    scanner = SseScanner(1 << 16)
    frames = [frame for piece in pieces for frame in scanner.feed(piece)]
    tail = scanner.tail()
    return [*frames, tail] if tail else frames


def stream_meter(data: bytes) -> None:
    """No stream breaks a meter, and what it counts can be stored."""
    for meter in (StreamMeter(), EventMeter(), MessagesMeter()):
        scanner = SseScanner(1 << 16)
        with contextlib.suppress(TrustGateError):
            for frame in [*scanner.feed(data), scanner.tail()]:
                payload = frame_data(frame)
                if payload is not None:
                    meter.feed(payload, frame_event(frame))
        _check_usage(meter.usage_or_estimate(100, prompt_bound=1_000, completion_bound=1_000))
        meter.model.encode()


def answer(data: bytes) -> None:
    """No answer breaks a reader, what is counted can be stored, and what is said of a failure is text."""
    failure = failure_of(data)
    if failure is not None:
        failure.message.encode()
    for read in (whole.read_answer, whole.read_response, whole.read_scores, whole.read_images, whole.read_transcript):
        found = read(data)
        _check_usage(found.usage_or_estimate(100, prompt_bound=1_000, completion_bound=1_000))
        found.model.encode()


def _check_usage(usage: Usage) -> None:
    for name in Usage.__struct_fields__:
        value = getattr(usage, name)
        if isinstance(value, str):
            value.encode()
        else:
            assert 0 <= value < 1 << 53, (name, value)


def audio(data: bytes) -> None:
    """No recording breaks it, and how it arrives makes no difference."""
    whole_ms = audio_ms(data)
    recording = Recording()
    for piece in _pieces(data, 1 + len(data) // 5):
        recording.feed(piece)
    assert recording.length_ms() == whole_ms
    assert whole_ms is None or whole_ms >= 0


def request_body(data: bytes) -> None:
    """No body breaks an endpoint; one that is taken is an object whose members stand there once, edited or not."""
    for endpoint in _ENDPOINTS:
        with contextlib.suppress(TrustGateError):
            call = endpoint.peek(data)
            if call.invalid is not None:
                continue
            before = json.loads(data)
            edited = outgoing(
                data, {"model": "another"}, {"temperature": 0}, {"stream_options": {"include_usage": True}}
            )
            after = json.loads(edited)
            assert after["model"] == "another"
            same = before.keys() - {"model", "temperature", "stream_options"}
            # repr: NaN is not in JSON, and 1.0 is not 1
            assert {name: repr(before[name]) for name in same} == {name: repr(after[name]) for name in same}
            assert call.prompt_tokens >= 0


def large_body(data: bytes) -> None:
    """Taken apart and put together is the same bytes; the skeleton is JSON where the body is, and the same one."""
    taken = []
    for size in (len(data) or 1, 7):
        reader = LargeBodyReader()
        with contextlib.suppress(TrustGateError):
            for piece in _pieces(data, size):
                reader.feed(piece)
            body = reader.finish()
            assert b"".join(body.restored(body.skeleton)) == data
            taken.append(body.skeleton)
    is_json = _is_json(data)
    assert all(_is_json(skeleton) == is_json for skeleton in taken)
    assert not is_json or len(set(taken)) <= 1


def batch_file(data: bytes) -> None:
    """However a batch's file is split, the same lines are judged."""
    assert _lines([data]) == _lines(_pieces(data, 5))


def _lines(pieces: list[bytes]) -> tuple[str, list[tuple[str, str, bytes]]]:
    judged: list[tuple[str, str, bytes]] = []

    def judge(method: str, url: str, body: bytes) -> JudgedLine:
        judged.append((method, url, body))
        return JudgedLine(
            endpoint="chat.completions", model="m", prompt_tokens=1, completion_tokens=1, cost_nano_usd=1, bound=1,
            features=(),
        )  # fmt: skip

    file = BatchFile(judge)
    try:
        for piece in pieces:
            file.feed(piece)
        file.finish()
    except TrustGateError as refusal:
        return refusal.message, judged
    return "", judged


def x402_payment(data: bytes) -> None:
    """No header breaks the reader of payments; whose payment it is comes out, or a refusal."""
    for name in (b"payment-signature", b"x-payment"):
        for header in (data, base64.b64encode(data)):
            with contextlib.suppress(TrustGateError):
                presented = read_payment({name: header})
                if presented is None:
                    continue
                payer_of(presented.payload)
                transaction_of(presented.payload)
                key = payment_key(
                    presented.x402_version, presented.scheme, presented.network, "asset", presented.payload
                )
                assert len(bytes.fromhex(key)) == 32


def solana_transaction(data: bytes) -> None:
    """What is read as a transaction has the parts it names; with bytes behind it, it is none."""
    with contextlib.suppress(ValueError, TrustGateError):
        found = read_transaction(data)
        assert found.signature and found.fee_payer
        assert all(isinstance(memo, bytes) for memo in found.memos)
        with contextlib.suppress(TrustGateError, ValueError):
            found.verify_signatures()
        again = read_transaction(data + b"\0", allow_trailing=True)
        assert again.signature == found.signature


def base58(data: bytes) -> None:
    """Base58 of bytes decodes to them; text that decodes encodes to itself."""
    if len(data) <= 64:
        assert b58decode(b58encode(data)) == data
    with contextlib.suppress(ValueError, TrustGateError):
        text = data.decode("latin-1")
        if len(text) <= 64:
            assert b58encode(b58decode(text)) == text


def note(data: bytes) -> None:
    """A note that parses is written back as it was; so is the checkpoint in it."""
    with contextlib.suppress(TrustGateError):
        found = parse_note(data)
        assert format_note(found.text, found.signatures) == data
        checkpoint = parse_checkpoint(found.text)
        assert checkpoint.size >= 0
    with contextlib.suppress(TrustGateError):
        open_checkpoint(data, VerifierKey.parse(seeds.vkey()))


def proof(data: bytes) -> None:
    """A proof that parses is written back as it was."""
    with contextlib.suppress(TrustGateError):
        assert format_proof(parse_proof(data)) == data


def tile(data: bytes) -> None:
    """The path of a tile is the only one of its tile."""
    with contextlib.suppress(ValueError):
        text = data.decode()
        assert tile_path(*parse_tile_path(text)) == f"tile/{text}"


def bundle(data: bytes) -> None:
    """No document breaks the verifier, and one that holds is a receipt of our log alone."""
    verdict = verify_bundle(data, key=VerifierKey.parse(seeds.vkey()))
    if verdict.ok:
        assert read_bundle(data).receipt["id"] == seeds.receipt_id()


def verifier_key(data: bytes) -> None:
    """Text that is a verifier key is written back as it was."""
    with contextlib.suppress(TrustGateError, UnicodeDecodeError):
        text = data.decode()
        assert str(VerifierKey.parse(text)) == text


def settings_file(data: bytes) -> None:
    """No settings file breaks the start: it is read, or refused with its line."""
    path = _file("trustgate.toml", data)
    with contextlib.suppress(TrustGateError):
        load_settings(path.parent)


def price_list(data: bytes) -> None:
    """No price list breaks the reader."""
    with contextlib.suppress(TrustGateError):
        book = PriceBook(data)
        for name in list(book):
            book.find("https://api.openai.com/v1", name.name)
            book.price(name)


def litellm_file(data: bytes) -> None:
    """No file of LiteLLM's breaks the import, as JSON or as YAML."""
    for name in ("model_prices.json", "config.yaml"):
        with contextlib.suppress(TrustGateError):
            read_import_file(_file(name, data))


def journal(data: bytes) -> None:
    """No bytes break the journal's reader: its good records are numbered without a gap, or it is damaged."""
    segment = Segment(Path("home/journal/00000000000000000001.journal"), 1)
    for file in (data, seeds.journal_of(data)):
        with contextlib.suppress(TrustGateError):
            found = scan(segment, file, seeds.STORE_ID)
            entries = [entry.seq for entry, _ in records(segment, file, found.salt)]
            assert entries == list(range(1, found.last_seq + 1))


def operators_journal(data: bytes) -> None:
    """No bytes break the reader of operators' changes: what is read is numbered without a gap."""
    first = seeds.operators_journals()[0].split(b"\n")[0]
    line = hashlib.sha256(bytes.fromhex(first[:64].decode()) + data).hexdigest().encode() + b" " + data
    for file in (data, first + b"\n" + line + b"\n"):
        with contextlib.suppress(StoreTooNew):
            found = read_changes(_file("changes.journal", file))
            assert found is not None
            assert [change.number for change in found.changes] == list(range(found.after + 1, found.last + 1))


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


@functools.cache
def _folder() -> Path:
    kept = tempfile.TemporaryDirectory(prefix="trustgate-fuzz-")
    _kept.append(kept)
    return Path(kept.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


_ENDPOINTS = tuple(endpoint for endpoint in ENDPOINTS if endpoint.has_model and endpoint.body == "json")

TARGETS: Mapping[str, Target] = {
    "http_head": Target(http_head, seeds.heads),
    "http_chunked": Target(http_chunked, seeds.chunked),
    "multipart": Target(multipart, seeds.forms),
    "sse": Target(sse, seeds.streams),
    "stream_meter": Target(stream_meter, seeds.streams),
    "answer": Target(answer, seeds.answers),
    "audio": Target(audio, seeds.recordings),
    "request_body": Target(request_body, seeds.bodies),
    "large_body": Target(large_body, seeds.large_bodies),
    "batch_file": Target(batch_file, seeds.batch_files),
    "x402_payment": Target(x402_payment, seeds.payments),
    "solana_transaction": Target(solana_transaction, seeds.transactions),
    "base58": Target(base58, seeds.addresses),
    "note": Target(note, seeds.notes),
    "proof": Target(proof, seeds.proofs),
    "tile": Target(tile, seeds.tile_paths),
    "bundle": Target(bundle, seeds.bundles),
    "verifier_key": Target(verifier_key, seeds.keys),
    "settings_file": Target(settings_file, seeds.settings_files),
    "price_list": Target(price_list, seeds.price_lists),
    "litellm_file": Target(litellm_file, seeds.litellm_files),
    "journal": Target(journal, seeds.journals),
    "operators_journal": Target(operators_journal, seeds.operators_journals),
}
