"""The header fields of a multipart form, read by their grammar: its content type, and the head of each part.

What two readers could read differently is refused, since the upstream might believe the other reading: a parameter that
is given twice, a name in the encodings of RFC 2231 and 5987, a character set in which the same bytes are another text.
Sources: RFC 2045 section 5.1, RFC 2183 section 2, RFC 7578 section 4, RFC 9110 section 5.6.6.
"""

from __future__ import annotations

import re

import msgspec

from trustgate.errors import InvalidRequest

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD_NAME = re.compile(_TOKEN)
#: One parameter, or none: RFC 9110 lets a semicolon stand alone.
_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*(?:(" + _TOKEN + rb")="
    rb'(?:"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x1f\x7f])*)"|([^;"\\\x00-\x20\x7f]+)))?'
)
#: RFC 2046 allows fewer characters; that clients have asterisks and the like in it makes nothing ambiguous.
_BOUNDARY = re.compile(rb"[ !#-\[\]-~]{0,69}[!#-\[\]-~]")
_NAME = re.compile(rb"[A-Za-z0-9_.\-]{1,64}(?:\[[A-Za-z0-9_.\-]*\]){0,4}")
#: What a reader that does not know of quotes would take for another parameter.
_HIDDEN = re.compile(rb";\s*(?:file)?name\*?\s*=", re.IGNORECASE)
_PLAIN_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
#: In these ASCII is ASCII, and only other bytes are other characters.
_EXTENDS_ASCII = re.compile(rb"iso-8859-\d{1,2}|latin-?1|windows-125\d|cp125\d")


class PartHead(msgspec.Struct, frozen=True):
    """The facts in the head of a part."""

    name: str
    is_file: bool
    #: The part is in a character set that agrees with UTF-8 in ASCII alone: its value must be ASCII.
    is_ascii: bool = False
    #: Readers differ on whether it is a file: it has a file's type and no file's name.
    is_doubtful: bool = False


def boundary_of(content_type: bytes) -> bytes:
    """Returns the boundary in a form's content type.

    Raises:
        InvalidRequest: it is no form's type, it has no boundary that can be read, or names a character set in which
            the form's fields would read differently.
    """
    kind, semicolon, rest = content_type.partition(b";")
    parameters = _parameters(semicolon + rest)
    boundary = b"" if parameters is None else parameters.get(b"boundary", b"")
    if parameters is None or kind.strip().lower() != b"multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest(
            "The body must be a form: send the header content-type: multipart/form-data with its boundary.",
            code="unsupported_content_type",
        )
    if parameters.get(b"charset", b"utf-8").lower() not in _UTF_8:
        raise InvalidRequest(
            "The form's fields must be UTF-8: send its content type without a charset, or with charset=UTF-8.",
            code="unsupported_content_type",
        )
    return boundary


def read_part_head(head: bytes) -> PartHead:
    """Returns the facts in a part's head.

    Args:
        head: its lines, without the empty line at the end.

    Raises:
        InvalidRequest: it is malformed, or two readers could differ on it.
    """
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name) or b"\n" in line or b"\r" in line or b"\x00" in line:
            raise bad_form("the head of a part is malformed")
        name = name.lower()
        if name in fields and name.startswith(b"content-"):
            raise bad_form(f"a part has two fields {name.decode()}")
        fields[name] = value.strip(b" \t")
    if fields.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
        raise bad_form("a part has a transfer encoding")
    name, is_file = _disposition(fields.get(b"content-disposition", b""))
    kind, semicolon, rest = fields.get(b"content-type", b"").partition(b";")
    kind = kind.strip().lower()
    if kind.startswith(b"multipart/"):
        raise bad_form("a part is a form itself")
    if is_file:
        return PartHead(name.decode(), is_file=True)
    parameters = _parameters(semicolon + rest)
    charset = None if parameters is None else parameters.get(b"charset", b"utf-8").lower()
    if charset is None or not (charset in _UTF_8 or _EXTENDS_ASCII.fullmatch(charset)):
        raise bad_form("the content type of a field cannot be read, or has a character set other than UTF-8")
    is_doubtful = kind == b"application/octet-stream"
    return PartHead(name.decode(), is_file=False, is_ascii=charset not in _UTF_8, is_doubtful=is_doubtful)


def _disposition(value: bytes) -> tuple[bytes, bool]:
    """Returns the name in a part's content disposition, and whether the part is a file."""
    kind, semicolon, rest = value.partition(b";")
    parameters = _parameters(semicolon + rest)
    if parameters is None or kind.strip().lower() != b"form-data":
        raise bad_form("a part has no content-disposition: form-data with parameters that can be read one way only")
    if not _NAME.fullmatch(parameters.get(b"name", b"")):
        raise bad_form("a part has no plain name")
    if any(_HIDDEN.search(text) for text in parameters.values()):
        raise bad_form("a file's name has what could be read as another parameter")
    return parameters[b"name"], b"filename" in parameters or b"filename*" in parameters


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Returns the parameters of a header field by their names in lower case, or None where they are ambiguous.

    ``text``: what follows the value, from the first semicolon on. Escapes within quotes stay as they are.
    """
    text = text.rstrip(b" \t")
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        at = match.end()
        if match[1] is None:
            continue
        name = match[1].lower()
        if name in found or (b"*" in name and name != b"filename*"):
            return None
        found[name] = match[3] if match[2] is None else match[2]
    return found


def bad_form(what: str) -> InvalidRequest:
    """Returns the refusal of a form that is wrong."""
    return InvalidRequest(f"The form cannot be read: {what}.", code="invalid_form")
