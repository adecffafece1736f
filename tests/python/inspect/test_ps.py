"""`loop-pool ps`: what it shows, and what it says when there is nothing to show."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from ..support import run_python
from .support import IDLE, environment, program, ps, ps_json

loop_pool = pytest.importorskip("loop_pool")
from loop_pool._inspect import client as inspect_client  # noqa: E402
from loop_pool._inspect import ps as ps_command  # noqa: E402

pytestmark = pytest.mark.loop_pool_only

FAMILY = """
begun = threading.Semaphore(0)
async def rest():
    begun.release()
    await asyncio.sleep(1000)
async def child():
    await rest()
async def parent():
    async with asyncio.TaskGroup() as group:
        group.create_task(child(), name="first child")
        group.create_task(child(), name="second child")
async def boss(remote):
    await remote
async def main():
    task = spawn(1, parent(), "parent")
    asyncio.create_task(boss(task), name="boss")
    asyncio.create_task(gathers(), name="gatherer")
    for _ in range(4):
        await asyncio.to_thread(begun.acquire)
    await spawn(1, asyncio.sleep(0), "after the steps that began there")
    await until_told()
async def gathers():
    await asyncio.gather(*(asyncio.create_task(rest(), name=f"part {n}") for n in range(2)))
loop_pool.run(main(), loops=2, inspect=True)
"""


def test_who_awaits_whom_is_told_across_loops(tmp_path: Path) -> None:
    with program(FAMILY, tmp_path) as process:
        answer = ps_json(tmp_path, process.pid)
        text = ps(tmp_path, str(process.pid), "--stacks").stdout
    tasks = {task["name"]: task for task in answer["tasks"]}
    names = {task["id"]: task["name"] for task in answer["tasks"]}
    awaited_by = {
        name: {names[each] for each in task["awaited_by"]} for name, task in tasks.items()
    }
    assert awaited_by["first child"] == awaited_by["second child"] == {"parent"}
    assert awaited_by["parent"] == {"boss"}
    assert awaited_by["part 0"] == awaited_by["part 1"] == {"gatherer"}
    assert awaited_by["boss"] == set()
    assert tasks["boss"]["state"] == "waiting on task 'parent' of loop-pool-1"
    assert tasks["gatherer"]["state"] == "waiting on gather of 2"
    assert tasks["part 0"]["state"] == "waiting on Future in sleep"
    assert (tasks["parent"]["loop"], tasks["boss"]["loop"]) == (1, 0)
    assert (tasks["parent"]["origin"], tasks["boss"]["origin"]) == ("spawn", "create_task")
    assert all(task["age"] > 0 for task in tasks.values())
    functions = [frame.rpartition(" ")[2] for frame in tasks["first child"]["stack"]]
    assert functions == ["child", "rest", "sleep"]
    assert re.search(r"^boss .*\n.*\n?(.*\n)*?└─ parent .*\n(.*\n)*?   ├─ ", text, re.M)


def test_the_loops_are_told(tmp_path: Path) -> None:
    with program(FAMILY, tmp_path) as process:
        answer = ps_json(tmp_path, process.pid)
    assert (answer["version"], answer["pid"]) == (1, process.pid)
    assert [loop["name"] for loop in answer["loops"]] == ["loop-pool-0", "loop-pool-1"]
    for loop in answer["loops"]:
        assert loop["running"]
        assert (loop["stuck"], loop["stack"], loop["omitted"]) == (0, [], 0)
        assert 0 <= loop["lag"] < 1
        assert 0 <= loop["busy_share"] <= 1
        assert loop["callbacks_per_second"] >= 0
    assert answer["loops"][0]["timers"] == 2  # those of gatherer's parts


def test_a_task_of_another_make_is_shown(tmp_path: Path) -> None:
    source = """
        class Duck:
            def __init__(self, loop):
                self._loop = loop
                loop_pool._register_task(self)
            def done(self):
                return False
            def get_loop(self):
                return self._loop
            def get_name(self):
                raise ValueError("nobody's business")
        class Task(asyncio.Task):
            pass
        async def main():
            loop = asyncio.get_running_loop()
            duck = Duck(loop)
            task = Task(asyncio.sleep(1000), loop=loop, name="of a subclass")
            await asyncio.sleep(0)
            await until_told()
        loop_pool.run(main(), loops=1, inspect=True)
    """
    with program(source, tmp_path) as process:
        tasks = {task["name"]: task for task in ps_json(tmp_path, process.pid)["tasks"]}
    assert tasks["Duck"]["origin"] == "registered"
    assert tasks["of a subclass"]["state"].startswith("waiting on Future")


@pytest.mark.parametrize("hidden", [False, True])
def test_the_table_needs_nothing_beyond_the_standard_library(tmp_path: Path, hidden: bool) -> None:
    if hidden:
        (tmp_path / "rich.py").write_text("raise ImportError")
    with program(IDLE, tmp_path) as process:
        code = f"""
            import sys
            sys.path.insert(0, {str(tmp_path)!r})
            from loop_pool import _cli
            code = _cli.main(["ps", "{process.pid}"])
            assert "textual" not in sys.modules
            sys.exit(code)
        """
        done = run_python(
            "-c",
            "\n".join(line.strip() for line in code.splitlines()),
            env=environment(tmp_path),
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"process {process.pid}, 2 loops" in done.stdout
    assert re.search(r"^loop-pool-1 +ok", done.stdout, re.M)


def test_names_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    source = r"""
        async def main():
            asyncio.current_task().set_name("\x1b[2Jgone\n\u202e")
            await until_told()
        loop_pool.run(main(), loops=1, inspect=True)
    """
    with program(source, tmp_path) as process:
        done = ps(tmp_path, str(process.pid))
    assert "\x1b" not in done.stdout
    assert r"\x1b[2Jgone\n\u202e" in done.stdout


# What a user may get wrong


def fails(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.startswith("loop-pool: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("typed", ["-1", "0", "abc", "1.5", ""])
def test_what_is_no_process_number_is_named(tmp_path: Path, typed: str) -> None:
    done = ps(tmp_path, "--", typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{typed!r} is not a process ID" in done.stderr


@pytest.mark.parametrize("typed", [2**22 + 1, 2**31, 10**30])
def test_a_number_that_no_process_has(tmp_path: Path, typed: int) -> None:
    fails(ps(tmp_path, str(typed)), f"there is no process {typed}")


def test_a_process_that_is_dead(tmp_path: Path) -> None:
    with program(IDLE, tmp_path, fails=True) as process:
        process.kill()  # so its socket is left behind
    fails(ps(tmp_path, str(process.pid)), f"there is no process {process.pid}")


def test_a_process_that_is_not_python(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            fails(ps(tmp_path, str(process.pid)), "has no pool to inspect")
        finally:
            process.kill()


def test_a_pool_that_does_not_answer_says_how_to_make_it(tmp_path: Path) -> None:
    with program(IDLE.replace("inspect=True", "inspect=False"), tmp_path) as process:
        done = ps(tmp_path, str(process.pid))
    fails(done, "LOOP_POOL_INSPECT=1")
    assert "inspect=True" in done.stderr


def test_a_pool_that_does_not_exist(tmp_path: Path) -> None:
    with program(IDLE, tmp_path) as process:
        fails(ps(tmp_path, "--pool", "7", str(process.pid)), "has no pool 7")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_s_pool(tmp_path: Path) -> None:
    """The user may run the interpreter, and sees the folder; but not what is in it."""
    code = """
import os, sys
from loop_pool import _cli
os.setuid(12345)
sys.exit(_cli.main(["ps", sys.argv[1]]))
"""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    with program(IDLE, tmp_path) as process:
        done = run_python("-c", code, process.pid, env=environment(tmp_path))
        fails(done, "belongs to user root: only that user and root may inspect its pool")
        assert ps_json(tmp_path, process.pid)["pid"] == process.pid


def fake(tmp_path: Path, behaviour: str) -> str:
    """A program that listens where a pool would."""
    return f"""
import socket
folder = os.path.join({str(tmp_path)!r}, f"loop_pool-{{os.geteuid()}}")
os.makedirs(folder, mode=0o700, exist_ok=True)
path = os.path.join(folder, f"{{os.getpid()}}.sock")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("ready", flush=True)
peer, _ = listener.accept()
peer.recv(4096)
{behaviour}
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (r"peer.sendall(b'\x00\xff\n')", "sent an invalid answer"),
        (r"peer.sendall(b'{}\n')", "sent an invalid answer"),
        (r"""peer.sendall(b'{"version": 1, "loops": 3}\n')""", "sent an invalid answer"),
        (
            r"""peer.sendall(b'{"version": 1, "uptime": NaN}\n')""",
            "sent an invalid answer",
        ),
        (r"""peer.sendall(b'{"version": 9}\n')""", "speaks protocol version 9"),
        (r"""peer.sendall(b'{"version": 1, "error": "no\\u001b"}\n')""", r"refused: no\x1b"),
        ("peer.close()", "closed the connection"),
    ],
)
def test_a_process_that_answers_nonsense(tmp_path: Path, behaviour: str, said: str) -> None:
    with program(fake(tmp_path, behaviour), tmp_path) as process:
        fails(ps(tmp_path, str(process.pid)), said)


def test_a_process_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with program(fake(tmp_path, ""), tmp_path) as process:
        with pytest.raises(inspect_client.InspectError, match=r"did not answer within 0\.2 s"):
            inspect_client.read(process.pid, "stats", timeout=0.2)


# Reading it


def test_a_circle_of_tasks_is_shown_once() -> None:
    def task(number: int, *awaited_by: int) -> inspect_client.Task:
        return inspect_client.Task(
            number, f"t{number}", 0, "ready", 0.0, "create_task", "f", (), awaited_by
        )

    nodes = list(inspect_client.tree((task(1, 2), task(2, 1), task(3, 3), task(4, 3, 99))))
    assert sorted(node.task.id for node in nodes if not node.seen) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00005, "50 us"),
        (0.0123, "12.3 ms"),
        (9.96, "10.0 s"),
        (125, "2:05 min"),
        (3720, "1:02 h"),
    ],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert ps_command.duration(seconds) == text


def test_the_json_is_an_object_of_known_names(tmp_path: Path) -> None:
    with program(IDLE, tmp_path) as process:
        done = ps(tmp_path, "--json", str(process.pid))
    answer = json.loads(done.stdout)
    assert set(answer) == {
        "version", "pid", "loop_pool", "python", "gil", "uptime", "loops", "tasks",
    }  # fmt: skip
    assert set(answer["tasks"][0]) == {
        "id", "name", "loop", "state", "age", "origin", "coro", "stack", "awaited_by",
    }  # fmt: skip
