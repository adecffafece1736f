"""`http="native"`: what one client can make the server keep."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from .kinds import is_there
from .server import Server
from .websocket import BINARY, PING, connect, packed

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
    pytest.mark.skipif(not is_there("native"), reason="this build has no HTTP"),
]


def test_a_client_that_asks_for_pongs_and_reads_none_is_given_up() -> None:
    """Also if its pings lie behind messages that the application takes one by one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            pass

    flood = packed(BINARY, b"x") * 40 + packed(PING, bytes(125)) * 500
    with Server(app, http="native") as server:
        websocket, response = connect(server)
        with websocket:
            assert response.status == 101
            with pytest.raises(ConnectionError):
                for _ in range(10_000):
                    websocket.client.sock.sendall(flood)
