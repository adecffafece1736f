"""Certificates for ``tls_context``: from files, and as ``ssl`` asks for them.

Compare this private name first for a new Python version:

==============================  ==================================================================
private name                    use here
==============================  ==================================================================
``_ssl.ENCODING_DER``           what ``SSLObject.get_verified_chain`` asks certificates for
==============================  ==================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import StrOrBytesPath

_ssl: Any = sys.modules["_ssl"]


class Certificate:
    """What ``ssl`` needs of ``_ssl.Certificate``."""

    __slots__ = ("_der",)

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: int) -> bytes | str:
        return self._der if encoding == _ssl.ENCODING_DER else ssl.DER_cert_to_PEM_cert(self._der)


def read(path: StrOrBytesPath) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def _ders(pem: bytes) -> Iterator[bytes]:
    for block in _CERTIFICATE.findall(pem):
        with contextlib.suppress(ValueError):
            yield ssl.PEM_cert_to_DER_cert(block.decode("ascii"))


def kind_of_key(chain: bytes) -> str:
    """Return of which kind the key of a chain's first certificate is: OpenSSL keeps one of each."""
    first = next(_ders(chain), b"")
    for kind, identifier in _KINDS.items():
        if identifier in first:
            return kind
    return "another"


_KINDS = {"RSA": bytes.fromhex("2a864886f70d010101"), "EC": bytes.fromhex("2a8648ce3d0201")}
"""The identifiers of keys, as they stand in certificates."""
