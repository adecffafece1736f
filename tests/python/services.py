"""Real programs for tests. A server is a process of its own, on a free port, in its own folder.

The programs are found, installed and started by `tools/services.py`. A test that needs one which
is not there is left out, and named at the end of the run; with `LOOP_POOL_ALL_SERVICES=1` it fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from .support import HANG, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType


MISSING = "not installed (make services)"
"""How the reason ends for which a test without its program is left out."""


def _tool() -> ModuleType:
    """Return `tools/services.py`, which runs without the package and so is no part of it."""
    spec = importlib.util.spec_from_file_location("services", ROOT / "tools" / "services.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


services = _tool()
free_port = services.free_port


def program(name: str) -> str:
    """Return the path of a program; leave the test out where there is none.

    That fails instead where all programs are asked for, but not for one that is large.
    """
    path: str | None = services.where(name)
    if path is None:
        reason = f"{name} is {MISSING}"
        if os.environ.get("LOOP_POOL_ALL_SERVICES") == "1" and name not in services.LARGE:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@contextlib.contextmanager
def postgres(certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """A PostgreSQL server; gives the URL of its database `postgres` for a user with all rights.

    With the files of a certificate and of its key, connections may use TLS.
    """
    server = program("postgres")
    with services.postgres(server, certificate) as service:
        yield service.url


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis server that keeps nothing on disk; gives its URL."""
    server = program("redis-server")
    with services.folder("redis") as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        with services.running([server, *options], port, folder, _answers(b"PING\r\n", b"+PONG")):
            yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def nats() -> Iterator[str]:
    """A NATS server with JetStream; gives its URL."""
    server = program("nats-server")
    with services.folder("nats") as folder:
        port = free_port()
        options = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        options += ["--store_dir", str(folder / "store")]
        with services.running([server, *options], port, folder, _answers(b"", b"INFO ")):
            yield f"nats://127.0.0.1:{port}"


@contextlib.contextmanager
def haproxy(configuration: str, port: int) -> Iterator[Any]:
    """HAProxy with a configuration that listens on the given port of 127.0.0.1.

    Gives the `Service` of `tools/services.py`.
    """
    server = program("haproxy")
    with services.folder("haproxy") as folder:
        file = folder / "haproxy.cfg"
        file.write_text(configuration)
        command = [server, "-W", "-db", "-f", str(file)]
        with services.running(command, port, folder, _answers(b"", b"")) as running:
            yield running


def _answers(question: bytes, beginning: bytes) -> Callable[[int], bool]:
    """Return a check whether a server on the port takes connections and answers so."""

    def ready(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), HANG) as sock:
                sock.sendall(question)
                return not beginning or sock.recv(1024).startswith(beginning)
        except ConnectionError:
            return False

    return ready
