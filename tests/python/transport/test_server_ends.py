"""What is left of a server that was closed, and of one that nobody closed, without a collection."""

from __future__ import annotations

import asyncio
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, LoopFactory, receive
from .servers import KINDS, OURS, Start, ends_with_its_loop, names, start_tls

type Loop = asyncio.AbstractEventLoop

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("no_collection"),
]


def talk(family: int, address: Any) -> bytes:
    with socket.socket(family) as client:
        client.settimeout(HANG)
        client.connect(address)
        return receive(client, 5)


async def close_in_order(start: Start, made: Any, path: Path) -> None:
    server = await start(made, path)
    first = server.sockets[0]
    if start is not start_tls:
        assert await asyncio.to_thread(talk, first.family, first.getsockname()) == b"hello"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(("start", "kind"), KINDS, ids=names(KINDS))
def test_a_closed_server_leaves_nothing_for_the_collector(
    loop: Loop, tmp_path: Path, start: Start, kind: Any
) -> None:
    leaves_nothing(loop, tmp_path, start, kind)


@pytest.mark.loop_pool_only
@pytest.mark.parametrize(("start", "kind"), OURS, ids=names(OURS))
def test_a_closed_native_server_leaves_nothing_for_the_collector(
    loop: Loop, tmp_path: Path, start: Start, kind: Any
) -> None:
    leaves_nothing(loop, tmp_path, start, kind)


def leaves_nothing(loop: Loop, path: Path, start: Start, kind: Any) -> None:
    made = kind()
    gone = weakref.ref(made)
    loop.run_until_complete(close_in_order(start, made, path))
    del made
    # What the last turns still refer to.
    loop.run_until_complete(asyncio.sleep(0))
    assert gone() is None


@pytest.mark.smoke
@pytest.mark.parametrize(("start", "kind"), KINDS, ids=names(KINDS))
def test_a_server_that_nobody_closed_ends_with_its_loop(
    loop_factory: LoopFactory, tmp_path: Path, start: Start, kind: Any
) -> None:
    ends_with_its_loop(
        lambda main: asyncio.run(main, loop_factory=loop_factory),
        tmp_path,
        start,
        kind,
        connects=False,
    )


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("connects", [False, True])
@pytest.mark.parametrize(("start", "kind"), KINDS + OURS, ids=names(KINDS + OURS))
def test_open_connections_do_not_keep_a_server_that_nobody_closed(
    loop_factory: LoopFactory, tmp_path: Path, start: Start, kind: Any, connects: bool
) -> None:
    """asyncio's own loop leaves some of them to the collector."""
    ends_with_its_loop(
        lambda main: asyncio.run(main, loop_factory=loop_factory),
        tmp_path,
        start,
        kind,
        connects=connects,
    )
