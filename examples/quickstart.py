"""A first program: a server on all loops, and clients that use it from all loops.

    python examples/quickstart.py [--loops N] [--clients N]

The server counts words. It is `loop_pool.start_server` with an ordinary asyncio stream handler,
which runs on the loop that its connection was placed on. `loop_pool.map` runs the clients, on
whichever loops get to them. The program prints who served whom, and ends. It needs no other
package.

The exit code is 0 if every answer was right, 1 if not, 2 if an option is wrong, 130
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import Counter

from load_test_client import bounded_int

import loop_pool


def here() -> int:
    """Return the number of the running loop in its pool."""
    return loop_pool.current_pool().loops.index(asyncio.get_running_loop())


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with the number of its words, and of the loop."""
    with contextlib.suppress(ConnectionError):  # a client that has gone
        async for line in reader:
            writer.write(b"%d %d\n" % (len(line.split()), here()))
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def ask(port: int, number: int) -> tuple[bool, int, int]:
    """Send `number` words; return whether the answer is right, its loop, and the loop here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"word " * number + b"\n")
        count, loop = map(int, (await reader.readline()).split())
        return count == number, loop, here()
    finally:
        writer.close()
        await writer.wait_closed()


async def run(clients: int) -> int:
    """Serve and ask; return the exit code. Runs on loop 0, in the main thread."""
    served: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    wrong = 0
    async with await loop_pool.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async for right, server_loop, client_loop in loop_pool.map(
            ask, [port] * clients, range(clients)
        ):
            served[server_loop] += 1
            asked[client_loop] += 1
            wrong += not right
    for loop in range(len(loop_pool.current_pool().loops)):
        print(f"loop {loop}: {served[loop]} connections served, {asked[loop]} clients run")
    print(f"{clients - wrong} of {clients} answers were right")
    return 1 if wrong else 0


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument(
        "--clients", type=bounded_int(1, 100_000), default=200, help="default: %(default)s"
    )
    options = parser.parse_args()
    try:
        return loop_pool.run(run(options.clients), loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
