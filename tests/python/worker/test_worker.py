"""`loop-pool worker` over a real NATS server: every task ends, whoever dies, on all loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .. import services
from ..support import FREE_THREADED, HANG, wait_for

loop_pool = pytest.importorskip("loop_pool")
pytest.importorskip("taskiq")
pytest.importorskip("taskiq_nats")
from taskiq import AsyncTaskiqTask, TaskiqResult  # noqa: E402
from taskiq.kicker import AsyncKicker  # noqa: E402

from . import worker_tasks  # noqa: E402

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.timeout(5 * HANG),  # Workers begin one after another; each imports much.
]

_streams = iter(range(1_000_000))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with services.nats() as found:
        yield found


class Bench:
    """A stream of its own, workers for it, and what their tasks write down."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.ack_wait = HANG
        self.stream = f"test{next(_streams)}"
        self._started: list[subprocess.Popen[str]] = []

    def worker(
        self, *options: object, target: str = "broker", meet: int = 1
    ) -> subprocess.Popen[str]:
        """Start one; what it logs goes to a file."""
        log = self.folder / f"log{len(self._started)}"
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "loop_pool", "worker", f"worker_tasks:{target}"),
                    *("--app-dir", str(HERE), *map(str, options)),
                ],
                stdout=subprocess.DEVNULL,
                stderr=output,
                text=True,
                env={
                    **os.environ,
                    "NATS_URL": self.url,
                    "STREAM": self.stream,
                    "FOLDER": str(self.folder),
                    "MEET": str(meet),
                    "ACK_WAIT": str(self.ack_wait),
                },
            )
        self._started.append(process)
        return process

    def log(self, number: int = 0) -> str:
        return (self.folder / f"log{number}").read_text()

    def logs(self, text: str, number: int = 0) -> None:
        wait_for(lambda: text in self.log(number), f"{text!r} in the log")

    def journal(self, what: str) -> list[list[str]]:
        """What tasks have written down: words, process, loop.

        A line that is being written may be seen in part: one that goes over the end of a page.
        """
        try:
            whole, _, _ = (self.folder / "journal").read_text().rpartition("\n")
        except FileNotFoundError:
            return []
        lines = whole.splitlines()
        return [words for line in lines if (words := line.split())[0] == what]

    def begun(self, count: int, process: subprocess.Popen[str]) -> set[int]:
        """Wait until a worker has begun that many tasks that wait; return their numbers."""

        def numbers() -> set[int]:
            rows = self.journal("begin")
            return {int(number) for _, number, pid, _ in rows if int(pid) == process.pid}

        wait_for(lambda: len(numbers()) >= count, f"{count} tasks begun\n{self.log()}")
        return numbers()

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def with_broker[T](self, use: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            broker = worker_tasks.make(self.url, self.stream, self.ack_wait)
            async with asyncio.timeout(HANG):
                await broker.startup()
                try:
                    return await use(broker)
                finally:
                    await broker.shutdown()

        return asyncio.run(main())

    def send(self, *calls: tuple[Any, ...], **labels: Any) -> list[str]:
        """Send tasks, each given as its name and arguments; return their ids."""

        async def use(broker: Any) -> list[str]:
            kickers = [AsyncKicker[Any, Any](name, broker, dict(labels)) for name, *_ in calls]
            sent = [
                await kicker.kiq(*arguments)
                for kicker, (_, *arguments) in zip(kickers, calls, strict=True)
            ]
            return [task.task_id for task in sent]

        return self.with_broker(use)

    def results(self, ids: Sequence[str]) -> list[TaskiqResult[Any]]:
        async def use(broker: Any) -> list[TaskiqResult[Any]]:
            tasks = [AsyncTaskiqTask[Any](each, broker.result_backend) for each in ids]
            return [await task.wait_result(check_interval=0.01) for task in tasks]

        return self.with_broker(use)

    def call(self, *calls: tuple[Any, ...], **labels: Any) -> list[TaskiqResult[Any]]:
        return self.results(self.send(*calls, **labels))

    def counts(self) -> tuple[int, int, int]:
        """Messages ever sent; delivered and not acknowledged; not delivered."""

        async def use(broker: Any) -> tuple[int, int, int]:
            sent = (await broker.js.stream_info(self.stream)).state.last_seq
            consumer = await broker.js.consumer_info(self.stream, self.stream)
            return sent, consumer.num_ack_pending, consumer.num_pending

        return self.with_broker(use)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def bench(url: str, tmp_path: Path) -> Iterator[Bench]:
    with Bench(url, tmp_path) as bench:
        yield bench


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(HANG)


# What runs where


@pytest.mark.parametrize(("loops", "target"), [(2, "broker"), (4, "broker"), (3, "factory")])
def test_tasks_are_divided_over_the_loops(bench: Bench, loops: int, target: str) -> None:
    """Each loop takes one at a time, and the tasks wait for each other."""
    worker = bench.worker("--loops", loops, "--max-async-tasks", 1, target=target, meet=loops)
    results = [result.return_value for result in bench.call(*[("meet",)] * loops)]
    names = {f"loop-pool-{number}" for number in range(loops)}
    if target == "factory":
        assert set(results) == names
    else:
        assert {result["loop"] for result in results} == names
        for result in results:
            assert result["started on"] == result["loop"]
            assert (result["own"], result["worker"]) == (True, True)
            assert result["gil"] is not FREE_THREADED
    assert stop(worker) == 0
    assert bench.counts() == (loops, 0, 0)


def test_the_broker_of_each_loop_is_started_and_shut_down_once(bench: Bench) -> None:
    worker = bench.worker("--loops", 3)
    bench.logs("receiving tasks on 3 loops (8 tasks registered)")
    assert stop(worker) == 0
    expected = [[str(worker.pid), f"loop-pool-{number}"] for number in range(3)]
    for event in ("startup", "shutdown"):
        assert sorted(words[1:] for words in bench.journal(event)) == expected
    for number in range(3):
        assert f"[loop-pool-{number}] Listening started." in bench.log()


def test_results_and_exceptions_come_back(bench: Bench) -> None:
    bench.worker("--loops", 2)
    number, blocking, failed = bench.call(("double", 4), ("blocking", "5"), ("fail", "no luck"))
    assert number.return_value == 8
    name, value = blocking.return_value
    assert (name.startswith("loop-pool-task"), value) == (True, 10)
    assert failed.is_err
    assert (type(failed.error), str(failed.error)) == (ValueError, "no luck")


def test_a_retried_task_ends(bench: Bench) -> None:
    bench.worker("--loops", 2)
    results = bench.call(*[("flaky",)] * 10, retry_on_error=True, max_retries=5)
    assert [result.return_value for result in results] == [3] * 10


def test_a_task_sends_others_by_their_names_on_any_loop(bench: Bench) -> None:
    bench.worker("--loops", 4)
    results = bench.call(*(("send", number) for number in range(20)))
    assert [result.return_value for result in results] == [2 * number for number in range(20)]


# What is lost: nothing


def test_a_killed_worker_loses_no_task(bench: Bench) -> None:
    """Of two workers that share the queue one is killed while its tasks are under way."""
    count, each = 300, 20
    bench.ack_wait = 3.0
    options = ("--loops", 2, "--max-async-tasks", each // 2)
    killed, other = bench.worker(*options), bench.worker(*options)
    ids = bench.send(*(("wait", number) for number in range(count)))
    in_mid_work = bench.begun(each, killed)
    bench.begun(each, other)
    killed.kill()
    killed.wait()
    bench.open_gate()

    def ended() -> Counter[int]:
        rows = bench.journal("end")
        return Counter(int(number) for _, number, pid, _ in rows if int(pid) == other.pid)

    wait_for(lambda: len(ended()) == count, f"all tasks end\n{bench.log(1)}")
    assert len(in_mid_work) == each
    assert not [row for row in bench.journal("end") if int(row[2]) == killed.pid]
    twice = {number for number in in_mid_work if number in bench.begun(count, other)}
    assert twice == in_mid_work
    results = bench.results(ids)
    assert [result.return_value for result in results] == list(range(count))
    assert stop(other) == 0
    assert bench.counts() == (count, 0, 0)


def test_sigterm_lets_tasks_end(bench: Bench) -> None:
    worker = bench.worker("--loops", 2, "--max-async-tasks", 2)
    ids = bench.send(*(("wait", number) for number in range(6)))
    begun = bench.begun(4, worker)
    worker.send_signal(signal.SIGTERM)
    bench.logs("SIGTERM: receiving no more tasks")
    bench.open_gate()
    assert worker.wait(HANG) == 0, bench.log()
    assert {int(row[1]) for row in bench.journal("end")} == begun
    ended = [result.return_value for result in bench.results([ids[n] for n in sorted(begun)])]
    assert ended == sorted(begun)
    assert len(bench.journal("shutdown")) == 2


def test_what_does_not_end_is_named_and_delivered_again(bench: Bench) -> None:
    bench.ack_wait = 1.0
    worker = bench.worker("--loops", 2, "--wait-tasks-timeout", 0.1)
    ids = bench.send(("wait", 1), ("wait", 2), retry_on_error=True)
    bench.begun(2, worker)
    assert stop(worker) == 1
    for each in ids:
        said = f"wait ({each}) did not end in 0.1 s: it was not acknowledged, so it is delivered"
        assert said in bench.log()
    assert len(bench.journal("shutdown")) == 2
    sent, unacknowledged, undelivered = bench.counts()
    assert sent == 2  # it was not sent again, though its middleware does so with what fails
    # One whose time is over may count as both, until the server delivers it again.
    assert unacknowledged + undelivered >= 2
    bench.open_gate()
    again = bench.worker("--loops", 2)
    assert [result.return_value for result in bench.results(ids)] == [1, 2]
    assert stop(again) == 0


def test_what_was_acknowledged_before_is_said_to_be_lost(bench: Bench) -> None:
    worker = bench.worker("--wait-tasks-timeout", 0, "--ack-type", "when_received")
    bench.send(("wait", 1))
    bench.begun(1, worker)
    assert stop(worker) == 1
    assert "did not end in 0 s: it was acknowledged, so it is not delivered again" in bench.log()
    assert bench.counts() == (1, 0, 0)


def test_a_synchronous_task_does_not_hold_up_the_end(bench: Bench) -> None:
    worker = bench.worker("--loops", 2, "--wait-tasks-timeout", 0.1)
    bench.send(("block",))
    bench.begun(1, worker)
    assert stop(worker) == 1
    assert (
        "a synchronous task is still running: the process exits without waiting for it"
        in bench.log()
    )
    assert sum(bench.counts()[1:]) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(bench: Bench, number: int, code: int) -> None:
    worker = bench.worker("--loops", 2)
    bench.send(("wait", 1))
    bench.begun(1, worker)
    worker.send_signal(number)
    bench.logs("receiving no more tasks")
    assert stop(worker, number) == code
    assert "a second signal: the process ends at once" in bench.log()
    assert len(bench.journal("shutdown")) < 2  # not that of the loop with the task


def test_ctrl_c(bench: Bench) -> None:
    worker = bench.worker("--loops", 2)
    bench.logs("receiving tasks on ")
    assert stop(worker, signal.SIGINT) == 130
    assert len(bench.journal("shutdown")) == 2
    assert "Traceback" not in bench.log()


# What fails


@pytest.fixture
def no_server(tmp_path: Path) -> Iterator[Bench]:
    with Bench(f"nats://127.0.0.1:{services.free_port()}", tmp_path) as bench:
        yield bench


def test_a_server_that_is_not_there(no_server: Bench) -> None:
    worker = no_server.worker("--loops", 2, target="no_retry")
    assert worker.wait(HANG) == 1
    assert "loop-pool-0: the broker failed to start" in no_server.log()
    assert "loop-pool-1" not in no_server.log()


def test_sigterm_while_it_waits_for_a_server(no_server: Bench) -> None:
    worker = no_server.worker("--loops", 2)
    no_server.logs("encountered error")
    assert stop(worker) == 0, no_server.log()


def test_a_receiver_that_fails_ends_the_worker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with services.nats() as url:
            bench = stack.enter_context(Bench(url, tmp_path))
            worker = bench.worker("--loops", 2, target="no_retry")
            bench.logs("receiving tasks on 2 loops")
        assert worker.wait(HANG) == 1
    assert "the receiver ended" in bench.log()


def test_a_broker_that_does_not_shut_down_is_named(bench: Bench) -> None:
    worker = bench.worker("--loops", 2, "--shutdown-timeout", 0.1, target="sticky")
    bench.logs("receiving tasks on 2 loops")
    assert stop(worker) == 1
    for number in range(2):
        assert f"loop-pool-{number}: the broker did not shut down in 0.1 s" in bench.log()
