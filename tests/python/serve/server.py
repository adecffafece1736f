"""A server in a thread of this process, and a client that shows each byte of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from unittest.mock import patch

import loop_pool

from ..support import HANG, listen, reset, wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    type App = Callable[[Any, Any, Any], Awaitable[Any]]


class Server:
    """`loop_pool.serve` in a thread. A context manager that ends it.

    Without a lifespan, if the options do not say otherwise. What it logs is for `caplog`.
    """

    def __init__(
        self, app: App, *, http: Any, loops: int = 1, listener: Any = None, **options: Any
    ) -> None:
        self._listener = listen() if listener is None else listener
        self.options: dict[str, Any] = {
            "lifespan": "off",
            "log_config": None,
            "timeout_drain": 0.0,
            "timeout_graceful_shutdown": 10.0,
            "http": http,
            "loops": loops,
            "fd": self._listener.fileno(),
            **options,
        }
        self._app = app
        self._thread = threading.Thread(target=self._run)
        self._serving: Any = None
        self.failure: BaseException | None = None
        """What it raised."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def is_ready(self) -> bool:
        """Whether it serves, and has not begun to end."""
        return self._serving is not None and self._serving._health.ready

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.is_ready or not self._thread.is_alive(), "it serves")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self.ended()
        self._listener.close()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Begins its end."""
        if self._thread.is_alive():
            wait_for(self._can_be_told, "it can be told")
            self._serving._uvicorn.should_exit = True

    def ended(self) -> None:
        """Waits until it has ended."""
        self._thread.join(HANG)
        assert not self._thread.is_alive()

    def client(self) -> Client:
        """A new connection."""
        if self._listener.family == socket.AF_UNIX:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(HANG)
            sock.connect(self._listener.getsockname())
        else:
            sock = socket.create_connection(("127.0.0.1", self.port), HANG)
        return Client(sock)

    def get(self, target: str = "/", **headers: str) -> Response:
        """The response to a request on a connection of its own."""
        with self.client() as client:
            client.request("GET", target, ("connection", "close"), *headers.items())
            return client.response()

    def _can_be_told(self) -> bool:
        return hasattr(self._serving, "_uvicorn") or not self._thread.is_alive()

    def _run(self) -> None:
        from loop_pool._serve import run

        make = run.Serving

        def serving(*args: Any) -> Any:
            self._serving = make(*args)
            return self._serving

        try:
            with patch.object(run, "Serving", serving):
                loop_pool.serve(self._app, **self.options)
        except BaseException as error:
            self.failure = error


class Response(NamedTuple):
    """What a server has answered."""

    status: int
    reason: str
    version: str
    fields: list[tuple[str, str]]
    """The header, names in lower case."""
    body: bytes
    trailers: list[tuple[str, str]]

    def field(self, name: str) -> str:
        """A field of the header, which must be there once."""
        values = self.all(name)
        assert len(values) == 1, f"{name} is there {len(values)} times: {self}"
        return values[0]

    def all(self, name: str) -> list[str]:
        """The values of all header fields of a name."""
        return [value for field, value in self.fields if field == name]


class Client:
    """A connection. A context manager that closes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self.file.close()
        self.sock.close()

    def reset(self) -> None:
        """Ends it by a reset."""
        self.file.close()
        reset(self.sock)

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        self.sock.sendall(data)

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        *fields: tuple[str, str],
        body: bytes | None = None,
        host: str | None = "example.org",
    ) -> None:
        """Sends a request."""
        lines = [f"{method} {target} HTTP/1.1"]
        if host is not None:
            lines.append(f"Host: {host}")
        lines += [f"{name}: {value}" for name, value in fields]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def line(self) -> str:
        """Reads a line."""
        line = self.file.readline()
        assert line.endswith(b"\r\n"), f"the connection ended after {line!r}"
        return line[:-2].decode("latin-1")

    def section(self) -> list[tuple[str, str]]:
        """Reads fields, up to the empty line."""
        fields = []
        while line := self.line():
            name, colon, value = line.partition(":")
            assert colon, line
            fields.append((name.lower(), value.strip()))
        return fields

    def head(self) -> Response:
        """Reads a response up to its body."""
        version, _, rest = self.line().partition(" ")
        status, _, reason = rest.partition(" ")
        return Response(int(status), reason, version, self.section(), b"", [])

    def response(self, method: str = "GET") -> Response:
        """Reads a response to a request of that method."""
        head = self.head()
        if method == "HEAD" or head.status in {204, 304} or head.status < 200:
            return head
        if head.all("transfer-encoding"):
            assert head.field("transfer-encoding") == "chunked"
            assert not head.all("content-length")
            body = b"".join(iter(self.chunk, b""))
            return head._replace(body=body, trailers=self.section())
        if head.all("content-length"):
            length = int(head.field("content-length"))
            body = self.file.read(length)
            assert len(body) == length, f"the connection ended after {body!r}"
            return head._replace(body=body)
        return head._replace(body=self.file.read())

    def chunk(self) -> bytes:
        """Reads a chunk; the last one is empty, and is not the end of the trailers."""
        size = int(self.line(), 16)
        data = self.file.read(size)
        assert len(data) == size
        assert size == 0 or self.line() == ""
        return data

    def rest(self) -> bytes:
        """Reads up to the server's end; a reset counts as one."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while some := self.file.read1():
                data += some
        return data

    def is_closed(self) -> bool:
        """Waits for the server's end; whether nothing came before it."""
        return self.rest() == b""


async def answer(
    send: Any, body: bytes = b"", status: int = 200, headers: Any = (), *, length: bool = True
) -> None:
    """Sends a response, with the length of its body if wanted."""
    fields = list(headers)
    if length:
        fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Any) -> bytes:
    """Receives a whole body."""
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body
