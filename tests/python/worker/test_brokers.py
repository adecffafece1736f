"""What `loop-pool worker` takes: its options, and the broker that each loop gets. No server."""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support import ROOT, check_script, in_thread

loop_pool = pytest.importorskip("loop_pool")
pytest.importorskip("taskiq")
pytest.importorskip("taskiq_nats")
from nats.js.api import ConsumerConfig  # noqa: E402
from taskiq import AsyncBroker, SimpleRetryMiddleware, TaskiqMiddleware  # noqa: E402
from taskiq_nats import (  # noqa: E402
    NatsBroker,
    NATSObjectStoreResultBackend,
    PullBasedJetStreamBroker,
    PushBasedJetStreamBroker,
)

from loop_pool import _cli  # noqa: E402
from loop_pool._cli import worker as worker_command  # noqa: E402
from loop_pool._worker import brokers as worker_brokers  # noqa: E402

pytestmark = pytest.mark.usefixtures("clean_process")

URL = "nats://127.0.0.1:1"

type Program = Callable[[str], str]

_names = iter(range(1_000_000))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Writes a module into the current folder; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str) -> str:
        name = f"worker_program_{next(_names)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    worker_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["worker", *arguments])


# The options


def test_the_defaults_are_taskiq_s() -> None:
    from taskiq.cli.worker.args import WorkerArgs

    ours, theirs = parse("m:b"), WorkerArgs("m:b", [])
    assert (ours.target, ours.modules) == (theirs.broker, theirs.modules)
    for name in (
        *("fs_discover", "max_async_tasks", "max_prefetch", "max_threadpool_threads"),
        *("ack_type", "no_parse", "no_propagate_errors", "shutdown_timeout"),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.log_level == theirs.log_level.name


def test_the_options_are_taskiq_s() -> None:
    args = parse("m:b", "one", "two.three", "-d", "app", "-fsd", "-tp", "a/*.py", "-tp", "b/*.py")
    assert args.modules == ["one", "two.three"]
    assert (args.app_dir, args.fs_discover) == ("app", True)
    assert args.tasks_pattern == ["a/*.py", "b/*.py"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--loops", "0", "'0' is not an integer from 1 to 4096"),
        ("--loops", "4097", "'4097' is not an integer from 1 to 4096"),
        ("--loops", "two", "'two' is not an integer from 1 to 4096"),
        ("--max-async-tasks", "0", "'0' is not an integer of at least 1"),
        ("--max-prefetch", "-1", "'-1' is not an integer of at least 0"),
        ("--max-threadpool-threads", "0", "'0' is not an integer of at least 1"),
        ("--wait-tasks-timeout", "-1", "'-1' is not a number of seconds, 0 or more"),
        ("--shutdown-timeout", "nan", "'nan' is not a number of seconds, 0 or more"),
        ("--ack-type", "never", "invalid choice: 'never'"),
        ("--log-level", "LOUD", "invalid choice: 'LOUD'"),
    ],
)
def test_a_bad_option_is_named(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _cli.main(["worker", "m:b", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err


def test_the_extra_is_named_if_it_is_missing(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "loop_pool._worker.brokers")
    monkeypatch.setitem(sys.modules, "taskiq", None)
    assert _cli.main(["worker", "m:b"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("loop-pool: worker needs taskiq: pip install 'loop_pool[distributed]' (")
    assert said.count("\n") == 1


def test_the_extra_is_named_if_the_program_misses_it(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = program("import taskiq_nats")
    monkeypatch.setitem(sys.modules, "taskiq_nats", None)
    with pytest.raises(worker_brokers.TargetError, match=r"pip install 'loop_pool\[distributed\]"):
        worker_brokers.load(f"{name}:broker", 1)


# Targets that are none


@pytest.mark.parametrize(
    ("source", "name", "code", "said"),
    [
        ("", "", 2, "'{m}:' does not have the form module:broker"),
        ("", "a:b", 2, "'{m}:a:b' does not have the form module:broker"),
        ("", "broker", 2, "{m}:broker: {m} has no attribute 'broker'"),
        (
            "broker = 3",
            "broker",
            2,
            "{m}:broker is 3: neither a taskiq broker nor a broker factory",
        ),
        ("import not_there", "b", 2, "cannot import {m}: ModuleNotFoundError: No module named "),
        ("x = 1\n1 / 0", "b", 2, "ZeroDivisionError: division by zero ({m}.py, line 2)"),
        ("def (", "b", 2, "cannot import {m}: SyntaxError: invalid syntax ({m}.py, line 1)"),
        (
            "def make(): raise OSError('no luck')",
            "make",
            1,
            "{m}:make failed: OSError: no luck ({m}.py, line 1)",
        ),
        ("def make(): return 3", "make", 2, "{m}:make returned 3, which is not a taskiq broker"),
        ("async def make(): ...", "make", 2, "{m}:make is a coroutine function"),
        (
            "from taskiq import InMemoryBroker\nbroker = InMemoryBroker()",
            "broker",
            2,
            "{m}:broker is an InMemoryBroker, which runs tasks in the program that sends them",
        ),
        (
            "from taskiq import async_shared_broker as broker",
            "broker",
            2,
            "{m}:broker: each loop needs its own AsyncSharedBroker",
        ),
    ],
)
def test_a_bad_target_is_one_line(  # noqa: PLR0917
    program: Program,
    capsys: pytest.CaptureFixture[str],
    source: str,
    name: str,
    code: int,
    said: str,
) -> None:
    module = program(source)
    options = ["--loops", "2", "--no-configure-logging"]
    assert _cli.main(["worker", f"{module}:{name}", *options]) == code
    error = capsys.readouterr().err
    assert error.startswith("loop-pool: ")
    assert said.format(m=module) in error
    assert error.count("\n") == 1


def test_no_such_module(capsys: pytest.CaptureFixture[str], program: Program) -> None:
    assert _cli.main(["worker", "not_there:broker", "--no-configure-logging"]) == 2
    said = "cannot import not_there: ModuleNotFoundError: No module named 'not_there'"
    assert capsys.readouterr().err == f"loop-pool: {said}\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("NatsBroker('{u}')", "without a queue, so each loop would run every task"),
        ("PushBasedJetStreamBroker('{u}')", "consumer is not that of a queue"),
        ("PushBasedJetStreamBroker('{u}', queue='q')", "consumer is not that of a queue"),
    ],
)
def test_a_broker_that_cannot_divide_tasks_is_for_one_loop(
    program: Program, source: str, said: str
) -> None:
    name = program(f"from taskiq_nats import *\nbroker = {source.format(u=URL)}")
    with pytest.raises(worker_brokers.TargetError, match=said):
        worker_brokers.load(f"{name}:broker", 2)
    assert len(worker_brokers.load(f"{name}:broker", 1).each) == 1


def test_a_result_backend_of_another_make_is_not_copied(program: Program) -> None:
    name = program(f"""
        from taskiq.brokers.inmemory_broker import InmemoryResultBackend
        from taskiq_nats import PullBasedJetStreamBroker
        def make():
            broker = PullBasedJetStreamBroker({URL!r})
            return broker.with_result_backend(InmemoryResultBackend())
        broker = make()
    """)
    with pytest.raises(worker_brokers.TargetError, match="needs its own InmemoryResultBackend"):
        worker_brokers.load(f"{name}:broker", 2)
    assert len(worker_brokers.load(f"{name}:make", 2).each) == 2


def test_a_function_has_to_make_a_broker_for_each_loop(program: Program) -> None:
    name = program(f"""
        from taskiq_nats import PullBasedJetStreamBroker
        broker = PullBasedJetStreamBroker({URL!r})
        def make(): return broker
    """)
    with pytest.raises(worker_brokers.TargetError, match="returned the same broker twice"):
        worker_brokers.load(f"{name}:make", 2)


def test_a_function_has_to_make_the_same_tasks_for_each_loop(program: Program) -> None:
    """taskiq renames a function that it registers."""
    name = program(f"""
        from taskiq_nats import PullBasedJetStreamBroker
        async def task(): ...
        def make():
            broker = PullBasedJetStreamBroker({URL!r})
            broker.register_task(task)
            return broker
    """)
    with pytest.raises(
        worker_brokers.TargetError, match=r"different tasks on each broker: .*needs a task_name"
    ):
        worker_brokers.load(f"{name}:make", 2)


# Modules of tasks


def test_modules_of_tasks_are_imported(program: Program, tmp_path: Path) -> None:
    app = program(f"from taskiq_nats import *\nbroker = PullBasedJetStreamBroker({URL!r})")
    task = "from {app} import broker\n@broker.task(task_name={name!r})\nasync def task(): ...\n"
    first = program(task.format(app=app, name="named"))
    for folder in ("shop", "shop/orders", ".hidden", "not-a-package"):
        (tmp_path / folder).mkdir()
        name = f"{folder}/tasks.py"
        (tmp_path / name).write_text(task.format(app=app, name=name))
    brokers = worker_brokers.load(f"{app}:broker", 2, modules=[first], patterns=["**/tasks.py"])
    for broker in brokers.each:
        assert set(broker.get_all_tasks()) == {"named", "shop/tasks.py", "shop/orders/tasks.py"}


def test_a_module_of_tasks_that_fails_is_named(program: Program) -> None:
    app = program(f"from taskiq_nats import *\nbroker = PullBasedJetStreamBroker({URL!r})")
    bad = program("1 / 0")
    with pytest.raises(worker_brokers.TargetError, match=f"cannot import {bad}: ZeroDivision"):
        worker_brokers.load(f"{app}:broker", 2, modules=[bad])


# A broker for each loop


class Sharer(TaskiqMiddleware):
    """Has something of its own and something that is everybody's."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[int] = []


def push() -> AsyncBroker:
    config = ConsumerConfig(durable_name="q", deliver_group="q")
    return PushBasedJetStreamBroker(URL, queue="q", consumer_config=config)


@pytest.fixture(
    params=[lambda: PullBasedJetStreamBroker(URL), push, lambda: NatsBroker(URL, queue="q")],
    ids=["pull", "push", "core"],
)
def template(request: pytest.FixtureRequest) -> Any:
    broker = request.param()
    broker.connection_kwargs["tls"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    broker.with_result_backend(NATSObjectStoreResultBackend(URL))
    broker.with_middlewares(SimpleRetryMiddleware(), Sharer())
    broker.state.early = "early"
    broker.add_dependency_context({str: "text"})
    return broker


def copies(template: AsyncBroker) -> worker_brokers.Brokers:
    return worker_brokers._copies(template, "m:broker", 2)


def test_each_loop_has_its_own_of_what_it_changes(template: Any) -> None:
    one, two = copies(template).each
    for first, second in ((one, two), (one, template), (two, template)):
        assert first is not second
        for name in (
            *("client", "state", "custom_dependency_context", "dependency_overrides"),
            *("middlewares", "result_backend"),
        ):
            assert getattr(first, name) is not getattr(second, name), name
        for mine, yours in zip(first.middlewares, second.middlewares, strict=True):
            assert mine is not yours
            assert mine.broker is first
        assert first.client.new_inbox() != second.client.new_inbox()
        if hasattr(first, "stream_config"):
            assert first.stream_config is not second.stream_config
            if first.consumer_config is not None:
                assert first.consumer_config is not second.consumer_config


def test_the_loops_share_the_rest(template: Any) -> None:
    one, two = copies(template).each
    assert (one.state.early, two.state.early) == ("early", "early")
    assert one.custom_dependency_context == {str: "text"}
    assert one.connection_kwargs["tls"] is two.connection_kwargs["tls"]
    assert one.middlewares[1].shared is two.middlewares[1].shared
    assert type(one) is type(two)
    assert isinstance(template, type(one))
    assert repr(type(template)) == repr(type(one))
    for broker in (one, two, template):
        assert broker.event_handlers is one.event_handlers
        assert broker.local_task_registry is one.local_task_registry


def test_the_program_s_broker_is_that_of_the_running_loop(template: Any) -> None:
    brokers = copies(template)

    async def on_a_loop(number: int) -> None:
        broker: Any = brokers.each[number]
        brokers.give(asyncio.get_running_loop(), broker)
        assert template.client is broker.client
        assert template.kick == broker.kick
        assert template.result_backend is broker.result_backend
        template.state.where = number
        template.mark = number
        assert (broker.state.where, broker.mark) == (number, number)
        if number:
            del template.mark
            assert not hasattr(broker, "mark")

        @template.task(task_name=f"late{number}")
        async def late() -> None: ...

        assert late.broker is template  # whichever loop sends it

    for number in range(2):
        in_thread(lambda number=number: asyncio.run(on_a_loop(number)))
    assert [broker.state.where for broker in brokers.each] == [0, 1]
    assert template.find_task("late0") is not template.find_task("late1") is not None
    assert brokers.each[0].find_task("late1") is template.find_task("late1")
    # Elsewhere it is itself.
    assert not hasattr(template.state, "where")
    assert not hasattr(template, "mark")


def test_brokers_of_a_function_stand_in_for_each_other(program: Program) -> None:
    name = program(f"""
        from taskiq_nats import PullBasedJetStreamBroker
        def make():
            return PullBasedJetStreamBroker({URL!r})
    """)
    brokers = worker_brokers.load(f"{name}:make", 2)
    one, two = brokers.each

    async def main() -> tuple[Any, Any]:
        brokers.give(asyncio.get_running_loop(), two)
        return one.client, two.client  # type: ignore[attr-defined]

    first, second = asyncio.run(main())
    assert first is second is two.client  # type: ignore[attr-defined]
    assert one.client is not two.client  # type: ignore[attr-defined]
    assert one.is_worker_process
    assert two.is_worker_process


def test_one_loop_uses_the_broker_itself(template: Any) -> None:
    (only,) = worker_brokers._copies(template, "m:broker", 1).each
    assert only is template


@pytest.mark.parametrize(("said", "used"), [("", 5.0), ("pull_consume_timeout=2", 2)])
@pytest.mark.parametrize("name", ["broker", "make"])
def test_a_pull_ends_some_time(program: Program, name: str, said: str, used: float) -> None:
    module = program(f"""
        from taskiq_nats import PullBasedJetStreamBroker
        def make():
            return PullBasedJetStreamBroker({URL!r}, {said})
        broker = make()
    """)
    brokers: list[Any] = list(worker_brokers.load(f"{module}:{name}", 2).each)
    assert [broker.pull_consume_timeout for broker in brokers] == [used, used]


# The documentation


def test_the_first_try_of_the_documentation_prints_what_it_says() -> None:
    page = (ROOT / "docs" / "distributed.md").read_text()
    source = re.findall(r"^```python\n(import loop_pool.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    assert check_script(source) == "328350\n"
