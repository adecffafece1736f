"""Takes a snapshot of a pool: figures, tasks, stacks.

Each loop reports its own tasks, in its thread, where none of them is running (``task_view``), in
slices between which other callbacks run. If a loop does not respond in time, its tasks are reported
without stacks, and its thread is sampled from outside (``_pool.stuck_stacks``).

In: the pool. Out: plain dictionaries for JSON. Must never wait for a loop without a time limit.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, final

from .. import _core
from .._loop import task_registry
from .._pool.pool import _stats_of
from .._pool.stuck_stacks import StackSample, Watcher, look_at
from . import task_view
from .task_view import Seen, TaskReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._loop.event_loop import EventLoop
    from .._pool.member import _Member
    from .._pool.pool import Pool
    from .._pool.spawn import PoolTask

LIMIT = 10_000
"""Tasks of one loop that a snapshot tells about at most."""

PROMPT = 0.05
"""Seconds within which a loop that is not held up runs a callback."""

ANSWER_TIMEOUT = 0.25
"""Seconds that a snapshot waits for what the loops tell about their tasks."""

SLICE = 0.001
"""Seconds for which a loop tells about its tasks before its other callbacks have their turn."""


@final
class Observer:
    """Looks at one pool. Made in the thread of loop 0; used by one thread, which may be another."""

    def __init__(self, pool: Pool) -> None:
        here = threading.current_thread()
        self._probes = [_Probe(member, member.thread or here) for member in pool._members]
        self._began = time.monotonic()
        for probe in self._probes:
            probe.post(queue.SimpleQueue())

    def stats(self) -> dict[str, Any]:
        """Return the numbers of the process and of each loop.

        Waits for :data:`PROMPT` at most, and where loops are stuck for the looks at them.
        """
        _Probe.ask(self._probes)
        stuck = [probe for probe in self._probes if probe.stuck()]
        samples = _look_at(stuck)
        return {
            "pid": os.getpid(),
            "loop_pool": _core.__version__,
            "python": platform.python_version(),
            "gil": sys._is_gil_enabled(),
            "time": time.monotonic(),
            "uptime": time.monotonic() - self._began,
            "loops": [probe.numbers(samples.get(probe)) for probe in self._probes],
        }

    def snapshot(self, loop: int | None = None, limit: int = LIMIT) -> dict[str, Any]:
        """Return the numbers, and the tasks with what they wait for.

        Args:
            loop: the index of the loop whose tasks are reported; None: all loops.
            limit: how many tasks of each loop are reported, the oldest first.

        Raises:
            IndexError: there is no such loop.
        """
        before = time.thread_time()
        chosen = self._probes if loop is None else [self._probes[loop]]
        answer = self.stats()
        visits = _visit_all([probe.member for probe in chosen], limit)
        late = {
            probe: visit for probe, visit in zip(chosen, visits, strict=True) if visit.take_over()
        }
        samples = _look_at([probe for probe in late if probe.member.loop.is_running()])
        for probe, visit in late.items():
            sample = samples.get(probe)
            numbers = answer["loops"][probe.member.index]
            numbers["stack"] = [] if sample is None else sample.stack
            numbers["stuck"] = probe.stuck()
            if sample is not None:
                numbers["task"] = sample.name
            visit.report_from_outside(sample)
        for numbers in answer["loops"]:
            numbers.setdefault("stack", None)
        reports: list[TaskReport] = []
        for visit in visits:
            own = visit.reports.copy()
            answer["loops"][visit.member.index]["omitted"] = max(0, visit.count - len(own))
            reports += own
        _tie(reports, _identify(reports))
        answer["tasks"] = [each.outline for each in reports]
        # CPU seconds of this reading, in the loops and in this thread.
        answer["cost"] = sum(visit.cost for visit in visits) + time.thread_time() - before
        return answer


@final
class _Probe:
    """Measures how long one loop makes a callback wait that another thread posts to it."""

    def __init__(self, member: _Member, thread: threading.Thread) -> None:
        self.member = member
        self.thread = thread
        self.watcher = Watcher(member)
        self._posted: float | None = None
        """When the callback was posted that has not run yet."""
        self._inside = 0
        """The number of the callback that the loop was in then."""
        self._delay = 0.0
        self._task: str | None = None
        """The task whose step the loop was in when it was last asked."""
        self._origin: float | None = None
        """When the loop's time began: it has spent busy and idle what has passed since."""

    @staticmethod
    def ask(probes: list[_Probe]) -> None:
        """Ask each loop; wait until all have answered, or :data:`PROMPT` has passed."""
        answers: queue.SimpleQueue[None] = queue.SimpleQueue()
        _wait_for(answers, sum(probe.post(answers) for probe in probes), PROMPT)

    def post(self, answers: queue.SimpleQueue[None]) -> bool:
        """Ask the loop, unless it still owes an answer; say whether it was asked."""
        loop = self.member.loop
        if not loop.is_running():
            self._posted = None
            return False
        if self._posted is not None:
            return False
        self._inside = self.watcher.callback()
        task = task_registry.current_task(loop)
        self._posted = posted = time.monotonic()
        try:
            loop.call_soon_threadsafe(self._answer, posted, task, answers)
        except RuntimeError:  # it has closed meanwhile
            self._posted = None
            return False
        return True

    def _answer(self, posted: float, task: Any, answers: queue.SimpleQueue[None]) -> None:
        """On the loop's thread, where no task is in a step that its methods would wait for."""
        if self._posted != posted:  # asked before the loop's last run ended
            return
        now = time.monotonic()
        self._delay = now - posted
        self._origin = now - self._accounted()
        self.watcher.prepare()
        self._task = None if task is None else _name_of(task)
        self._posted = None
        answers.put(None)

    def _accounted(self) -> float:
        seen = self.member.loop._stats()
        return (seen["busy_ns"] + seen["idle_ns"]) / 1e9

    def stuck(self) -> float:
        """For how many seconds the loop has been inside one callback; 0: not for long.

        Exact to a turn of the loop, and from :data:`PROMPT` on.
        """
        posted, now = self._posted, time.monotonic()
        if posted is None or now - posted < PROMPT or not self.member.loop.is_running():
            return 0.0
        if self.watcher.callback() != self._inside:
            return 0.0  # It has got on, but not yet to us.
        # It was woken, so it is not in the kernel's wait: all that it has not yet accounted for,
        # it has spent where it is now.
        begun = posted if self._origin is None else self._origin + self._accounted()
        return max(now - posted, now - begun)

    def numbers(self, sample: StackSample | None) -> dict[str, Any]:
        """Return what is known of the loop; ``sample``: what it is stuck in."""
        member = self.member
        posted = self._posted
        running = member.loop.is_running()
        lag = self._delay if posted is None else max(self._delay, time.monotonic() - posted)
        stuck = self.stuck()
        task = self._task if posted is None else None
        return {
            **_stats_of(member)._asdict(),
            "index": member.index,
            "thread": self.thread.native_id,
            "running": running,
            "lag": lag if running else None,
            "stuck": stuck,
            "task": task if sample is None else sample.name,
        }


def _wait_for(answers: queue.SimpleQueue[Any], count: int, limit: float) -> None:
    """Wait for so many answers, or until ``limit`` seconds have passed."""
    deadline = time.monotonic() + limit
    try:
        for _ in range(count):
            answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        pass


def _name_of(task: Any) -> str:
    try:
        return str(task.get_name())
    except Exception:  # a task of another make
        return type(task).__name__


@final
class _Visit:
    """What one loop tells about its tasks."""

    def __init__(self, member: _Member, limit: int, answers: queue.SimpleQueue[None]) -> None:
        self.member = member
        self.reports: list[TaskReport] = []
        self.count = 0
        """Tasks that the loop has."""
        self.cost = 0.0
        """Processor seconds that the loop spent on it."""
        self.abandoned = False
        """Nobody waits any more for what has not been reported."""
        self._claim = threading.Lock()
        """Taken once, never waited for: by the loop when it begins, or by who gives up on it."""
        self._limit = limit
        self._answers = answers
        # The oldest comes last. Owned by the holder of the claim.
        self._rest = _tasks_of(member)
        self.count = len(self._rest)

    # -- on the loop's thread ---------------------------------------------------------------------

    def begin(self) -> None:
        """Tell about the first tasks."""
        if self._claim.acquire(blocking=False):
            self._go_on()

    def _go_on(self) -> None:
        """Tell about tasks for the length of a slice."""
        if self.abandoned:
            self._rest.clear()
            return
        before, end = time.thread_time(), time.monotonic() + SLICE
        while self._rest and len(self.reports) < self._limit and time.monotonic() < end:
            self._add(task_view.look(self._rest.pop()))
        more = self._rest and len(self.reports) < self._limit
        self.cost += time.thread_time() - before
        if more:
            self.member.loop.call_soon(self._go_on)
        else:
            self._rest.clear()
            self._answers.put(None)

    def _add(self, report: TaskReport | None) -> None:
        if report is None:
            self.count -= 1
        else:
            self.reports.append(report)

    # -- on the observer's ------------------------------------------------------------------------

    def take_over(self) -> bool:
        """Return whether the loop has not begun, and will not."""
        return self._claim.acquire(blocking=False)

    def report_from_outside(self, sample: StackSample | None) -> None:
        """Tell about the tasks of a loop that does not get to it.

        Args:
            sample: what it is in, if that is known.
        """
        loop = self.member.loop
        while self._rest and len(self.reports) < self._limit:
            seen = self._rest.pop()
            if sample is not None and id(seen.task) == sample.task:
                report = task_view.outline(
                    seen, "running", name=sample.name, coro=sample.coro_name, stack=sample.stack
                )
                self._add(TaskReport(report, sample.coro))
            elif task_registry.current_task(loop) is seen.task:
                # Its name is available only after its step has ended.
                self._add(TaskReport(task_view.outline(seen, "running", name=None, coro=None)))
            else:
                self._add(task_view.glance(seen))
        self._rest.clear()


def _tasks_of(member: _Member) -> list[Seen]:
    """Return the tasks of a loop, done ones among them, the oldest last. Any thread."""
    loop = member.loop
    spawned = {id(task) for task in loop._spawned()}
    found = {}
    for task, created_ns, foreign in _core._tasks(loop):
        origin = "registered" if foreign else "create_task"
        origin = "spawn" if id(task) in spawned else origin
        found[id(task)] = Seen(task, member.index, created_ns / 1e9, origin)
    return sorted(found.values(), key=lambda seen: seen.created, reverse=True)


def _visit_all(members: list[_Member], limit: int) -> list[_Visit]:
    """Let each loop tell about its tasks, as far as it gets within :data:`ANSWER_TIMEOUT`."""
    answers: queue.SimpleQueue[None] = queue.SimpleQueue()
    visits = [_Visit(member, limit, answers) for member in members]
    posted = 0
    for visit in visits:
        try:
            if visit.member.loop.is_running():
                visit.member.loop.call_soon_threadsafe(visit.begin)
                posted += 1
        except RuntimeError:  # it has closed meanwhile
            continue
    _wait_for(answers, posted, ANSWER_TIMEOUT)
    for visit in visits:
        visit.abandoned = True
    return visits


def _look_at(probes: list[_Probe]) -> dict[_Probe, StackSample | None]:
    """Return what some loops are in that are held up."""
    if not probes:
        return {}
    return dict(zip(probes, look_at([probe.watcher for probe in probes]), strict=True))


def _identify(reports: Iterable[TaskReport]) -> dict[PoolTask[Any], tuple[int | None, str]]:
    """Return the coroutine and the name of each task of ``spawn`` that somebody waits for.

    Those of loops that do not answer in time are left out.
    """
    by_loop: dict[EventLoop, list[PoolTask[Any]]] = {}
    for pool_task in {each: None for one in reports for each in one.remote}:
        if (loop := pool_task.loop) is not None:
            by_loop.setdefault(loop, []).append(pool_task)
    found: dict[PoolTask[Any], tuple[int | None, str]] = {}
    answers: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ask(pool_tasks: list[PoolTask[Any]]) -> None:  # on their loop's thread
        for pool_task in pool_tasks:
            found[pool_task] = task_view.identify(pool_task)
        answers.put(None)

    posted = 0
    for loop, pool_tasks in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it has closed meanwhile
            loop.call_soon_threadsafe(ask, pool_tasks)
            posted += 1
    _wait_for(answers, posted, PROMPT)
    return found.copy()


def _tie(reports: Iterable[TaskReport], known: dict[PoolTask[Any], tuple[int | None, str]]) -> None:
    """Note in each task by which of the others it is awaited, and name those of other loops.

    Args:
        reports: the tasks.
        known: the coroutines and names of tasks of ``spawn``.
    """
    by_id = {each.outline["id"]: each for each in reports}
    by_coro = {each.coro: task for task, each in by_id.items() if each.coro is not None}
    pairs: set[tuple[int, int]] = set()
    for task, each in by_id.items():
        pairs.update((task, awaited) for awaited in each.awaits)
        pairs.update((awaiter, task) for awaiter in each.awaited_by)
        for pool_task in each.remote:
            coro, _ = known.get(pool_task, (None, ""))
            if coro in by_coro:
                pairs.add((task, by_coro[coro]))
        if each.waits_for_remote and each.remote[0] in known:
            _, name = known[each.remote[0]]
            place = task_view.place_of(each.remote[0])
            each.outline["state"] = f"waiting on task {name!r} {place}"
    for awaiter, awaited in sorted(pairs):
        if awaiter in by_id and awaited in by_id:
            by_id[awaited].outline["awaited_by"].append(awaiter)
