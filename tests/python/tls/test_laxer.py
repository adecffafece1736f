"""What rustls or AWS-LC would let pass, and OpenSSL does not, and no chain alone shows."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from loop_pool import tls

from . import certificates as x
from .chains import MIDDLE, SAN, Case, by_point, chain, listed, of_middle, points
from .pairs import Pair, client_context, is_native, trusting_context
from .verdicts import GOOD, Outcome, outcome

EC_PUBLIC = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "7f0b791307d20de00c253dbf08f9e373cd3f572ca70efa39384572e6234167d4"
    "3e29b9bf38506bbd0a8642e11275d1279acaeafa8ffe8c33c73c0e7e756edd5f"
)
EC_PRIVATE = bytes.fromhex(
    "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b02010104203bb3465da8c28a9f"
    "9cac6241d748f9de4452890c0d71e58d2a84b63aba7f6093a144034200047f0b791307d20de00c253dbf08f9"
    "e373cd3f572ca70efa39384572e6234167d43e29b9bf38506bbd0a8642e11275d1279acaeafa8ffe8c33c73c"
    "0e7e756edd5f"
)
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class EcKey(x.Key):
    """A key of P-256, which is nobody's."""

    @property
    def pem(self) -> str:
        return x.pem(EC_PRIVATE, "PRIVATE KEY")


EC = EcKey(other=EC_PUBLIC)


@pytest.fixture(scope="module", autouse=True)
def contexts() -> None:
    """Nothing here depends on which module the other tests run with."""


def of_elliptic_curve(*usages: str) -> Case:
    usage = [x.usage(*usages)] if usages else []
    extensions = (*usage, x.uses(x.SERVER, x.CLIENT), x.authority(MIDDLE), SAN)
    return chain({"key": EC, "extensions": extensions}, key=EC)


@pytest.mark.parametrize(
    "usages", [(), ("digitalSignature",), ("digitalSignature", "keyAgreement")]
)
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_server_may_sign_by_a_curve_if_its_key_is_for_signatures(
    usages: tuple[str, ...], version: ssl.TLSVersion, tmp_path: Path
) -> None:
    case = of_elliptic_curve(*usages)
    for module in (ssl, tls):
        assert outcome(module, case, "server", tmp_path, version) == GOOD


def pair(module: Any, case: Case, folder: Path, *, verifies: bool = True) -> Pair:
    """A client of `module`, and a server by rustls: OpenSSL's does not use such a key itself."""
    files = folder / "server.pem", folder / "trusted.pem"
    files[0].write_text(case.key.pem + "".join(map(x.pem, case.sent)))
    files[1].write_text("".join(map(x.pem, case.trusted)))
    server = tls.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files[0])
    server.maximum_version = TLS_1_2
    made = Pair(server, client_context(module, files[1]) if verifies else trusting_context(module))
    assert is_native(made.server)
    assert is_native(made.client) == (module is tls)
    return made


@pytest.mark.parametrize("verifies", [True, False])
def test_a_server_of_tls_1_2_may_not_sign_by_a_curve_whose_key_is_not_for_signatures(
    verifies: bool, tmp_path: Path
) -> None:
    case = of_elliptic_curve("keyAgreement")
    with pytest.raises(ssl.SSLError, match="BAD_ECC_CERT"):
        pair(ssl, case, tmp_path, verifies=verifies).shake()
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        pair(tls, case, tmp_path, verifies=verifies).shake()


@pytest.mark.parametrize("module", [ssl, tls])
@pytest.mark.parametrize("usages", [(), ("digitalSignature",)])
def test_a_server_of_rustls_may_sign_by_a_curve(
    module: Any, usages: tuple[str, ...], tmp_path: Path
) -> None:
    pair(module, of_elliptic_curve(*usages), tmp_path).shake()


@pytest.mark.parametrize(("verified", "version"), [("server", TLS_1_3), ("client", TLS_1_2)])
def test_others_may_sign_by_a_curve_whose_key_is_not_for_signatures(
    verified: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    case = of_elliptic_curve("keyAgreement")
    for module in (ssl, tls):
        assert outcome(module, case, verified, tmp_path, version) == GOOD


@pytest.mark.parametrize("is_critical", [True, False])
@pytest.mark.parametrize("content", [b"", x.tlv(0x82, b"\0")])
def test_a_list_that_says_for_what_it_is_and_then_does_not_is_left_to_openssl(
    content: bytes, is_critical: bool, tmp_path: Path
) -> None:
    scope = x.extension("2.5.29.28", x.sequence(content), critical=is_critical)
    case = listed(of_middle(extensions=[scope]))
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(x.pem(case.trusted[0]) + x.pem(case.lists[0], "X509 CRL"))
    context = tls.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= case.flags
    context.load_verify_locations(trusted)
    assert not context.native
    if not content:
        assert outcome(ssl, case, "server", tmp_path).code == 3


@pytest.mark.parametrize(
    "case",
    [
        lambda: listed(of_middle([13], [points(x.tlv(0x81, b"\xff"))])),
        lambda: listed(of_middle(), leaf_=by_point()),
    ],
)
def test_other_lists_are_not(case: Any, tmp_path: Path) -> None:
    found = [outcome(module, case(), "server", tmp_path) for module in (ssl, tls)]
    assert isinstance(found[0], Outcome)
    assert found[0] == found[1]
