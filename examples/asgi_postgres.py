"""An ASGI application on all loops of a process, with a PostgreSQL pool on each of them.

    python examples/asgi_postgres.py --dsn postgresql://user:secret@localhost/database

The server has room for so many connections (`--connections`): the budget is divided by the loops,
each of which opens a pool of its share in its lifespan. Clients in this process write notes and
read them again for some seconds (`--seconds`; 0: none, serve until Ctrl-C). Then the server gets
its SIGTERM, and the table shows what each loop has written, as the database tells it.

The notes are in a table of their own, `loop_pool_notes`, which is dropped in the end. The exit code
is 0 if each note that was confirmed is there, with the text that was sent, and the budget was kept;
1 if not; 2 if an option is wrong or there is no database; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from load_test_client import bounded_int
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import loop_pool

NAME = "loop_pool example"
"""What our connections call themselves to the server."""

NO_DATABASE = """\
{problem}

Give the address of a PostgreSQL server by --dsn. To start one for a try:

    docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=secret postgres
    python examples/asgi_postgres.py --dsn postgresql://postgres:secret@localhost/postgres\
"""


# --- the application ------------------------------------------------------------------------------


def make_app(dsn: str, connections: int) -> Starlette:
    """Return an application whose loops have so many connections together."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, asyncpg.Pool]]:
        share = connections // len(loop_pool.current_pool().loops)
        if share == 0:
            raise ValueError(f"{connections} connections are less than one for each loop")
        settings = {"application_name": NAME}
        async with asyncpg.create_pool(
            dsn, min_size=1, max_size=share, server_settings=settings
        ) as database:
            yield {"database": database}  # `request.state` of the requests on this loop

    async def write(request: Request) -> Response:
        text = (await request.body()).decode()
        name = threading.current_thread().name
        key = await request.state.database.fetchval(
            "INSERT INTO loop_pool_notes (loop, text) VALUES ($1, $2) RETURNING id", name, text
        )
        return JSONResponse({"id": key}, status_code=201)

    async def read(request: Request) -> Response:
        text = await request.state.database.fetchval(
            "SELECT text FROM loop_pool_notes WHERE id = $1", request.path_params["key"]
        )
        if text is None:
            return JSONResponse({"error": "no such note"}, status_code=404)
        return JSONResponse({"text": text})

    routes = [Route("/notes", write, methods=["POST"]), Route("/notes/{key:int}", read)]
    return Starlette(routes=routes, lifespan=lifespan)


# --- the load -------------------------------------------------------------------------------------


class Load:
    """Clients in threads, each of which writes a note and reads it again, until they are told."""

    def __init__(self, port: int, clients: int, dsn: str) -> None:
        """Make the clients of a server on this port of 127.0.0.1."""
        self.port = port
        self.dsn = dsn
        self.over = threading.Event()
        self.written = [0] * clients
        self.problems: list[str] = []
        self.connections = 0
        """The connections to the database at the end of the load; 0: it did not come to that."""
        self.threads = [
            threading.Thread(target=self.run, args=(client,)) for client in range(clients)
        ]

    def run(self, client: int) -> None:
        """Be one client."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            while not self.over.is_set():
                text = f"note {self.written[client]} of client {client}"
                key = ask(connection, "POST", "/notes", text)["id"]
                answer = ask(connection, "GET", f"/notes/{key}")["text"]
                if answer != text:
                    self.problems.append(f"note {key} is {answer!r} instead of {text!r}")
                self.written[client] += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not self.over.is_set():
                self.problems.append(f"client {client}: {error!r}")
        finally:
            connection.close()

    def drive(self, seconds: float) -> None:
        """Let the clients work for so long, in a thread of its own; then end the server."""
        for thread in self.threads:
            thread.start()
        if not self.over.wait(seconds):
            self.connections = asyncio.run(count_connections(self.dsn))
            self.stop()
            os.kill(os.getpid(), signal.SIGTERM)  # as whoever ends a server does

    def stop(self) -> None:
        """Send no more, and wait for the answers that are due."""
        self.over.set()
        for thread in self.threads:
            thread.join()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str = ""
) -> dict[str, Any]:
    """Return the answer to one request."""
    connection.request(method, path, body.encode())
    response = connection.getresponse()
    text = response.read()
    if response.status not in {200, 201}:
        raise ValueError(f"{method} {path}: {response.status} {text.decode()}")
    answer: dict[str, Any] = json.loads(text)
    return answer


# --- the database, before and after ---------------------------------------------------------------


async def prepare(dsn: str) -> None:
    """Make the table anew."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("DROP TABLE IF EXISTS loop_pool_notes")
        await connection.execute(
            "CREATE TABLE loop_pool_notes (id bigserial PRIMARY KEY, loop text, text text)"
        )
    finally:
        await connection.close()


async def count_connections(dsn: str) -> int:
    """Return how many connections of the application's the server has."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", NAME
        )
    finally:
        await connection.close()
    return count


async def look_and_drop(dsn: str) -> dict[str, int]:
    """Return how many notes each loop has written; drop the table."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT loop, count(*) FROM loop_pool_notes GROUP BY loop ORDER BY loop"
        )
        await connection.execute("DROP TABLE loop_pool_notes")
    finally:
        await connection.close()
    return {row[0]: row[1] for row in rows}


# --- the program ----------------------------------------------------------------------------------


def report(load: Load, notes: dict[str, int], options: argparse.Namespace) -> int:
    """Print the table and what was wrong; return the exit code."""
    print(f"{'loop':<14}{'notes':>10}")
    for name, count in [*notes.items(), ("all", sum(notes.values()))]:
        print(f"{'loop-pool-0' if name == 'MainThread' else name:<14}{count:>10,}")
    rate = 2 * sum(load.written) / options.seconds
    print(f"{rate:,.0f} requests/s; {load.connections} of {options.connections} connections")
    problems = load.problems
    # What was written and not read again when a client failed is there as well.
    if sum(notes.values()) < sum(load.written):
        problems.append(
            f"{sum(load.written)} notes were confirmed, {sum(notes.values())} are there"
        )
    if load.connections > options.connections:
        problems.append("the budget of connections was not kept")
    for problem in problems[:10]:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run(options: argparse.Namespace) -> int:
    """Serve, with the load if one is wanted; return the exit code."""
    asyncio.run(prepare(options.dsn))
    app = make_app(options.dsn, options.connections)
    # The clients may connect before the application has started: then they wait in the queue.
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        port = listener.getsockname()[1]
        print(f"http://127.0.0.1:{port}/notes", flush=True)
        load = Load(port, options.clients, options.dsn)
        driver = threading.Thread(target=load.drive, args=(options.seconds,))
        try:
            if options.seconds:
                driver.start()
            loop_pool.serve(
                app, fd=listener.fileno(), loops=options.loops, log_level="warning", lifespan="on"
            )
        finally:
            ended_early = not load.over.is_set()
            load.over.set()
    if options.seconds:
        driver.join()
        load.stop()
    notes = asyncio.run(look_and_drop(options.dsn))
    if not options.seconds:
        return 0
    if ended_early:
        print("interrupted", file=sys.stderr)
        return 130
    return report(load, notes, options)


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dsn", help="address of the database: postgresql://user@host/database")
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument(
        "--connections",
        type=bounded_int(1, 10_000),
        default=16,
        help="to the database, of all loops together; default: %(default)s",
    )
    parser.add_argument("--clients", type=bounded_int(1, 1000), default=16, help="default: 16")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of load; 0: until Ctrl-C; default: %(default)s"
    )
    parser.add_argument("--port", type=bounded_int(0, 65535), default=0, help="default: any")
    options = parser.parse_args()
    if not 0 <= options.seconds <= 3600:
        parser.error(f"argument --seconds: must be from 0 to 3600, not {options.seconds:g}")
    if options.dsn is None:
        parser.error(NO_DATABASE.format(problem="there is no database"))
    try:
        return run(options)
    except KeyboardInterrupt:  # before the server takes the signal
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, RuntimeError) as error:
        parser.error(NO_DATABASE.format(problem=error))


if __name__ == "__main__":
    sys.exit(main())
