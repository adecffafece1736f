"""The tasks that the worker's tests send: a module as a user has it, for `loop-pool worker`.

The environment says where its server is (`NATS_URL`), which stream it uses (`STREAM`), on how many
loops tasks meet (`MEET`), after how many seconds an unacknowledged task is delivered again
(`ACK_WAIT`), and the folder in which tasks write down what they do and wait for a file named `gate`
(`FOLDER`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nats.js.api import ConsumerConfig
from taskiq import AsyncBroker, Context, SimpleRetryMiddleware, TaskiqDepends, TaskiqEvents
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

HANG = 30.0
NO_RETRY = {
    "allow_reconnect": False,
    "connect_timeout": 1,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0.01,
}
"""Options of a connection that gives up at once."""


def make(url: str, stream: str, ack_wait: float, **options: Any) -> AsyncBroker:
    """The broker that tests and worker use."""
    broker = PullBasedJetStreamBroker(
        url,
        subject=f"{stream}.tasks",
        stream_name=stream,
        durable=stream,
        consumer_config=ConsumerConfig(durable_name=stream, ack_wait=ack_wait),
        **options,
    )
    results: Any = NATSObjectStoreResultBackend(url, bucket_name=f"{stream}_results", **options)
    return broker.with_result_backend(results).with_middlewares(SimpleRetryMiddleware())


URL, STREAM = os.environ.get("NATS_URL", "nats://127.0.0.1:1"), os.environ.get("STREAM", "none")
ACK_WAIT = float(os.environ.get("ACK_WAIT", "1"))
broker = make(URL, STREAM, ACK_WAIT)
no_retry = make(URL, STREAM, ACK_WAIT, **NO_RETRY)
sticky = make(URL, STREAM, ACK_WAIT)
meeting = threading.Barrier(int(os.environ.get("MEET", "1")))
folder = Path(os.environ.get("FOLDER", "."))


def factory() -> AsyncBroker:
    """A broker with a task of its own."""
    made = make(URL, STREAM, ACK_WAIT)

    async def meet() -> str:
        await asyncio.to_thread(meeting.wait, HANG)
        return threading.current_thread().name

    made.register_task(meet, task_name="meet")
    return made


def note(*words: object) -> None:
    """Write down a line. What is written once is written whole."""
    line = " ".join(map(str, (*words, os.getpid(), threading.current_thread().name)))
    with (folder / "journal").open("ab", buffering=0) as journal:
        journal.write(f"{line}\n".encode())


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def started(state: Any) -> None:
    state.where = threading.current_thread().name
    note("startup")


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def ended(_: Any) -> None:
    note("shutdown")


@sticky.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def never_ends(_: Any) -> None:
    await asyncio.Event().wait()


@broker.task(task_name="meet")
async def meet(context: Context = TaskiqDepends()) -> dict[str, Any]:  # noqa: B008
    """Run on all loops at the same time, or never end."""
    await asyncio.to_thread(meeting.wait, HANG)
    own: Any = context.broker
    seen: Any = broker
    return {
        "loop": threading.current_thread().name,
        "started on": context.state.where,
        "own": seen.client is own.client and seen.state is own.state,
        "worker": own.is_worker_process and seen.is_worker_process,
        "gil": sys._is_gil_enabled(),
    }


@broker.task(task_name="double")
async def double(number: int) -> int:
    return 2 * number


@broker.task(task_name="blocking")
def blocking(number: int) -> tuple[str, int]:
    return threading.current_thread().name, 2 * number


@broker.task(task_name="fail")
async def fail(text: str) -> None:
    raise ValueError(text)


@broker.task(task_name="flaky", retry_on_error=True, max_retries=5)
async def flaky(context: Context = TaskiqDepends()) -> int:  # noqa: B008
    tries = int(context.message.labels.get("_retries", 0))
    if tries < 3:
        raise ValueError(tries)
    return tries


@broker.task(task_name="send")
async def send(number: int) -> int:
    """Send another task by its name in this module, and wait for it."""
    sent = await double.kiq(number)
    result = await sent.wait_result(check_interval=0.01, timeout=HANG)
    return result.return_value


@broker.task(task_name="wait", retry_on_error=True)
async def wait(number: int) -> int:
    """Wait for the gate."""
    note("begin", number)
    while not (folder / "gate").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    note("end", number)
    return number


@broker.task(task_name="block")
def block() -> None:
    """Block a thread until the gate is there."""
    note("begin", 0)
    while not (folder / "gate").exists():
        time.sleep(0.01)
