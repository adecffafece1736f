"""What `loop_pool.tls.SSLContext` knows of what it trusts, and what it leaves to OpenSSL."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loop_pool import tls

from . import certificates as x
from . import chains
from .pairs import CA, Context, Pair, client_context, is_native, server_context

OLD_HASH, HASH = "99d0fa06", "b1930218"
"""By which older versions of OpenSSL, and those since 1.0, find `CA` in a folder."""


def client(folder: Path | None = None) -> Any:
    context = tls.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if folder is not None:
        context.load_verify_locations(capath=folder)
    return context


def verify(context: Context, server: Context | None = None) -> bool:
    """Whether a server of `CA`'s is accepted; it is asked natively."""
    assert context.native, context.fallback_reason  # type: ignore[attr-defined]
    try:
        pair = Pair(server or server_context(ssl), context).shake()
    except ssl.SSLCertVerificationError:
        return False
    assert is_native(pair.client)
    return True


def test_a_context_that_trusts_nobody_is_native() -> None:
    assert not verify(client())


def test_the_default_context_of_a_client_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls.create_default_context().native
    paths = ssl.get_default_verify_paths()
    monkeypatch.setenv(paths.openssl_cafile_env, "/nowhere")
    monkeypatch.setenv(paths.openssl_capath_env, "/nowhere:/nowhere/else")
    context = tls.create_default_context()
    assert not context.get_ca_certs()
    assert not verify(context)


@pytest.mark.parametrize("as_default", [False, True])
def test_a_folder_is_read_and_its_changes_count(
    as_default: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_default:
        paths = ssl.get_default_verify_paths()
        monkeypatch.setenv(paths.openssl_cafile_env, "/nowhere")
        monkeypatch.setenv(paths.openssl_capath_env, str(tmp_path))
        context: Any = client()
        context.set_default_verify_paths()
    else:
        context = client(tmp_path)
    assert not verify(context)
    shutil.copy(CA, tmp_path / f"{HASH}.0")
    assert verify(context)
    os.rename(tmp_path / f"{HASH}.0", tmp_path / f"{OLD_HASH}.0")
    os.utime(tmp_path, ns=(1, 1))
    assert not verify(context), "OpenSSL would not find it by this name"
    assert verify(client_context(tls))


def test_what_is_loaded_hides_what_is_in_folders(tmp_path: Path) -> None:
    # As OpenSSL looks for a name in folders only if it knows nobody of that name.
    (tmp_path / "ca.pem").write_text(x.pem(chains.root(**chains.PAST)))
    for module in (ssl, tls):
        context: Any = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tmp_path / "ca.pem")
        inside = tmp_path / "inside"
        inside.mkdir(exist_ok=True)
        named = inside / f"{x.name_hash(chains.ROOT_NAME)}.0"
        named.write_text(x.pem(chains.root()))
        context.load_verify_locations(capath=inside)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            Pair(_server(tmp_path), context).shake()
        alone: Any = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        alone.load_verify_locations(capath=inside)
        pair = Pair(_server(tmp_path), alone).shake()
        assert is_native(pair.client) == (module is tls)


def _server(folder: Path) -> ssl.SSLContext:
    path = folder / "server.pem"
    path.write_text(chains.LEAF.pem + x.pem(chains.leaf()) + x.pem(chains.middle()))
    return server_context(ssl, path)


LEFT: dict[str, Callable[[Path], Any]] = {}


def left(reason: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def add(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        LEFT[reason] = make
        return make

    return add


@left("for which uses it is trusted")
def _trusted_for_uses(folder: Path) -> Any:
    path = folder / "ca.pem"
    # Nothing is said of uses, but it could be.
    path.write_text(x.pem(chains.root(), "TRUSTED CERTIFICATE"))
    context = client()
    context.load_verify_locations(path)
    return context


@left("no file")
def _pipe(folder: Path) -> Any:
    reader, writer = os.pipe()
    os.write(writer, x.pem(chains.root()).encode())
    os.close(writer)
    context = client()
    context.load_verify_locations(f"/dev/fd/{reader}")
    os.close(reader)
    return context


@left("not loaded by this context's methods")
def _other_ways(folder: Path) -> Any:
    context = client()
    # It is no authority's: OpenSSL does not tell it.
    ssl.SSLContext.load_verify_locations(context, cadata=chains.alone())
    return context


@left("just one certificate")
def _two_in_a_file(folder: Path) -> Any:
    (folder / f"{HASH}.0").write_text(CA.read_text() + x.pem(chains.root()))
    return client(folder)


@left("in PEM")
def _der_in_a_folder(folder: Path) -> Any:
    (folder / f"{HASH}.0").write_bytes(chains.root())
    return client(folder)


@left("has no file")
def _gap(folder: Path) -> Any:
    shutil.copy(CA, folder / f"{HASH}.1")
    return client(folder)


@left("lie in a folder")
def _lists_in_a_folder(folder: Path) -> Any:
    shutil.copy(CA, folder / f"{HASH}.0")
    (folder / f"{HASH}.r0").touch()
    context = client(folder)
    assert context.native, "they are not asked"
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@left("of several kinds have one name")
def _one_name(folder: Path) -> Any:
    path = folder / "ca.pem"
    other = chains.root(extensions=[x.basic(ca=False)])
    path.write_text(x.pem(chains.root()) + x.pem(other))
    context = client()
    context.load_verify_locations(path)
    return context


@left("verify_flags")
def _proxies(folder: Path) -> Any:
    context = client()
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    return context


@left("_host_flags")
def _wildcards(folder: Path) -> Any:
    context = client()
    context._host_flags = 0
    return context


@pytest.mark.parametrize("reason", LEFT)
def test_what_is_not_known_is_left_to_openssl(reason: str, tmp_path: Path) -> None:
    context = LEFT[reason](tmp_path)
    assert reason in (context.fallback_reason or "")
    assert not context.native


def test_certificates_that_are_no_authority_s_are_known(tmp_path: Path) -> None:
    (tmp_path / "peer.pem").write_text(chains.LEAF.pem + x.pem(chains.alone()))
    forms: list[dict[str, Any]] = [
        {"cafile": tmp_path / "peer.pem"},
        {"cadata": x.pem(chains.alone())},
        {"cadata": chains.alone() + chains.root()},
        {"cadata": memoryview(chains.alone())},
    ]
    for form in forms:
        context = client()
        context.load_verify_locations(**form)
        assert verify(context, server_context(ssl, tmp_path / "peer.pem"))
        context.load_verify_locations(CA)
        assert verify(context, server_context(ssl, tmp_path / "peer.pem"))
        assert verify(context)


def test_what_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    context = client()
    for form in ({"cafile": tmp_path / "none"}, {"cadata": b"nothing"}):
        with pytest.raises((OSError, ssl.SSLError)):
            context.load_verify_locations(**form)
    assert context.native
    context.load_verify_locations(CA)
    assert verify(context)


def test_a_context_of_openssl_connections_too_stays_native(tmp_path: Path) -> None:
    shutil.copy(CA, tmp_path / f"{HASH}.0")
    context = client(tmp_path)
    context.post_handshake_auth = True
    # OpenSSL loads the certificate when it looks for it.
    pair = Pair(server_context(ssl), context).shake()
    assert not is_native(pair.client)
    assert len(context.get_ca_certs()) == 1
    context.post_handshake_auth = False
    assert verify(context)
