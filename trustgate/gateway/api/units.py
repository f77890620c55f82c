"""What a request may use besides the tokens of its text, at most: estimates to hold before its answer arrives.

A hold has to cover what is charged, so these are on the high side where a request leaves open what it gets. What is
charged where an answer does not report it (``spoken_tokens``, ``spoken_ms``, ``made_image_tokens``) is what is usual.

Sources: RIFF/WAVE (Microsoft, "Multimedia Programming Interface and Data Specifications 1.0"), FLAC (RFC 9639 section
8.2), OpenAI's guides "Image generation" (tokens by quality), "Speech to text" and its pricing page.
"""

from __future__ import annotations

import struct
from typing import Final

#: Of the beginning of a recording so much is looked at, bytes.
HEAD_BYTES: Final = 4096

#: Speech is seldom coded in fewer: 16 kbit/s, as phones send it in Opus.
_LEAST_BYTES_PER_SECOND: Final = 2_000
#: Tokens of a second of sound that is heard, and of the text that is heard in it; of a character that is spoken.
_TOKENS_PER_SECOND: Final = 10
_TEXT_TOKENS_PER_SECOND: Final = 5
_TOKENS_PER_CHARACTER: Final = 2
#: Characters that are spoken in a second, and tokens of a second of speech that is made: OpenAI's pricing page has a
#: minute of it at what 1,250 tokens cost.
_CHARACTERS_PER_SECOND: Final = 15
_TOKENS_PER_MINUTE: Final = 1_250
#: Tokens of an image of the largest size, by quality; where none is asked for it may be the highest.
_MEDIUM_TOKENS: Final = 1_584
_IMAGE_TOKENS: Final = {"low": 408, "medium": _MEDIUM_TOKENS, "standard": _MEDIUM_TOKENS}
_MOST_IMAGE_TOKENS: Final = 6_240


def audio_ms(head: bytes, size_bytes: int) -> int:
    """Returns how long a recording may be at most, milliseconds: by its header, else by its size.

    ``head``: its first ``HEAD_BYTES`` bytes, or fewer; ``size_bytes``: of all of it.
    """
    by_size = -(-size_bytes * 1000 // _LEAST_BYTES_PER_SECOND)
    told = _wave_ms(head, size_bytes) or _flac_ms(head, size_bytes)
    # A header may claim anything; no format packs speech much closer than that.
    return by_size if told is None else min(told, 16 * by_size)


def _wave_ms(head: bytes, size_bytes: int) -> int | None:
    """By the form of a WAVE file's samples. Its lengths are not believed: streams leave them open."""
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    at = head.find(b"fmt ", 12)
    if at < 0 or len(head) < at + 24:
        return None
    channels, rate, bits = *struct.unpack_from("<HI", head, at + 10), *struct.unpack_from("<H", head, at + 22)
    bits_per_second = channels * rate * bits
    return -(-size_bytes * 8000 // bits_per_second) if bits_per_second else None


def _flac_ms(head: bytes, size_bytes: int) -> int | None:
    """By STREAMINFO: 20 bits of the sample rate, 3 of channels, 5 of depth, 36 of the number of samples.

    The number may be a lie; but what is packed is no shorter than if it were not.
    """
    if head[:4] != b"fLaC" or len(head) < 26:
        return None
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & (1 << 36) - 1
    bits_per_second = rate * ((packed >> 41 & 7) + 1) * ((packed >> 36 & 31) + 1)
    if not rate or not samples:
        return None
    return max(-(-samples * 1000 // rate), -(-size_bytes * 8000 // bits_per_second))


def transcription_tokens(milliseconds: int) -> tuple[int, int]:
    """Returns the prompt and completion tokens of a recording, for models that are priced by tokens."""
    seconds = -(-milliseconds // 1000)
    return seconds * _TOKENS_PER_SECOND, seconds * _TEXT_TOKENS_PER_SECOND


def speech_tokens(characters: int) -> int:
    """Returns the completion tokens of a text that is spoken, for models that are priced by tokens."""
    return characters * _TOKENS_PER_CHARACTER


def spoken_tokens(characters: int) -> int:
    """Returns the completion tokens of a text that was spoken, where they are not reported."""
    return -(-characters * _TOKENS_PER_MINUTE // (60 * _CHARACTERS_PER_SECOND))


def spoken_ms(characters: int) -> int:
    """Returns how long a text is that was spoken, milliseconds, where that is not reported."""
    return -(-characters * 1000 // _CHARACTERS_PER_SECOND)


def made_image_tokens(images: int, quality: str) -> int:
    """Returns the completion tokens of images that were made, where they are not reported: of the quality that was
    asked for, else of a medium one.
    """
    return images * _IMAGE_TOKENS.get(quality, _MOST_IMAGE_TOKENS if quality in ("high", "hd") else _MEDIUM_TOKENS)


def image_tokens(images: int, quality: str) -> int:
    """Returns the completion tokens of images that are made, for models that are priced by tokens."""
    return images * _IMAGE_TOKENS.get(quality, _MOST_IMAGE_TOKENS)
