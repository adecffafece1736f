"""Two ends of a connection in memory, by contexts of either module."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..support import certificate

type Context = ssl.SSLContext

CA = certificate("pycacert.pem")
SIGNED = certificate("keycert3.pem")  # for localhost, by CA
OTHER_NAME = certificate("keycert4.pem")  # for fakehostname, by CA
ECC = certificate("keycertecc.pem")  # for localhost-ecc, by CA
SELF_SIGNED = certificate("keycert.pem")  # for localhost
NATIVE = "loop_pool._core"


def server_context(module: Any, path: Path = SIGNED) -> Context:
    context: Context = module.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def client_context(module: Any, cafile: Path = CA) -> Context:
    context: Context = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile)
    return context


def trusting_context(module: Any) -> Context:
    """Of a client that verifies nothing."""
    context: Context = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Pair:
    """A client and a server, whose records are carried by hand."""

    def __init__(
        self, server: Context, client: Context, name: str | None = "localhost", **options: Any
    ) -> None:
        bios = [ssl.MemoryBIO() for _ in range(4)]
        self.to_server, self.from_server, self.to_client, self.from_client = bios
        self.server = server.wrap_bio(self.to_server, self.from_server, server_side=True)
        self.client = client.wrap_bio(self.to_client, self.from_client, False, name, **options)

    def carry(self) -> None:
        """Takes to each side what the other has said."""
        self.to_server.write(self.from_client.read())
        self.to_client.write(self.from_server.read())

    def step[T](self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except ssl.SSLWantReadError:
            return None
        finally:
            self.carry()

    def shake(self) -> Pair:
        """Makes the handshake; raises what the first side raises of which it fails."""
        for _ in range(10):
            self.step(self.client.do_handshake)
            self.step(self.server.do_handshake)
        for side in (self.client, self.server):
            side.do_handshake()
        # A ticket of TLS 1.3 comes with the first data.
        assert self.server.write(b"hello") == 5
        self.carry()
        assert self.client.read(100) == b"hello"
        return self


def is_native(side: ssl.SSLObject) -> bool:
    return type(side._sslobj).__module__ == NATIVE  # type: ignore[attr-defined]
