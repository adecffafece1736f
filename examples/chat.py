"""A chat server over WebSockets on all loops, and clients that check it.

    python examples/chat.py [--loops N] [--clients N] [--rooms N] [--messages N]   try it, and end
    python examples/chat.py --serve [--port N] [--loops N]                         until Ctrl-C

The path of the URL names a room: `ws://127.0.0.1:8765/tea`. A room has members on all loops. Each
loop keeps its own, since a connection is written to on its own loop only; what is said in a room is
carried to each loop by `loop_pool.call`, under a lock of the room that all loops share, so that all
members of a room hear the same in the same order. Slow readers are left to the limits of the
package `websockets`.

Without `--serve` the program's own clients join the rooms from all loops, talk, and check that each
heard every message of its room, in the order in which the others heard them.

It needs two packages: `pip install websockets 'loop_pool[sync]'`.

The exit code is 0 if all was right, 1 if not, 2 if an option is wrong or the port is taken, 130
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter, defaultdict

from load_test_client import bounded_int
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

import loop_pool
from loop_pool import sync

HOST = "127.0.0.1"


def here() -> int:
    """Return the number of the running loop in its pool."""
    return loop_pool.current_pool().loops.index(asyncio.get_running_loop())


class Room:
    """Its members on each loop. Used by all loops at the same time."""

    def __init__(self) -> None:
        """Begin without members."""
        self._members: loop_pool.LoopLocal[set[ServerConnection]] = loop_pool.LoopLocal(set)
        self._talking = sync.Lock()

    def join(self, connection: ServerConnection) -> None:
        """Add a connection of the running loop."""
        self._members.get().add(connection)

    def leave(self, connection: ServerConnection) -> None:
        """Remove a connection of the running loop."""
        self._members.get().discard(connection)

    async def say(self, message: str | bytes) -> None:
        """Send a message to all members, on all loops; from any loop."""
        async with self._talking:
            loops = loop_pool.current_pool().loops
            await asyncio.gather(*(loop_pool.call(loop, self._tell, message) for loop in loops))

    def _tell(self, message: str | bytes) -> None:
        """Send a message to the members of the running loop, without waiting for them."""
        broadcast(self._members.get(), message)


class Chat:
    """The rooms, and how many connections each loop has served."""

    def __init__(self) -> None:
        """Begin without rooms."""
        self.connections: Counter[int] = Counter()
        self._rooms: defaultdict[str, Room] = defaultdict(Room)
        self._lock = threading.Lock()

    async def talk(self, connection: ServerConnection) -> None:
        """Pass on what a client says to its room, on the loop of its connection."""
        assert connection.request is not None
        with self._lock:
            room = self._rooms[connection.request.path]
            self.connections[here()] += 1
        room.join(connection)
        try:
            await connection.send("welcome")
            async for message in connection:
                await room.say(message)
        except ConnectionClosed:  # a client that has gone without a goodbye
            pass
        finally:
            room.leave(connection)


class Servers:
    """One WebSocket server on each loop, all on one port, for which the kernel chooses the loop."""

    def __init__(self, chat: Chat) -> None:
        """Serve this chat."""
        self.chat = chat
        self.port = 0
        self._servers: loop_pool.LoopLocal[Server] = loop_pool.LoopLocal(self._start)

    def _start(self) -> Server:
        return serve(self.chat.talk, HOST, self.port, reuse_port=True)

    async def start(self, port: int) -> None:
        """Listen on every loop: the first one picks the port if it is 0."""
        self.port = port
        for loop in loop_pool.current_pool().loops:
            self.port = await loop_pool.call(loop, self._port)

    async def _port(self) -> int:
        server = await self._servers
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Say goodbye to all clients, and wait until they have gone."""
        await loop_pool.broadcast(self._stop)

    async def _stop(self) -> None:
        server = await self._servers
        server.close()
        await server.wait_closed()


# The clients


async def visit(url: str, name: str, messages: int, joined: sync.Barrier) -> tuple[str, int, float]:
    """Say something and hear everything; return all of it, its number, and the longest wait.

    That is the time in seconds from saying something to hearing it.
    """
    async with connect(url) as connection:
        assert await connection.recv() == "welcome"
        await joined.wait()
        heard: list[str] = []
        longest = 0.0
        for number in range(messages):
            mine = f"{name} {number}"
            begin = time.perf_counter()
            await connection.send(mine)
            while not heard or heard[-1] != mine:
                heard.append(str(await connection.recv()))
            longest = max(longest, time.perf_counter() - begin)
        while len(heard) < joined.parties * messages:
            heard.append(str(await connection.recv()))
        return "\n".join(heard), len(set(heard)), longest


async def try_it(servers: Servers, clients: int, rooms: int, messages: int) -> int:
    """Let clients on all loops talk; return how many rooms were not right."""
    tasks: dict[int, list[loop_pool.PoolTask[tuple[str, int, float]]]] = defaultdict(list)
    loops = loop_pool.current_pool().loops
    async with loop_pool.TaskGroup() as group:
        for room in range(rooms):
            clients_here = range(room, clients, rooms)
            joined = sync.Barrier(len(clients_here))
            for client in clients_here:
                url = f"ws://{HOST}:{servers.port}/room-{room}"
                coroutine = visit(url, f"client {client}", messages, joined)
                loop = loops[client % len(loops)]
                tasks[room].append(group.create_task(coroutine, loop=loop))
    wrong = 0
    longest = 0.0
    for members in tasks.values():
        results = [task.result() for task in members]
        same = len({heard for heard, _, _ in results}) == 1
        complete = all(count == len(members) * messages for _, count, _ in results)
        wrong += not (same and complete)
        longest = max(longest, *(wait for _, _, wait in results))
    for number in range(len(loops)):
        print(f"loop {number}: {servers.chat.connections[number]} connections served")
    heard = sum(messages * len(members) ** 2 for members in tasks.values())
    print(f"{heard} messages heard, each within {1000 * longest:.1f} ms")
    print(f"{rooms - wrong} of {rooms} rooms heard everything, and in one order")
    return wrong


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


async def run(options: argparse.Namespace) -> int:
    """Serve, and let clients talk or wait for Ctrl-C; return the exit code. Runs on loop 0."""
    servers = Servers(Chat())
    try:
        await servers.start(options.port)
    except OSError as error:
        raise CannotListen(f"cannot listen on {HOST} port {options.port}: {error}") from error
    try:
        if not options.serve:
            rooms = min(options.rooms, options.clients)
            return 1 if await try_it(servers, options.clients, rooms, options.messages) else 0
        print(f"ws://{HOST}:{servers.port}/ROOM", flush=True)
        await asyncio.get_running_loop().create_future()
        return 0
    finally:
        await servers.stop()


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument("--serve", action="store_true", help="serve until Ctrl-C")
    parser.add_argument(
        "--port", type=bounded_int(0, 65535), default=0, help="to serve on; default: any"
    )
    parser.add_argument(
        "--clients", type=bounded_int(1, 1_000), default=24, help="default: %(default)s"
    )
    parser.add_argument(
        "--rooms", type=bounded_int(1, 1_000), default=3, help="default: %(default)s"
    )
    parser.add_argument(
        "--messages",
        type=bounded_int(1, 10_000),
        default=50,
        help="of each client; default: %(default)s",
    )
    options = parser.parse_args()
    try:
        return loop_pool.run(run(options), loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except CannotListen as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
