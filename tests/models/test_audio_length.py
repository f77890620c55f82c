"""Recordings tell their length, in every container, from their beginning and end alone; nothing in them raises."""

from __future__ import annotations

import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.models.metering.audio_length import HEAD_BYTES, TAIL_BYTES, Recording, audio_ms, estimate_ms

SECONDS = 3


def wav(seconds: int = SECONDS, rate: int = 8_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(b"\0\0" * (rate * seconds))
    return file.getvalue()


def streamed_wav() -> bytes:
    """As ffmpeg writes it into a pipe: the lengths are not known yet."""
    data = bytearray(wav())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    return bytes(data)


def flac(seconds: int = SECONDS) -> bytes:
    rate, samples = 16_000, 16_000 * seconds
    packed = (rate << 44) | (0 << 41) | (15 << 36) | samples
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + bytes(8_000 * seconds)


def mp3(seconds: int = SECONDS) -> bytes:
    """MPEG-1 layer III, 128 kbit/s, 44.1 kHz: frames of 417 bytes and 1,152 samples."""
    frame = b"\xff\xfb\x90\x64" + bytes(413)
    return frame * -(-seconds * 44_100 // 1152)


def mp3_with_cover() -> bytes:
    size = 300_000
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + syncsafe + b"\xff" * size + mp3()


def page(position: int, payload: bytes) -> bytes:
    """An Ogg page with one packet."""
    segments = [255] * (len(payload) // 255) + [len(payload) % 255]
    return b"OggS\0\0" + struct.pack("<qIIIB", position, 7, 0, 0, len(segments)) + bytes(segments) + payload


def opus(seconds: int = SECONDS) -> bytes:
    head = page(0, b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 312, 16_000, 0, 0))
    sound = [page(48_000 * second + 312, bytes(4_000)) for second in range(1, seconds + 1)]
    return head + page(0, b"OpusTags" + bytes(8)) + b"".join(sound)


def vorbis(seconds: int = SECONDS) -> bytes:
    head = page(0, b"\x01vorbis" + struct.pack("<IBIiiiB", 0, 1, 22_050, 0, 64_000, 0, 0xB8))
    return head + b"".join(page(22_050 * second, bytes(8_000)) for second in range(1, seconds + 1))


def element(name: bytes, value: bytes) -> bytes:
    return name + vint(len(value)) + value


def vint(size: int) -> bytes:
    return (size | 1 << 28).to_bytes(4, "big")


def webm(*, duration: bool) -> bytes:
    scale = element(b"\x2a\xd7\xb1", (1_000_000).to_bytes(3, "big"))
    told = element(b"\x44\x89", struct.pack(">d", SECONDS * 1000.0)) if duration else b""
    block = [element(b"\xa3", b"\x81" + struct.pack(">h", at) + b"\0" + bytes(400)) for at in range(0, 1001, 100)]
    clusters = [
        element(b"\x1f\x43\xb6\x75", element(b"\xe7", (1000 * second).to_bytes(2, "big")) + b"".join(block))
        for second in range(SECONDS)
    ]
    return element(b"\x1aE\xdf\xa3", b"") + element(b"\x15\x49\xa9\x66", scale + told) + b"".join(clusters)


def box(name: bytes, payload: bytes) -> bytes:
    return (8 + len(payload)).to_bytes(4, "big") + name + payload


def m4a(*, index_first: bool, size: int = 24_000, seconds: int = SECONDS) -> bytes:
    header = struct.pack(">IIIII", 0, 0, 0, 1000, 1000 * seconds) + bytes(80)
    media = struct.pack(">IIIII", 0, 0, 0, 16_000, 16_000 * seconds) + bytes(4)
    track = box(b"trak", box(b"mdia", box(b"mdhd", media)))
    index, sound = box(b"moov", box(b"mvhd", header) + track), box(b"mdat", bytes(size))
    return box(b"ftyp", b"M4A \0\0\0\0M4A isom") + (index + sound if index_first else sound + index)


RECORDINGS = {
    "wav": wav(),
    "wav without lengths": streamed_wav(),
    "flac": flac(),
    "mp3": mp3(),
    "mp3 with a cover": mp3_with_cover(),
    "opus": opus(),
    "vorbis": vorbis(),
    "webm": webm(duration=True),
    "webm of a browser": webm(duration=False),
    "m4a": m4a(index_first=True),
    "m4a of a recorder": m4a(index_first=False),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_tells_its_length(name: str) -> None:
    data = RECORDINGS[name]
    # An MP3 ends with a whole frame; the others tell it exactly.
    assert abs((audio_ms(data) or 0) - SECONDS * 1000) <= (30 if "mp3" in name else 0), name


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("piece", [1, 7, 5_000])
def test_it_tells_it_too_as_it_streams_by(name: str, piece: int) -> None:
    data = RECORDINGS[name]
    if piece < 10 and len(data) > 100_000:
        data = data[:2_000] if name == "mp3 with a cover" else data
    recording = Recording()
    for at in range(0, len(data), piece):
        recording.feed(data[at : at + piece])
    assert recording.length_ms() == audio_ms(data)


def test_a_long_recording_is_kept_by_its_ends_alone() -> None:
    long = {
        "m4a": (m4a(index_first=False, size=20_000_000, seconds=1_800), 1_800_000),
        "wav": (wav(1_800), 1_800_000),
        "opus": (opus(1_800), 1_800_000),
        "mp3": (mp3(1_800), 1_800_000),
    }
    for name, (data, expected) in long.items():
        recording = Recording()
        for at in range(0, len(data), 65_536):
            recording.feed(data[at : at + 65_536])
            assert len(recording._head) + len(recording._tail) <= HEAD_BYTES + 2 * TAIL_BYTES + 65_536
        assert abs((recording.length_ms() or 0) - expected) <= 50, name


def test_a_beginning_and_a_size_are_enough_where_no_end_is_needed() -> None:
    for data in (wav(60), flac(60), mp3(60)):
        assert abs((audio_ms(data[:4096], len(data)) or 0) - 60_000) <= 30
    assert audio_ms(opus(60)[:4096], 240_000) is None


def test_a_claim_that_no_coding_reaches_is_not_believed() -> None:
    """A recording is charged by its length."""
    xing = b"\xff\xfb\x90\x64" + bytes(32) + b"Xing" + struct.pack(">iii", 3, 1, 834) + bytes(365)
    assert (audio_ms(xing + mp3(600)) or 600_000) >= 600_000
    assert audio_ms(flac(1)[:42] + bytes(10_000_000)) is None
    assert audio_ms(m4a(index_first=True, seconds=100_000)) is None
    assert estimate_ms(8_000) == 1_000


@given(st.sampled_from(sorted(RECORDINGS)), st.data())
def test_broken_recordings_do_not_raise(name: str, data: st.DataObject) -> None:
    whole = bytearray(RECORDINGS[name][:4_000])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    length = audio_ms(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert length is None or 0 <= length <= len(whole) * 8 + 1


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    for start in (b"", b"OggS", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0WAVEfmt ", b"ID3", b"\xff\xfb\x90\x64", b"fLaC"):
        audio_ms(start + data)
