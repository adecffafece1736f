"""What the tests about looking into a pool share."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..support import HANG, run_python

HEAD = """
import asyncio, os, signal, sys, threading, time
import loop_pool

def spawn(index, coro, name):
    return loop_pool.spawn(coro, loop=loop_pool.current_pool().loops[index], name=name)

async def until_told():
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
"""
"""What programs for these tests begin with: `until_told` ends when their input does."""

IDLE = """
async def main():
    await until_told()
loop_pool.run(main(), loops=2, inspect=True)
"""


def environment(place: Path, **more: str) -> dict[str, str]:
    """An environment in which sockets go to a folder below `place`."""
    dropped = {"XDG_RUNTIME_DIR", "LOOP_POOL_INSPECT"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    import loop_pool

    package = str(Path(loop_pool.__path__[0]).parent)
    return {**kept, "TMPDIR": str(place), "PYTHONPATH": package, **more}


@contextlib.contextmanager
def program(
    source: str, place: Path, *, fails: bool = False, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """Runs a program that says `ready`; at the end its input ends, and it must end well.

    `fails`: it may end otherwise, and what it says about that is left out.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL if fails else None,
        env=environment(place, **more),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate(timeout=HANG)
        assert fails or process.returncode == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def ps(place: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `loop-pool ps`."""
    command = ["-W", "error", "-m", "loop_pool", "ps"]
    return run_python(*command, *arguments, env=environment(place, **more))


def ps_json(place: Path, pid: int, *arguments: str) -> dict[str, Any]:
    """What `loop-pool ps --json` prints."""
    done = ps(place, "--json", *arguments, str(pid))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def socket_of(place: Path, pid: int) -> Path:
    """Where the socket of a process's first pool is."""
    return place / f"loop_pool-{os.geteuid()}" / f"{pid}.sock"


def connect(place: Path, pid: int) -> socket.socket:
    """A connection to a pool; blocking, with a deadline."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(socket_of(place, pid)))
        sock.settimeout(HANG)
    except BaseException:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket, line: bytes = b'{"version": 1, "request": "stats"}\n') -> Any:
    """Sends a line and returns the answer; None if there is none."""
    sock.sendall(line)
    with sock.makefile("rb") as file:
        answer = file.readline()
    return json.loads(answer) if answer else None
