"""A pool answers questions about itself on a private socket, and whoever asks cannot disturb it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..support import HANG, wait_for
from .support import IDLE, ask, connect, program, ps_json, socket_of

loop_pool = pytest.importorskip("loop_pool")
from loop_pool._inspect import client as inspect_client  # noqa: E402
from loop_pool._inspect import sockets as inspect_sockets  # noqa: E402
from loop_pool._inspect import switch  # noqa: E402

pytestmark = pytest.mark.loop_pool_only


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files of this test, of this process and its children."""
    import tempfile

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv(switch.SWITCH, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def sockets(place: Path) -> list[str]:
    """The names of the sockets that are there."""
    return sorted(path.name for path in place.glob("loop_pool-*/*"))


def runs_here(place: Path, **options: object) -> list[str]:
    """Runs a pool in this thread; the sockets that there are meanwhile."""

    async def main() -> list[str]:
        return sockets(place)

    with contextlib.closing(main()) as coro:
        return loop_pool.run(coro, loops=1, **options)


# The switch


@pytest.mark.parametrize(
    ("environ", "choice", "answers"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        ("1", None, True),
        ("1", False, False),
        ("0", None, False),
        ("0", True, True),
        ("", None, False),
        ("false", None, False),
    ],
)
@pytest.mark.usefixtures("clean_process")
def test_a_pool_answers_only_if_it_is_told_to(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: str | None,
    choice: bool | None,
    answers: bool,
) -> None:
    if environ is not None:
        monkeypatch.setenv("LOOP_POOL_INSPECT", environ)
    assert runs_here(place, inspect=choice) == ([f"{os.getpid()}.sock"] if answers else [])
    assert sockets(place) == []


# The place


def test_nobody_else_can_reach_the_socket(place: Path) -> None:
    with program(IDLE, place) as process:
        path = socket_of(place, process.pid)
        for found, kind, mode in (
            (path.lstat(), stat.S_ISSOCK, 0o600),
            (path.parent.lstat(), stat.S_ISDIR, 0o700),
        ):
            assert kind(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == mode
            assert found.st_uid == os.geteuid()


@pytest.mark.parametrize("wrong", ["open", "link", "file", "foreign"])
@pytest.mark.usefixtures("clean_process")
def test_a_folder_that_is_not_the_user_s_alone_is_refused(place: Path, wrong: str) -> None:
    folder = place / f"loop_pool-{os.geteuid()}"
    if wrong == "link":
        (place / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(place / "elsewhere")
    elif wrong == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
        if wrong == "open":
            folder.chmod(0o750)
        elif os.geteuid() == 0:
            os.chown(folder, 12345, -1)
        else:
            pytest.skip("only root can give a folder away")
    with pytest.raises(PermissionError, match="must be a directory"):
        runs_here(place, inspect=True)


def test_a_pool_that_only_the_environment_wants_to_answer_runs_without(
    place: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
) -> None:
    (place / f"loop_pool-{os.geteuid()}").touch()
    monkeypatch.setenv("LOOP_POOL_INSPECT", "1")
    assert runs_here(place) == []
    assert [message for message in logged_errors if "cannot inspect this pool" in message]
    logged_errors.clear()


@pytest.mark.usefixtures("clean_process")
def test_the_runtime_folder_is_preferred_if_it_is_the_user_s(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = place / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert runs_here(runtime, inspect=True) == []  # it has another name there

    async def main() -> list[Path]:
        return list(runtime.glob("loop_pool/*.sock"))

    assert loop_pool.run(main(), loops=1, inspect=True) == [
        runtime / "loop_pool" / f"{os.getpid()}.sock"
    ]


def test_a_path_may_be_longer_than_an_address(place: Path) -> None:
    deep = place.joinpath(*["x" * 50] * 4)
    deep.mkdir(parents=True)
    with program(IDLE, deep) as process:
        assert len(os.fsencode(socket_of(deep, process.pid))) > 108
        assert ps_json(place, process.pid)["pid"] == process.pid  # by the process's environment


def test_sockets_left_behind_are_removed_and_no_others(place: Path) -> None:
    killed = """
        async def main():
            await until_told()
        loop_pool.run(main(), loops=1, inspect=True)
    """
    with program(killed, place, fails=True) as process:
        process.kill()
    assert sockets(place) == [f"{process.pid}.sock"]
    with program(IDLE, place) as alive:
        (socket_of(place, alive.pid).parent / "note.sock").touch()
        assert runs_here(place, inspect=True) == sorted(
            [f"{alive.pid}.sock", f"{os.getpid()}.sock", "note.sock"]
        )
        assert ps_json(place, alive.pid)["pid"] == alive.pid


@pytest.mark.parametrize("end", ["SIGINT", "exit", "error"])
def test_the_socket_goes_with_the_pool(place: Path, end: str) -> None:
    source = f"""
        async def main():
            await until_told()
            if {end!r} == "SIGINT":
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(1000)
            elif {end!r} == "exit":
                sys.exit(3)
            raise ValueError
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop_pool.run(main(), loops=2, inspect=True)
    """
    with program(source, place, fails=True) as process:
        assert sockets(place) == [f"{process.pid}.sock"]
    assert process.returncode != 0
    assert sockets(place) == []


def test_a_forked_child_leaves_the_socket_alone(place: Path) -> None:
    source = """
        import warnings
        async def main():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                child = os.fork()
            if not child:
                import atexit
                atexit._run_exitfuncs()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            await until_told()
        loop_pool.run(main(), loops=1, inspect=True)
    """
    with program(source, place) as process:
        assert sockets(place) == [f"{process.pid}.sock"]
        assert ps_json(place, process.pid)["pid"] == process.pid


# Several pools


@pytest.mark.usefixtures("clean_process")
def test_one_pool_after_another(place: Path) -> None:
    for _ in range(3):
        assert runs_here(place, inspect=True) == [f"{os.getpid()}.sock"]
    assert sockets(place) == []


def test_pools_at_once_have_a_socket_each(place: Path) -> None:
    source = """
        started = threading.Barrier(3)
        async def main(name):
            asyncio.current_task().set_name(name)
            await asyncio.to_thread(started.wait)
            await asyncio.to_thread(ended.wait)
        ended = threading.Event()
        def pool(name):
            loop_pool.run(main(name), loops=1, inspect=True)
        threads = [threading.Thread(target=pool, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        started.wait()
        print("ready", flush=True)
        sys.stdin.read()
        ended.set()
        for thread in threads:
            thread.join()
    """
    with program(source, place) as process:
        assert sockets(place) == [f"{process.pid}-2.sock", f"{process.pid}.sock"]
        assert inspect_client.pools(process.pid) == [1, 2]
        names = {
            task["name"]
            for pool in ("1", "2")
            for task in ps_json(place, process.pid, "--pool", pool)["tasks"]
        }
        assert names == {"one", "two"}
    assert sockets(place) == []


# Clients that behave badly


@pytest.fixture
def pool(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A pool of two loops that must notice nothing."""
    with program(IDLE, place) as process:
        yield process
        assert ps_json(place, process.pid)["pid"] == process.pid


SILENCE = 2.0
"""Seconds for which clients of the impatient pool may say nothing; otherwise it is more."""


IMPATIENT = f"from loop_pool._inspect import server; server.SILENCE = {SILENCE}"


@pytest.fixture
def impatient(place: Path) -> Iterator[subprocess.Popen[str]]:
    """The same, with less time for a client that is silent."""
    with program(f"{IMPATIENT}\n{IDLE}", place) as process:
        yield process
        assert ps_json(place, process.pid)["pid"] == process.pid


REFUSED = [
    (b"\x00\xff garbage\n", "a request must be a line of JSON"),
    (b"[" * 4000 + b"\n", "a request must be a line of JSON"),
    (b"[]\n", "an object with version 1"),
    (b'{"version": 2, "request": "stats"}\n', "an object with version 1"),
    (b'{"version": 1, "request": "rm"}\n', "request must be stats or snapshot"),
    (b'{"version": 1, "request": ["stats"]}\n', "request must be stats or snapshot"),
    (b'{"version": 1, "request": "snapshot", "loop": 2}\n', "there is no loop 2"),
    (b'{"version": 1, "request": "snapshot", "loop": true}\n', "loop must be the index"),
    (b'{"version": 1, "request": "snapshot", "limit": -1}\n', "limit must be an integer"),
    (b"x" * 10_000, "must not exceed 4096 bytes"),
]
"""Requests, and what is said of each."""


def test_what_cannot_be_answered_is_refused(place: Path, pool: subprocess.Popen[str]) -> None:
    for line, said in REFUSED:
        with connect(place, pool.pid) as sock:
            assert said in ask(sock, line)["error"], line


def test_a_client_that_closes_early_costs_nothing(place: Path, pool: subprocess.Popen[str]) -> None:
    for line in (b"", b'{"version"', b'{"version": 1, "request": "snapshot"}\n'):
        with connect(place, pool.pid) as sock:
            sock.sendall(line)


def test_a_client_that_hangs_is_dropped_and_holds_nobody_up(
    place: Path, impatient: subprocess.Popen[str]
) -> None:
    pid, begun = impatient.pid, time.monotonic()
    with connect(place, pid) as silent, connect(place, pid) as half:
        half.sendall(b'{"version": 1, ')
        assert ps_json(place, pid)["pid"] == pid
        assert (silent.recv(1), half.recv(1)) == (b"", b"")
        assert time.monotonic() - begun >= SILENCE


def test_a_client_that_does_not_take_its_answer_is_dropped(
    place: Path, impatient: subprocess.Popen[str]
) -> None:
    requests = b'{"version": 1, "request": "snapshot"}\n'
    with connect(place, impatient.pid) as sock:
        sock.settimeout(0.5)
        with pytest.raises((TimeoutError, ConnectionError)):
            while True:
                sock.sendall(requests)
        sock.settimeout(HANG)
        while ps_json(place, impatient.pid)["pid"] == impatient.pid:
            try:
                sock.send(b"\n", socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except ConnectionError:
                break


def test_fifty_clients_at_once_all_get_their_answer(
    place: Path, pool: subprocess.Popen[str]
) -> None:
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: inspect_client.read(pool.pid, "snapshot"), range(100)))
    assert {answer.pid for answer in answers} == {pool.pid}


def test_idle_clients_make_room(place: Path, pool: subprocess.Popen[str]) -> None:
    idle = [connect(place, pool.pid) for _ in range(inspect_sockets.MAX_CLIENTS + 10)]
    try:
        assert ps_json(place, pool.pid)["pid"] == pool.pid
    finally:
        for sock in idle:
            sock.close()


def test_a_pool_out_of_descriptors_answers_again_when_it_has_some(place: Path) -> None:
    source = """
        import resource
        async def main():
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            await asyncio.sleep(0)
            task = asyncio.ensure_future(until_told())
            await asyncio.sleep(0.1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
            await asyncio.to_thread(signal.sigwait, {signal.SIGUSR1})
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await task
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        loop_pool.run(main(), loops=2, inspect=True)
    """
    with program(source, place) as process:
        limits = resource.RLIMIT_NOFILE
        wait_for(lambda: resource.prlimit(process.pid, limits)[0] < 100, "the limit on descriptors")
        with connect(place, process.pid) as sock:
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                ask(sock)
            process.send_signal(signal.SIGUSR1)
            sock.settimeout(HANG)
            assert ask(sock, b"")["pid"] == process.pid


# Looks that must not hold anybody up

STUCK = """
begun, gate = threading.Event(), threading.Lock()
async def stuck():
    await asyncio.sleep(0)
    begun.set()
    {how}
async def main():
    await asyncio.to_thread(int)  # what imports something makes all threads stand still
    gate.acquire()
    task = spawn(1, stuck(), "culprit")
    other = asyncio.create_task(waits(task), name="waits")
    await asyncio.to_thread(begun.wait)
    await asyncio.sleep(0.1)
    await until_told()
    gate.release()
    task.cancel()
async def waits(task):
    await task
loop_pool.run(main(), loops=2, inspect=True)
"""


@pytest.mark.parametrize(
    ("how", "name", "inside"),
    [
        ("gate.acquire()", "culprit", True),
        ("while gate.locked(): pass", "culprit", True),
        ("sum(range(180_000_000))", None, False),
    ],
    ids=["sleeps", "runs", "native"],
)
def test_a_stuck_loop_is_told_of_and_the_other_goes_on(
    place: Path, how: str, name: str | None, inside: bool
) -> None:
    with program(STUCK.format(how=how), place) as process:
        with connect(place, process.pid) as sock:
            answer = ask(sock, b'{"version": 1, "request": "snapshot"}\n')
            again = ask(sock, b'{"version": 1, "request": "stats"}\n')
        free, stuck = answer["loops"]
        assert stuck["stuck"] > 0.05
        assert [each["lag"] < 1 for each in (free, again["loops"][0])] == [True, True]
        assert any(" stuck" in frame for frame in stuck["stack"])
        tasks = {task["name"]: task for task in answer["tasks"]}
        assert tasks["waits"]["state"].startswith("waiting on a task of loop-pool-1")
        if inside:
            assert stuck["task"] == name
            assert tasks["culprit"]["state"] == "running"
            assert tasks["culprit"]["stack"] == stuck["stack"]


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_snapshots_as_fast_as_possible_while_tasks_come_and_go(place: Path) -> None:
    """Under a collector that runs all the time: no crash, and no answer that cannot be."""
    source = """
        import gc
        over = threading.Event()
        def collect():
            while not over.is_set():
                gc.collect()
                time.sleep(0.01)
        async def leaf(depth):
            if depth:
                await leaf(depth - 1)
            else:
                await asyncio.sleep(0.001)
        async def churn(index):
            while True:
                tasks = [asyncio.create_task(leaf(n), name=f"{index}-{n}") for n in range(20)]
                await asyncio.sleep(0)
                for task in tasks[::3]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        async def main():
            threading.Thread(target=collect, daemon=True).start()
            tasks = [spawn(index, churn(index), f"churn-{index}") for index in range(4)]
            await until_told()
            for task in tasks:
                task.cancel()
            over.set()
        loop_pool.run(main(), loops=4, inspect=True)
    """
    seen = 0
    with program(source, place) as process:
        end = time.monotonic() + 20
        while time.monotonic() < end or seen <= 1000:
            reading = inspect_client.read(process.pid, "snapshot")
            for task in reading.tasks:
                if made := re.fullmatch(r"(\d)-(\d+)", task.name):
                    seen += 1
                    assert task.loop == int(made[1])
                    assert task.coro == "leaf"
                    frames = [frame for frame in task.stack if frame.endswith(" leaf")]
                    assert len(frames) in {0, 1, int(made[2]) + 1}
