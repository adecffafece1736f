"""`loop_pool.tls.SSLContext`: what `ssl.SSLContext` promises, by rustls and beside OpenSSL."""

from __future__ import annotations

import logging
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loop_pool import tls

from ..support import certificate
from .pairs import (
    CA,
    ECC,
    OTHER_NAME,
    SELF_SIGNED,
    SIGNED,
    Pair,
    client_context,
    is_native,
    server_context,
    trusting_context,
)

# -- both libraries, on either side


@pytest.mark.smoke
@pytest.mark.parametrize("other", [ssl, tls], ids=["openssl", "rustls"])
@pytest.mark.parametrize("path", [SIGNED, ECC], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_tells_the_same_on_both_sides(
    contexts: Any, other: Any, path: Path, version: ssl.TLSVersion
) -> None:
    server, client = server_context(contexts, path), trusting_context(other)
    server.minimum_version = server.maximum_version = version
    server.set_alpn_protocols(["spdy", "http/1.1"])
    client.set_alpn_protocols(["http/1.1", "h2"])
    pair = Pair(server, client, "localhost-ecc" if path is ECC else "localhost").shake()
    assert (is_native(pair.server), is_native(pair.client)) == (contexts is tls, other is tls)
    for side in (pair.server, pair.client):
        assert side.version() == version.name.replace("_", ".")
        assert side.selected_alpn_protocol() == "http/1.1"
        assert side.compression() is None
        assert not side.session_reused
        assert side.pending() == 0
    assert pair.server.cipher() == pair.client.cipher()
    assert pair.server.cipher() in (pair.server.shared_ciphers() or [])
    assert pair.client.shared_ciphers() is None
    assert pair.server.getpeercert() is None
    assert pair.server.getpeercert(True) is None
    assert pair.client.server_hostname
    assert pair.server.server_hostname is None
    assert pair.server.server_side
    assert not pair.client.server_side
    assert pair.client.context is client
    assert pair.server.context is server
    der = ssl.PEM_cert_to_DER_cert(
        path.read_text().partition("-----BEGIN C")[2].join(["-----BEGIN C", ""])
    )
    assert pair.client.getpeercert(True) == der
    assert pair.client.get_unverified_chain()[0] == der


def test_a_certificate_is_described_as_openssl_describes_it(contexts: Any) -> None:
    pairs = [Pair(server_context(ssl), client_context(one)).shake() for one in (ssl, contexts)]
    described = [pair.client.getpeercert() for pair in pairs]
    assert described[0] == described[1]
    assert described[0]
    assert described[0]["subjectAltName"] == (("DNS", "localhost"),)
    unverified = client_context(contexts)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    assert Pair(server_context(ssl), unverified).shake().client.getpeercert() == {}


def test_data_of_every_size_arrive(contexts: Any) -> None:
    pair = Pair(server_context(contexts), client_context(contexts)).shake()
    for size in (1, 100, 16384, 16385, 100_000, 1_000_000):
        data = bytes(range(256)) * (size // 256 + 1)
        assert pair.client.write(data[:size]) == size
        pair.carry()
        came, buffer = bytearray(), bytearray(5000)
        while len(came) < size:
            if len(came) % 2:
                came += buffer[: pair.server.read(len(buffer), buffer)]  # type: ignore[arg-type]
            else:
                came += pair.server.read(7777)
        assert came == data[:size]
        assert pair.server.pending() == 0
        with pytest.raises(ssl.SSLWantReadError):
            pair.server.read(1)
    assert pair.client.write(b"") == 0
    assert pair.server.read(0) == b""
    assert pair.client.write(memoryview(b"view")) == 4
    with pytest.raises(TypeError):
        pair.client.write("text")  # type: ignore[arg-type]


# -- what is refused


@pytest.mark.parametrize(
    ("path", "cafile", "name", "code"),
    [
        (SIGNED, CA, "example.org", 62),
        (OTHER_NAME, CA, "localhost", 62),
        (SIGNED, CA, "127.0.0.1", 64),
        (SIGNED, SELF_SIGNED, "localhost", 20),
        (SELF_SIGNED, CA, "localhost", 18),
    ],
    ids=["name", "name of another", "address", "authority", "self-signed"],
)
def test_a_certificate_that_is_refused(
    contexts: Any, path: Path, cafile: Path, name: str, code: int
) -> None:
    pair = Pair(server_context(ssl, path), client_context(contexts, cafile), name)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        pair.shake()
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.errno, error.library, error.reason) == (1, "SSL", "CERTIFICATE_VERIFY_FAILED")
    assert error.verify_code == code
    if code in (62, 64):
        assert error.verify_message.endswith(f"mismatch, certificate is not valid for '{name}'.")
    assert "certificate verify failed: " + error.verify_message in str(error)
    # The server is told why.
    pair.carry()
    with pytest.raises(ssl.SSLError, match="ALERT"):
        pair.server.do_handshake()


def test_a_self_signed_certificate_that_is_trusted(contexts: Any) -> None:
    client = client_context(contexts, SELF_SIGNED)
    Pair(server_context(contexts, SELF_SIGNED), client).shake()
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        Pair(server_context(contexts, SELF_SIGNED), client, "example.org").shake()


@pytest.mark.parametrize("mode", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_certificates_of_clients(contexts: Any, mode: ssl.VerifyMode) -> None:
    server = server_context(contexts)
    server.verify_mode = mode
    server.load_verify_locations(CA)
    client = client_context(contexts)
    if mode == ssl.CERT_REQUIRED:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            Pair(server, client).shake()
    else:
        assert Pair(server, client).shake().server.getpeercert() is None
    client.load_cert_chain(SIGNED)
    subject = dict(*Pair(server, client).shake().server.getpeercert()["subject"][-1:])  # type: ignore[index]
    assert subject == {"commonName": "localhost"}
    stranger = client_context(contexts)
    stranger.load_cert_chain(SELF_SIGNED)
    with pytest.raises(ssl.SSLCertVerificationError):
        Pair(server, stranger).shake()


def test_versions_that_do_not_meet(contexts: Any) -> None:
    server, client = server_context(contexts), client_context(contexts)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ssl.SSLError, match=r"VERSION|PROTOCOL") as caught:
        Pair(server, client).shake()
    assert caught.value.reason


def test_no_protocol_in_common(contexts: Any) -> None:
    # OpenSSL goes on without one. rustls sends the alert that RFC 7301 asks for.
    server, client = server_context(contexts), client_context(ssl)
    server.set_alpn_protocols(["one"])
    client.set_alpn_protocols(["other"])
    pair = Pair(server, client)
    if contexts is ssl:
        assert pair.shake().client.selected_alpn_protocol() is None
    else:
        with pytest.raises(ssl.SSLError, match="NO_APPLICATION_PROTOCOL"):
            pair.shake()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\x00\x05hello"]
)
def test_what_is_no_tls(contexts: Any, garbage: bytes) -> None:
    pair = Pair(server_context(contexts), client_context(contexts))
    pair.to_server.write(garbage)
    with pytest.raises(ssl.SSLError) as caught:
        pair.server.do_handshake()
    assert not isinstance(caught.value, ssl.SSLWantReadError)
    with pytest.raises(ssl.SSLError):
        pair.server.do_handshake()


def test_a_bit_that_is_flipped(contexts: Any) -> None:
    pair = Pair(server_context(contexts), client_context(contexts)).shake()
    pair.client.write(b"something")
    record = bytearray(pair.from_client.read())
    record[-3] ^= 1
    pair.to_server.write(record)
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|RECORD_LAYER_FAILURE"):
        pair.server.read(100)
    pair.to_client.write(pair.from_server.read())
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        pair.client.read(100)


# -- ends


def test_both_sides_end(contexts: Any) -> None:
    pair = Pair(server_context(contexts), client_context(contexts))
    with pytest.raises(ssl.SSLError):
        pair.client.unwrap()
    pair.shake()
    pair.server.write(b"last")
    assert pair.step(pair.server.unwrap) is None
    with pytest.raises(ssl.SSLError, match="PROTOCOL_IS_SHUTDOWN"):
        pair.server.write(b"more")
    assert pair.client.read(100) == b"last"
    assert pair.client.read(100) == b""
    assert pair.client.read(100, bytearray(10)) == 0
    assert pair.client.write(b"answer") == 6
    pair.client.unwrap()
    pair.carry()
    with pytest.raises(ssl.SSLZeroReturnError):
        pair.client.read(100)


def test_a_stream_that_is_cut_off(contexts: Any) -> None:
    for options in (0, ssl.OP_IGNORE_UNEXPECTED_EOF):
        client = client_context(contexts)
        client.options |= options
        pair = Pair(server_context(contexts), client).shake()
        pair.server.write(b"data")
        pair.to_client.write(pair.from_server.read())
        pair.to_client.write_eof()
        assert pair.client.read(100) == b"data"
        if options:
            assert pair.client.read(100) == b""
        else:
            with pytest.raises(ssl.SSLEOFError) as caught:
                pair.client.read(100)
            assert caught.value.errno == ssl.SSL_ERROR_EOF
    pair = Pair(server_context(contexts), client_context(contexts))
    pair.to_server.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        pair.server.do_handshake()


def test_data_before_a_failure_come_before_it_and_it_stays(contexts: Any) -> None:
    client = client_context(contexts)
    client.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    pair = Pair(server_context(contexts), client).shake()
    pair.server.write(b"last words")
    good = pair.from_server.read()
    pair.server.write(b"broken")
    bad = bytearray(pair.from_server.read())
    bad[-3] ^= 1
    pair.to_client.write(good + bad)
    pair.to_client.write_eof()
    assert pair.client.read(100) == b"last words"
    for _ in range(3):
        with pytest.raises(ssl.SSLError) as caught:
            pair.client.read(100)
        assert not isinstance(caught.value, ssl.SSLWantReadError)
    with pytest.raises(ssl.SSLError):
        pair.client.write(b"more")


# -- sessions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed(version: ssl.TLSVersion) -> None:
    server, client = server_context(tls), trusting_context(tls)
    server.maximum_version = version
    assert not any(Pair(server, client).shake().client.session_reused for _ in range(2))
    client.remembers_sessions = True  # type: ignore[attr-defined]
    reused = [Pair(server, client).shake().client.session_reused for _ in range(3)]
    assert reused == [False, True, True]
    assert not Pair(server, trusting_context(tls)).shake().server.session_reused
    server.options |= ssl.OP_NO_TICKET
    assert not any(Pair(server, client).shake().server.session_reused for _ in range(2))


# -- what a context remembers


def test_a_certificate_that_is_loaded_later_counts_from_then_on(contexts: Any) -> None:
    server, client = server_context(contexts, OTHER_NAME), client_context(contexts)
    before = Pair(server, client, "fakehostname").shake()
    server.load_cert_chain(SIGNED)
    Pair(server, client).shake()
    before.client.write(b"still there")
    before.carry()
    assert before.server.read(100) == b"still there"


def test_contexts_by_name() -> None:
    server, client = server_context(tls), client_context(tls)
    by_name = {"FakeHostname": server_context(tls, OTHER_NAME)}
    server.sni_callback = by_name  # type: ignore[assignment]
    assert server.native  # type: ignore[attr-defined]
    for name in ("fakehostname", "localhost"):
        assert is_native(Pair(server, client, name).shake().server)
    server.sni_callback = {"fakehostname": server_context(ssl, OTHER_NAME)}  # type: ignore[assignment]
    assert not server.native  # type: ignore[attr-defined]
    assert not is_native(Pair(server, client, "fakehostname").shake().server)
    with pytest.raises(TypeError, match=r"no ssl\.SSLContext"):
        server.sni_callback = {"x": 1}  # type: ignore[assignment, dict-item]
    server.sni_callback = None
    assert server.native  # type: ignore[attr-defined]


def test_a_change_of_a_context_by_name_counts_and_sessions_go_on_without_one() -> None:
    server, client = server_context(tls), trusting_context(tls)
    client.remembers_sessions = True  # type: ignore[attr-defined]
    chosen = server_context(tls, SELF_SIGNED)
    server.sni_callback = {"fakehostname": chosen}  # type: ignore[assignment]
    before = Pair(server, client, "fakehostname").shake().client
    chosen.load_cert_chain(OTHER_NAME)
    first, second = (Pair(server, client, "fakehostname").shake().client for _ in "ab")
    assert [one.session_reused for one in (before, first, second)] == [False, False, True]
    assert before.getpeercert(True) != first.getpeercert(True)


def test_threads_that_need_settings_at_once_get_the_same() -> None:
    # Settings have keys of tickets: with others, a session is not resumed.
    class Slow(tls.SSLContext):
        made = 0

        def _make_server_settings(self, properties: Any) -> Any:
            Slow.made += 1
            threading.Event().wait(0.05)
            return super()._make_server_settings(properties)

    server = Slow(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(SIGNED)
    barrier = threading.Barrier(8)

    def ask() -> bool:
        barrier.wait()
        return server.native

    with ThreadPoolExecutor(8) as executor:
        assert all(future.result() for future in [executor.submit(ask) for _ in range(8)])
    assert Slow.made == 1


@pytest.mark.parametrize("form", ["text", "der", "capath", "twice"])
def test_forms_of_trusted_certificates(contexts: Any, form: str, tmp_path: Path) -> None:
    client = contexts.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    text = CA.read_text()
    text = text[text.index("-----BEGIN CERT") :]
    if form == "text":
        client.load_verify_locations(cadata=text)
    elif form == "der":
        client.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(text))
    elif form == "capath":
        client.load_verify_locations(capath=certificate("capath"))
    else:
        client.load_verify_locations(SELF_SIGNED)
        client.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(text))
    assert is_native(Pair(server_context(ssl), client).shake().client) == (contexts is tls)


def test_secrets_are_logged(contexts: Any, tmp_path: Path) -> None:
    server = server_context(contexts)
    server.keylog_filename = str(tmp_path / "keys")
    Pair(server, client_context(contexts)).shake()
    assert "SERVER_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


SETTINGS: dict[str, Callable[[tls.SSLContext], object]] = {
    "ciphers are set": lambda one: one.set_ciphers("ECDHE+AESGCM"),
    "a curve is set": lambda one: one.set_ecdh_curve("prime256v1"),
    "versions below TLS 1.2": lambda one: setattr(one, "minimum_version", ssl.TLSVersion.TLSv1),
    "sni_callback is a function": lambda one: setattr(one, "sni_callback", lambda *_: None),
    "post_handshake_auth": lambda one: setattr(one, "post_handshake_auth", True),
    "private key that has a password": lambda one: one.load_cert_chain(
        certificate("keycert.passwd.pem"), password="somepass"
    ),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("reason", SETTINGS)
def test_what_rustls_lacks_is_left_to_openssl(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_context(tls)
    assert isinstance(server, tls.SSLContext)
    assert server.native
    assert server.fallback_reason is None
    SETTINGS[reason](server)
    assert not server.native
    assert reason.rsplit(maxsplit=1)[-1] in (server.fallback_reason or "")
    client = client_context(tls, SELF_SIGNED if "password" in reason else CA)
    with caplog.at_level(logging.INFO, "loop_pool.tls"):
        for _ in range(2):
            pair = Pair(server, client).shake()
            assert not is_native(pair.server)
    said = [record.getMessage() for record in caplog.records]
    assert sum(str(server.fallback_reason) in text for text in said) == 1


def test_a_context_for_the_other_side_is_refused(contexts: Any) -> None:
    server, client = server_context(contexts), client_context(contexts)
    client.check_hostname = False
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLError, match="Cannot create a client socket"):
        server.wrap_bio(*bios, server_side=False, server_hostname="localhost")
    with pytest.raises(ssl.SSLError, match="Cannot create a server socket"):
        client.wrap_bio(*bios, server_side=True)


@pytest.mark.smoke
def test_certificates_are_verified_by_either_side(contexts: Any) -> None:
    client, server = client_context(contexts), server_context(contexts)
    client.load_cert_chain(ECC)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(CA)
    pair = Pair(server, client).shake()
    for side in (pair.server, pair.client):
        assert is_native(side) == (contexts is tls)
        assert side.getpeercert()
        unverified, verified = side.get_unverified_chain(), side.get_verified_chain()
        # Both have completed their own chain, as they trust its authority.
        assert unverified == verified
        assert verified[1:] == client.get_ca_certs(True)


def test_several_kinds_of_keys_are_left_to_openssl() -> None:
    server = server_context(tls)
    server.load_cert_chain(OTHER_NAME)
    assert server.native  # type: ignore[attr-defined]
    server.load_cert_chain(ECC)
    assert "kinds of keys" in server.fallback_reason  # type: ignore[attr-defined]
    for name in ("localhost-ecc",):
        Pair(server, client_context(tls), name).shake()


def test_a_context_by_name_that_verifies_clients_is_left_to_openssl() -> None:
    server, chosen = server_context(tls), server_context(tls, OTHER_NAME)
    chosen.verify_mode = ssl.CERT_OPTIONAL
    server.sni_callback = {"fakehostname": chosen}  # type: ignore[assignment]
    assert "clients are verified" in server.fallback_reason  # type: ignore[attr-defined]
    chosen.verify_mode = ssl.CERT_NONE
    server.sni_callback = {"fakehostname": chosen}  # type: ignore[assignment]
    assert server.native  # type: ignore[attr-defined]
    server.verify_mode = ssl.CERT_OPTIONAL
    assert "clients are verified" in server.fallback_reason  # type: ignore[attr-defined]


def test_a_name_with_a_dot_at_its_end_is_left_to_openssl() -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        Pair(server_context(tls), client_context(tls), "localhost.").shake()


def test_a_certificate_is_described_without_a_folder_for_files(
    contexts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert Pair(server_context(ssl), client_context(contexts)).shake().client.getpeercert()


def test_a_client_that_knows_no_name(contexts: Any) -> None:
    pair = Pair(server_context(contexts), trusting_context(contexts), None).shake()
    assert is_native(pair.client) == (contexts is tls)
    assert pair.client.server_hostname is None


def test_a_certificate_that_was_revoked(contexts: Any) -> None:
    client = client_context(contexts)
    client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
        Pair(server_context(ssl), client).shake()
    client.load_verify_locations(certificate("revocation.crl"))
    Pair(server_context(ssl), client).shake()


def test_arguments_are_those_of_ssl(contexts: Any, tmp_path: Path) -> None:
    context = contexts.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(FileNotFoundError):
        context.load_cert_chain(tmp_path / "none")
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(certificate("badcert.pem"))
    with pytest.raises(ssl.SSLError, match="MISMATCH"):
        context.load_cert_chain(SIGNED, certificate("keycert4.pem"))
    with pytest.raises(TypeError):
        context.load_verify_locations()
    with pytest.raises(FileNotFoundError):
        context.load_verify_locations(tmp_path / "none")
    with pytest.raises(TypeError):
        contexts.create_default_context("server")
    with pytest.raises(ValueError, match="server_hostname"):
        client_context(contexts).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(ValueError, match="handshake not done"):
        Pair(server_context(contexts), client_context(contexts)).client.getpeercert()
    assert contexts.create_default_context(ssl.Purpose.CLIENT_AUTH).verify_mode == ssl.CERT_NONE
    assert contexts.create_default_context().check_hostname


def test_a_socket_is_wrapped_by_openssl() -> None:
    near, far = socket.socketpair()
    with near, far:
        wrapped = server_context(tls).wrap_socket(near, True, do_handshake_on_connect=False)
        assert isinstance(wrapped, ssl.SSLSocket)
        wrapped.close()
