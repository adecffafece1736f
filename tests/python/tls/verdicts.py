"""How certificates are verified, by whichever contexts."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

from loop_pool import tls

from . import certificates as x
from . import chains
from .chains import Case
from .pairs import Pair, is_native


class Outcome(NamedTuple):
    """How a peer was verified."""

    code: int
    message: str
    alert: str | None
    """What the peer was told."""


GOOD = Outcome(0, "", None)


def outcome(
    module: Any,
    case: Case,
    verified: str,
    folder: Path,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Outcome:
    """How a context of `module` verifies a peer of OpenSSL's."""
    files = folder / "peer.pem", folder / "trusted.pem"
    files[0].write_text(case.key.pem + "".join(map(x.pem, case.sent)))
    lists = (x.pem(each, "X509 CRL") for each in case.lists)
    files[1].write_text("".join([*map(x.pem, case.trusted), *lists]))
    is_server = verified == "server"
    peer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    own: Any = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_server else ssl.PROTOCOL_TLS_SERVER)
    # Weak keys are for us to refuse.
    peer.set_ciphers("DEFAULT:@SECLEVEL=0")
    peer.maximum_version = version
    peer.load_cert_chain(files[0])
    if is_server:
        own.hostname_checks_common_name = case.common_names
    else:
        peer.check_hostname, peer.verify_mode = False, ssl.CERT_NONE
        own.load_cert_chain(_server(folder))
        own.verify_mode = ssl.CERT_REQUIRED
    own.verify_flags |= case.flags
    if case.trusted:
        own.load_verify_locations(files[1])
    if module is tls:
        assert own.native, own.fallback_reason
    server, client = (peer, own) if is_server else (own, peer)
    pair = Pair(server, client, case.host if is_server else "localhost")
    sides = (pair.client, pair.server) if is_server else (pair.server, pair.client)
    try:
        pair.shake()
    except ssl.SSLCertVerificationError as error:
        return Outcome(error.verify_code, error.verify_message, _told(pair, sides[1]))
    assert is_native(sides[0]) == (module is tls)
    return GOOD


def _told(pair: Pair, side: ssl.SSLObject) -> str | None:
    pair.carry()
    try:
        side.do_handshake()
        side.read(1)
    except ssl.SSLError as error:
        return error.reason
    return None


def _server(folder: Path) -> Path:
    """A server's certificate, for the tests that verify clients."""
    path = folder / "server.pem"
    if not path.exists():
        path.write_text(chains.LEAF.pem + x.pem(chains.alone()))
    return path
