"""The `openssl` program at the other end, in both roles."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, run_main
from .authority import Authority
from .programs import SClient, SServer, s_server, serving

type Loop = asyncio.AbstractEventLoop

VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}
versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def trust(authority: Authority) -> tuple[object, ...]:
    """The options of a client that asks for `localhost` and verifies it."""
    return (
        *("-servername", "localhost", "-verify_hostname", "localhost"),
        *("-CAfile", authority.certificate, "-verify_return_error"),
    )


# -- s_client


@versions
def test_a_client_verifies_and_talks(
    loop: Loop, contexts: Any, authority: Authority, trust: Any, version: str
) -> None:
    async def main() -> None:
        async with serving(authority.server_context(contexts)) as (port, served):
            async with SClient(port, *trust, version) as client:
                await client.said(f"New, {VERSIONS[version]}")
                await client.said(r"Verify return code: 0 \(ok\)")
                for number in range(3):
                    await client.say(f"line {number}")
                    await client.said(f"line {number}")
                await client.say("Q")
                assert await client.ended() == 0
            assert [each.version() for each in served.connections] == [VERSIONS[version]]
            assert served.errors == []

    run_main(loop, main())


@versions
def test_a_session_in_a_file_is_resumed(
    loop: Loop, contexts: Any, authority: Authority, version: str, tmp_path: Path
) -> None:
    session = tmp_path / "session"

    async def main() -> None:
        async with serving(authority.server_context(contexts)) as (port, served):
            for option, kind in (("-sess_out", "New"), ("-sess_in", "Reused")):
                async with SClient(port, version, option, session) as client:
                    await client.said(f"{kind}, {VERSIONS[version]}")
                    await client.say("line")
                    await client.said("line")
                    await client.say("Q")
                    assert await client.ended() == 0
            assert [each.session_reused for each in served.connections] == [False, True]

    run_main(loop, main())


@pytest.mark.parametrize("letter", ["k", "K"])
def test_keys_are_updated_under_way(
    loop: Loop, contexts: Any, authority: Authority, letter: str
) -> None:
    """`K` asks the server to change its keys as well."""

    async def main() -> None:
        async with serving(authority.server_context(contexts)) as (port, served):
            async with SClient(port, "-tls1_3") as client:
                for number in range(4):
                    await client.say(f"line {number}")
                    await client.said(f"line {number}\n")
                    await client.say(letter)
                    await client.said("KEYUPDATE")
                await client.say("last")
                await client.said("last\n")
            assert len(served.connections) == 1

    run_main(loop, main())


def test_a_renegotiation_is_refused(loop: Loop, contexts: Any, authority: Authority) -> None:
    async def main() -> None:
        async with serving(authority.server_context(contexts)) as (port, served):
            async with SClient(port, "-tls1_2") as client:
                await client.say("before")
                await client.said("before")
                await client.say("R")
                await client.said("RENEGOTIATING")
                await client.said("no renegotiation")
                assert await client.ended() != 0
            async with SClient(port, "-tls1_2") as client:
                await client.say("after")
                await client.said("after")
            assert len(served.connections) == 2

    run_main(loop, main())


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("http/1.1", "http/1.1"), ("h2,http/1.1", "h2"), ("spdy", None), (None, None)],
)
def test_protocols_are_agreed_upon(
    loop: Loop, contexts: Any, authority: Authority, offered: str | None, chosen: str | None
) -> None:
    context = authority.server_context(contexts)
    context.set_alpn_protocols(["h2", "http/1.1"])
    # OpenSSL goes on without one. rustls sends the alert that RFC 7301 asks for.
    is_refused = offered == "spdy" and contexts is not ssl

    async def main() -> None:
        async with serving(context) as (port, served):
            options = () if offered is None else ("-alpn", offered)
            async with SClient(port, *options) as client:
                if is_refused:
                    assert await client.ended() != 0
                    assert "ALPN protocol" not in client.log
                    return
                if offered is not None:
                    await client.said(f"ALPN protocol: {chosen}" if chosen else "No ALPN")
                await client.say("line")
                await client.said("line")
            assert [each.selected_alpn_protocol() for each in served.connections] == [chosen]

    run_main(loop, main())


def test_a_name_chooses_the_certificate(loop: Loop, contexts: Any, authority: Authority) -> None:
    context = authority.server_context(contexts)
    other = authority.server_context(contexts, authority.other_name)
    if contexts is ssl:

        def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
            if name is not None and name.lower() == "other.example":
                connection.context = other

        context.sni_callback = choose
    else:
        context.sni_callback = {"other.example": other}  # type: ignore[assignment]
        assert context.native  # type: ignore[attr-defined]

    async def main() -> None:
        async with serving(context) as (port, _):
            for name, subject in (
                ("other.example", "other.example"),
                ("OTHER.example", "other.example"),
                ("localhost", "localhost"),
                ("unknown.example", "localhost"),
            ):
                async with SClient(port, "-servername", name) as client:
                    await client.said(rf"subject=CN ?= ?{subject}\n")
            async with SClient(port, "-noservername") as client:
                await client.said(r"subject=CN ?= ?localhost\n")

    run_main(loop, main())


@versions
@pytest.mark.parametrize(
    "which", ["good", "other_name", "none", "self_signed", "expired", "revoked"]
)
def test_a_server_asks_for_a_certificate(
    loop: Loop, contexts: Any, authority: Authority, version: str, which: str
) -> None:
    context = authority.server_context(contexts)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    context.load_verify_locations(authority.revoked_list)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    options: tuple[object, ...] = ()
    if which != "none":
        certificate, key = getattr(authority, which)
        options = ("-cert", certificate, "-key", key)

    async def main() -> None:
        async with serving(context) as (port, served):
            async with SClient(port, version, *options) as client:
                await client.say("line")
                if which in ("good", "other_name"):
                    await client.said("line\n")
                    certificate = served.connections[0].getpeercert()
                    assert certificate
                    name = "localhost" if which == "good" else "other.example"
                    assert certificate["subject"] == ((("commonName", name),),)
                    return
                # How it is told is not promised: asyncio keeps the alerts of failed handshakes.
                assert await client.ended() != 0
                assert "\nline\n" not in client.log
            # The next one is served.
            good = ("-cert", authority.good.certificate, "-key", authority.good.key)
            async with SClient(port, version, *good) as client:
                await client.say("line")
                await client.said("line\n")
            assert len(served.connections) == 1

    run_main(loop, main())


def test_a_client_that_dislikes_the_certificate_costs_itself(
    loop: Loop, contexts: Any, authority: Authority, trust: Any
) -> None:
    context = authority.server_context(contexts, authority.expired)

    async def main() -> None:
        async with serving(context) as (port, served):
            async with SClient(port, *trust) as client:
                await client.said("certificate has expired")
                assert await client.ended() != 0
            async with SClient(port) as client:
                await client.say("line")
                await client.said("line\n")
            assert served.connections

    run_main(loop, main())


# -- s_server


async def ask(port: int, context: ssl.SSLContext, **options: Any) -> ssl.SSLObject:
    """Asks `s_server` for a line turned round, over a connection that is then ended."""
    options.setdefault("server_hostname", "localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, **options)
    try:
        for line in (b"abc", b"x" * 1_000 + b"y"):
            writer.write(line + b"\n")
            answer = await reader.readline()
            if not answer:
                raise ConnectionAbortedError("no answer")
            assert answer == line[::-1] + b"\n"
        return writer.get_extra_info("ssl_object")
    finally:
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()


@versions
@pytest.mark.parametrize("verifies", [True, False])
def test_a_server_is_verified_and_answers(
    loop: Loop, contexts: Any, authority: Authority, version: str, verifies: bool
) -> None:
    async def main() -> None:
        context = authority.client_context(contexts, verifies=verifies)
        with s_server(authority, version) as port:
            for _ in range(3):
                connection = await ask(port, context)
                assert connection.version() == VERSIONS[version]
                assert bool(connection.getpeercert()) == verifies

    run_main(loop, main())


@pytest.mark.parametrize("letter", ["k", "K"])
@pytest.mark.parametrize("verifies", [True, False])
def test_a_server_updates_keys_under_way(
    loop: Loop, contexts: Any, authority: Authority, letter: str, verifies: bool
) -> None:
    """`K` asks the client to change its keys as well."""

    async def main() -> None:
        context = authority.client_context(contexts, verifies=verifies)
        async with SServer(authority, "-tls1_3", "-msg") as server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
            )
            for number in range(4):
                writer.write(b"question %d\n" % number)
                if letter == "K" and number > 0:
                    await server.said("<<< .*KeyUpdate")
                await server.said(f"question {number}\n")
                await server.say(letter)
                await server.said(">>> .*KeyUpdate")
                await server.say(f"answer {number}")
                line = await asyncio.wait_for(reader.readline(), HANG)
                assert line == b"answer %d\n" % number
            writer.write(b"last\n")
            await server.said("last\n")
            writer.close()
            await writer.wait_closed()

    run_main(loop, main())


REFUSED = {
    "expired": "certificate has expired",
    "other_name": "Hostname mismatch",
    "self_signed": "self-signed certificate",
    "revoked": "certificate revoked",
}


@pytest.mark.parametrize("which", REFUSED)
def test_a_bad_certificate_is_refused(
    loop: Loop, contexts: Any, authority: Authority, which: str
) -> None:
    async def main() -> None:
        context = authority.client_context(contexts)
        context.load_verify_locations(authority.revoked_list)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        with s_server(authority, identity=getattr(authority, which)) as port:
            with pytest.raises(ssl.SSLCertVerificationError, match=REFUSED[which]):
                await ask(port, context)
        with s_server(authority) as port:
            await ask(port, context)

    run_main(loop, main())


def test_a_name_is_sent_to_the_server(loop: Loop, contexts: Any, authority: Authority) -> None:
    second, key = authority.other_name
    options = ("-servername", "other.example", "-cert2", second, "-key2", key)

    async def main() -> None:
        context = authority.client_context(contexts)
        with s_server(authority, *options) as port:
            for name in ("other.example", "localhost"):
                certificate = (await ask(port, context, server_hostname=name)).getpeercert()
                assert certificate
                assert certificate["subject"] == ((("commonName", name),),)

    run_main(loop, main())


def test_protocols_are_offered(loop: Loop, contexts: Any, authority: Authority) -> None:
    async def main() -> None:
        with s_server(authority, "-alpn", "h2,http/1.1") as port:
            for verifies in (True, False):
                context = authority.client_context(contexts, verifies=verifies)
                context.set_alpn_protocols(["http/1.1"])
                assert (await ask(port, context)).selected_alpn_protocol() == "http/1.1"
                context.set_alpn_protocols(["spdy"])
                with pytest.raises(ssl.SSLError, match="NO_APPLICATION_PROTOCOL"):
                    await ask(port, context)

    run_main(loop, main())


@versions
@pytest.mark.parametrize("verifies", [True, False])
def test_a_client_has_a_certificate(
    loop: Loop, contexts: Any, authority: Authority, version: str, verifies: bool
) -> None:
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", authority.certificate)

    async def main() -> None:
        with s_server(authority, version, *options) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, authority.client_context(contexts, verifies=verifies))
            context = authority.client_context(contexts, verifies=verifies)
            context.load_cert_chain(*authority.other_name)
            await ask(port, context)

    run_main(loop, main())


def test_a_session_of_the_server_is_resumed(
    loop: Loop, contexts: Any, authority: Authority
) -> None:
    if contexts is ssl:
        pytest.skip("asyncio's clients resume nothing with OpenSSL")

    async def main() -> None:
        context = authority.client_context(contexts, verifies=False)
        context.remembers_sessions = True  # type: ignore[attr-defined]
        for version in VERSIONS:
            with s_server(authority, version) as port:
                reused = [(await ask(port, context)).session_reused for _ in range(3)]
                assert reused == [False, True, True]

    run_main(loop, main())
