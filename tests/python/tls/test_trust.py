"""What `loop_pool.tls.SSLContext` knows of what it trusts, and what it leaves to OpenSSL."""

from __future__ import annotations

import os
import shutil
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


@left("no file of a usual size")
def _pipe_in_a_folder(folder: Path) -> Any:
    os.mkfifo(folder / f"{HASH}.0")
    return client(folder)


@left("cannot be read")
def _link_to_nothing(folder: Path) -> Any:
    (folder / f"{HASH}.0").symlink_to("nothing")
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


REJECTED = chains.root() + x.sequence(x.tlv(0xA0, x.sequence(x.oid(x.SERVER))[2:]))
"""With the word that it is not trusted for servers."""
ROOT_HASH = x.name_hash(chains.ROOT_NAME)


def accepts(context: Any, folder: Path) -> bool:
    """Whether a server of the root's is accepted."""
    try:
        Pair(_server(folder), context).shake()
    except ssl.SSLCertVerificationError:
        return False
    return True


def _both(make: Callable[[Any], Any]) -> list[Any]:
    return [make(module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) for module in (ssl, tls)]


def _in_folder(folder: Path) -> Callable[[Any], Any]:
    def load(context: Any) -> Any:
        context.load_verify_locations(capath=folder)
        return context

    return load


def _lines(der: bytes) -> list[str]:
    return x.pem(der).splitlines()


FILES: dict[str, tuple[str, str, bool]] = {
    "as usual": ("0", x.pem(chains.root()), True),
    "with text": ("0", f"Root\n\n{x.pem(chains.root())}it ends\n", True),
    "with lines of Windows": ("0", x.pem(chains.root()).replace("\n", "\r\n"), True),
    "without the last end of line": ("0", x.pem(chains.root()).strip(), True),
    "a number of two digits": ("00", x.pem(chains.root()), False),
    "indented": ("0", "  " + x.pem(chains.root()), False),
    "on one line": ("0", x.pem(chains.root()).replace("\n", " "), False),
    "data on one line": (
        "0",
        "\n".join([_lines(b"")[0], "".join(_lines(chains.root())[1:-1]), _lines(b"")[-1], ""]),
        False,
    ),
    "empty lines": ("0", x.pem(chains.root()).replace("\n", "\n\n"), False),
    "behind a zero": ("0", "\0\n" + x.pem(chains.root()), False),
    "with a mark of Unicode": ("0", "\ufeff" + x.pem(chains.root()), False),
    "by its old name": ("0", x.pem(chains.root(), "X509 CERTIFICATE"), False),
    "rejected": ("0", x.pem(REJECTED, "TRUSTED CERTIFICATE"), False),
    "rejected, by the usual name": ("0", x.pem(REJECTED), False),
    "cut": ("0", x.pem(chains.root()).replace("-----END", "----END"), False),
}
"""The number in the name of a file in a folder, what is in it, and whether rustls has it."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_a_folder_counts_as_openssl_reads_it(name: str, tmp_path: Path) -> None:
    number, content, native = FILES[name]
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / f"{ROOT_HASH}.{number}").write_bytes(content.encode())
    expected, found = (accepts(each, tmp_path) for each in _both(_in_folder(inside)))
    assert found == expected
    assert (_in_folder(inside)(client()).native and found) == native


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("way", ["link", "link to another", "rewritten", "removed", "renamed"])
def test_a_change_in_a_folder_counts_for_new_connections(
    way: str, settled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    named, real = inside / f"{ROOT_HASH}.0", tmp_path / "real.pem"
    other = x.pem(chains.root(key=chains.OTHER, by=chains.OTHER))
    real.write_text(x.pem(chains.root()))
    if "link" in way:
        named.symlink_to(real)
    else:
        shutil.copy(real, named)
    context = _in_folder(inside)(client())
    if settled:
        # As if the files had been there for long.
        now = time.time_ns() + 10**10
        monkeypatch.setattr(time, "time_ns", lambda: now)
        time.sleep(0.02)
    at = inside.stat()
    assert context.native
    assert accepts(context, tmp_path)
    if settled:
        assert context._settings_for(False) is context._settings_for(False)
    if way == "link":
        real.unlink()
    elif way in ("link to another", "rewritten"):
        named.write_text(other)
    elif way == "removed":
        named.unlink()
    else:
        named.rename(inside / f"{OLD_HASH}.0")
    os.utime(inside, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert not accepts(context, tmp_path)
    for each in _both(_in_folder(inside)):
        assert not accepts(each, tmp_path)


def test_a_file_that_changes_at_once_and_keeps_its_size_counts(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    named = inside / f"{ROOT_HASH}.0"
    root = x.pem(chains.root())
    broken = root.replace("\nMII", "\nAII", 1)
    assert broken != root
    context = _in_folder(inside)(client())
    for _ in range(10):
        named.write_text(root)
        assert accepts(context, tmp_path)
        named.write_text(broken)
        assert not accepts(context, tmp_path)


def _load_and_fail(path: Path) -> Callable[[Any], Any]:
    def load(context: Any) -> Any:
        with pytest.raises(ssl.SSLError):
            context.load_verify_locations(path, "")
        return context

    return load


def _load_below(path: Path) -> Callable[[Any], Any]:
    def load(context: Any) -> Any:
        ssl.SSLContext.load_verify_locations(context, path)
        return context

    return load


def _load_below_first(path: Path) -> Callable[[Any], Any]:
    def load(context: Any) -> Any:
        ssl.SSLContext.load_verify_locations(context, path)
        # OpenSSL has it, and what it knows of it.
        context.load_verify_locations(cadata=x.pem(chains.root()))
        return context

    return load


def _load_twice(path: Path) -> Callable[[Any], Any]:
    def load(context: Any) -> Any:
        _load_and_fail(path)(context)
        context.load_verify_locations(cadata=x.pem(chains.root()))
        return context

    return load


@pytest.mark.parametrize("way", [_load_and_fail, _load_below, _load_below_first, _load_twice])
def test_who_is_rejected_stays_so_however_that_is_loaded(
    way: Callable[[Path], Callable[[Any], Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rejected.pem"
    path.write_text(x.pem(REJECTED, "TRUSTED CERTIFICATE"))
    for context in _both(way(path)):
        assert not accepts(context, tmp_path)
        assert not getattr(context, "native", False)


def test_what_is_loaded_in_part_is_left_to_openssl(tmp_path: Path) -> None:
    context = client()
    with pytest.raises(FileNotFoundError):
        context.load_verify_locations(tmp_path / "none", cadata=x.pem(chains.root()))
    assert "as a whole" in context.fallback_reason
    assert accepts(context, tmp_path)


def test_one_that_only_openssl_reads_does_not_make_up_for_another(tmp_path: Path) -> None:
    # The counts are equal: OpenSSL does not see the first, and what would not see the second.
    indented = "  " + x.pem(chains.alone())
    by_old_name = x.pem(chains.alone(serial=14), "X509 CERTIFICATE")
    (tmp_path / "file.pem").write_text(indented + by_old_name)
    context = client()
    context.load_verify_locations(tmp_path / "file.pem")
    assert "in PEM" in context.fallback_reason


def test_while_it_is_loaded_openssl_knows_what_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    context = client()
    assert context.native
    with ThreadPoolExecutor() as threads:
        loaded = threads.submit(context.load_verify_locations, path)
        with open(path, "w") as file:
            # OpenSSL has opened it.
            context.set_alpn_protocols(["x"])
            reason = context.fallback_reason
            file.write(x.pem(chains.root()))
        loaded.result()
    assert "is being loaded" in reason
    assert "no file" in context.fallback_reason


def test_threads_that_load_at_once_lose_nothing(tmp_path: Path) -> None:
    context = client()
    with ThreadPoolExecutor() as threads:

        def load(serial: int) -> None:
            name = x.name(f"{serial}")
            one = chains.alone(subject=name, issuer=name)
            context.load_verify_locations(cadata=one)
            assert (context.fallback_reason or "what is trusted").startswith("what is trusted")

        for done in [threads.submit(load, serial) for serial in range(100, 140)]:
            done.result()
    assert context.native, context.fallback_reason
    assert len(context._trust._others) == 40


def test_a_change_of_a_context_counts_for_connections_that_are_made_after_it(
    tmp_path: Path,
) -> None:
    context: Any = client()
    context.load_verify_locations(cadata=x.pem(chains.root()))
    pair = Pair(_server(tmp_path), context)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    assert is_native(pair.shake().client)
    assert not accepts(context, tmp_path), "there is no list"
