"""A server that has answered many is as large as one that has answered few.

`make test` takes a look; `make stress` has 100,000 requests and 5,000 WebSockets.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ..support import HANG, Threads, listen, reset, wait_for
from .kinds import is_there
from .server import Client
from .support import Serve, get
from .websocket import BINARY, CLOSE, PING, PONG, TEXT, WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
    pytest.mark.skipif(not is_there("native"), reason="there is no native HTTP"),
    pytest.mark.skipif(
        not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts by mallinfo2, which is glibc's"
    ),
]

APPLICATION = """
    import ctypes, gc, json, os, sys

    FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Info

    def counts():
        for _ in range(3):
            gc.collect()
        info = mallinfo2()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "blocks": sys.getallocatedblocks(),
            "heap": info.uordblks + info.hblkhd,
            "resident": pages * os.sysconf("SC_PAGESIZE"),
        }

    async def websocket(receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4000})
                return
            await send({**message, "type": "websocket.send"})

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            return await websocket(receive, send)
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/counts":
            body = json.dumps(counts()).encode()
        elif scope["path"] == "/fail":
            raise ValueError("on purpose")
        headers = [(b"content-length", str(len(body)).encode())]
        if scope["path"] == "/parts":
            headers = []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(3 if scope["path"] == "/parts" else 0):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": body})
"""

BODY = b"b" * 700


def connected(port: int) -> Client:
    """A new connection that sends at once what it is given."""
    sock = socket.create_connection(("127.0.0.1", port), HANG)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(sock)


def visit(port: int, number: int) -> int:
    """Makes a connection, with requests of many kinds; returns how many."""
    with connected(port) as client:
        for _ in range(16):
            client.request("GET", "/pipelined")
        for _ in range(16):
            assert client.response().status == 200
        for target in ("/whole", "/parts"):
            client.request("POST", target, body=BODY)
            body = client.response().body
            assert body == BODY * (1 if target == "/whole" else 4)
        chunked = ("Transfer-Encoding", "chunked")
        client.request("POST", "/chunked", chunked, ("Expect", "100-continue"))
        assert client.head().status == 100
        for size in (1, 2000):
            client.send(b"%x\r\n%s\r\n" % (size, b"c" * size))
        client.send(b"0\r\n\r\n")
        assert len(client.response().body) == 2001
        match number % 5:
            case 0:
                client.request("GET", "/", ("Connection", "close"))
                assert client.response().status == 200
            case 1:
                client.send(b"not HTTP\r\n\r\n")
                assert client.response().status == 400
            case 2:
                client.request("POST", "/", ("Content-Length", "1000"))
                client.reset()
            case 3:
                client.request("GET", "/fail")
                assert client.response().status == 500
            case _:
                client.send(b"GET /half HTTP/1.1\r\nHos")
    return 20


def converse(port: int, number: int) -> int:
    """Opens a WebSocket, sends some messages, and ends it in one of the ways; returns 1."""
    websocket = WebSocket(connected(port))
    offer = [("Sec-WebSocket-Extensions", "permessage-deflate")] if number % 2 else []
    with websocket:
        websocket.ask("/", *offer)
        assert websocket.client.head().status == 101
        websocket.text("text " * 50)
        assert websocket.message() == "text " * 50
        websocket.send(BINARY, bytes(3000), fin=False)
        websocket.send(PING, b"ping")
        assert websocket.frame().opcode == PONG
        websocket.send(0, bytes(3000))
        assert websocket.message() == bytes(6000)
        match number % 5:
            case 0:
                websocket.close(1000)
                assert websocket.frame().opcode == CLOSE
                assert websocket.client.is_closed()
            case 1:
                websocket.text("close")
                assert websocket.closed() == 4000
            case 2:
                websocket.client.file.close()
                reset(websocket.client.sock)
            case 3:
                websocket.send(TEXT, b"\xff")
                assert websocket.frame().code == 1007
            case _:
                websocket.send(TEXT, b"half of a message", fin=False)
    return 1


def repeat(port: int, what: Callable[[int, int], int], count: int) -> None:
    """Does something until it has been done so often, in four threads."""
    numbers = itertools.count()
    done = itertools.count()

    def work() -> None:
        while next(done) * step < count:
            what(port, next(numbers))

    step = what(port, 0)
    with Threads(work, work, work, work):
        pass


def settled(port: int, descriptors: int | None = None) -> dict[str, int]:
    """What the server counts in itself, once it has seen that its clients have gone.

    Then it has as many descriptors as given, or as many as the last time that it was asked.
    """
    counts: dict[str, int] = {}

    def is_settled() -> bool:
        before = descriptors or counts.get("descriptors")
        status, text = get(port, "/counts")
        assert status == 200
        counts.update(json.loads(text))
        return counts["descriptors"] == before

    wait_for(is_settled, "all connections end")
    return counts


@pytest.mark.parametrize(
    ("requests", "websockets"),
    [(20_000, 1_000), pytest.param(100_000, 5_000, marks=pytest.mark.stress)],
)
@pytest.mark.timeout(15 * HANG)
def test_memory_and_descriptors_stay_as_they_are(
    tmp_path: Path, requests: int, websockets: int
) -> None:
    with listen(backlog=128) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        options = ["--fd", str(fd), "--loops", "2", "--http", "native", "--lifespan", "off"]
        # The errors of `/fail` would fill the log.
        options += ["--no-access-log", "--log-level", "critical"]
        # `mallinfo2` counts the first arena alone.
        arena = {"MALLOC_ARENA_MAX": "1"}
        server = Serve(
            tmp_path, *options, source=APPLICATION, pass_fds=(fd,), environment=arena, wait=None
        )
        with server:
            # What is made once, and what threads and caches keep for the next time.
            repeat(port, visit, 2_000)
            repeat(port, converse, 100)
            before = settled(port)
            repeat(port, visit, requests)
            repeat(port, converse, websockets)
            after = settled(port, before["descriptors"])
            server.tell()
            assert server.ended() == 0
    grown = {name: after[name] - before[name] for name in before}
    # Far less than one of anything for each request or WebSocket.
    assert grown["blocks"] < 500, grown
    assert grown["heap"] < 768 * 1024, grown
    assert grown["resident"] < 8 << 20, grown
