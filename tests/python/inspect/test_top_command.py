"""`loop-pool top` as a command: on real pools, in real terminals, and without."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator

import pytest

from ..support import HANG, run_python

loop_pool = pytest.importorskip("loop_pool")
pytest.importorskip("textual", reason="the extra cli is not installed")
from loop_pool import _cli  # noqa: E402
from loop_pool._inspect import top as top_command  # noqa: E402
from loop_pool._inspect import top_screen  # noqa: E402

from .screen import PID, shown  # noqa: E402


def test_without_textual_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "loop_pool._inspect.top_screen")
    monkeypatch.delattr(loop_pool._inspect, "top_screen")
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert _cli.main(["top", str(PID)]) == 1
    assert "pip install 'loop_pool[cli]'" in capsys.readouterr().err


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-W", "error", "-m", "loop_pool", "top", os.getpid()]
    done = run_python(*command, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "loop-pool: top needs a terminal; use loop-pool ps to print the state once\n"
    )


def test_a_process_without_a_pool_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert _cli.main(["top", str(os.getpid())]) == 1
    assert "LOOP_POOL_INSPECT=1" in capsys.readouterr().err


def test_of_several_pools_one_is_shown_and_the_others_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked = []
    monkeypatch.setattr(top_command, "pools", lambda pid: [2, 3, 5])
    monkeypatch.setattr(top_command, "read", lambda *what, **how: asked.append((*what, how)))
    monkeypatch.setattr(top_screen.Top, "run", lambda self: asked.append(self._note))
    assert _cli.main(["top", str(PID)]) == 0
    assert _cli.main(["top", str(PID), "--pool", "3"]) == 0
    assert asked == [
        (PID, "stats", {"pool": 2}),
        "pool 2, others by --pool 3 and --pool 5; ",
        (PID, "stats", {"pool": 3}),
        "pool 3, others by --pool 2 and --pool 5; ",
    ]


@pytest.mark.parametrize("interval", ["0", "0.01", "-1", "nan", "inf", "4000", "soon"])
def test_an_interval_that_is_none(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _cli.main(["top", str(PID), f"--interval={interval}"])
    assert ended.value.code == 2
    assert "is not a number of seconds from 0.1 to 3600" in capsys.readouterr().err


# A real pool

PROGRAM = """
import asyncio, sys, loop_pool

async def pause():
    await asyncio.sleep(1000)

async def parent():
    await asyncio.create_task(pause(), name="the child")

async def main():
    tasks = [
        loop_pool.spawn(parent(), loop=loop, name="parent")
        for loop in loop_pool.current_pool().loops
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()

loop_pool.run(main(), loops=2, inspect=True)
"""


@contextlib.contextmanager
def pool_process() -> Iterator[subprocess.Popen[str]]:
    """A process with a pool, which ends when it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_real_pool_is_shown_until_it_ends() -> None:
    async def main() -> None:
        with pool_process() as process:
            async with shown(top_screen.read, pid=process.pid, interval=0.1) as screen:
                await screen.until(
                    lambda: screen.column("loops", "loop") == ["loop-pool-0", "loop-pool-1"],
                    "the loops",
                )
                await screen.press("down")
                tree = ["parent", "└─ the child"]
                await screen.until(lambda: screen.column("tasks", "task") == tree, "the tasks")
                await screen.press("tab", "down")
                await screen.until(lambda: "pause" in screen.text("frames"), "the stack")
                assert "awaited by parent" in screen.text("frames")
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                await screen.until(lambda: bool(screen.app.trouble), "the end")
                process.wait(HANG)
                await screen.until(
                    lambda: screen.app.trouble == f"process {process.pid} has ended", "the end"
                )

    asyncio.run(main())


class Terminal:
    """A terminal in which the command runs, and what it has written to it."""

    def __init__(self, pid: int) -> None:
        self.screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loop_pool", "top", str(pid), "--interval", "0.1"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(inner)
        self.seen = b""

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + HANG
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen[-2000:]!r}"
            if select.select([self.screen], [], [], 0.1)[0]:
                self.seen += os.read(self.screen, 65536)

    def end(self) -> tuple[int, bytes]:
        """Wait for its end; return the exit code, and what it wrote after its screen was gone."""
        deadline = time.monotonic() + HANG
        while select.select([self.screen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                self.seen += os.read(self.screen, 65536)
            except OSError:  # nobody has it open any more
                break
        code = self.process.wait(max(0.1, deadline - time.monotonic()))
        return code, self.seen.rpartition(b"\x1b[?1049l")[2]


@contextlib.contextmanager
def command_in_terminal(pid: int) -> Iterator[Terminal]:
    terminal = Terminal(pid)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.screen)


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)], ids=["q", "ctrl-c"])
def test_the_command_in_a_terminal(key: bytes, code: int) -> None:
    with pool_process() as process, command_in_terminal(process.pid) as terminal:
        terminal.until(b"loop-pool-1")
        os.write(terminal.screen, key)
        ended, said = terminal.end()
        assert ended == code
        assert b"loop-pool" not in said


def test_the_exit_code_tells_that_the_process_has_ended() -> None:
    with pool_process() as process, command_in_terminal(process.pid) as terminal:
        terminal.until(b"loop-pool-1")
        process.kill()
        process.wait()
        terminal.until(b"has ended")
        os.write(terminal.screen, b"q")
        code, said = terminal.end()
        assert code == 1
        assert f"loop-pool: process {process.pid} has ended".encode() in said
