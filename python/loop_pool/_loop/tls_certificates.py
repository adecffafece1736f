"""Certificates for ``tls_context``: from files, and as ``ssl`` asks for them.

Compare these private names first for a new Python version:

==============================  ==================================================================
private name                    use here
==============================  ==================================================================
``_ssl._test_decode_cert``      describes a certificate as ``SSLSocket.getpeercert`` does
``_ssl.ENCODING_DER``           what ``SSLObject.get_verified_chain`` asks certificates for
==============================  ==================================================================
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

_ssl: Any = sys.modules["_ssl"]


class Certificate:
    """What ``ssl`` needs of ``_ssl.Certificate``."""

    __slots__ = ("_der",)

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: int) -> bytes | str:
        return self._der if encoding == _ssl.ENCODING_DER else ssl.DER_cert_to_PEM_cert(self._der)

    def get_info(self) -> dict[str, Any]:
        return described(self._der)


def read(path: StrOrBytesPath) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


def blocks(pem: bytes, name: str) -> list[bytes]:
    """Return what the blocks of this name hold, in DER. Those that hold nothing are left out."""
    begin, end = (f"-----{word} {name}-----".encode() for word in ("BEGIN", "END"))
    found = []
    for block in re.findall(begin + b"(.*?)" + end, pem, re.DOTALL):
        try:
            found.append(base64.b64decode(b"".join(block.split()), validate=True))
        except binascii.Error:
            continue
    return found


def certificates_in(pem: bytes) -> list[bytes]:
    """Return the certificates of a PEM file, in DER."""
    return blocks(pem, "CERTIFICATE")


def canonical_blocks(pem: bytes) -> list[tuple[str, bytes]]:
    """Return what each block of a PEM file is called and holds, in DER.

    Raises:
        ValueError: there is something of which OpenSSL's reader might make something else.
    """
    found = [
        (match[1].decode(), base64.b64decode(b"".join(match[2].split()), validate=True))
        for match in _BLOCK.finditer(pem)
    ]
    if pem.count(b"-----BEGIN") != len(found) or b"\0" in pem:
        raise ValueError("there is a block in another form")
    for name, der in found:
        if name not in _KNOWN or (name in _SIGNED and certificates_of(der) != [der]):
            raise ValueError(f"there is a block {name}, or one that holds more")
    return found


_BLOCK = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]+)-----\r?\n"
    rb"((?:[A-Za-z0-9+/]{64}\r?\n)*[A-Za-z0-9+/]{1,64}={0,2}\r?\n)"
    rb"-----END \1-----\r?$",
    re.MULTILINE,
)
"""As every program writes it, OpenSSL included: lines of 64, and a last one."""
_SIGNED = ("CERTIFICATE", "X509 CRL")
_KNOWN = (*_SIGNED, "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "EC PARAMETERS")


def certificates_of(ders: bytes) -> list[bytes]:
    """Return certificates that follow one another in DER.

    Raises:
        ValueError: there is something else.
    """
    found = []
    while ders:
        # A sequence, and the length of what it has: in one byte, or in so many that follow.
        header, length = 2, int.from_bytes(ders[1:2])
        if length & 0x80:
            header += length & 0x7F
            length = int.from_bytes(ders[2:header])
        if ders[0] != 0x30 or (header == 2 and ders[1:2] >= b"\x80") or header + length > len(ders):
            raise ValueError("there is something that is no DER")
        found.append(ders[: header + length])
        ders = ders[header + length :]
    return found


def kind_of_key(chain: bytes) -> str:
    """Return of which kind the key of a chain's first certificate is: OpenSSL keeps one of each."""
    first = next(iter(certificates_in(chain)), b"")
    for kind, identifier in _KINDS.items():
        if identifier in first:
            return kind
    return "another"


_KINDS = {"RSA": bytes.fromhex("2a864886f70d010101"), "EC": bytes.fromhex("2a8648ce3d0201")}
"""The identifiers of keys, as they stand in certificates."""


def described(der: bytes) -> dict[str, Any]:
    """Return a certificate as the dict of ``ssl.SSLSocket.getpeercert``.

    ``_ssl`` reads it from a file; here that is a pipe, so that no folder for files is needed.
    """
    pem = ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    if len(pem) > _PIPE:
        with tempfile.NamedTemporaryFile("wb", buffering=0, suffix=".pem") as file:
            file.write(pem)
            return _describe(file.name)
    reader, writer = os.pipe()
    try:
        try:
            os.write(writer, pem)
        finally:
            os.close(writer)
        return _describe(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


_PIPE = 16 * 1024
"""What any pipe takes at once, in bytes."""


def _describe(path: str) -> dict[str, Any]:
    found: dict[str, Any] = _ssl._test_decode_cert(path)
    return found
