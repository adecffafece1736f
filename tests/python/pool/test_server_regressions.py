"""Promises of `loop_pool.start_server` that were broken once, each held against asyncio's own."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, ORACLE_ONLY, check_script, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.usefixtures("clean_process")

LOOPS = [0] if ORACLE_ONLY else [0, 1, 3]
"""Numbers of loops; 0: asyncio's own loop and server, the oracle."""


@pytest.fixture(params=LOOPS, ids=lambda loops: f"{loops} loops" if loops else "asyncio")
def loops(request: pytest.FixtureRequest) -> int:
    """Where the test runs."""
    return request.param


def run(main: Callable[[Any], Coroutine[Any, Any, None]], loops: int) -> None:
    """Runs `main(start_server)`; a hang is a failure."""
    if not loops:
        asyncio.run(asyncio.wait_for(main(asyncio.start_server), HANG))
        return
    import loop_pool

    loop_pool.run(asyncio.wait_for(main(loop_pool.start_server), HANG), loops=loops)


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keeps a connection until either side ends it."""
    writer.write(b"hello\n")
    try:
        await reader.read()
    finally:
        writer.close()


async def _waits(server: Any) -> None:
    """Returns once a `serve_forever` that was just called has nothing to do but wait."""
    await eventually(server.is_serving, "the server serves")
    if not isinstance(server, asyncio.Server):
        import loop_pool

        # Each loop does first what it was asked first.
        for _ in range(5):
            for loop in loop_pool.current_pool().loops:
                await loop_pool.spawn(asyncio.sleep(0), loop=loop)
    for _ in range(100):
        await asyncio.sleep(0)


async def _begin_to_serve(server: Any) -> asyncio.Task[None]:
    """A task in `serve_forever` of a server that was made with `start_serving=False`."""
    serving = asyncio.create_task(server.serve_forever())
    await _waits(server)
    assert not serving.done()
    return serving


async def _refused(address: Any) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def test_a_cancelled_serve_forever_is_cancelled_and_has_closed_the_server(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)
        address = server.sockets[0].getsockname()
        serving = await _begin_to_serve(server)
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readline() == b"hello\n"
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert serving.cancelled()
        assert not server.is_serving()
        assert await _refused(address)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(main, loops)


def test_a_timeout_around_serve_forever_is_a_timeout(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)

        async def expire() -> None:
            await _waits(server)
            limit.reschedule(asyncio.get_running_loop().time())

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                expiring = asyncio.create_task(expire())
                await server.serve_forever()
        await expiring
        assert not server.is_serving()

    run(main, loops)


def test_a_group_that_fails_ends_its_serve_forever(loops: int) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)
        with pytest.raises(ExceptionGroup) as seen:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(server.serve_forever())
                await _waits(server)
                group.create_task(fail())
        assert [type(each) for each in seen.value.exceptions] == [ZeroDivisionError]
        assert serving.cancelled()
        assert not server.is_serving()

    run(main, loops)


def test_closing_ends_serve_forever_by_cancellation(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)
        serving = await _begin_to_serve(server)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await server.wait_closed()
        assert not server.is_serving()

    run(main, loops)


@pytest.mark.skipif(ORACLE_ONLY, reason="asyncio's servers have one loop")
def test_closing_from_another_loop_ends_serve_forever() -> None:
    import loop_pool

    async def close(server: Any) -> None:
        server.close()

    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)
        serving = await _begin_to_serve(server)
        await loop_pool.spawn(close(server), loop=loop_pool.current_pool().loops[1])
        with pytest.raises(asyncio.CancelledError):
            await serving
        await server.wait_closed()
        assert not server.is_serving()

    run(main, 3)


def test_a_second_serve_forever_is_refused_and_the_first_goes_on(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=False)
        serving = await _begin_to_serve(server)
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        assert server.is_serving()
        assert not serving.done()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main, loops)


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_a_serve_forever_that_only_begins_is_ended_as_well(
    loops: int, how: str, steps: int
) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0, start_serving=steps % 2 == 0)
        address = server.sockets[0].getsockname()
        serving = asyncio.create_task(server.serve_forever())
        for _ in range(steps):
            await asyncio.sleep(0)
        if how == "cancel":
            serving.cancel()
        else:
            server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await server.wait_closed()
        assert not server.is_serving()
        assert await _refused(address)

    run(main, loops)


def test_of_two_that_serve_for_ever_at_once_one_is_refused(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0)
        first = asyncio.create_task(server.serve_forever())
        second = asyncio.create_task(server.serve_forever())
        with pytest.raises(RuntimeError, match="already being awaited"):
            await second
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main, loops)


def test_a_closed_server_does_not_serve_for_ever(loops: int) -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(_hold, "127.0.0.1", 0)
        server.close()
        await server.wait_closed()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(main, loops)


def test_one_interrupt_ends_a_program_that_serves_for_ever(loops: int) -> None:
    printed = check_script(
        """
        import asyncio, os, signal, sys

        async def hold(reader, writer):
            try:
                await reader.read()
            finally:
                writer.close()

        async def interrupt(server):
            while not server.is_serving():
                await asyncio.sleep(0)
            for _ in range(5):
                for loop in loop_pool.current_pool().loops if loops else ():
                    await loop_pool.spawn(asyncio.sleep(0), loop=loop)
            for _ in range(100):
                await asyncio.sleep(0)
            print("serving", flush=True)
            os.kill(os.getpid(), signal.SIGINT)

        async def main():
            server = await start_server(hold, "127.0.0.1", 0, start_serving=False)
            task = asyncio.create_task(interrupt(server))
            try:
                await server.serve_forever()
            finally:
                print("served", server.is_serving())

        loops = int(sys.argv[1])
        try:
            if loops:
                import loop_pool
                start_server = loop_pool.start_server
                loop_pool.run(main(), loops=loops)
            else:
                start_server = asyncio.start_server
                asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        str(loops),
    )
    assert printed == "serving\nserved False\ninterrupted\n"


# A socket that the caller made


@pytest.mark.parametrize("listening", [False, True], ids=["bound", "listening"])
def test_a_closed_server_has_closed_the_socket_that_it_was_given(
    loops: int, listening: bool
) -> None:
    async def main(start_server: Any) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            if listening:
                sock.listen()
            address = sock.getsockname()
            server = await start_server(_hold, sock=sock)
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            assert sock.fileno() == -1
            assert await _refused(address)
            # Nobody listens, so another server may have the address.
            again = await start_server(_hold, *address)
            again.close()
            await again.wait_closed()

    run(main, loops)


def test_a_cancelled_serve_forever_has_closed_the_socket_that_it_was_given(loops: int) -> None:
    async def main(start_server: Any) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            address = sock.getsockname()
            server = await start_server(_hold, sock=sock, start_serving=False)
            serving = await _begin_to_serve(server)
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert sock.fileno() == -1
            assert await _refused(address)

    run(main, loops)
