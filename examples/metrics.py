"""A pool under a little load that shows its metrics to Prometheus.

    python examples/metrics.py [--loops N] [--host HOST] [--port N]

Serves `/metrics` over HTTP on every loop of a pool, until Ctrl-C: what each loop does, from
`loop_pool.metrics.prometheus`, and a metric of this program's own beside it. The load is a task on
each loop that computes, rests, and computes again. Scrape it with Prometheus, or look:

    curl http://127.0.0.1:9464/metrics

The exit code is 130 after Ctrl-C, 2 if an option is wrong or the port is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from contextlib import suppress
from http import HTTPStatus

from load_test_client import bounded_int
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

import loop_pool
from loop_pool.metrics.prometheus import Collector

BLOCK = bytes(64 * 1024)
REST_SECONDS = 0.005


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


class MetricsServer:
    """Answers `GET /metrics` with what a registry collects. Used by all loops at the same time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Serve this registry, whose collectors may be read from any thread."""
        self.registry = registry

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, on the loop that the connection was placed on."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.respond(head.decode("latin-1")))
            await writer.drain()
        except asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError:
            pass  # no HTTP, or a client that has gone
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def respond(self, head: str) -> bytes:
        """Return the response to the head of a request."""
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return response(HTTPStatus.METHOD_NOT_ALLOWED)
        if path != "/metrics":
            return response(HTTPStatus.NOT_FOUND)
        fields = {name.lower(): value.strip() for name, _, value in map(split_field, lines)}
        encode, content_type = choose_encoder(fields.get("accept", ""))
        return response(HTTPStatus.OK, encode(self.registry), content_type)


def split_field(line: str) -> tuple[str, str, str]:
    """Split a line of an HTTP head at its colon."""
    return line.partition(":")


def response(status: HTTPStatus, body: bytes = b"", content_type: str = "text/plain") -> bytes:
    """Return an HTTP response after which the connection is closed."""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


async def work(blocks: Counter) -> None:
    """Compute and rest, for ever, on whatever loop this runs."""
    while True:
        hashlib.sha256(BLOCK).digest()
        blocks.inc()
        await asyncio.sleep(REST_SECONDS)


async def run(options: argparse.Namespace) -> None:
    """Serve and work until cancelled. Runs on loop 0 of the pool."""
    pool = loop_pool.current_pool()
    registry = CollectorRegistry()
    registry.register(Collector(pool))
    blocks = Counter("example_blocks", "Blocks hashed.", ["loop"], registry=registry)
    for loop, stats in zip(pool.loops, pool.stats(), strict=True):
        loop_pool.spawn(work(blocks.labels(stats.name)), loop=loop)
    serve = MetricsServer(registry).serve
    try:
        server = await loop_pool.start_server(serve, options.host, options.port)
    except OSError as error:
        where = f"{options.host} port {options.port}"
        raise CannotListen(f"cannot listen on {where}: {error.strerror}") from error
    async with server:
        port = server.sockets[0].getsockname()[1]
        print(f"{len(pool.loops)} loops: http://{options.host}:{port}/metrics", flush=True)
        await server.serve_forever()


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port", type=bounded_int(0, 65535), default=9464, help="0: any; default: %(default)s"
    )
    options = parser.parse_args()
    try:
        loop_pool.run(run(options), loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except CannotListen as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
