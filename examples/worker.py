"""Tasks of taskiq on all loops of a pool: in this process, or in two workers over NATS JetStream.

    python examples/worker.py [--tasks N] [--loops N] [--nats URL]

Without `--nats` no server is needed: each loop has taskiq's in-memory broker, which runs a task
where it is sent, and a pool sends the tasks from all loops. With it (`nats-server -js` in a second
terminal, `--nats nats://127.0.0.1:4222` here) this program starts two workers, as one would by
hand,

    NATS_URL=nats://127.0.0.1:4222 loop-pool worker --app-dir examples worker:broker

sends the tasks, waits for their results, and stops the workers. Both print how many tasks each loop
ran.

The exit code is 0 if every result was right, 1 if not, 2 if an option is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load_test_client import bounded_int
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig
from taskiq import AsyncBroker, InMemoryBroker, async_shared_broker
from taskiq.kicker import AsyncKicker
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

import loop_pool

WORKERS = 2
NAME = "loop_pool_example"
RESULT_SECONDS = 60.0
CONNECTION: dict[str, Any] = {"max_reconnect_attempts": 3, "reconnect_time_wait": 0.2}

Result = tuple[str, str]
"""A digest, and the loop that made it."""


def make_broker(url: str) -> AsyncBroker:
    """Return a broker for a server. All that have the same names share their tasks."""
    broker = PullBasedJetStreamBroker(
        url,
        subject=NAME,
        stream_name=NAME,
        durable=NAME,
        consumer_config=ConsumerConfig(durable_name=NAME, ack_wait=30),
        pull_consume_timeout=5,
        **CONNECTION,
    )
    backend = NATSObjectStoreResultBackend[Result](url, bucket_name=NAME, **CONNECTION)
    return broker.with_result_backend(backend)


broker = make_broker(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
in_memory = loop_pool.LoopLocal(InMemoryBroker, InMemoryBroker.shutdown)


@async_shared_broker.task(task_name="digest")
async def digest(number: int) -> Result:
    """Compute a little and rest a little, on whichever loop got the task."""
    await asyncio.sleep(0.01)
    return hash_of(number), f"{os.getpid()} {threading.current_thread().name}"


def hash_of(number: int) -> str:
    """Return what a task is to compute."""
    return hashlib.sha256(number.to_bytes(8) * 4096).hexdigest()


async def send(number: int, to: AsyncBroker) -> Result:
    """Send a task and wait for its result."""
    kicker = AsyncKicker[[int], Result]("digest", to, {})
    sent = await kicker.kiq(number)
    result = await sent.wait_result(check_interval=0.02, timeout=RESULT_SECONDS)
    result.raise_for_error()
    value, loop = result.return_value
    return value, loop


async def send_in_memory(number: int) -> Result:
    """Send a task to the broker of the loop that runs this, which runs the task as well."""
    return await send(number, await in_memory)


async def run_in_memory(tasks: int) -> list[Result]:
    """Send tasks from all loops of the pool."""
    return [result async for result in loop_pool.map(send_in_memory, range(tasks))]


async def run_over_nats(
    url: str, tasks: int, loops: int | None, workers: list[subprocess.Popen[bytes]]
) -> list[Result]:
    """Start workers, which are added to the list, and send them tasks."""
    client = make_broker(url)
    await client.startup()
    try:
        workers += start_workers(url, loops)
        return await asyncio.gather(*(send(number, client) for number in range(tasks)))
    finally:
        await client.shutdown()


def start_workers(url: str, loops: int | None) -> list[subprocess.Popen[bytes]]:
    """Start workers, which use the module-level `broker`."""
    command = [sys.executable, "-m", "loop_pool", "worker", f"{Path(__file__).stem}:broker"]
    command += ["--app-dir", str(Path(__file__).parent), "--log-level", "WARNING"]
    command += [] if loops is None else ["--loops", str(loops)]
    environment = {**os.environ, "NATS_URL": url}
    # Ctrl-C is for this program alone: for a worker SIGTERM after it would be a second signal.
    return [
        subprocess.Popen(command, env=environment, start_new_session=True) for _ in range(WORKERS)
    ]


def stop_workers(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let workers end what they do."""
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.wait()


def report(results: Sequence[Result]) -> int:
    """Print how many tasks each loop ran; return the exit code."""
    wrong = [number for number, (value, _) in enumerate(results) if value != hash_of(number)]
    for loop, count in sorted(Counter(loop for _, loop in results).items()):
        process, name = loop.split()
        print(f"process {process}  {name}  {count:,} tasks")
    if wrong:
        print(f"FAILED: wrong results of the tasks {wrong}", file=sys.stderr)
        return 1
    print(f"{len(results):,} results: each was right")
    return 0


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=bounded_int(1, 100_000), default=200, help="default: 200")
    parser.add_argument(
        "--loops", type=bounded_int(1, 256), help="in each process; default: one for each core"
    )
    parser.add_argument("--nats", metavar="URL", help="a NATS server with JetStream")
    options = parser.parse_args()
    logging.getLogger("nats").addHandler(logging.NullHandler())  # what fails in the end is said
    workers: list[subprocess.Popen[bytes]] = []
    try:
        if options.nats is None:
            threading.current_thread().name = "loop-pool-0"
            results = loop_pool.run(run_in_memory(options.tasks), loops=options.loops)
        else:
            over_nats = run_over_nats(options.nats, options.tasks, options.loops, workers)
            results = asyncio.run(over_nats)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (NatsError, OSError) as error:
        print(f"FAILED: {options.nats}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        stop_workers(workers)
    return report(results)


if __name__ == "__main__":
    sys.exit(main())
