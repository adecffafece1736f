"""Stream transports whose protocol fails: what is reported, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from ..support import (
    BufferedRecorder,
    Recorder,
    connected,
    eventually,
    read_out,
    receive,
    run_main,
    stuff,
    turns,
)


def _fails(*_: object) -> None:
    raise ZeroDivisionError("as planned")


def _fails_quietly(*_: object) -> None:
    raise ConnectionError("as planned")


def _is_fatal(context: dict[str, Any], message: str, protocol: Any, exception: Any) -> None:
    assert context["message"] == message
    assert context["exception"] is exception
    assert context["transport"] is protocol.transport
    assert context["protocol"] is protocol


# Failures that end the connection


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    "method", ["data_received", "eof_received", "get_buffer", "buffer_updated"]
)
def test_a_failing_method_is_reported_and_ends_the_connection(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], kind: str, method: str
) -> None:
    async def main() -> None:
        make: Any = BufferedRecorder if "buffer" in method else Recorder
        async with connected(make(**{method: _fails}), kind) as (transport, protocol, far):
            far.sendall(b"x")
            if method == "eof_received":
                far.shutdown(socket.SHUT_WR)
            error = await protocol.ended()
            assert isinstance(error, ZeroDivisionError)
            assert protocol.count(method) == 1
            (context,) = reported
            _is_fatal(context, f"Fatal error: protocol.{method}() call failed.", protocol, error)
            assert read_out(far) == b""
            assert transport.is_closing()

    run_main(loop, main())


@pytest.mark.parametrize(
    "method", ["data_received", "eof_received", "get_buffer", "buffer_updated"]
)
def test_an_oserror_from_a_protocol_ends_the_connection_unreported(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], method: str
) -> None:
    async def main() -> None:
        make: Any = BufferedRecorder if "buffer" in method else Recorder
        async with connected(make(**{method: _fails_quietly})) as (_, protocol, far):
            far.sendall(b"x")
            far.shutdown(socket.SHUT_WR)
            assert str(await protocol.ended()) == "as planned"

    run_main(loop, main())
    assert reported == []


def test_a_cancelled_error_from_a_protocol_is_fatal_too(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    def cancelled(_: object) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        async with connected(Recorder(data_received=cancelled)) as (_, protocol, far):
            far.sendall(b"x")
            assert isinstance(await protocol.ended(), asyncio.CancelledError)

    run_main(loop, main())
    assert len(reported) == 1


def test_a_fatal_error_drops_what_is_queued(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with connected(Recorder(data_received=_fails)) as (transport, protocol, far):
            queued = stuff(transport)
            far.sendall(b"x")
            await protocol.ended()
            assert transport.get_write_buffer_size() == 0
            assert protocol.count("resume_writing") == 0
            assert len(await asyncio.to_thread(read_out, far)) < len(queued)

    run_main(loop, main())
    assert len(reported) == 1


def test_a_protocol_that_has_closed_and_then_fails_gets_no_second_end(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        def close_and_fail(_: object) -> None:
            protocol.transport.close()
            raise ZeroDivisionError

        protocol = Recorder(data_received=close_and_fail)
        async with connected(protocol) as (_, _, far):
            far.sendall(b"x")
            assert await protocol.ended() is None  # The close came first.

    run_main(loop, main())
    assert len(reported) == 1


@pytest.mark.parametrize("how", ["data_received", "buffer_updated"])
def test_a_fatal_error_leaves_other_connections_alone(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], how: str
) -> None:
    async def main() -> None:
        make: Any = BufferedRecorder if how == "buffer_updated" else Recorder
        async with (
            connected(make(**{how: _fails})) as (_, bad, far),
            connected(make()) as (_, good, other),
        ):
            far.sendall(b"x")
            other.sendall(b"fine")
            await bad.ended()
            await good.got(4)
            assert "connection_lost" not in good.calls

    run_main(loop, main())
    assert len(reported) == 1


# Buffers that are of no use


@pytest.mark.parametrize(
    ("buffer", "error", "message"),
    [
        (bytearray(), RuntimeError, "Fatal error: protocol.get_buffer() call failed."),
        (memoryview(b""), RuntimeError, "Fatal error: protocol.get_buffer() call failed."),
        (7, TypeError, "Fatal error: protocol.get_buffer() call failed."),
        (b"read-only", TypeError, "Fatal read error on socket transport"),
        (memoryview(b"read-only"), TypeError, "Fatal read error on socket transport"),
        ([1, 2], TypeError, "Fatal read error on socket transport"),
    ],
    ids=["empty", "empty view", "number", "bytes", "read-only view", "list"],
)
def test_a_buffer_that_cannot_be_filled_is_reported_and_ends_the_connection(
    loop: asyncio.AbstractEventLoop,
    reported: list[dict[str, Any]],
    buffer: Any,
    error: type[Exception],
    message: str,
) -> None:
    async def main() -> None:
        async with connected(BufferedRecorder(get_buffer=lambda _: buffer)) as (_, protocol, far):
            far.sendall(b"x")
            assert isinstance(await protocol.ended(), error)
            assert protocol.count("buffer_updated") == 0
            _is_fatal(reported[0], message, protocol, protocol.error)

    run_main(loop, main())
    assert len(reported) == 1


# Failures that do not end the connection


def test_a_failing_connection_made_is_reported_and_the_connection_goes_on(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with connected(Recorder(connection_made=_fails)) as (_, protocol, far):
            far.sendall(b"x")
            await protocol.got(1)
            (context,) = reported
            assert context["message"].startswith("Exception in callback")
            assert str(context["exception"]) == "as planned"

    run_main(loop, main())
    assert len(reported) == 1


@pytest.mark.parametrize("how", ["close", "abort", "eof", "flush"])
def test_a_failing_connection_lost_is_reported_and_the_socket_closed(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(connection_lost=_fails)) as (transport, protocol, far):
            sock = transport.get_extra_info("socket")
            if how == "eof":
                far.shutdown(socket.SHUT_WR)
            else:
                if how == "flush":
                    stuff(transport)
                getattr(transport, "close" if how == "flush" else how)()
            await asyncio.to_thread(read_out, far)
            await protocol.ended()
            assert sock.fileno() == -1
            assert transport.get_protocol() is None
            (context,) = reported
            assert context["message"].startswith("Exception in callback")
            assert str(context["exception"]) == "as planned"

    run_main(loop, main())


def test_a_server_forgets_a_connection_whose_connection_lost_fails(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        protocol = Recorder(connection_lost=_fails)
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await eventually(lambda: bool(protocol.calls), "it is connected")
            client.close()
            await protocol.ended()
        server.close()
        await server.wait_closed()

    run_main(loop, main())
    assert len(reported) == 1


@pytest.mark.parametrize("exit_", [False, True], ids=["exception", "OSError"])
def test_a_failing_pause_writing_is_reported_and_writing_goes_on(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], exit_: bool
) -> None:
    async def main() -> None:
        fails = _fails_quietly if exit_ else _fails
        async with connected(Recorder(pause_writing=fails)) as (transport, protocol, far):
            transport.set_write_buffer_limits(0)
            queued = stuff(transport)
            assert protocol.count("pause_writing") == 1
            (context,) = reported
            _is_fatal(context, "protocol.pause_writing() failed", protocol, context["exception"])
            assert str(context["exception"]) == "as planned"
            assert await asyncio.to_thread(receive, far, len(queued)) == queued
            await eventually(lambda: protocol.count("resume_writing") == 1, "it is resumed")

    run_main(loop, main())
    assert len(reported) == 1


def test_a_failing_resume_writing_is_reported_and_writing_goes_on(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with connected(Recorder(resume_writing=_fails)) as (transport, protocol, far):
            transport.set_write_buffer_limits(0)
            for number in range(1, 3):
                queued = stuff(transport)
                assert await asyncio.to_thread(receive, far, len(queued)) == queued
                await eventually(lambda: len(reported) == number, "it is reported")  # noqa: B023
                context = reported[-1]
                _is_fatal(
                    context, "protocol.resume_writing() failed", protocol, context["exception"]
                )
            assert protocol.count("pause_writing") == protocol.count("resume_writing") == 2

    run_main(loop, main())


@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
def test_an_exit_from_pause_writing_reaches_the_one_who_writes(
    loop: asyncio.AbstractEventLoop, exit_: type[BaseException]
) -> None:
    def leave() -> None:
        raise exit_("out")

    async def main() -> None:
        async with connected(Recorder(pause_writing=leave)) as (transport, protocol, _):
            transport.set_write_buffer_limits(0)
            with pytest.raises(exit_, match="out"):
                stuff(transport)
            assert transport.get_write_buffer_size() > 0
            assert not transport.is_closing()
            assert protocol.count("pause_writing") == 1

    run_main(loop, main())


# Servers


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio drops that socket unclosed.
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_a_failing_factory_is_reported_at_least_in_debug_mode(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]], debug: bool
) -> None:
    async def main() -> None:
        loop.set_debug(debug)
        calls: list[int] = []

        def factory() -> Recorder:
            calls.append(1)
            raise ZeroDivisionError("as planned")

        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            for number in range(1, 4):
                with socket.create_connection(server.sockets[0].getsockname()):
                    await eventually(lambda: len(calls) == number, "accepted")  # noqa: B023
            await turns()

    run_main(loop, main())
    assert len(reported) in ({3} if debug else {0, 3})
    for context in reported:
        assert context["message"] == "Error on transport creation for incoming connection"
        assert str(context["exception"]) == "as planned"
        assert "protocol" not in context
        assert "transport" not in context
        context.clear()  # Its traceback keeps the socket.


def test_a_failing_factory_of_a_client_closes_its_socket(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            with pytest.raises(ZeroDivisionError, match="as planned"):
                await loop.create_connection(_fails, sock=near)  # type: ignore[arg-type]
            assert near.fileno() == -1
            assert far.recv(1) == b""

    run_main(loop, main())


def test_debug_mode_tells_of_the_life_of_a_connection(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop.set_debug(True)
        async with connected(Recorder()) as (transport, protocol, far):
            transport.pause_reading()
            transport.resume_reading()
            far.close()
            await protocol.ended()

    with caplog.at_level("DEBUG", "asyncio"):
        run_main(loop, main())
    said = [record.getMessage() for record in caplog.records]
    for words in ("pauses reading", "resumes reading", "received EOF"):
        assert any(words in each and "fd=" in each for each in said), words
