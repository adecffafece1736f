"""Certificates for ``tls_context``: from files, and as ``ssl`` describes them.

Compare these private names first for a new Python version:

==============================  ==================================================================
private name                    use here
==============================  ==================================================================
``_ssl._test_decode_cert``      describes a certificate as ``SSLSocket.getpeercert`` does
``_ssl.ENCODING_DER``           what ``SSLObject.get_verified_chain`` asks certificates for
==============================  ==================================================================
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, StrOrBytesPath

_ssl: Any = sys.modules["_ssl"]


class Certificate:
    """What ``ssl`` needs of ``_ssl.Certificate``."""

    __slots__ = ("_der",)

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: int) -> bytes | str:
        return self._der if encoding == _ssl.ENCODING_DER else ssl.DER_cert_to_PEM_cert(self._der)

    def get_info(self) -> dict[str, Any]:
        return decoded(self._der)


def read(path: StrOrBytesPath) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


def files_in(folder: StrOrBytesPath) -> list[bytes]:
    """Return the contents of the files that OpenSSL would look for in a folder: named by hashes."""
    found = []
    for path in sorted(Path(os.fsdecode(folder)).glob("????????.[0-9]*")):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def pem_of(certificates: ReadableBuffer) -> bytes:
    """Return certificates that follow one another in DER as PEM."""
    rest, pem = bytes(certificates), ""
    while rest:
        # A sequence, and the length of what it has: in one byte, or in so many that follow.
        header, length = 2, rest[1]
        if length & 0x80:
            header += length & 0x7F
            length = int.from_bytes(rest[2:header])
        pem += ssl.DER_cert_to_PEM_cert(rest[: header + length])
        rest = rest[header + length :]
    return pem.encode("ascii")


@functools.cache
def default_roots() -> list[bytes]:
    """Return the certificates that the system trusts, as OpenSSL would find them."""
    paths = ssl.get_default_verify_paths()
    # The files in the folder are mostly the same ones, each by itself.
    if paths.cafile is not None:
        return [read(paths.cafile)]
    return files_in(paths.capath) if paths.capath is not None else []


def decoded(der: bytes) -> dict[str, Any]:
    """Return a certificate as the dict of ``ssl.SSLSocket.getpeercert``."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="ascii") as file:
        file.write(ssl.DER_cert_to_PEM_cert(der))
        file.flush()
        decoded: dict[str, Any] = _ssl._test_decode_cert(file.name)
    return decoded
