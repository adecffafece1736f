"""What is done with a server of `applications.py`: the load on it, and the samples of that.

The load is `http-load` of `benches/echo`, which checks every response. That the application's
answer is the right one is checked before, here.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from application_servers import APPS_FOLDER, Server
from measuring import Process, Sample, SampleError
from under_load import TARGET_FOLDER

sys.path.append(str(APPS_FOLDER))

import bench_common as common

HTTP_LOAD = TARGET_FOLDER / "release" / "http-load"

ANSWER_SECONDS = 30.0
"""A load that has not answered so long after it should have is ended."""

CONNECTIONS = 64
RATE = 500
"""Requests a second in all, in an open loop: a rate that every server holds on one core."""
HEAVY_RATE = 8
"""Heavy requests a second beside the light ones: 0.4 of a core at `bench_common.HEAVY_SECONDS`."""
HEAVY_CONNECTIONS = 8
DATABASE_CONNECTIONS = 16
"""Of each server in all; they are divided among its loops or processes."""
MESSAGE_BYTES = 256
POST_BYTES = 10 * 1024
PROBE_RATE, PROBE_CONNECTIONS = 200, 8
"""Requests a second of those that ask whether the server is ready, and their connections."""
IDLE_CONNECTIONS = 10_000
SPARE_DESCRIPTORS = 500
"""Of those that a process may have, what a server has beside its connections."""
IDLE_SECONDS = 60.0
"""In which all idle connections have to be open."""
ESTABLISHED = "01"
"""As `/proc/net/tcp` says it."""
REST_SECONDS = 0.5
"""Before the memory of a server at rest is read."""
MEMORY_READINGS = 5
"""Under load, over the measured time; the largest counts."""


@dataclass(frozen=True)
class Timing:
    """How long is measured, and how long the load runs before that; seconds."""

    seconds: float
    warmup: float


# --- load -----------------------------------------------------------------------------------------


class Load:
    """A running load generator; leaving the `with` block ends it."""

    def __init__(self, server: Server, timing: Timing, *arguments: object) -> None:
        """Start it."""
        self._limit = timing.seconds + timing.warmup + ANSWER_SECONDS
        duration = ("--seconds", timing.seconds, "--warmup", timing.warmup)
        command = [HTTP_LOAD, "--port", server.port, *duration, *arguments]
        self._process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> Sample:
        """What it measured; raises `SampleError` if it failed or any request of it did."""
        try:
            answer, complaint = self._process.communicate(timeout=self._limit)
        except subprocess.TimeoutExpired as error:
            raise SampleError(f"the load has not ended after {self._limit:.0f} s") from error
        if self._process.returncode:
            raise SampleError(complaint.strip() or f"exit code {self._process.returncode}")
        sample: Sample = json.loads(answer)
        if sample["errors"]:
            raise SampleError(f"{sample['errors']} requests failed; first: {sample['first_error']}")
        if not sample["requests"]:
            raise SampleError("no request was answered")
        return sample


def expected_body(server: Server, path: str) -> str:
    """What a path answers, once it is known to be right; raises `SampleError` if it is not."""
    body = server.fetch(path)
    right: object = BODIES[path]
    given: object = body if isinstance(right, str) else json.loads(body)
    if given != right:
        raise SampleError(f"{path}: {body[:80]!r} is not what the application answers")
    return body


BODIES: dict[str, object] = {
    "/plain": common.PLAIN.decode(),
    "/large": common.LARGE.decode(),
    "/json": common.MESSAGE,
    "/heavy": {"heavy": True},
    "/db": {"id": common.ROW, "name": f"item {common.ROW}", "price": common.ROW * 0.25},
}
"""What is right, by path. A path that is not in it is answered by what was sent, or by anything."""


# --- samples: what is done with a server ----------------------------------------------------------

Take = Callable[[Server, Timing, "Setting"], Sample]


@dataclass(frozen=True)
class Setting:
    """What the samples of a workload share."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[int, ...] = ()
    """Processes that take part but are not the server."""


def take_closed(server: Server, timing: Timing, setting: Setting) -> Sample:
    """One request at a time on each connection."""
    return _measure(server, timing, setting)


def take_fresh(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Likewise, with a connection of its own for each request."""
    return _measure(server, timing, setting, "--fresh")


def take_paced(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Requests at a fixed rate, whatever becomes of them."""
    return _measure(server, timing, setting, "--rate", RATE)


def take_posted(server: Server, timing: Timing, setting: Setting) -> Sample:
    """One POST at a time on each connection, with a body that comes back."""
    return _measure(server, timing, setting, "--post", POST_BYTES)


def take_stuck(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Requests at a fixed rate on connections of one loop, which is stuck half of the time.

    It is so only once they are open: no server can have placed them elsewhere.
    """
    arguments = ("--alike", "/where", "--begin", "/stick")
    return _measure(server, timing, setting, "--rate", RATE, *arguments)


def take_probes(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Few requests at a fixed rate, as a balancer sends them that asks whether all is well."""
    return _measure(server, timing, setting, *_PROBES)


def take_fresh_probes(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Likewise, each on a connection of its own."""
    return _measure(server, timing, setting, *_PROBES, "--fresh")


_PROBES = ("--rate", PROBE_RATE, "--connections", PROBE_CONNECTIONS)


def take_idle(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Allocated bytes with some and with many connections that have had a request answered.

    The many are as many as a process may have descriptors for, and no more than
    `IDLE_CONNECTIONS`; the some, a twentieth of these, are there so that what a server needs for
    the first ones does not count.
    """
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(IDLE_CONNECTIONS, descriptors - SPARE_DESCRIPTORS)
    few = many // 20
    sizes = []
    with contextlib.ExitStack() as stack:
        for count in (few, many - few):
            stack.enter_context(_hold(server, setting, count))
            time.sleep(max(REST_SECONDS, timing.warmup))
            sizes.append(server.memory())
        if (alive := count_established(server.port)) < many:
            raise SampleError(f"{many - alive} of {many} idle connections are gone")
    grown = sizes[1] - sizes[0]
    return {"connections": many, "few": few, "bytes_per_connection": grown / (many - few)}


def _hold(server: Server, setting: Setting, count: int) -> Process:
    body = expected_body(server, setting.path)
    arguments = ("--port", server.port, "--path", setting.path, "--expect", body, "--idle", count)
    return Process([HTTP_LOAD, *map(str, arguments)], IDLE_SECONDS)


def count_established(port: int) -> int:
    """How many connections of this machine end at a local port, as far as the kernel knows."""
    end = f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines())
    return sum(row[1].endswith(end) and row[3] == ESTABLISHED for row in rows)


def take_messages(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Messages over WebSockets, one at a time on each."""
    arguments = ("--path", setting.path, "--websocket", MESSAGE_BYTES, "--server", server.pid)
    with Load(server, timing, "--connections", CONNECTIONS, *arguments) as load:
        return load.result()


def take_mixed(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Light requests at a fixed rate, while others come that hold up their loops.

    The light ones' connections are opened before, so that no server places them by where it is
    held up at that moment: what is compared is what open connections wait.
    """
    body = expected_body(server, "/heavy")
    arguments = ("--path", "/heavy", "--expect", body, "--connections", HEAVY_CONNECTIONS)
    # They begin in the warm-up of the light ones, and end after them.
    longer = Timing(timing.seconds + timing.warmup, 0.0)
    with _start(server, timing, setting, "--rate", RATE) as light:
        time.sleep(timing.warmup / 2)
        with Load(server, longer, *arguments, "--rate", HEAVY_RATE) as heavy:
            sample = light.result()
            return {**sample, "heavy": heavy.result()}


def take_memory(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Allocated bytes at rest, and the most of some readings under load."""
    time.sleep(REST_SECONDS)
    rest = server.memory()
    with _start(server, timing, setting) as load:
        time.sleep(timing.warmup)
        readings = []
        for _ in range(MEMORY_READINGS):
            time.sleep(timing.seconds / (MEMORY_READINGS + 1))
            readings.append(server.memory())
        sample = load.result()
    return {**sample, "memory_rest": rest, "memory_load": max(readings)}


def _measure(server: Server, timing: Timing, setting: Setting, *arguments: object) -> Sample:
    with _start(server, timing, setting, *arguments) as load:
        return load.result()


def _start(server: Server, timing: Timing, setting: Setting, *arguments: object) -> Load:
    beside = [part for pid in setting.beside for part in ("--beside", pid)]
    given: tuple[object, ...] = ("--path", setting.path, "--server", server.pid, *beside)
    if setting.path in BODIES:
        given += ("--expect", expected_body(server, setting.path))
    if server.certificate is not None:
        given += ("--tls", server.certificate / "cert.pem")
    return Load(server, timing, "--connections", CONNECTIONS, *given, *arguments)
