"""Signing with ES256 (ECDSA on P-256 with SHA-256; RFC 7518 section 3.4), with the OpenSSL that Python has loaded.

As with Ed25519 (``formats.ed25519``) it is asked through ctypes, so that no library is needed for one kind of key.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

_GROUP: Final = b"prime256v1"
_SCALAR_BYTES: Final = 32
_DER_MOST_BYTES: Final = 80


class Es256Signer:
    """Signs with one private key."""

    def __init__(self, pem: bytes) -> None:
        """``pem``: the key, SEC 1 or PKCS #8, unencrypted.

        Raises ``ValueError`` where that is no private key of the curve P-256, ``RuntimeError`` where this Python's
        OpenSSL is out of reach.
        """
        try:
            self._library = _library()
        except (OSError, AttributeError, ImportError):
            raise RuntimeError("the OpenSSL of this Python cannot be asked for ES256 signatures") from None
        library = self._library
        source = library.BIO_new_mem_buf(pem, len(pem))
        try:
            # A passphrase is given, if an empty one: without, OpenSSL asks for it at the terminal.
            self._key: int | None = library.PEM_read_bio_PrivateKey(source, None, None, b"") if source else None
        finally:
            library.BIO_free(source)
        if not self._key or not self._is_p256():
            library.ERR_clear_error()
            raise ValueError("not a private key of the curve P-256 in PEM")

    def sign(self, message: bytes) -> bytes:
        """Returns the signature, r and s of 32 bytes each."""
        library = self._library
        context = library.EVP_MD_CTX_new()
        try:
            signature = ctypes.create_string_buffer(_DER_MOST_BYTES)
            size = ctypes.c_size_t(_DER_MOST_BYTES)
            begun = context and library.EVP_DigestSignInit(context, None, library.EVP_sha256(), None, self._key) == 1
            if not begun or library.EVP_DigestSign(context, signature, ctypes.byref(size), message, len(message)) != 1:
                raise RuntimeError("OpenSSL does not sign")
            return _raw(signature.raw[: size.value])
        finally:
            library.EVP_MD_CTX_free(context)

    def _is_p256(self) -> bool:
        name = ctypes.create_string_buffer(64)
        size = ctypes.c_size_t()
        found = self._library.EVP_PKEY_get_group_name(self._key, name, len(name), ctypes.byref(size))
        return bool(found == 1 and name.value == _GROUP)

    def __del__(self) -> None:
        key, self._key = getattr(self, "_key", None), None
        if key:
            self._library.EVP_PKEY_free(key)


def _library() -> Any:
    """Returns the library, its functions' types set. Raises ``OSError``, ``AttributeError`` where it is another."""
    import _hashlib

    library = ctypes.CDLL(_hashlib.__file__)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("BIO_new_mem_buf", pointer, (ctypes.c_char_p, ctypes.c_int)),
        ("BIO_free", ctypes.c_int, (pointer,)),
        ("PEM_read_bio_PrivateKey", pointer, (pointer, pointer, pointer, ctypes.c_char_p)),
        ("EVP_PKEY_free", None, (pointer,)),
        ("EVP_PKEY_get_group_name", ctypes.c_int, (pointer, ctypes.c_char_p, size, ctypes.POINTER(size))),
        ("EVP_MD_CTX_new", pointer, ()),
        ("EVP_MD_CTX_free", None, (pointer,)),
        ("EVP_sha256", pointer, ()),
        ("EVP_DigestSignInit", ctypes.c_int, (pointer,) * 5),
        ("ERR_clear_error", None, ()),
        (
            "EVP_DigestSign",
            ctypes.c_int,
            (pointer, ctypes.c_char_p, ctypes.POINTER(size), ctypes.c_char_p, size),
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _raw(der: bytes) -> bytes:
    """Returns r and s of a signature in DER (RFC 3279 section 2.2.3), 32 bytes each."""
    first = 4 + der[3]
    r, s = der[4:first], der[first + 2 : first + 2 + der[first + 1]]
    return b"".join(int.from_bytes(number).to_bytes(_SCALAR_BYTES) for number in (r, s))
