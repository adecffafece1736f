"""The programs of `docs/recipes.md`, against real clients and servers.

Each must use every loop, give the right answers, stay within its budget, and end cleanly. Each is
run once more with what belongs to one loop shared by all of them: that must not go unnoticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from .. import services
from ..support import HANG, ROOT, wait_for

pytest.importorskip("loop_pool")

PAGE = ROOT / "docs" / "recipes.md"
RECIPES = dict(
    re.findall(r"^## (\w+)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
LOOPS = 3
URLS = {"asyncpg": "postgresql://localhost/postgres", "redis": "redis://localhost:6379/0"}
"""What stands for the URL of a server in a recipe."""
SERVICES = {"asyncpg": "postgres", "redis": "redis"}
"""The fixture that gives the URL."""

SPIED = 3
"""The exit code by which a recipe ends that the spy has found out."""

SPY = """
import asyncio, importlib, os

SPIED = 3
owners = {}

def spy(kind, name):
    method = getattr(kind, name)

    def checked(self, *args, **kwargs):
        here = asyncio.get_running_loop()
        _, owner = owners.setdefault(id(self), (self, here))
        if owner is not here:
            os.write(2, f"{kind.__name__} {name} on two loops\\n".encode())
            os._exit(SPIED)
        return method(self, *args, **kwargs)

    setattr(kind, name, checked)

"""
"""What stands before a recipe: it ends as soon as a method of one object runs on two loops."""

SHARED = '''
import inspect, threading, loop_pool

class Shared:
    """As `LoopLocal`, but with one value for all loops: the mistake that the recipes avoid."""

    def __init__(self, factory):
        self.factory, self.lock, self.task, self.value = factory, threading.Lock(), None, None

    def get(self):
        with self.lock:
            if self.value is None:
                self.value = self.factory()
        return self.value

    async def make(self):
        made = self.factory()
        self.value = await made if inspect.isawaitable(made) else made
        return self.value

    def __await__(self):
        with self.lock:
            if self.task is None:
                first = loop_pool.current_pool().loops[0]
                self.task = loop_pool.spawn(self.make(), loop=first)
        return self.task.__await__()

'''


def recipe(name: str, values: dict[str, str], *, loops: int = LOOPS, before: str = "") -> list[str]:
    """Gives the command that runs a recipe with other values, and with something before it."""
    source = RECIPES[name]
    for old, new in {"run(main())": f"run(main(), loops={loops})", **values}.items():
        assert source.count(old) == 1, f"{old!r} in {name}"
        source = source.replace(old, new)
    return [sys.executable, "-W", "error", "-c", before + source]


def assert_quiet(errors: str, *, logged: str = "(?!)") -> None:
    """Asserts that a program said nothing but what matches `logged`."""
    rest = [line for line in errors.splitlines() if not re.fullmatch(logged, line)]
    assert not rest, errors


# Servers


class Serving:
    """A recipe that serves."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.errors = ""
        wait_for(self._listens, "the recipe listens")

    def _listens(self) -> bool:
        if self.process.poll() not in (None, SPIED):
            raise AssertionError(self.process.communicate()[1])
        return self.process.returncode == SPIED or services._answers(b"", b"")(self.port)

    def stop(self) -> None:
        """Ends it as a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        """Waits for the end."""
        _, self.errors = self.process.communicate(timeout=HANG)

    def assert_clean(self, logged: str = "(?!)") -> None:
        """Asserts that it has ended well and said nothing but what matches `logged`."""
        assert self.process.returncode == 0, self.errors
        assert_quiet(self.errors, logged=logged)

    def assert_interrupted(self) -> None:
        """Asserts that it has ended by Ctrl-C and complained of nothing else."""
        assert self.process.returncode == -signal.SIGINT, self.errors
        assert self.errors.endswith("\nKeyboardInterrupt\n"), self.errors
        raised = re.findall(r"^\S*(?:Error|Exception|Warning)\b.*", self.errors, re.MULTILINE)
        assert raised == ["asyncio.exceptions.CancelledError"], self.errors  # that of `main`
        assert "destroyed" not in self.errors


@contextlib.contextmanager
def serving(name: str, values: dict[str, str] | None = None, before: str = "") -> Iterator[Serving]:
    """A recipe that serves, on a free port."""
    port = services.free_port()
    with subprocess.Popen(
        recipe(name, {"8080": str(port), **(values or {})}, before=before),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Serving(process, port)
        finally:
            process.kill()


def ask(connection: http.client.HTTPConnection) -> int:
    """Gives the number of the loop that answers on a connection."""
    connection.request("GET", "/")
    return answer(connection)


def answer(connection: http.client.HTTPConnection) -> int:
    """Gives the number of the loop that has answered."""
    response = connection.getresponse()
    assert response.status == 200
    return int(json.loads(response.read())["loop"])


@contextlib.contextmanager
def connections() -> Iterator[list[http.client.HTTPConnection]]:
    """Gives a list of connections, which are closed in the end."""
    opened: list[http.client.HTTPConnection] = []
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


def until_all_loops_answer(port: int, opened: list[http.client.HTTPConnection]) -> list[int]:
    """Opens connections until each loop has one; gives the loop of each."""
    places: list[int] = []

    def another() -> bool:
        opened.append(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG))
        places.append(ask(opened[-1]))
        return set(places) == set(range(LOOPS))

    wait_for(another, "each loop answers")
    return places


def test_aiohttp_serves_on_all_loops() -> None:
    pytest.importorskip("aiohttp")
    with serving("aiohttp") as server, connections() as opened:
        places = until_all_loops_answer(server.port, opened)
        assert [ask(connection) for connection in opened] == places  # each stays where it is
        server.stop()  # with idle connections
        server.assert_clean()


# Each loop sets up the one logger of the process: for a moment its handler has no format.
HYPERCORN_SAYS = r"(.*\[INFO\] )?Running on http://127\.0\.0\.1:\d+ \(CTRL \+ C to quit\)"


def test_hypercorn_serves_on_all_loops_with_a_lifespan_on_each() -> None:
    pytest.importorskip("hypercorn")
    pytest.importorskip("starlette")
    with serving("hypercorn") as server, connections() as opened:
        until_all_loops_answer(server.port, opened)
        server.stop()
        server.assert_clean(HYPERCORN_SAYS)
    assert server.errors.count("Running on") == LOOPS


async def chat(port: int) -> list[int]:
    """Connects until each loop has a client; what each says must reach all. Gives their loops."""
    from websockets.asyncio.client import connect

    places: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        while set(places) != set(range(LOOPS)):
            client = await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}"))
            clients.append(client)
            await client.send("hello")
            heard = {await each.recv() for each in clients}
            assert len(heard) == 1, heard
            found = re.fullmatch(r"loop (\d): hello", str(heard.pop()))
            assert found
            places.append(int(found[1]))
    return places


def test_websockets_reach_the_clients_of_all_loops() -> None:
    pytest.importorskip("websockets")
    with serving("websockets") as server:
        asyncio.run(asyncio.wait_for(chat(server.port), HANG))
        server.stop()
        server.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_websockets_says_goodbye_to_its_clients(number: signal.Signals) -> None:
    pytest.importorskip("websockets")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with serving("websockets") as server, connect(f"ws://127.0.0.1:{server.port}") as client:
        client.send("one")
        assert str(client.recv(HANG)).endswith(": one")
        server.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(HANG)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        server.wait()
        if number == signal.SIGTERM:
            server.assert_clean()
        else:
            server.assert_interrupted()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["aiohttp", "hypercorn"])
def test_a_request_under_way_is_answered_at_the_end(name: str, number: signal.Signals) -> None:
    pytest.importorskip(name)
    if name == "hypercorn":
        pytest.importorskip("starlette")
    begin = "async def hello(request):\n"
    slow = f"{begin}    print('under way', flush=True)\n    await asyncio.sleep(0.2)\n"
    with serving(name, {begin: slow}) as server, connections() as opened:
        opened.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG))
        opened[0].request("GET", "/")
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "under way\n"
        server.process.send_signal(number)
        assert answer(opened[0]) in range(LOOPS)
        server.wait()
        if number == signal.SIGTERM:
            server.assert_clean(HYPERCORN_SAYS)
        else:
            server.assert_interrupted()


# Clients


def run_recipe(name: str, values: dict[str, str], **options: Any) -> list[str]:
    """Runs a recipe that ends by itself, and must be clean; gives the lines that it prints."""
    done = subprocess.run(
        recipe(name, values, **options),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_quiet(done.stderr)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database, in which what a recipe opens has a name."""
    pytest.importorskip("asyncpg")
    with services.postgres() as url:
        yield f"{url}?application_name=recipe"


async def watch_postgres(url: str) -> tuple[list[str], int]:
    """Runs a recipe; gives its lines, and the most connections that the server saw meanwhile."""
    import asyncpg

    count = "select count(*) from pg_stat_activity where application_name = 'recipe'"
    watcher = await asyncpg.connect(url.partition("?")[0])
    try:
        changes = {URLS["asyncpg"]: url}
        running = asyncio.create_task(asyncio.to_thread(run_recipe, "asyncpg", changes))
        most = 0
        async with asyncio.timeout(HANG):
            while (seen := await watcher.fetchval(count)) or not running.done():
                most = max(most, seen)
                await asyncio.sleep(0.001)
        return await running, most
    finally:
        await watcher.close()


def test_asyncpg_divides_its_connections_between_all_loops(postgres: str) -> None:
    lines, most = asyncio.run(watch_postgres(postgres))
    rows = [re.fullmatch(r"(\d+) from loop (\d) by connection (\d+)", line) for line in lines]
    found = [tuple(map(int, row.groups())) for row in rows if row]
    assert [square for square, _, _ in found] == [number**2 for number in range(200)]
    assert {loop for _, loop, _ in found} == set(range(LOOPS))
    users: dict[int, set[int]] = {}
    for _, loop, backend in found:
        users.setdefault(backend, set()).add(loop)
    assert all(len(loops) == 1 for loops in users.values()), users
    opened = Counter(loop for loops in users.values() for loop in loops)
    assert all(opened[loop] <= (4, 3, 3)[loop] for loop in opened), opened
    assert LOOPS <= most <= 10


def test_asyncpg_with_a_budget_below_the_loops_opens_one_for_each(postgres: str) -> None:
    changes = {URLS["asyncpg"]: postgres, "BUDGET = 10": "BUDGET = 2"}
    lines = run_recipe("asyncpg", changes)
    assert {int(line.split()[3]) for line in lines} == set(range(LOOPS))
    assert len({line.rpartition(" ")[2] for line in lines}) == LOOPS


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """The URL of a Redis server, which knows what a recipe opens by its name."""
    pytest.importorskip("redis")
    with services.redis() as url:
        yield url


async def watch_redis(url: str) -> tuple[list[str], int]:
    """Runs the recipe; gives its lines, and the most connections that the server saw meanwhile."""
    from redis.asyncio import Redis

    async with Redis.from_url(url) as watcher:

        async def count() -> int:
            clients = await watcher.client_list()
            return sum(client["name"] == "recipe" for client in clients)

        await watcher.delete("sum")
        changes = {URLS["redis"]: f"{url}?client_name=recipe"}
        running = asyncio.create_task(asyncio.to_thread(run_recipe, "redis", changes))
        most = 0
        async with asyncio.timeout(HANG):
            while (seen := await count()) or not running.done():
                most = max(most, seen)
                await asyncio.sleep(0.001)
        return await running, most


def test_redis_adds_and_publishes_from_all_loops_within_its_budget(redis: str) -> None:
    lines, most = asyncio.run(watch_redis(redis))
    assert lines == [f"{LOOPS}", "loops:", *["the sum is 20100"] * LOOPS]
    assert 2 * LOOPS <= most <= 8


# What belongs to one loop is used on that loop alone


class Affinity(NamedTuple):
    """A method of what belongs to one loop, and how a recipe would be if all loops shared it."""

    module: str
    kind: str
    method: str
    right: str
    wrong: str


def shared(name: str) -> tuple[str, str]:
    """Gives the line that makes a value of each loop, and one that makes a value of all."""
    return f"{name} = loop_pool.LoopLocal(", f"{name} = Shared("


AFFINITY = {
    "aiohttp": Affinity("aiohttp.web", "Server", "__call__", *shared("runners")),
    "hypercorn": Affinity(
        "asyncio",
        "Event",
        "wait",
        "loop_pool.spawn(stop.wait(), loop=loop)",
        "type('Shared', (), {'__await__': lambda _: stop.wait().__await__()})()",
    ),
    "websockets": Affinity(
        "websockets.asyncio.server", "ServerConnection", "send_data", *shared("clients")
    ),
    "asyncpg": Affinity("asyncpg", "Pool", "acquire", *shared("databases")),
    "redis": Affinity(
        "redis.asyncio", "BlockingConnectionPool", "get_connection", *shared("clients")
    ),
}


def serve_all_loops(name: str, port: int) -> None:
    """Lets each loop of a server have something to do."""
    if name == "websockets":
        asyncio.run(asyncio.wait_for(chat(port), HANG))
    else:
        with connections() as opened:
            for _ in range(4 * LOOPS):  # all before one is answered, which may take for ever
                opened.append(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG))
                opened[-1].connect()
            until_all_loops_answer(port, opened)


def serve_spied(name: str, changes: dict[str, str], before: str) -> str:
    """Runs a recipe that serves; gives what it said if it has ended before its time."""
    with serving(name, changes, before) as server:
        try:
            serve_all_loops(name, server.port)
        except Exception:
            if server.process.wait(HANG) != SPIED:
                raise
        server.stop()
    assert server.process.returncode in (0, SPIED), server.errors
    return server.errors if server.process.returncode else ""


def run_spied(name: str, changes: dict[str, str], before: str) -> str:
    """Runs a recipe that ends by itself; gives what it said if it has ended before its time."""
    command = recipe(name, changes, before=before)
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode in (0, SPIED), done.stderr
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("mistaken", [False, True], ids=["right", "mistaken"])
@pytest.mark.parametrize("name", AFFINITY)
def test_what_belongs_to_a_loop_is_used_there_alone(
    name: str, mistaken: bool, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip(name)
    if name == "hypercorn":
        pytest.importorskip("starlette")
    affinity = AFFINITY[name]
    place = f"importlib.import_module({affinity.module!r}).{affinity.kind}"
    before = f"{SPY}{SHARED}\nspy({place}, {affinity.method!r})\n"
    changes = {affinity.right: affinity.wrong} if mistaken else {}
    if name in URLS:
        changes[URLS[name]] = request.getfixturevalue(SERVICES[name])
        said = run_spied(name, changes, before)
    else:
        said = serve_spied(name, changes, before)
    expected = {f"{affinity.kind} {affinity.method} on two loops"} if mistaken else set()
    assert set(said.splitlines()) >= expected, said
    assert bool(said) == mistaken, said


# The page


def test_each_recipe_of_the_page_is_run_here() -> None:
    assert set(RECIPES) == {"aiohttp", "hypercorn", "websockets", "asyncpg", "redis"}
    assert PAGE.read_text().count("```python") == len(RECIPES)
