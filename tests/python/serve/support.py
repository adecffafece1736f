"""A `loop-pool serve` process, what it logs, and clients that count what they get."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Self

from ..support import FREE_THREADED, HANG, TAKING_TURNS

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

RUNNING = r"Uvicorn running on (\S+)"

PLAIN = """
    import asyncio, os, sys, time

    def is_open():
        return os.path.exists(os.path.join(os.path.dirname(__file__), "gate"))

    def say(*words):
        sys.stdout.write(" ".join(map(str, words)) + "\\n")
        sys.stdout.flush()

    def where():
        return asyncio.get_running_loop()._name().encode()

    async def lifespan(scope, receive, send):
        name = where().decode()
        while True:
            message = await receive()
            say(message["type"], name)
            if message["type"] == "lifespan.startup":
                scope["state"]["name"] = name
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def answer(send, body, status=200):
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def echo(receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = f"{where().decode()} {message['text']}"
            await send({"type": "websocket.send", "text": text})
        say("websocket ended", message["code"])

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await echo(receive, send)
        elif scope["path"] == "/wait":
            say("waiting")
            await asyncio.sleep(float(scope["query_string"]))
            await answer(send, b"waited")
        elif scope["path"] == "/gate":
            say("waiting")
            while not is_open():
                await asyncio.sleep(0.01)
            await answer(send, b"waited")
        elif scope["path"] == "/block":
            say("blocking")
            while not is_open():
                time.sleep(0.01)
            await answer(send, b"blocked")
        elif scope["path"] == "/state":
            await answer(send, scope["state"]["name"].encode())
        else:
            await answer(send, where())
"""
"""An application that says on which loop it runs. At `/gate` it waits until `Serve.open_gate`, and
so does its loop at `/block`."""


class Serve:
    """A server's process. A context manager that kills it if it is still there in the end."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        source: str = PLAIN,
        target: str = "served:app",
        wait: str | None = RUNNING,
        pass_fds: tuple[int, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._folder = folder
        (folder / "served.py").write_text(textwrap.dedent(source))
        self._ignore = [] if FREE_THREADED else ["-W", f"ignore:{TAKING_TURNS}:RuntimeWarning"]
        self._command = ["-m", "loop_pool", "serve", target, "--app-dir", str(folder), *options]
        self._wait = wait
        self._fds = pass_fds
        self._environment = {**os.environ, **(environment or {})}
        self._news = threading.Condition()
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, *self._ignore, *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=self._fds,
            env=self._environment,
            # So that its children, which --reload has, can be ended with it.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if self._wait is not None:
            try:
                self.where = self.said(self._wait)[1] or ""
            except BaseException:
                self.kill()
                raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if exc is not None:
            sys.stderr.write(self.log)

    @property
    def log(self) -> str:
        """All that the process has printed."""
        with self._news:
            return "".join(self.lines)

    @property
    def port(self) -> int:
        """The port in the address that it told."""
        return int(self.where.rpartition(":")[2])

    def said(self, pattern: str) -> re.Match[str]:
        """Waits until it prints something; returns that."""
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal found
            found = re.search(pattern, "".join(self.lines))
            return found is not None or self.process.poll() is not None

        with self._news:
            assert self._news.wait_for(look, HANG), f"{pattern!r} is not in\n{self.log}"
        if found is None:  # the reader may not have come to the end
            self._reader.join()
            found = re.search(pattern, self.log)
        assert found, f"it ended, and {pattern!r} is not in\n{self.log}"
        return found

    def open_gate(self) -> None:
        """Lets the requests go on that wait for it."""
        (self._folder / "gate").touch()

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for its end; returns its exit code."""
        code = self.process.wait(HANG)
        self._reader.join(HANG)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Ends it in good order; returns its log, as `good_end` does."""
        self.tell(number)
        return self.good_end()

    def good_end(self) -> str:
        """Waits for its end; returns its log, in which there must be no trace of an error."""
        assert self.ended() == 0, self.log
        assert "Traceback" not in self.log
        assert "ERROR" not in self.log, self.log
        return self.log

    def kill(self) -> None:
        """Ends it at once, if it runs, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.ended()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Client:
    """A plain HTTP/1.1 connection, which shows what a package would hide. A context manager."""

    def __init__(self, port: int, path: str | None = None) -> None:
        if path is None:
            self.sock = socket.create_connection(("127.0.0.1", port), HANG)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(HANG)
            self.sock.connect(path)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._file.close()
        self.sock.close()

    def ask(self, path: str = "/", *, close: bool = False) -> None:
        """Sends a request."""
        how = "close" if close else "keep-alive"
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: {how}\r\n\r\n".encode())

    def answer(self) -> tuple[int, dict[str, str], str]:
        """Returns the status, headers and body of the answer."""
        first = self._file.readline().decode()
        assert first, "the connection ended without an answer"
        headers: dict[str, str] = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = self._file.read(int(headers["content-length"])).decode()
        return int(first.split()[1]), headers, body

    def is_closed(self) -> bool:
        """Waits for the server's end of the connection; whether there was no more data."""
        return self._file.read(1) == b""


def get(port: int, path: str = "/") -> tuple[int, str]:
    """Status and body of one request on a connection of its own."""
    with Client(port) as client:
        client.ask(path, close=True)
        status, _, body = client.answer()
        return status, body
