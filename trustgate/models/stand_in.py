"""Stand-ins for long texts: a short text that is put where a long one was cut out, and knows what the long one weighs.

A body of 50 MB is judged without its long strings (``gateway.api.large_body``); what is counted of them was counted
while they arrived and is written into the stand-in, where ``models.estimate`` reads it. A stand-in cannot be forged:
it begins with random bytes of this process, which never leave it (``shown``).
"""

from __future__ import annotations

import os
import re
from typing import Final

_MARK: Final = os.urandom(16).hex() + ":"
MARK: Final = _MARK.encode()
#: A stand-in in UTF-8: its number, its weight and its characters, in decimal digits.
STAND_IN: Final = re.compile(re.escape(MARK) + rb"(\d+):(\d+):(\d+);")
_SHOWN: Final = re.compile(re.escape(_MARK) + r"[\d:;]*")


def stand_in(number: int, milli_tokens: int, characters: int) -> bytes:
    """Returns the text that stands for a long one: the ``number``-th of its body, which weighs and is as long as that.

    ``milli_tokens``: the estimate of its tokens, in thousandths; ``characters``: its length in characters.
    """
    return b"%b%d:%d:%d;" % (MARK, number, milli_tokens, characters)


def characters_in(text: str) -> int:
    """Returns the length of a text in characters, with those that stand-ins in it stand for."""
    if _MARK not in text:
        return len(text)
    data = text.encode("utf-8", "surrogatepass")
    return len(STAND_IN.sub(b"", data).decode("utf-8", "surrogatepass")) + sum(
        int(found[3]) for found in STAND_IN.finditer(data)
    )


def shown(text: str) -> str:
    """Returns a text as a client may see it: without stand-ins."""
    return _SHOWN.sub("…", text) if _MARK in text else text
