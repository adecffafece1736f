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
import re
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def default_roots() -> list[bytes]:
    """Return the files of certificates that the system trusts, as OpenSSL finds them now."""
    paths = ssl.get_default_verify_paths()
    return list(_default_roots(*((path, _changed(path)) for path in (paths.cafile, paths.capath))))


def _changed(path: str | None) -> int:
    return 0 if path is None else os.stat(path).st_mtime_ns


@functools.lru_cache(maxsize=4)
def _default_roots(*paths: tuple[str | None, int]) -> list[bytes]:
    (cafile, _), (capath, _) = paths
    found = [] if cafile is None else [read(cafile)]
    # Mostly the same ones, each by itself.
    return found if capath is None else [*found, *files_in(capath)]


class Anchors(NamedTuple):
    """The certificates by which others are verified."""

    pem: list[bytes]
    """One for each; and the lists of revoked certificates that stood beside them."""
    valid_until: float
    """When they are not the same any more, in seconds since the epoch."""


class AnchorsError(Exception):
    """OpenSSL does more with trusted certificates than rustls would. Its text says which."""


def anchors(
    trusted: Iterable[bytes], defaults: Iterable[bytes], *, partial_chain: bool, only_roots: bool
) -> Anchors:
    """Choose those of the trusted certificates that OpenSSL would let a chain end with now.

    rustls asks a trusted certificate for nothing but its name and its key. So those of which
    OpenSSL would ask more have to be left out, or left to OpenSSL.

    Args:
        trusted: contents of PEM files that the program has loaded.
        defaults: those of the system. What is of no use among them is left out.
        partial_chain: whether a chain may end with a certificate that another one has signed.
        only_roots: whether such certificates are left to OpenSSL in any case.

    Raises:
        AnchorsError: one of the program's certificates is not an authority's, or another one has
            signed it and no chain may end with it.
    """
    now = time.time()
    chosen: dict[bytes, None] = {}
    valid_until = float("inf")
    for files, is_default in ((trusted, False), (defaults, True)):
        certificates = [der for pem in files for der in _ders(pem)]
        store = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for der in certificates:
            # One that OpenSSL cannot read is one that it does not use either.
            with contextlib.suppress(ssl.SSLError):
                store.load_verify_locations(cadata=der)
        known = store.cert_store_stats()
        if not is_default and known["x509"] != known["x509_ca"]:
            raise AnchorsError("a trusted certificate is not that of an authority")
        for der, info in zip(
            store.get_ca_certs(binary_form=True), store.get_ca_certs(), strict=True
        ):
            if info["subject"] != info["issuer"] and (only_roots or not partial_chain):
                if is_default:
                    continue
                raise AnchorsError("a trusted certificate is signed by another one")
            begin, end = (
                ssl.cert_time_to_seconds(str(info[name])) for name in ("notBefore", "notAfter")
            )
            if begin > now:
                valid_until = min(valid_until, begin)
            elif end > now:
                valid_until = min(valid_until, end)
                chosen[der] = None
    pem = [ssl.DER_cert_to_PEM_cert(der).encode("ascii") for der in chosen]
    lists = [block for file in trusted for block in _CRL.findall(file)]
    return Anchors(pem + lists, valid_until)


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\r?\n?", re.DOTALL)


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


def decoded(der: bytes) -> dict[str, Any]:
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
    described: dict[str, Any] = _ssl._test_decode_cert(path)
    return described
