"""`openssl s_client` and `s_server` for tests, and what they have to do with."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from ..services import free_port, program, services
from ..support import HANG
from .authority import Authority

BYTES_AT_ONCE = 65536


class Openssl:
    """The `openssl` program, as a child of the running loop. A context manager that ends it."""

    def __init__(self, *arguments: object) -> None:
        self._command = [program("openssl"), *map(str, arguments)]
        self._unread = ""
        self.log = ""
        """All that it has printed."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()

    async def say(self, line: str) -> None:
        """Sends a line to the other end, or gives a command: `Q`, `K`, `k`, `R`."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()

    async def said(self, pattern: str) -> re.Match[str]:
        """Waits until it prints something new; a test fails if it ends without."""
        while (found := re.search(pattern, self._unread)) is None:
            assert await self._read(), f"{pattern!r} is not in\n{self.log}"
        self._unread = self._unread[found.end() :]
        return found

    async def ended(self) -> int:
        """Waits for its end; returns the exit status."""
        while await self._read():
            pass
        return await asyncio.wait_for(self._process.wait(), HANG)

    async def _read(self) -> bool:
        assert self._process.stdout is not None
        data = await asyncio.wait_for(self._process.stdout.read(BYTES_AT_ONCE), HANG)
        self.log += data.decode(errors="replace")
        self._unread += data.decode(errors="replace")
        return bool(data)


class SClient(Openssl):
    """`openssl s_client`."""

    def __init__(self, port: int, *options: object) -> None:
        super().__init__("s_client", "-connect", f"127.0.0.1:{port}", *options)


class SServer(Openssl):
    """`openssl s_server`, which says what the test says; `port` is its own."""

    def __init__(self, authority: Authority, *options: object) -> None:
        self.port = free_port()
        where = ("s_server", "-accept", f"127.0.0.1:{self.port}")
        certificate, key = authority.good
        super().__init__(*where, "-cert", certificate, "-key", key, *options)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.said("ACCEPT")
        return self


@contextlib.contextmanager
def s_server(authority: Authority, *options: object, identity: Any = None) -> Iterator[int]:
    """`openssl s_server`, which sends each line back with its bytes reversed; gives its port."""
    certificate, key = identity or authority.good
    with services.folder("s_server") as folder:
        port = free_port()
        command = [program("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-rev"]
        command += ["-cert", str(certificate), "-key", str(key), *map(str, options)]

        def ready(_: int) -> bool:
            return "ACCEPT" in (folder / "log").read_text(errors="replace")

        with services.running(command, port, folder, ready):
            yield port


class Served:
    """What a server of lines knows of the connections that it had."""

    def __init__(self) -> None:
        self.connections: list[ssl.SSLObject] = []
        self.errors: list[Exception] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends back every line."""
        self.connections.append(writer.get_extra_info("ssl_object"))
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except (ssl.SSLError, ConnectionError) as error:
            self.errors.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[tuple[int, Served]]:
    """A server of lines on the running loop, and its port."""
    served = Served()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], served
