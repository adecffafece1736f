"""`receive` and `send` of an ASGI connection, awaited on other loops than the connection's own.

The first half is about what stands before uvicorn's protocols for that. Other kinds of HTTP have
`receive` and `send` that need nothing before them; the second half, whole servers, runs on each.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import re
import socket
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..pool.support import loops, run
from ..support import HANG, eventually
from .kinds import on_each_kind
from .support import Serve, get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]


class Connection:
    """What a server gives an application; its calls find the loop and the task that make them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.places: set[tuple[Any, Any]] = set()
        self.full = asyncio.Event()
        self.full.set()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(self) -> Any:
        self._look()
        return await self.messages.get()

    async def send(self, message: Any) -> None:
        self._look()
        self.calls.append(message)
        await self.full.wait()
        if message == "bad":
            raise OSError("the client has gone")
        self.calls.append(("done", message))

    def _look(self) -> None:
        self.places.add((asyncio.get_running_loop(), asyncio.current_task()))


async def call_app(app: Any, connection: Connection) -> None:
    from loop_pool._serve.affinity import usable_on_every_loop

    await usable_on_every_loop(app)({"type": "websocket"}, connection.receive, connection.send)


def test_on_the_own_loop_the_task_itself_makes_the_call() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send("one")
        await connection.messages.put("message")
        assert await receive() == "message"
        assert connection.places == {(asyncio.get_running_loop(), asyncio.current_task())}

    async def main() -> None:
        nonlocal connection
        connection = Connection()
        await call_app(app, connection)

    connection: Any = None
    run(main)


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_on_another_loop_the_own_one_makes_the_calls_in_their_order(debug: bool) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def main() -> None:
        connection = Connection()
        home = asyncio.get_running_loop()

        async def elsewhere(receive: Any, send: Any) -> None:
            assert asyncio.get_running_loop() is not home
            variable.set("kept")
            for number in range(50):
                await send(number)
            sends = [asyncio.ensure_future(send(number)) for number in range(50, 100)]
            await asyncio.gather(*sends)
            with pytest.raises(OSError, match="the client has gone"):
                await send("bad")
            waiting = asyncio.ensure_future(receive())
            await send("receives")
            assert await waiting == "message"
            assert variable.get() == "kept"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            task = loop_pool.spawn(elsewhere(receive, send), loop=loops()[1])
            await eventually(lambda: "receives" in connection.calls, "it receives")
            connection.messages.put_nowait("message")
            await task

        await call_app(app, connection)
        begun = [call for call in connection.calls if not isinstance(call, tuple)]
        assert begun == [*range(100), "bad", "receives"]
        assert {loop for loop, _ in connection.places} == {home}

    run(main, debug=debug)


def test_a_call_that_is_made_here_may_be_awaited_elsewhere() -> None:
    """`loop_pool.gather` and `spawn` run coroutines on any loop."""

    async def main() -> None:
        connection = Connection()
        home = asyncio.get_running_loop()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await loop_pool.spawn(send("one"), loop=loops()[1])
            await loop_pool.gather(*(send(number) for number in range(20)))

        await call_app(app, connection)
        assert len(connection.calls) == 42
        assert {loop for loop, _ in connection.places} == {home}

    run(main)


def test_who_sends_waits_and_whose_wait_is_cancelled_has_cancelled_the_call() -> None:
    async def main() -> None:
        connection = Connection()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            connection.full.clear()
            slow = loop_pool.spawn(send("slow"), loop=loops()[1])
            lost = loop_pool.spawn(send("lost"), loop=loops()[2])
            taken = loop_pool.spawn(receive(), loop=loops()[1])
            await eventually(lambda: set(connection.calls) == {"slow", "lost"}, "they wait")
            await eventually(lambda: len(connection.messages._getters) == 1, "it receives")  # type: ignore[attr-defined]
            for task in (lost, taken):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            # No message goes to one who has given up.
            connection.messages.put_nowait("message")
            assert await receive() == "message"
            assert not slow.done()
            connection.full.set()
            await slow
            assert ("done", "slow") in connection.calls
            assert ("done", "lost") not in connection.calls

        await asyncio.wait_for(call_app(app, connection), HANG)

    run(main, 3)


@pytest.mark.parametrize("next_on", [0, 1])
def test_a_message_whose_receiver_is_just_cancelled_goes_to_who_asks_next(
    next_on: int,
) -> None:
    arrived = threading.Event()

    class Signalling(Connection):
        async def receive(self) -> Any:
            message = await super().receive()
            asyncio.get_running_loop().call_soon(arrived.set)
            return message

    async def main() -> None:
        connection = Signalling()
        home, other = loops()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def give_up() -> None:
                waiting = asyncio.create_task(receive())
                await eventually(lambda: len(connection.messages._getters) == 1, "it receives")  # type: ignore[attr-defined]
                home.call_soon_threadsafe(connection.messages.put_nowait, "first")
                # The answer is on its way to this loop, which does not look meanwhile.
                assert arrived.wait(HANG)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting

            await loop_pool.spawn(give_up(), loop=other)
            connection.messages.put_nowait("second")
            for message in ("first", "second"):
                assert await loop_pool.spawn(receive(), loop=loops()[next_on]) == message

        await asyncio.wait_for(call_app(app, connection), HANG)

    run(main, 2)


def test_who_asks_without_waiting_is_told_the_next_time() -> None:
    """As Starlette's `is_disconnected` asks: it cancels its call before that can wait."""

    async def main() -> None:
        connection = Connection()
        home, other = loops()
        connection.messages.put_nowait("message")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def ask() -> None:
                with held(home):
                    asking = asyncio.create_task(receive())
                    await asyncio.sleep(0)
                    asking.cancel()
                    await asyncio.sleep(0)
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await loop_pool.call(home, asyncio.sleep, 0)
                with held(home), pytest.raises(StopIteration) as told:
                    receive().send(None)
                assert told.value.value == "message"

            await loop_pool.spawn(ask(), loop=other)

        await asyncio.wait_for(call_app(app, connection), HANG)

    run(main, 2)


@contextlib.contextmanager
def held(loop: Any) -> Iterator[None]:
    """Keep a loop in the middle of a callback."""
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        holds.set()
        assert release.wait(HANG)

    loop.call_soon_threadsafe(hold)
    assert holds.wait(HANG)
    try:
        yield
    finally:
        release.set()


def test_a_thread_with_a_loop_of_its_own_may_send() -> None:
    async def main() -> None:
        connection = Connection()
        home = asyncio.get_running_loop()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.to_thread(asyncio.run, send("one"))

        await call_app(app, connection)
        assert connection.calls == ["one", ("done", "one")]
        assert {loop for loop, _ in connection.places} == {home}

    run(main)


# Served

BROADCAST = """
    import asyncio

    sends = {}
    LARGE = bytes(1 << 20)

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            return
        name = scope["path"]
        await receive()
        await send({"type": "websocket.accept"})
        sends[name] = send
        await send({"type": "websocket.send", "text": asyncio.get_running_loop()._name()})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                what = "text" if message.get("text") is not None else "bytes"
                targets = [scope["query_string"].decode()] if scope["query_string"] else list(sends)
                for target in targets:
                    await sends[target]({"type": "websocket.send", what: message[what]})
                    for _ in range(int(message.get("text") or 0) if target == "/slow" else 0):
                        await sends[target]({"type": "websocket.send", "bytes": LARGE})
        finally:
            del sends[name]
"""

MANAGER = """
    import asyncio
    from fastapi import FastAPI, WebSocket, WebSocketDisconnect

    app = FastAPI()

    class ConnectionManager:
        def __init__(self):
            self.active_connections: list[WebSocket] = []

        async def connect(self, websocket: WebSocket):
            await websocket.accept()
            self.active_connections.append(websocket)
            # Nobody speaks before all have heard this: they are in the list by then.
            await websocket.send_text(asyncio.get_running_loop()._name())

        def disconnect(self, websocket: WebSocket):
            self.active_connections.remove(websocket)

        async def broadcast(self, message):
            send = WebSocket.send_text if isinstance(message, str) else WebSocket.send_bytes
            for connection in self.active_connections:
                await send(connection, message)

    manager = ConnectionManager()

    @app.websocket("/{client_id}")
    async def websocket_endpoint(websocket: WebSocket, client_id: int):
        await manager.connect(websocket)
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect
                text, data = message.get("text"), message.get("bytes")
                await manager.broadcast(data if text is None else text)
        except WebSocketDisconnect:
            manager.disconnect(websocket)
"""


@contextlib.asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[Any]]:
    """Clients with the names of the loops that serve them."""
    from websockets.asyncio.client import connect

    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            options: dict[str, Any] = {"open_timeout": HANG, "max_queue": None, "proxy": None}
            uri = f"ws://127.0.0.1:{port}/{number}"
            client = await stack.enter_async_context(connect(uri, max_size=None, **options))
            opened.append((client, await client.recv()))
        yield opened


def said(number: int, count: int, size: int) -> str:
    return f"{number}:{count}:{'x' * size}"


async def broadcast(port: int, connections: int, senders: int, messages: int) -> set[str]:
    """Some say something to all, in text, bytes and fragments; return the loops that served."""
    sizes = (0, 200, 70_000)  # compressed, if at all; the last above the marks of flow control

    async def talk(number: int, client: Any) -> None:
        for count in range(messages):
            text = said(number, count, sizes[count % 3])
            ways = (text, text.encode(), [text[:5], text[5:9], text[9:]])
            await client.send(ways[(number + count) % 3])

    async def listen(client: Any) -> None:
        next_ones = collections.Counter[int]()
        for _ in range(senders * messages):
            text = await client.recv()
            number, count = (int(each) for each in re.findall(r"\d+", str(text[:20]))[:2])
            assert count == next_ones[number]
            next_ones[number] += 1
            expected = said(number, count, sizes[count % 3])
            assert text == (expected.encode() if (number + count) % 3 == 1 else expected)

    async with clients(port, connections) as opened, asyncio.TaskGroup() as group:
        for number, (client, _) in enumerate(opened):
            group.create_task(listen(client))
            if number < senders:
                group.create_task(talk(number, client))
    return {name for _, name in opened}


@pytest.mark.parametrize(
    ("protocol", "count"), [("websockets", 2), ("websockets-sansio", 3), ("wsproto", 8)]
)
def test_a_broadcast_reaches_the_connections_of_all_loops(
    protocol: str, count: int, tmp_path: Path, each_http: str
) -> None:
    if each_http == "native" and protocol != "websockets":
        pytest.skip("it has WebSockets of its own")
    pytest.importorskip("websockets")
    options = ["--port", "0", "--loops", str(count), "--no-access-log", "--ws", protocol]
    with Serve(tmp_path, *options, "--lifespan", "off", source=BROADCAST) as server:
        names = asyncio.run(asyncio.wait_for(broadcast(server.port, 16, 4, 3), HANG))
        assert len(names) == count
        server.stop()


@on_each_kind
def test_a_hundred_clients_of_fastapi_hear_twenty(tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    pytest.importorskip("fastapi")
    options = ["--port", "0", "--loops", "4", "--no-access-log"]
    with Serve(tmp_path, *options, source=MANAGER) as server:
        names = asyncio.run(asyncio.wait_for(broadcast(server.port, 100, 20, 2), 2 * HANG))
        assert len(names) == 4
        server.stop()


@on_each_kind
def test_a_slow_client_holds_up_only_who_sends_to_it(tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    from websockets.asyncio.client import connect

    rounds = 12  # MiB: more than the buffers of the kernel, the server and the client take

    async def main(port: int) -> None:
        base = f"ws://127.0.0.1:{port}"
        options: dict[str, Any] = {"proxy": None, "compression": None, "max_size": None}
        async with contextlib.AsyncExitStack() as stack:

            async def join(path: str, **more: Any) -> Any:
                client = await stack.enter_async_context(connect(base + path, **options, **more))
                await client.recv()
                return client

            # Two that are sent to, and for each one who sends, on whichever loops.
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            slow = await join("/slow", max_queue=1, sock=sock)
            fast = await join("/fast")
            to_slow, to_fast = await join("/a?/slow"), await join("/b?/fast")
            await to_slow.send(f"{rounds}")
            await to_slow.send("0")
            assert await slow.recv() == f"{rounds}"
            for number in range(20):
                await to_fast.send(f"{number}")
                assert await fast.recv() == f"{number}"
            for _ in range(rounds):
                assert await slow.recv() == bytes(1 << 20)
            assert await slow.recv() == "0"

    with Serve(
        tmp_path, "--port", "0", "--loops", "2", "--no-access-log", "--lifespan", "off",
        "--ws", "websockets-sansio", source=BROADCAST,
    ) as server:  # fmt: skip
        asyncio.run(asyncio.wait_for(main(server.port), 2 * HANG))
        server.stop()


ELSEWHERE = """
    import asyncio
    import loop_pool

    def on_another_loop(function, *args):
        here, pool = asyncio.get_running_loop(), loop_pool.current_pool()
        loop = next(loop for loop in pool.loops if loop is not here)
        return loop_pool.call(loop, function, *args)

    async def app(scope, receive, send):
        await on_another_loop(handle, scope, receive, send)

    async def handle(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        headers = [(b"content-length", b"%d" % (len(body) + 3_000_000))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(30):
            chunk = b"%d" % (number % 10) * 100_000
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": body})
"""


@on_each_kind
def test_a_request_is_answered_from_another_loop_and_so_is_the_lifespan(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--lifespan", "on"]
    with Serve(tmp_path, *options, source=ELSEWHERE) as server:
        wanted = "".join(str(number % 10) * 100_000 for number in range(30))
        assert get(server.port) == (200, wanted)
        body = b"y" * 1_000_000
        with socket.create_connection(("127.0.0.1", server.port), HANG) as client:
            head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            with client.makefile("rb") as file:
                answer = file.read()
        assert answer.endswith(wanted.encode() + body)
        server.stop()
