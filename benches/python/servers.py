"""The process of one server that `sockets.py` or `pool.py` puts under load.

    python benches/python/servers.py KIND LOOP --folder F [--loops N] [--no-steal] [--stuck SECONDS]
        [--alone]

It prints one line of JSON: its address, or the reason why it does not serve. From then on it
answers each line on standard input ("connections", "received", "stuck") with a line of JSON, and
ends when standard input does. If it fails later, it says so unasked, and ends. Nothing is measured
in here but the times at which a loop was stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from child import LOOPS, MT_ASYNCIO, describe_error, load_factory
from protocols import (
    BACKLOG,
    HOST,
    ON_EVERY_LOOP,
    ON_ONE_LOOP,
    Echo,
    Place,
    WorkingEcho,
    bind,
    connections,
    echo_stream,
    received,
)
from workloads import LoopFactory

STUCK_PERIOD = 0.1
"""Seconds from one block of a loop to the next."""
STAND_INS = (
    "email.mime.text",
    "http.client",
    "json",
    "logging.config",
    "sqlite3",
    "ssl",
    "xml.sax",
)
"""What `--imports` imports: about what the modules of an application are."""

stuck_times: list[tuple[int, int]] = []
"""Begin and end of each block, by `time.monotonic_ns`."""


def block_regularly(seconds: float) -> None:
    """Block the running loop for `seconds` in a callback, every `STUCK_PERIOD`."""
    loop = asyncio.get_running_loop()

    def block() -> None:
        begin = time.monotonic_ns()
        time.sleep(seconds)
        end = time.monotonic_ns()
        stuck_times.append((begin, end))
        loop.call_later(max(0.0, STUCK_PERIOD - (end - begin) / 1e9), block)

    loop.call_later(STUCK_PERIOD, block)


def wait_stuck() -> None:
    """Block until some loop has been stuck once."""
    while not stuck_times:
        time.sleep(STUCK_PERIOD / 10)


@dataclass(frozen=True)
class Options:
    """The command line."""

    kind: str
    loop: str
    folder: Path
    """Where the server may put files, and finds a certificate (`protocols.Place`)."""
    loops: int
    """How many in a pool, or in threads for a loop that knows no pool; 0: one loop, alone. The one
    loop of mt_asyncio has so many threads."""
    steal: bool
    stuck: float
    """Seconds for which the last loop is blocked, every `STUCK_PERIOD`; 0: it is not."""
    alone: bool
    """Whether the only loop of a pool answers the parent itself, as a server on one loop does."""
    imports: bool
    """Whether `STAND_INS` are imported."""

    @property
    def place(self) -> Place:
        """For the functions of `protocols.py`."""
        return Place(self.folder, fail)


def parse_options(arguments: list[str]) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=[*ON_ONE_LOOP, *ON_EVERY_LOOP])
    parser.add_argument("loop", choices=list(LOOPS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--loops", type=int, default=0)
    parser.add_argument("--no-steal", dest="steal", action="store_false")
    parser.add_argument("--stuck", type=float, default=0.0)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--imports", action="store_true")
    return Options(**vars(parser.parse_args(arguments)))


def answer(message: dict[str, Any]) -> None:
    """Tell the parent."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def fail(error: BaseException) -> NoReturn:
    """Tell the parent of an error and end the process."""
    answer({"error": describe_error(error)})
    os._exit(1)


def serve_alone(options: Options, factory: LoopFactory) -> None:
    """Serve on one loop that knows of no others."""

    async def main() -> None:
        sock, address = bind(options.kind, options.folder)
        server = await ON_ONE_LOOP[options.kind](sock, options.place)
        answer_on_loop()
        await serve_on(server, address)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def serve_in_pool(options: Options) -> None:
    """Serve in a pool of loop_pool."""
    import loop_pool

    async def main() -> None:
        loops = loop_pool.current_pool().loops
        if options.kind in ("pool", "pool-work"):
            protocol = WorkingEcho if options.kind == "pool-work" else Echo
            server = await loop_pool.create_server(protocol, HOST, 0, backlog=BACKLOG)
            address = {"port": server.sockets[0].getsockname()[1]}
        elif options.kind == "pool-streams":
            server = await loop_pool.start_server(echo_stream, HOST, 0, backlog=BACKLOG)
            address = {"port": server.sockets[0].getsockname()[1]}
        else:
            sock, address = bind(options.kind, options.folder)
            where = loops[-1] if options.kind == "bulk" else loops[0]
            listen = cast("Callable[..., Coroutine[Any, Any, Any]]", ON_ONE_LOOP[options.kind])
            server = await loop_pool.spawn(listen(sock, options.place), loop=where)
        if options.alone:
            answer_on_loop()
        if options.stuck:
            loops[-1].call_soon_threadsafe(block_regularly, options.stuck)
            # The connections come to a server of which one loop has been stuck before.
            await asyncio.to_thread(wait_stuck)
        await serve_on(server, address)

    # `steal` is named only where it is asked for: not every version knows it.
    steal = {} if options.steal else {"steal": False}
    loop_pool.run(main(), loops=options.loops, **steal)


def serve_in_threads(options: Options, factory: LoopFactory) -> None:
    """Serve as one does without a pool: threads with a loop each, which share a port."""
    kind = ON_EVERY_LOOP.get(options.kind, options.kind)
    shared = options.kind in ON_EVERY_LOOP
    first, address = bind(kind, options.folder, reuse_port=shared)
    if not shared:
        listening = [options.loops - 1 if kind == "bulk" else 0]
    else:
        listening = list(range(options.loops))

    def run(number: int, started: threading.Event) -> None:
        async def main() -> None:
            server = None
            if number in listening:
                sock = first
                if number != listening[0]:
                    port = address["port"]
                    sock, _ = bind(kind, options.folder, reuse_port=True, port=port)
                server = await ON_ONE_LOOP[kind](sock, options.place)
            if options.stuck and number == options.loops - 1:
                block_regularly(options.stuck)
            started.set()
            await serve_on(server, None)

        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except BaseException as error:
            fail(error)

    # One after another: python/cpython#157666.
    for number in range(options.loops):
        started = threading.Event()
        threading.Thread(target=run, args=(number, started), daemon=True).start()
        started.wait()
    if options.stuck:
        wait_stuck()
    announce(address)
    threading.Event().wait()


def serve_on_workers(options: Options, factory: LoopFactory) -> None:
    """Serve on the one loop of mt_asyncio, whose callbacks and tasks run on all of its threads."""
    kind = ON_EVERY_LOOP.get(options.kind, options.kind)

    async def main() -> None:
        sock, address = bind(kind, options.folder)
        server = await ON_ONE_LOOP[kind](sock, options.place)
        if options.stuck:
            block_regularly(options.stuck)
            await asyncio.to_thread(wait_stuck)
        await serve_on(server, address)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def announce(address: dict[str, Any]) -> None:
    """Tell the parent where to connect."""
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    answer({**address, "version": version, "gil_enabled": gil_enabled})


async def serve_on(server: object, address: dict[str, Any] | None) -> None:
    """Keep a server until the process ends."""
    if address is not None:
        announce(address)
    await asyncio.get_running_loop().create_future()
    del server


def answer_requests() -> NoReturn:
    """Answer the parent until it closes standard input, then end the process."""
    for line in sys.stdin:
        answer_request(line.strip())
    os._exit(0)


def answer_request(request: str) -> None:
    """Answer one line."""
    if request == "connections":
        answer({"connections": len(connections)})
    elif request == "received":
        answer({"received": received[0]})
    elif request == "stuck":
        answer({"stuck": list(stuck_times)})
    else:
        answer({"error": f"no such request: {request}"})


def answer_on_loop() -> None:
    """As `answer_requests`, from the running loop. Without a second thread, as a server on one loop
    has none: the kernel counts references to a file only where threads share it, which would cost
    each system call some per cent."""

    def read() -> None:
        lines = os.read(0, 65536).decode()
        if not lines:
            os._exit(0)
        for line in lines.splitlines():
            answer_request(line.strip())

    os.set_blocking(0, False)
    asyncio.get_running_loop().add_reader(0, read)


def main() -> None:
    """Serve until the parent closes standard input."""
    global version
    options = parse_options(sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        for name in STAND_INS if options.imports else ():
            importlib.import_module(name)
        factory, version = load_factory(options.loop, max(1, options.loops))
        if options.loops and not options.alone:
            threading.Thread(target=answer_requests, daemon=True).start()
        if not options.loops:
            if options.kind not in ON_ONE_LOOP:
                raise ValueError(f"{options.kind} needs --loops")
            serve_alone(options, factory)
        elif options.loop == "loop_pool":
            serve_in_pool(options)
        elif options.loop == MT_ASYNCIO:
            serve_on_workers(options, factory)
        else:
            serve_in_threads(options, factory)
    except Exception as error:
        fail(error)


version = "unknown"
# Whatever a loop or its packages print must not come between the answers.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")

if __name__ == "__main__":
    os.dup2(2, 1)
    main()
