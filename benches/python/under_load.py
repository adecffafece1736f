"""Servers and the load on them: what `sockets.py` and `pool.py` share.

The load generator and the servers in Rust are the cargo package `benches/echo`, built into
`target/echo`. Each sample starts a server of its own, puts load on it and ends it again.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from child import LOOPS
from measuring import Options, Peers, Process, Sample, SampleError, Variant
from protocols import UNDER_TLS

CORE_NUMBERS = tuple(sorted(os.sched_getaffinity(0)))
CORES = len(CORE_NUMBERS)
LOAD_THREADS = max(1, CORES // 4)
"""Of the load generator, where it faces a server on several cores."""
CONNECTIONS = 64
CERTIFICATE_DAYS = 2

HERE = Path(__file__).parent
SERVERS_FILE = HERE / "servers.py"
TONIO_FILE = HERE / "tonio_server.py"
ECHO_PACKAGE = HERE.parent / "echo"
TARGET_FOLDER = HERE.parents[1] / "target" / "echo"
PROGRAMS = TARGET_FOLDER / "release"

RUST_PEERS = {"bare": "mio", "tokio": "tokio"}
"""Peers that are programs of `benches/echo`, and the crate whose version is theirs."""
PEERS = ("bare", "tokio", "tonio", *LOOPS)
ABSENT = {
    "bare": "such a server is not written with mio alone",
    "tokio": "only an echo server for TCP is written; see echo-protocol",
    "tonio": "knows no asyncio; an echo server of its own API is in echo-protocol",
}
"""Why these peers have no part in most workloads."""


# --- what is prepared -----------------------------------------------------------------------------


def build_programs() -> None:
    """Build the load generator and the servers in Rust; raises `SampleError` if that fails."""
    manifest = ECHO_PACKAGE / "Cargo.toml"
    where = ("--manifest-path", manifest, "--target-dir", TARGET_FOLDER)
    print("building benches/echo", file=sys.stderr, flush=True)
    try:
        subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", *where], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SampleError(f"benches/echo cannot be built: {error}") from error


@functools.cache
def work_folder() -> Path:
    """A folder for the files of all servers. It is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="loop_pool-under-load-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def make_certificate() -> Path:
    """Make a certificate for 127.0.0.1 (ECDSA, P-256): `cert.pem` and `key.pem` in a folder.

    Returns the folder, which is the work folder. Raises `SampleError` if it cannot be made.
    """
    folder = work_folder()
    command = [
        *("openssl", "req", "-x509", "-nodes", "-days", str(CERTIFICATE_DAYS), "-subj"),
        *("/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise SampleError(f"no certificate: openssl cannot be run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise SampleError(f"no certificate: {error.stderr.strip()}") from error
    return folder


# --- servers --------------------------------------------------------------------------------------

_numbers = itertools.count()


@dataclass(frozen=True)
class Server(Variant):
    """One server of a workload."""

    kind: str
    """As for `servers.py`; for a peer in Rust `protocol`, `udp` or `unix`."""
    arguments: tuple[str, ...] = ()
    loops: int = 1
    pinned: bool = False
    """Whether it gets cores of its own, if there are so many and one more for the load. Two that
    are busy all the time get them anyway."""

    @property
    def cores(self) -> tuple[int, ...]:
        """Its cores, which the load does not use; none: all, together with the load."""
        return CORE_NUMBERS[: self.loops] if self.pinned and self.loops < CORES else ()

    def start(self) -> Process:
        """Start it; raises `SampleError` if that fails."""
        if self.peer == "bare":
            return self._start_bare()
        if self.peer == "tokio":
            return self._start([PROGRAMS / "tokio-echo", *self.arguments])
        if self.peer == "tonio":
            return self._start([sys.executable, TONIO_FILE, *self.arguments])
        if self.kind in UNDER_TLS:
            make_certificate()
        options: list[str | Path] = ["--folder", work_folder(), *self.arguments]
        return self._start([sys.executable, SERVERS_FILE, self.kind, self.peer, *options])

    def _start(self, command: Sequence[str | Path]) -> Process:
        return Process(command, cores=self.cores)

    def _start_bare(self) -> Process:
        program = PROGRAMS / "bare-echo"
        if self.kind == "unix":
            path = str(work_folder() / f"bare-{next(_numbers)}.sock")
            server = self._start([program, "--unix", path])
            server.hello["unix"] = path
            return server
        if self.kind == "udp":
            server = self._start([program, "--udp"])
            server.hello["udp"] = True
            return server
        return self._start([program])


def on_each_loop(kind: str, *first: Server) -> tuple[Server, ...]:
    """A server of this kind on one loop of each peer, after others."""
    return first + tuple(Server(loop, loop, kind) for loop in reversed(LOOPS))


def on_loops(
    name: str, kind: str, loops: int, *arguments: str, partner: str = "", pinned: bool = False
) -> Server:
    """A server on several loops. `name` begins with the peer's."""
    peer = name.partition(",")[0]
    count = (str(loops),) if peer in ("tokio", "tonio") else ("--loops", str(loops))
    return Server(
        name, peer, kind, (*count, *arguments), partner=partner, loops=loops, pinned=pinned
    )


def find_peers(names: Sequence[str]) -> tuple[Peers, dict[str, str]]:
    """Start a server of each. Returns what those are that can, and why the others cannot."""
    found: Peers = {}
    missing: dict[str, str] = {}
    for name in names:
        arguments = ("1",) if name == "tonio" else ()
        try:
            with Server(name, name, "protocol", arguments).start() as server:
                found[name] = {
                    "version": server.hello.get("version") or _crate_version(RUST_PEERS[name]),
                    "gil_enabled": server.hello.get("gil_enabled", False),
                }
        except SampleError as failure:
            missing[name] = str(failure)
    return found, missing


def _crate_version(crate: str) -> str:
    text = (ECHO_PACKAGE / "Cargo.lock").read_text(encoding="utf-8")
    packages = tomllib.loads(text)["package"]
    version = next((package["version"] for package in packages if package["name"] == crate), "?")
    return f"({crate} {version})"


# --- load -----------------------------------------------------------------------------------------


def start_load(server: Process, seconds: float, *arguments: object, wait: bool = True) -> Process:
    """Start the load generator, which is told to measure; its answer may take `seconds`.

    It uses the cores that the server does not, if the server has cores of its own.
    """
    command: list[str | Path] = [PROGRAMS / "load"]
    address: dict[str, Any] = server.hello
    if "unix" in address:
        command += ["--unix", address["unix"]]
    else:
        command += ["--port", str(address["port"])]
    if "tls" in address:
        command += ["--tls", address["tls"]]
    if address.get("udp"):
        command.append("--udp")
    cores = set(CORE_NUMBERS) - server.cores if server.cores else ()
    return Process([*command, *map(str, arguments)], seconds, wait=wait, cores=cores)


def run_load(server: Process, options: Options, *arguments: object) -> Sample:
    """Put load on a server for the measured time; raises `SampleError` if any request fails."""
    timing = ("--seconds", options.seconds, "--warmup", options.warmup, "--pid", server.pid)
    seconds = options.seconds + options.warmup
    try:
        with start_load(server, seconds, *timing, *arguments) as load:
            return check_load(load.hello)
    except SampleError as failure:
        # What the server says of it tells more.
        if reason := server.find_failure():
            raise SampleError(f"the server failed: {reason}") from failure
        raise


def check_load(sample: Sample) -> Sample:
    """Return what the load generator has answered; raises `SampleError` if a request failed."""
    if sample.get("errors"):
        raise SampleError(f"{sample['errors']} requests failed; first: {sample['first_error']}")
    if sample.get("requests") == 0:
        raise SampleError("no request was answered in the measured time")
    return sample


def take_load(variant: Server, options: Options, arguments: tuple[object, ...] = ()) -> Sample:
    """Start the server and put this load on it."""
    with variant.start() as server:
        return run_load(server, options, *arguments)


# --- figures --------------------------------------------------------------------------------------


def cpu_per_request(sample: Sample) -> float:
    """Nanoseconds of the server."""
    return float(sample["server_cpu_ns"] / sample["requests"])


def requests_per_second(sample: Sample) -> float:
    """Of all connections."""
    return float(sample["requests"] / sample["seconds"])


def cores_in_use(sample: Sample) -> float:
    """By the server."""
    return float(sample["server_cpu_ns"] / 1e9 / sample["seconds"])
