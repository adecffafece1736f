"""Real servers for tests: each one a process of its own, on a free port, with a folder of its own.

The programs are found, and installed, by `tools/services.py`. A test that needs one which is not
there is left out, and named at the end of the run; with `LOOP_POOL_ALL_SERVICES=1` it fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from _support import HANG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]

MISSING = "not installed (make services)"
"""How the reason ends for which a test without its server is left out."""


class Service(NamedTuple):
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()


def program(name: str) -> str:
    """Return the path of a server's program; leave the test out where there is none."""
    path: str | None = _tool().where(name)
    if path is None:
        reason = f"{name} is {MISSING}"
        if os.environ.get("LOOP_POOL_ALL_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server; gives the URL of its database `postgres` for a user with all rights."""
    server = program("postgres")
    with _folder("postgres") as folder:
        user = _unprivileged("postgres")
        data = str(folder / "data")
        initdb = [str(Path(server).with_name("initdb")), "--pgdata", data, "--auth", "trust"]
        subprocess.run(
            [*initdb, "--username", "tester", "--no-sync", "--encoding", "UTF8", "--locale", "C"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            user=user,
        )
        is_ready = [str(Path(server).with_name("pg_isready")), "--quiet", "--host", "127.0.0.1"]

        def ready(port: int) -> bool:
            return subprocess.run([*is_ready, "--port", str(port)], check=False).returncode == 0

        port = free_port()
        options = [f"--port={port}", "--listen_addresses=127.0.0.1", "--fsync=off"]
        options += [f"--unix_socket_directories={folder}"]
        with _running([server, "-D", data, *options], port, folder, ready, user):
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis server that keeps nothing on disk; gives its URL."""
    server = program("redis-server")
    with _folder("redis") as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        with _running([server, *options], port, folder, _answers(b"PING\r\n", b"+PONG")):
            yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def nats() -> Iterator[str]:
    """A NATS server with JetStream; gives its URL."""
    server = program("nats-server")
    with _folder("nats") as folder:
        port = free_port()
        options = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream"]
        options += ["--store_dir", str(folder / "store")]
        with _running([server, *options], port, folder, _answers(b"", b"INFO ")):
            yield f"nats://127.0.0.1:{port}"


@contextlib.contextmanager
def haproxy(configuration: str, port: int) -> Iterator[Service]:
    """HAProxy with a configuration that listens on the given port of 127.0.0.1."""
    server = program("haproxy")
    with _folder("haproxy") as folder:
        file = folder / "haproxy.cfg"
        file.write_text(configuration)
        command = [server, "-W", "-db", "-f", str(file)]
        with _running(command, port, folder, _answers(b"", b"")) as running:
            yield running


def free_port() -> int:
    """Return a port that is free, outside of the range from which the kernel gives out ports.

    So nothing else that asks for any free port gets it before the server binds it.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = range(10_000, int(limits[0]))
    for port in random.sample(ports, len(ports)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port in {ports}")


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    port: int,
    folder: Path,
    ready: Callable[[int], bool],
    user: int | None = None,
) -> Iterator[Service]:
    """Start a server, wait until it is ready, and stop it in the end."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, user=user
        )
    try:
        deadline = time.monotonic() + HANG
        while not ready(port):
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{command[0]} is not ready: {log.read_text()}"
            time.sleep(0.01)
        yield Service(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


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


@contextlib.contextmanager
def _folder(owner: str) -> Iterator[Path]:
    """A folder for the data of a server, which may run as another user."""
    folder = Path(tempfile.mkdtemp(prefix=f"loop_pool-{owner}-"))
    try:
        user = _unprivileged(owner)
        if user is not None:
            os.chown(folder, user, -1)
        yield folder
    finally:
        shutil.rmtree(folder)


def _unprivileged(name: str) -> int | None:
    """Return the user to run a server as which refuses to run as root; None: the one we are."""
    if os.geteuid() != 0 or name != "postgres":
        return None
    return pwd.getpwnam(name).pw_uid


def _tool() -> ModuleType:
    """Return `tools/services.py`, which runs without the package and so is no part of it."""
    spec = importlib.util.spec_from_file_location("services", ROOT / "tools" / "services.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
