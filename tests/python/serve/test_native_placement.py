"""`http="native"`: requests of a loop that is stuck are answered by another one."""

from __future__ import annotations

import contextlib
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from .kinds import is_there
from .support import Client, Serve

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
    pytest.mark.skipif(not is_there("native"), reason="this build has no HTTP"),
]

SOURCE = """
    import asyncio, threading

    begun, go = threading.Event(), threading.Event()

    async def read(receive):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["loop"] = asyncio.get_running_loop()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        loop = asyncio.get_running_loop()
        assert scope["state"]["loop"] is loop, "the state is that of the loop that runs it"
        assert asyncio.current_task() is not None
        if scope["path"] == "/stuck":
            begun.set()
            assert go.wait(60)
        elif scope["path"] == "/begun":
            await asyncio.to_thread(begun.wait)
        elif scope["path"] == "/go":
            go.set()
        said = f"{loop._name()} {len(await read(receive))}".encode()
        if scope["path"] == "/later":
            await asyncio.sleep(0.01)
        length = (b"content-length", b"%d" % len(said))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for part in (said[:3], said[3:]):
            await send({"type": "http.response.body", "body": part, "more_body": part != said[3:]})
"""


def both_loops(stack: contextlib.ExitStack, port: int) -> dict[str, list[Client]]:
    """Connections, by the loop that each lives on: three or more on each."""
    found: dict[str, list[Client]] = {}
    while len(found) < 2 or min(map(len, found.values())) < 3:
        client = stack.enter_context(Client(port))
        client.ask("/where")
        found.setdefault(client.answer()[2].split()[0], []).append(client)
    return found


def ask(client: Client, path: str) -> str:
    client.ask(path)
    return client.answer()[2]


def test_requests_of_a_stuck_loop_are_answered_by_another(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--http", "native", "--no-access-log"]
    with Serve(tmp_path, *options, source=SOURCE) as server, contextlib.ExitStack() as stack:
        (name, (stuck, *others)), (other, elsewhere) = both_loops(stack, server.port).items()
        stuck.ask("/stuck")
        ask(elsewhere[0], "/begun")
        for client in others:
            assert ask(client, "/where") == f"{other} 0"
            assert ask(client, "/later") == f"{other} 0"
        client = others[0]
        body = bytes(1_000_000)
        client.sock.sendall(b"POST /where HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        threading.Thread(target=client.sock.sendall, args=(body,), daemon=True).start()
        assert client.answer()[2] == f"{other} 1000000"
        # Several at once are answered in their order.
        pair = b"GET /later HTTP/1.1\r\nhost: x\r\n\r\nGET /where HTTP/1.1\r\nhost: x\r\n\r\n"
        client.sock.sendall(pair * 3)
        assert [client.answer()[2] for _ in range(6)] == [f"{other} 0"] * 6
        assert ask(client, "/go") == f"{other} 0"
        assert stuck.answer()[2] == f"{name} 0"
        for each in (stuck, *others):
            assert ask(each, "/where").endswith(" 0")
        server.stop()


def test_readiness_is_answered_while_every_loop_is_stuck(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--http", "native", "--readiness-path", "/ready"]
    with Serve(tmp_path, *options, source=SOURCE) as server, contextlib.ExitStack() as stack:
        asking = []
        for clients in both_loops(stack, server.port).values():
            clients[0].ask("/stuck")
            asking += clients[1:]
        for client in asking * 3:
            client.ask("/ready")
            status, headers, body = client.answer()
            assert (status, headers["cache-control"], body) == (200, "no-store", "ready\n")
        server.kill()


def test_readiness_is_answered_on_a_new_connection_while_every_loop_is_stuck(
    tmp_path: Path,
) -> None:
    options = ["--port", "0", "--loops", "2", "--readiness-path", "/ready"]
    with Serve(tmp_path, *options, source=SOURCE) as server, contextlib.ExitStack() as stack:
        for clients in both_loops(stack, server.port).values():
            clients[0].ask("/stuck")
        for _ in range(20):
            with Client(server.port) as client:
                client.ask("/ready")
                status, headers, body = client.answer()
            assert (status, headers["cache-control"], body) == (200, "no-store", "ready\n")
            assert headers["connection"] == "close"
        server.kill()
