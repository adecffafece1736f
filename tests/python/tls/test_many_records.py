"""Very many records over one connection: all arrive, in order, and the memory stays as it is."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from ..support import Recorder
from .support import shaken

type Loop = asyncio.AbstractEventLoop

SIZE = 16
AT_ONCE = 500
MIB = 1 << 20


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def echoing_in_records() -> Recorder:
    """Sends back each piece of `SIZE` bytes in a record of its own, and keeps nothing."""
    protocol = Recorder()

    def received(data: bytes) -> None:
        # A record may come in two parts.
        whole = len(protocol.data) - len(protocol.data) % SIZE
        for start in range(0, whole, SIZE):
            protocol.transport.write(bytes(protocol.data[start : start + SIZE]))
        del protocol.data[:whole]
        protocol.calls.clear()

    protocol.hooks["data_received"] = received
    return protocol


async def exchange_records(count: int, growth: int) -> None:
    """So many records in each direction; from a tenth on, memory may grow by `growth` bytes."""
    before = 0
    async with shaken(echoing_in_records) as (transport, protocol, peer):
        for start in range(0, count, AT_ONCE):
            pieces = [b"%015d\n" % number for number in range(start, start + AT_ONCE)]
            await peer.send(peer.seal(*pieces))
            assert await peer.read(AT_ONCE * SIZE) == b"".join(pieces)
            if start == count // 10:
                before = resident_bytes()
        assert transport.get_write_buffer_size() == 0
        after = resident_bytes()
        protocol.calls = ["connection_made"]
    assert after - before < growth


def test_fifty_thousand_records(loop: Loop) -> None:
    # 40 bytes for each record would be 1.7 MiB.
    run_within(loop, exchange_records(50_000, round(1.5 * MIB)), 60)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_a_million_records(loop: Loop) -> None:
    run_within(loop, exchange_records(1_000_000, 4 * MIB), 600)


def run_within(loop: Loop, main: Any, seconds: float) -> None:
    loop.run_until_complete(asyncio.wait_for(main, seconds))
