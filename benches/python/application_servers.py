"""The servers that `applications.py` compares: their commands, and the processes that they become.

Each serves `apps/bench_raw.py` or `apps/bench_fastapi.py` from the command line that its own
documentation gives, with its access log off. The Python of all is the one that runs this.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import importlib.metadata
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from measuring import SampleError

HOST = "127.0.0.1"
START_SECONDS = 30.0
END_SECONDS = 5.0
POLL_SECONDS = 0.01

HERE = Path(__file__).parent
APPS_FOLDER = HERE / "apps"
TOOLS_FOLDER = HERE.parents[1] / "tools"

sys.path.append(str(TOOLS_FOLDER))

import services  # noqa: E402

PEERS = {
    "loop_pool": ("loop_pool", "uvicorn"),
    "uvicorn": ("uvicorn", "uvloop"),
    "granian": ("granian", "uvloop"),
    "hypercorn": ("hypercorn", "uvloop"),
    "weft": ("weft-server",),
    "peregrine": ("peregrine-server", "uvloop"),
    "h2corn": ("h2corn", "uvloop"),
    "zttp": ("zttp", "loop_pool", "uvicorn", "uvloop"),
}
"""The servers, each with the packages of which the versions are told; all of them are needed. zttp
is an HTTP parser, which uvicorn and with it `loop-pool serve` take for httptools."""

_UVICORNS = ("--host", HOST, "--no-access-log", "--log-level", "warning")
_GRANIANS = ("--host", HOST, "--interface", "asgi", "--http", "1", "--no-log", "--loop", "uvloop")
_WEFTS = ("--host", HOST, "--protocol", "asgi", "--log-level", "warning", "--worker-mode", "thread")
_PEREGRINES = ("--host", HOST, "--protocol", "asgi", "--log-level", "warning", "--free-threaded")
_H2CORNS = ("--host", HOST, "--loop", "uvloop", "--no-access-log")
_ZTTP = ("--http", "zttp")
_IN_RUST = ("--http", "native")
_IN_PYTHON = ("--http", "httptools")
"""uvicorn's protocols, as that uses them: `loop-pool serve` would take its own."""
_SIGNATURE = "loop-pool"
_TLS = {
    "loop_pool": ("--ssl-certfile", "--ssl-keyfile"),
    "uvicorn": ("--ssl-certfile", "--ssl-keyfile"),
    "granian": ("--ssl-certificate", "--ssl-keyfile"),
    "hypercorn": ("--certfile", "--keyfile"),
    "weft": ("--tls-cert", "--tls-key"),
    "peregrine": ("--tls-cert", "--tls-key"),
    "zttp": ("--ssl-certfile", "--ssl-keyfile"),
    "h2corn": ("--certfile", "--keyfile"),
}
"""Peer -> the options for a certificate and its key."""
_HYPERCORNS = ("-c", "python:bench_hypercorn", "-k", "uvloop", "--log-level", "warning")


@dataclass(frozen=True)
class Variant:
    """A server with its options: one row of a table."""

    name: str
    peer: str
    arguments: tuple[str, ...]
    """Behind `python -m`."""
    starts: int = 1
    """How many times it starts the application: once in each of its processes or loops."""
    factory: bool = False
    port: tuple[str, ...] = ("--port", "{port}")
    signature: str = ""
    """The header `server` of its responses, where it tells which HTTP of the peer's answers."""
    partner: str = ""
    """The variant with which `measuring` compares it where a figure asks for that."""

    def command(self, app: str, port: int, certificate: Path | None = None) -> list[str]:
        """What to start, for an application module on a port.

        `certificate`: the folder of `cert.pem` and `key.pem`, for HTTPS. Raises `SampleError` if
        it is not known how the peer is given these.
        """
        target = f"{app}:make" if self.factory else f"{app}:app"
        where = [part.format(port=port) for part in self.port]
        if certificate is not None:
            if self.peer not in _TLS:
                raise SampleError("HTTPS is not measured of it")
            of_certificate, of_key = _TLS[self.peer]
            where += [of_certificate, str(certificate / "cert.pem")]
            where += [of_key, str(certificate / "key.pem")]
        return [sys.executable, "-m", *self.arguments, *where, target]


def make_variants(count: int) -> dict[str, Variant]:
    """All of them by short names; the larger ones on `count` loops, threads or processes."""
    many = str(count)
    serve = ("loop_pool", "serve", *_UVICORNS, "--loops")
    uvicorn = ("uvicorn", *_UVICORNS, "--loop")
    granian = ("granian", *_GRANIANS, "--workers")
    hypercorn = ("hypercorn", *_HYPERCORNS, "--workers")
    weft = ("weft", *_WEFTS, "--workers")
    peregrine = ("peregrine", *_PEREGRINES, "--workers")
    h2corn = ("h2corn", *_H2CORNS, "--loop-threads")
    bind = ("--bind", f"{HOST}:{{port}}")
    return {
        "pool-1": Variant("loop_pool, 1 loop", "loop_pool", (*serve, "1", *_IN_PYTHON)),
        "pool-n": Variant(
            f"loop_pool, {many} loops", "loop_pool", (*serve, many, *_IN_PYTHON), count
        ),
        "pool-factory": Variant(
            f"loop_pool, {many} loops, --factory",
            "loop_pool",
            (*serve, many, "--factory", *_IN_PYTHON),
            count,
            factory=True,
        ),
        "native-1": Variant(
            "loop_pool, 1 loop, native",
            "loop_pool",
            (*serve, "1", *_IN_RUST),
            signature=_SIGNATURE,
        ),
        "native-n": Variant(
            f"loop_pool, {many} loops, native",
            "loop_pool",
            (*serve, many, *_IN_RUST),
            count,
            signature=_SIGNATURE,
        ),
        "uvicorn-pool": Variant(
            "uvicorn on loop_pool's loop", "loop_pool", (*uvicorn, "loop_pool:new_event_loop")
        ),
        "uvicorn-1": Variant("uvicorn, 1 process", "uvicorn", (*uvicorn, "uvloop")),
        "uvicorn-n": Variant(
            f"uvicorn, {many} processes",
            "uvicorn",
            (*uvicorn, "uvloop", "--workers", many),
            count,
        ),
        "granian-1": Variant("granian, 1 thread", "granian", (*granian, "1")),
        "granian-runtime": Variant(
            f"granian, 1 thread, {many} of its runtime",
            "granian",
            (*granian, "1", "--runtime-threads", many, "--runtime-mode", "mt"),
        ),
        "granian-n": Variant(f"granian, {many} threads", "granian", (*granian, many), count),
        "hypercorn-1": Variant("hypercorn, 1 process", "hypercorn", (*hypercorn, "1"), port=bind),
        "hypercorn-n": Variant(
            f"hypercorn, {many} processes", "hypercorn", (*hypercorn, many), count, port=bind
        ),
        "weft-1": Variant("weft, 1 thread", "weft", (*weft, "1")),
        "weft-n": Variant(f"weft, {many} threads", "weft", (*weft, many), count),
        "peregrine-1": Variant("peregrine, 1 thread", "peregrine", (*peregrine, "1")),
        "peregrine-n": Variant(
            f"peregrine, {many} threads", "peregrine", (*peregrine, many), count
        ),
        "h2corn-1": Variant("h2corn, 1 thread", "h2corn", (*h2corn, "1")),
        "h2corn-n": Variant(f"h2corn, {many} threads", "h2corn", (*h2corn, many), count),
        "pool-zttp": Variant("loop_pool, 1 loop, zttp", "zttp", (*serve, "1", *_ZTTP)),
        "uvicorn-zttp": Variant(
            "uvicorn with zttp, 1 process", "zttp", (*uvicorn, "uvloop", *_ZTTP)
        ),
    }


def find_peers(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Look which are installed. Returns their versions, and why the others are left out."""
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            versions = {package: _version(package) for package in PEERS[name]}
        except importlib.metadata.PackageNotFoundError as error:
            missing[name] = f"{error.name} is not installed"
        else:
            others = [f"{package} {version}" for package, version in versions.items()][1:]
            text = versions[PEERS[name][0]] + (f" ({', '.join(others)})" if others else "")
            found[name] = {"version": text, "gil_enabled": False, "loops": []}
    return found, missing


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != "loop_pool":
            raise
        try:
            return f"{importlib.import_module(package).__version__} (not installed)"
        except ImportError as error:
            raise importlib.metadata.PackageNotFoundError(package) from error


# --- their processes ------------------------------------------------------------------------------


@dataclass
class Server:
    """A running server; leaving the `with` block ends it, with all of its processes."""

    variant: Variant
    app: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the application, besides what all get."""
    certificate: Path | None = None
    """The folder of `cert.pem`, for 127.0.0.1, and `key.pem`; with it the server speaks HTTPS."""

    def __enter__(self) -> Self:
        """Start it, and wait until it listens and the application has started everywhere.

        Raises `SampleError` if it ends instead, or takes longer than `START_SECONDS`.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="loop_pool-bench-")
        self._log = Path(self._folder.name, "log")
        self._starts = Path(self._folder.name, "starts")
        self.port = services.free_port()
        path = [str(APPS_FOLDER), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "BENCH_STARTS": str(self._starts),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.variant.command(self.app, self.port, self.certificate),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._folder.name,
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, SampleError) and (said := self.last_words()):
            error.add_note(said)
        self._end()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._count_starts() < self.variant.starts or not self._listens():
            code = self._process.poll()
            if code is not None:
                raise SampleError(f"it exited with code {code}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise SampleError(
                    f"it is not ready after {START_SECONDS:.0f} s: {self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def _count_starts(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return len(self._starts.read_text(encoding="ascii").splitlines())
        return 0

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionError):
            socket.create_connection((HOST, self.port), START_SECONDS).close()
            return True
        return False

    def last_words(self) -> str:
        """The last line that it wrote."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def fetch(self, path: str) -> str:
        """The body of a response; raises `SampleError` unless it is a 200 of what is measured."""
        connection: http.client.HTTPConnection
        if self.certificate is None:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        else:
            context = ssl.create_default_context(cafile=self.certificate / "cert.pem")
            connection = http.client.HTTPSConnection(
                HOST, self.port, timeout=START_SECONDS, context=context
            )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise SampleError(f"{path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise SampleError(f"{path}: {response.status}: {body[:80]}")
        said, signature = response.getheader("server", ""), self.variant.signature
        if signature and said != signature:
            raise SampleError(f"{path} was answered by {said!r}, not by {signature!r}")
        return body

    def fetch_state(self) -> dict[str, Any]:
        """On what the application runs; of one of its processes, whichever answers."""
        state: dict[str, Any] = json.loads(self.fetch("/state"))
        return state

    def memory(self) -> int:
        """Resident bytes that its processes have allocated; what they share is counted once.

        Without the files that they map, as the kernel has those once for all processes of the
        machine, the server's and others.
        """
        return sum(map(_allocated_bytes, family(self.pid)))

    def _end(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        # Also what is left of its processes when the first one has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()


def family(pid: int) -> set[int]:
    """A process and all that are below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # One that has ended meanwhile has no file; the name may hold blanks and brackets.
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def _allocated_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except FileNotFoundError, ProcessLookupError:
        return 0  # it has ended
    return parse_rollup(rollup)


def parse_rollup(rollup: str) -> int:
    """The process's part, in bytes, of all memory in `smaps_rollup` that no file stands behind.

    Raises `SampleError` if the kernel does not tell it.
    """
    fields = dict(line.partition(":")[::2] for line in rollup.splitlines()[1:])
    try:
        return sum(int(fields[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    except KeyError as error:
        raise SampleError(f"the kernel does not tell {error.args[0]} of a process") from error


# --- the database ---------------------------------------------------------------------------------


@contextlib.contextmanager
def database() -> Iterator[services.Service]:
    """PostgreSQL with the table that the applications read; gives the `services.Service`.

    Raises `SampleError` if it is missing or does not start.
    """
    program = services.where("postgres")
    if program is None:
        raise SampleError("postgres is not installed (make services)")
    try:
        with services.postgres(program) as service:
            _fill(Path(program).with_name("psql"), service.url)
            yield service
    except services.ServiceError as error:
        raise SampleError(str(error)) from error


def _fill(psql: Path, url: str) -> None:
    statement = (
        "create table items (id int primary key, name text, price double precision);"
        "insert into items select n, 'item ' || n, n * 0.25 from generate_series(1, 10000) n;"
        "analyze items"
    )
    command = [str(psql), url, "--quiet", "--set", "ON_ERROR_STOP=1", "--command", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SampleError(f"psql: {done.stderr.strip()}")
