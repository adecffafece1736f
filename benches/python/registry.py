"""What the task registry costs: the pauses of a loop whose tasks others read, and its upkeep.

    python benches/python/registry.py [--rounds N] [--seconds S] [--loops N] [--readers N]
                                      [--tasks N] [--without FOLDER] [--json FILE]

**Pauses.** Each loop of a pool has tasks that wait. Loop 0 besides runs a callback that schedules
itself, makes a task that is suspended once, and notes how long ago it ran before. Meanwhile threads
read all loops as fast as they can: the current tasks and all tasks by `loop_pool`'s functions or by
asyncio's, or the current ones only. Threads that only make sets of that size tell what their use of
the processor does. On Linux loop 0 has a core for itself and everything else the others, as far as
there are any.

**Upkeep.** With `--without`, a folder with a `loop_pool` package that keeps no registry (the folder
`python` of another checkout, with its native module built), both are compared.

Each sample is a process of its own. The samples are taken in rounds (A B C, B C A, ...), so that a
change in the machine's load meets all of them; the ratios are of samples of the same round. A round
in which other processes used the machine is taken again, some times over, and if that does not help
the table says `DISTURBED` (Linux).
"""

from __future__ import annotations

import argparse
import array
import asyncio
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine
from workloads import WORKLOADS, LoopFactory, Sample, Stopwatch

import loop_pool

Samples = dict[str, list[Sample]]
"""Name -> one sample a round. Each has `others`: cores that other processes used meanwhile."""

ROUNDS = 9
SECONDS = 1.0
WARMUP_SECONDS = 0.2
SAMPLE_SECONDS = 120.0
"""A sample that takes longer, beyond the time it measures, has failed."""
TURNS_PER_SECOND = 2_000_000
"""More than a loop can make; so many gaps have room."""
DISTURBED_CORES = 0.1
"""What other processes may use of the machine in a sample of a good round."""
ATTEMPTS = 4
"""So many times the rounds that are asked for may be taken to get good ones."""
COST_OPERATIONS = 200_000
BATCH = 100
BASELINE = "busy threads"
WITH, WITHOUT = "with", "without"


# -- the readers -----------------------------------------------------------------------------------


def read_by_loop_pool(loops: Sequence[asyncio.AbstractEventLoop], _: int) -> None:
    """Read all tasks and each current one from loop_pool's registry."""
    for loop in loops:
        loop_pool.current_task(loop)
        loop_pool.all_tasks(loop)


def read_current(loops: Sequence[asyncio.AbstractEventLoop], _: int) -> None:
    """Read each current task from loop_pool's registry."""
    for loop in loops:
        loop_pool.current_task(loop)


def read_by_asyncio(loops: Sequence[asyncio.AbstractEventLoop], _: int) -> None:
    """Read the same by asyncio's functions."""
    for loop in loops:
        asyncio.current_task(loop)
        asyncio.all_tasks(loop)


def read_nothing(loops: Sequence[asyncio.AbstractEventLoop], tasks: int) -> None:
    """Make as many sets of as many elements, and read nothing."""
    for _ in loops:
        set(range(tasks))


READERS: dict[str, Callable[[Sequence[asyncio.AbstractEventLoop], int], None] | None] = {
    "no readers": None,
    BASELINE: read_nothing,
    "current only": read_current,
    "loop_pool": read_by_loop_pool,
    "asyncio": read_by_asyncio,
}


class Reading:
    """Threads that call a function again and again until the block ends."""

    def __init__(self, count: int, read: Callable[[], None]) -> None:
        """Prepare `count` threads."""
        self.reads = [0] * count
        self.failures: list[BaseException] = []
        self._read = read
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index,)) for index in range(count)
        ]

    def _run(self, index: int) -> None:
        try:
            while not self._over.is_set():
                self._read()
                self.reads[index] += 1
        except BaseException as error:
            self.failures.append(error)

    def __enter__(self) -> Reading:
        """Start them."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them; raise what one of them raised."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


class Others:
    """What other processes use of the machine while the block lasts, in `cores` (Linux; else 0)."""

    cores = 0.0

    def __enter__(self) -> Others:
        """Begin."""
        self._began, self._before = time.perf_counter(), self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        used = self._seconds() - self._before
        self.cores = max(used / (time.perf_counter() - self._began), 0.0)

    @staticmethod
    def _seconds() -> float:
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        except FileNotFoundError:
            return 0.0
        # "cpu user nice system idle iowait irq softirq steal ..."
        user, nice, system, _, _, irq, softirq, *_ = map(int, line.split()[1:])
        all_of_them = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return all_of_them - time.process_time()


# -- pauses, in a process for each sample ----------------------------------------------------------


class Watcher:
    """A callback that schedules itself and notes how long ago it ran before."""

    def __init__(self, seconds: float) -> None:
        """Watch the running loop for so long."""
        self.loop = asyncio.get_running_loop()
        self.over = self.loop.create_future()
        self.gaps = array.array("q", bytes(8 * int(seconds * TURNS_PER_SECOND)))
        self.turns = 0
        self._task: asyncio.Task[None] | None = None
        self._last = time.perf_counter_ns()
        self._end = self._last + int(seconds * 1e9)

    def run(self) -> None:
        """Take note, make a task, and run again in the next turn. Loop's thread."""
        now = time.perf_counter_ns()
        self.gaps[self.turns] = now - self._last
        self._last = now
        self.turns += 1
        if now >= self._end or self.turns == len(self.gaps):
            self.over.set_result(None)
            return
        self._task = self.loop.create_task(_suspended_once())
        self.loop.call_soon(self.run)


async def _suspended_once() -> None:
    await asyncio.sleep(0)


async def _park(tasks: int) -> list[asyncio.Task[bool]]:
    """Make tasks on the running loop that wait for ever, and let them begin."""
    parked = [asyncio.create_task(asyncio.Event().wait()) for _ in range(tasks)]
    await asyncio.sleep(0)
    return parked


async def _watch(
    readers: str, seconds: float, tasks: int, reader_count: int
) -> tuple[Watcher, float]:
    """Watch loop 0 while others read; gives also how often they read, for a second."""
    pool = loop_pool.current_pool()
    parked = [await loop_pool.spawn(_park(tasks), loop=loop) for loop in pool.loops]
    function = READERS[readers]
    read = functools.partial(function, pool.loops, tasks) if function else lambda: None
    with Reading(reader_count if function else 0, read) as reading:
        _pin_apart()
        for duration in (WARMUP_SECONDS, seconds):
            watcher = Watcher(duration)
            before, began = sum(reading.reads), time.perf_counter()
            watcher.loop.call_soon(watcher.run)
            await watcher.over
            rate = (sum(reading.reads) - before) / (time.perf_counter() - began)
    del parked
    return watcher, rate


def _pin_apart() -> None:
    """Give the calling thread a core for itself, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        return
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return
    for name in os.listdir("/proc/self/task"):
        mine = int(name) == threading.get_native_id()
        os.sched_setaffinity(int(name), {first} if mine else others)


def take_pauses(readers: str, seconds: float, loops: int, tasks: int, reader_count: int) -> Sample:
    """One sample: the gaps in nanoseconds, and how often was read."""
    gc.disable()
    with Others() as others:
        watcher, rate = loop_pool.run(_watch(readers, seconds, tasks, reader_count), loops=loops)
    gaps = sorted(watcher.gaps[: watcher.turns])
    return {
        "p50": gaps[len(gaps) // 2],
        "p99": gaps[len(gaps) * 99 // 100],
        "p99.9": gaps[len(gaps) * 999 // 1000],
        "longest": gaps[-1],
        "turns_per_second": watcher.turns / seconds,
        "reads_per_second": rate,
        "others": others.cores,
    }


# -- upkeep, in a process for each sample ----------------------------------------------------------


def create_suspended(factory: LoopFactory, operations: int) -> Sample:
    """As `create_await_batch`, of a coroutine that is suspended once by `sleep(0)`."""

    async def main() -> Sample:
        create_task = asyncio.get_running_loop().create_task
        with Stopwatch() as watch:
            for _ in range(operations // BATCH):
                tasks = [create_task(_suspended_once()) for _ in range(BATCH)]
                for task in tasks:
                    await task
        return watch.sample(operations // BATCH * BATCH)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


COSTS: dict[str, Callable[[LoopFactory, int], Sample]] = {
    "task that ends in its first step": WORKLOADS["create_await_batch"].take,
    "task that is suspended once": create_suspended,
    "step": WORKLOADS["switch"].take,
}


def take_costs() -> Sample:
    """One sample: CPU time in nanoseconds for one of each, the median of three."""
    gc.disable()
    sample = {}
    with Others() as others:
        for name, take in COSTS.items():
            take(loop_pool.new_event_loop, COST_OPERATIONS // 10)
            taken = [take(loop_pool.new_event_loop, COST_OPERATIONS) for _ in range(3)]
            sample[name] = statistics.median(each["cpu_ns"] / each["operations"] for each in taken)
    return {**sample, "others": others.cores}


# -- the parent ------------------------------------------------------------------------------------


def sample_elsewhere(arguments: Sequence[str], limit: float, folder: Path | None = None) -> Sample:
    """Take a sample in a process of its own, with the package in `folder` if one is given."""
    environment = dict(os.environ)
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        timeout=limit,
        check=True,
        env=environment,
    )
    sample: Sample = json.loads(done.stdout)
    return sample


def interleave(takes: dict[str, Callable[[], Sample]], rounds: int) -> Samples:
    """Take a sample of each in every round, each time beginning with another one.

    Gives the good rounds; where they are too few, also the least disturbed of the others.
    """
    names = list(takes)
    taken: list[dict[str, Sample]] = []
    good = 0
    while good < rounds and len(taken) < ATTEMPTS * rounds:
        shift = len(taken) % len(names)
        taken.append({name: takes[name]() for name in names[shift:] + names[:shift]})
        good += _disturbance(taken[-1]) <= DISTURBED_CORES
    taken = sorted(taken, key=_disturbance)[:rounds]
    return {name: [each[name] for each in taken] for name in names}


def _disturbance(of_round: dict[str, Sample]) -> float:
    return max(sample["others"] for sample in of_round.values())


def format_disturbance(samples: Samples) -> Iterator[str]:
    """Yield a warning if other processes used the machine in rounds that count."""
    most = [
        max(sample["others"] for sample in each) for each in zip(*samples.values(), strict=True)
    ]
    if disturbed := sum(cores > DISTURBED_CORES for cores in most):
        yield (
            f"  DISTURBED: in {disturbed} of {len(most)} rounds other processes used more than "
            f"{DISTURBED_CORES} of a core ({max(most):.2f} at most). Measure again on a quiet "
            "machine."
        )


def _median(samples: Sequence[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def _quartiles(values: Sequence[float]) -> str:
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return f"[{lower:,.1f}-{upper:,.1f}]"


def format_pauses(samples: Samples) -> Iterator[str]:
    """Yield the table of the pauses, line by line."""
    yield ""
    yield "pauses of loop 0 in us; the median, and of the longest the quartiles:"
    yield (
        f"  {'readers':<14}{'p50':>8}{'p99':>9}{'p99.9':>9}{'longest':>10}  {'':<20}"
        f"{'longest, x ' + BASELINE:>24}{'turns/s':>11}{'reads/s':>10}"
    )
    for name, taken in samples.items():
        longest = [sample["longest"] / 1e3 for sample in taken]
        ratios = [
            sample["longest"] / base["longest"]
            for sample, base in zip(taken, samples[BASELINE], strict=True)
        ]
        yield (
            f"  {name:<14}"
            f"{_median(taken, 'p50') / 1e3:>8.1f}{_median(taken, 'p99') / 1e3:>9.1f}"
            f"{_median(taken, 'p99.9') / 1e3:>9.1f}{statistics.median(longest):>10,.1f}"
            f"  {_quartiles(longest):<20}{statistics.median(ratios):>24.2f}"
            f"{_median(taken, 'turns_per_second'):>11,.0f}"
            f"{_median(taken, 'reads_per_second'):>10,.0f}"
        )
    yield from format_disturbance(samples)


def format_costs(samples: Samples) -> Iterator[str]:
    """Yield the table of the upkeep, line by line."""
    yield ""
    yield "upkeep in ns of CPU time; the median, and of the difference the quartiles:"
    yield f"  {'':<34}{WITH:>9}{WITHOUT:>9}{'difference':>12}"
    for name in COSTS:
        differences = [
            ours[name] - theirs[name]
            for ours, theirs in zip(samples[WITH], samples[WITHOUT], strict=True)
        ]
        yield (
            f"  {name:<34}{_median(samples[WITH], name):>9.1f}"
            f"{_median(samples[WITHOUT], name):>9.1f}{statistics.median(differences):>12.1f}"
            f"  {_quartiles(differences)}"
        )
    yield from format_disturbance(samples)


def _package_folder(text: str) -> Path:
    folder = Path(text).resolve()
    if not list(folder.glob("loop_pool/_core.*.so")):
        raise argparse.ArgumentTypeError(f"there is no built loop_pool in {folder}")
    return folder


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="at least 2; default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default: %(default)s")
    parser.add_argument("--loops", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--readers", type=int, default=4, help="threads; default: %(default)s")
    parser.add_argument("--tasks", type=int, default=100, help="a loop; default: %(default)s")
    parser.add_argument("--without", type=_package_folder, help="a package without a registry")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--sample", help=argparse.SUPPRESS)  # for the processes of the samples
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.seconds <= 0 or min(options.loops, options.readers) < 1:
        parser.error("--rounds must be 2 or more, --seconds above 0, --loops and --readers above 0")
    return options


def main() -> int:
    """Measure, print the tables; returns the exit code."""
    options = parse_options()
    if options.sample is not None:
        sample = (
            take_costs()
            if options.sample == "upkeep"
            else take_pauses(
                options.sample, options.seconds, options.loops, options.tasks, options.readers
            )
        )
        print(json.dumps(sample))
        return 0
    machine = describe_machine()
    for key, value in machine.items():
        print(f"{key + ':':<11} {value}")
    print(
        f"{'rounds:':<11} {options.rounds} of {options.seconds} s, interleaved; {options.loops} "
        f"loops with {options.tasks} tasks each, {options.readers} readers; garbage collector off",
        flush=True,
    )
    given = [f"--{name}={getattr(options, name)}" for name in ("seconds", "loops", "tasks")]
    given.append(f"--readers={options.readers}")
    limit = SAMPLE_SECONDS + options.seconds
    pauses = interleave(
        {
            name: functools.partial(sample_elsewhere, [f"--sample={name}", *given], limit)
            for name in READERS
        },
        options.rounds,
    )
    print("\n".join(format_pauses(pauses)), flush=True)
    document: dict[str, Any] = {"machine": machine, "options": given, "pauses": pauses}
    if options.without is not None:
        costs = interleave(
            {
                WITH: functools.partial(sample_elsewhere, ["--sample=upkeep"], limit),
                WITHOUT: functools.partial(
                    sample_elsewhere, ["--sample=upkeep"], limit, options.without
                ),
            },
            options.rounds,
        )
        print("\n".join(format_costs(costs)), flush=True)
        document["upkeep"] = costs
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
