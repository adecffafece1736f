"""The pool of ``loop-pool worker``: a taskiq receiver on each loop, from start to shutdown.

In: one broker per loop, which is started, used and shut down on that loop only. Loop 0's broker
starts first and creates what they share: the stream, the consumer. Shutdown, after SIGTERM, Ctrl-C
or a failed receiver: stop receiving; wait ``wait_tasks_timeout`` for running tasks; log and cancel
the rest, which are not acknowledged and so delivered again; shut down the brokers and the pool. A
second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver

from .._pool.grace import GRACE
from .._pool.pool import current_pool
from .._pool.runner import run
from .._pool.spawn import error_of, spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from taskiq import AckableMessage, AsyncBroker, TaskiqMessage, TaskiqResult
    from taskiq.acks import AckController

    from .._loop.event_loop import EventLoop
    from .._pool.spawn import PoolTask
    from .brokers import Brokers

logger = logging.getLogger("loop_pool")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the receivers are to do."""

    ack_type: str = "when_saved"
    """A value of ``taskiq.AcknowledgeType``."""
    max_async_tasks: int = 100
    """Tasks at the same time, on each loop."""
    max_prefetch: int = 0
    """Tasks that are received beyond those, on each loop."""
    max_threads: int | None = None
    """Threads for synchronous tasks, of all loops together; None: Python's default."""
    parse: bool = True
    propagate_errors: bool = True
    wait_tasks_timeout: float | None = 30.0
    """Seconds; None: no limit."""
    shutdown_timeout: float | None = 5.0
    """Seconds; None: no limit."""


class Threads(ThreadPoolExecutor):
    """The threads for synchronous tasks, which know whether one is still at work."""

    def __init__(self, most: int | None) -> None:
        super().__init__(most, thread_name_prefix="loop-pool-task")
        self._jobs: set[Future[Any]] = set()

    def submit[T](self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As ``Executor.submit``. Any thread."""
        job = super().submit(fn, *args, **kwargs)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def busy(self) -> bool:
        """Whether a task runs in any of the threads."""
        return any(job.running() for job in list(self._jobs))


class TrackingReceiver(Receiver):
    """taskiq's receiver, which knows its tasks under way and can give them up unacknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.under_way: dict[asyncio.Task[Any], tuple[TaskiqMessage, AckController | None] | None]
        self.under_way = {}
        """None: it does not say yet which task it is."""
        self._given_up = False

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        """As ``Receiver.callback``: parse a message, run its task, acknowledge it."""
        task = asyncio.current_task()
        assert task is not None
        self.under_way[task] = None
        try:
            await super().callback(message, raise_err)
        finally:
            del self.under_way[task]

    async def run_task(
        self,
        target: Callable[..., Any],
        message: TaskiqMessage,
        ack_controller: AckController | None = None,
    ) -> TaskiqResult[Any]:
        """As ``Receiver.run_task``, but for what was given up: that has no result."""
        task = asyncio.current_task()
        assert task is not None
        self.under_way[task] = (message, ack_controller)
        result = await super().run_task(target, message, ack_controller)
        if self._given_up:  # the receiver made a result of the cancellation
            raise asyncio.CancelledError
        return result

    async def give_up(self, timeout: float | None) -> None:
        """Cancel the tasks under way and wait for them, for so many seconds at most."""
        self._given_up = True
        # They have not failed: a middleware that retries failed tasks would run them twice.
        middlewares, self.broker.middlewares = self.broker.middlewares, []
        try:
            tasks = list(self.under_way)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=timeout)
        finally:
            self.broker.middlewares = middlewares


class LoopReceiver:
    """The broker of one loop, and its receiver. Used on that loop, but for :meth:`stop`."""

    def __init__(
        self,
        name: str,
        loop: EventLoop,
        broker: AsyncBroker,
        settings: Settings,
        threads: Threads,
    ) -> None:
        self.name = name
        self.loop = loop
        self.failed = False
        """Whether something went wrong, or a task did not end in time. It has been logged."""
        self.started = False
        self._broker = broker
        self._settings = settings
        self._threads = threads
        self._finish = asyncio.Event()

    async def start(self) -> None:
        """Start the broker."""
        await self._broker.startup()
        self.started = True

    def stop(self) -> None:
        """Take no more tasks. Any thread."""
        self.loop.call_soon_threadsafe(self._finish.set)

    async def serve(self, ended: Callable[[], object]) -> None:
        """Receive and run tasks until told to stop; then shut the broker down.

        Args:
            ended: called at once if the receiver ends although it was not told to.
        """
        try:
            await self._receive(ended)
        finally:
            await self.close()

    async def _receive(self, ended: Callable[[], object]) -> None:
        settings = self._settings
        receiver = TrackingReceiver(
            broker=self._broker,
            executor=self._threads,
            validate_params=settings.parse,
            max_async_tasks=settings.max_async_tasks,
            max_prefetch=settings.max_prefetch,
            propagate_exceptions=settings.propagate_errors,
            run_startup=False,
            ack_type=AcknowledgeType(settings.ack_type),
        )
        listening = asyncio.create_task(receiver.listen(self._finish), name="receiver")
        stopping = asyncio.create_task(self._finish.wait(), name="stop requested")
        try:
            await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                self._fail("the receiver ended", exc_info=listening.exception())
                ended()
            await self._drain(receiver, listening)
        finally:
            stopping.cancel()

    async def _drain(self, receiver: TrackingReceiver, listening: asyncio.Task[None]) -> None:
        """Wait for what is under way, and give up what does not end in time."""
        timeout = self._settings.wait_tasks_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        stopping = self._finish.is_set()
        await asyncio.wait({listening}, timeout=timeout)
        if receiver.under_way:  # a receiver that failed does not wait for its tasks
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait(list(receiver.under_way), timeout=rest)
        for entry in receiver.under_way.values():
            self._fail(_name_of(entry, timeout))
        if not listening.done():
            listening.cancel()
            await asyncio.wait({listening}, timeout=self._settings.shutdown_timeout)
        await receiver.give_up(self._settings.shutdown_timeout)
        if stopping and listening.done() and not listening.cancelled():
            error = listening.exception()
            if error is not None:
                self._fail("the receiver did not end well", exc_info=error)

    async def close(self) -> None:
        """Shut the broker down."""
        timeout = self._settings.shutdown_timeout
        try:
            async with asyncio.timeout(timeout) as limit:
                await self._broker.shutdown()
        except Exception as error:
            if limit.expired():
                self._fail(f"the broker did not shut down in {timeout:g} s")
            else:
                self._fail("the broker did not shut down", exc_info=error)

    def _fail(self, what: str, exc_info: BaseException | None = None) -> None:
        self.failed = True
        logger.error("%s: %s", self.name, what, exc_info=exc_info)


def _name_of(
    entry: tuple[TaskiqMessage, AckController | None] | None, timeout: float | None
) -> str:
    """Say which task did not end in time, and what becomes of it."""
    if entry is None:
        return f"a task did not begin in {timeout:g} s"
    message, ack = entry
    if ack is None or not ack.is_ackable:
        fate = "this broker does not deliver it again"
    elif ack.is_acked:
        fate = "it was acknowledged, so it is not delivered again"
    else:
        fate = "it was not acknowledged, so it is delivered again"
    return f"{message.task_name} ({message.task_id}) did not end in {timeout:g} s: {fate}"


class Worker:
    """All of it. Made and run in the main thread."""

    def __init__(self, target: str, brokers: Brokers, settings: Settings) -> None:
        self._target = target
        self._brokers = brokers
        self._settings = settings
        self._threads = Threads(settings.max_threads)
        self._failed = False
        self._signal: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event

    def run(self) -> int:
        """Run until a signal comes, or something fails.

        Returns:
            The exit code: 0, 1 if something failed or a task did not end in time, 130 after Ctrl-C.
            The process ends here instead, with 1, if a thread is still inside a synchronous task.
        """
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        thread = threading.current_thread()
        name, thread.name = thread.name, "loop-pool-0"  # for the log
        try:
            run(
                self._main(),
                loops=len(self._brokers.each),
                shutdown_timeout=self._settings.shutdown_timeout,
            )
            self._threads.shutdown(wait=False, cancel_futures=True)
            if self._threads.busy():
                logger.error(
                    "a synchronous task is still running: the process exits without waiting for it"
                )
                logging.shutdown()
                sys.stdout.flush()
                os._exit(1)
        finally:
            thread.name = name
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failed:
            return 1
        return 128 + signal.SIGINT if self._signal == signal.SIGINT else 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """In the main thread, between any two steps of what runs there."""
        if self._signal is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"loop-pool: a second signal: the process ends at once\n")
            os._exit(128 + number)
        self._signal = number
        self._stop()

    def _stop(self) -> None:
        """Begin the end. Any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _main(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._signal is not None:
            self._stopping.set()
        pool = current_pool()
        receivers = []
        for stats, loop, broker in zip(pool.stats(), pool.loops, self._brokers.each, strict=True):
            self._brokers.give(loop, broker)
            receivers.append(LoopReceiver(stats.name, loop, broker, self._settings, self._threads))
        if await self._start(receivers[:1]) and await self._start(receivers[1:]):
            await self._serve(receivers)
        else:
            closing = {
                spawn(each.close(), loop=each.loop): each for each in receivers if each.started
            }
            await self._wait(closing, self._settings.shutdown_timeout)
        self._failed = self._failed or any(each.failed for each in receivers)

    async def _start(self, receivers: list[LoopReceiver]) -> bool:
        """Start brokers; return whether all have and nobody said stop."""
        starting = {spawn(each.start(), loop=each.loop): each for each in receivers}
        stopping = asyncio.create_task(self._stopping.wait())
        waiting: set[Any] = set(starting)
        while waiting and not stopping.done():
            done, _ = await asyncio.wait({stopping, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting -= done
            for task in done - {stopping}:
                error = error_of(task)
                if error is not None:
                    self._failed = True
                    name = starting[task].name
                    logger.error("%s: the broker failed to start", name, exc_info=error)
                    self._stopping.set()
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE)
        stopping.cancel()
        return not self._stopping.is_set()

    async def _serve(self, receivers: list[LoopReceiver]) -> None:
        serving = {
            spawn(each.serve(self._stop), loop=each.loop, name="worker"): each for each in receivers
        }
        tasks = len(self._brokers.each[0].get_all_tasks())
        logger.info(
            "%s: receiving tasks on %d loops (%d tasks registered)",
            self._target,
            len(receivers),
            tasks,
        )
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopping, *serving}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        stopping.cancel()
        why = "" if self._signal is None else f"{signal.Signals(self._signal).name}: "
        logger.info("%sreceiving no more tasks; waiting for running ones", why)
        for each in receivers:
            each.stop()
        wait, close = self._settings.wait_tasks_timeout, self._settings.shutdown_timeout
        limit = None if wait is None or close is None else wait + 3 * close
        await self._wait(serving, limit)

    async def _wait(self, tasks: dict[PoolTask[None], LoopReceiver], timeout: float | None) -> None:
        """Wait for tasks on other loops, which keep their own deadlines unless they are stuck."""
        if not tasks:
            return
        limit = None if timeout is None else timeout + GRACE
        done, pending = await asyncio.wait(tasks, timeout=limit)  # type: ignore[type-var]
        for task in pending:
            self._failed = True
            logger.error("%s: the loop does not respond and may be stuck", tasks[task].name)
        for task in done:
            error = error_of(task)
            if error is not None:
                self._failed = True
                logger.error("%s: the worker failed", tasks[task].name, exc_info=error)
