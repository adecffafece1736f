"""The extension ``tls`` of ASGI: what an application is told of the TLS of its connection."""

from __future__ import annotations

import functools
import ssl
from typing import Any

VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""The names that RFC 4514 has for attributes, by OpenSSL's."""


def described(transport: Any) -> dict[str, Any]:
    """Return what the extension has for a connection of rustls whose handshake is finished.

    A client's certificate that is not valid ends the handshake, so none has an error.
    """
    connection = transport.get_extra_info("ssl_object")
    native = connection._sslobj
    own = native.own_certificate
    chain = connection.get_unverified_chain()
    return {
        "server_cert": None if own is None else _pem(own),
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain],
        "client_cert_name": name(connection.getpeercert()["subject"]) if chain else None,
        "client_cert_error": None,
        "tls_version": VERSIONS.get(connection.version()),
        "cipher_suite": native.cipher_suite,
    }


@functools.lru_cache(maxsize=8)
def _pem(certificate: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(certificate)


def name(subject: Any) -> str:
    """Return a name as ``getpeercert`` gives it, written as RFC 4514 says."""
    return ",".join(
        "+".join(f"{SHORT_NAMES.get(kind, kind)}={_escaped(value)}" for kind, value in parts)
        for parts in reversed(subject)
    )


def _escaped(value: str) -> str:
    text = "".join(f"\\{char}" if char in '",+;<>\\' else char for char in value)
    text = text.replace("\0", "\\00")
    if text.endswith(" "):
        text = f"{text[:-1]}\\ "
    return f"\\{text}" if text.startswith((" ", "#")) else text
