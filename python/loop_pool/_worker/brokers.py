"""The brokers of ``loop-pool worker``: one per loop, from one broker or a factory.

In: ``module:name`` and the task modules. Out: a :class:`Brokers`, none of them started. A function
is called once per loop. A taskiq-nats broker is a template: each loop gets a copy with its own
client, state, result backend and middlewares. Programs refer to brokers by module-level names, so
such a broker stands in for that of the running loop (:meth:`Brokers.stand_in`); outside the
worker's loops it is itself. Must never use a broker on another loop than its own.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskiq import AsyncBroker, InMemoryBroker
from taskiq.result_backends.dummy import DummyResultBackend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

EXTRA = "pip install 'loop_pool[distributed]'"

_OF_ITSELF = frozenset({"_register_task", "register_task", "task"})
"""What a stand-in does itself: a task that is registered at run time is one of all loops."""


PULL_SECONDS = 5.0
"""How long a pull of JetStream lasts, unless the broker says. A server that is started again has
forgotten the pulls, so one without an end would wait for ever."""


class TargetError(Exception):
    """There are no brokers to be had from what was typed; the text says why."""


class FactoryError(TargetError):
    """The function that makes brokers failed."""


class Brokers:
    """A broker for each loop.

    Threads: made in the main thread; each broker is used on its loop once it has been given one.
    """

    def __init__(self, each: Sequence[AsyncBroker]) -> None:
        self.each = each
        """By the loop's number in the pool."""
        self._of_loop: dict[asyncio.AbstractEventLoop | None, AsyncBroker] = {}

    def give(self, loop: asyncio.AbstractEventLoop, broker: AsyncBroker) -> None:
        """Make one the broker of a loop. Any thread, before the loop uses it."""
        self._of_loop[loop] = broker

    def stand_in(self, broker: AsyncBroker) -> None:
        """Let a broker be, on each loop, that loop's broker.

        It gets a class of its own, below the one that it has, which looks up, sets and deletes
        attributes on the broker of the running loop.

        Raises:
            TypeError: objects of its class cannot get another class.
        """
        cls = type(broker)
        of_loop = self._of_loop

        def of_running_loop(itself: AsyncBroker, name: str) -> AsyncBroker | None:
            if name in _OF_ITSELF or name.startswith("__"):
                return None
            found = of_loop.get(asyncio._get_running_loop())
            return None if found is itself else found

        def look_up(itself: AsyncBroker, name: str) -> Any:
            other = of_running_loop(itself, name)
            if other is None:
                return cls.__getattribute__(itself, name)
            return getattr(other, name)

        def set_to(itself: AsyncBroker, name: str, value: object) -> None:
            other = of_running_loop(itself, name)
            if other is None:
                cls.__setattr__(itself, name, value)
            else:
                setattr(other, name, value)

        def delete(itself: AsyncBroker, name: str) -> None:
            other = of_running_loop(itself, name)
            if other is None:
                cls.__delattr__(itself, name)
            else:
                delattr(other, name)

        namespace = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__getattribute__": look_up,
            "__setattr__": set_to,
            "__delattr__": delete,
        }
        broker.__class__ = type(cls.__name__, (cls,), namespace)


def load(
    target: str,
    loops: int,
    *,
    modules: Iterable[str] = (),
    app_dir: str = ".",
    patterns: Iterable[str] = (),
) -> Brokers:
    """Import a broker or a function that makes one, then the tasks; return a broker for each loop.

    Args:
        target: ``module:broker`` or ``module:function``.
        loops: how many brokers.
        modules: modules of tasks, by name.
        app_dir: the folder where modules are looked for first.
        patterns: globs below the current folder of files that are modules of tasks as well.

    Raises:
        TargetError: something cannot be imported, or is not fit for that many loops.
        FactoryError: the function failed.

    Threads: the main thread, without a running loop.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name) or ":" in name:
        raise TargetError(f"{target!r} does not have the form module:broker")
    sys.path.insert(0, os.path.abspath(app_dir))
    found: Any = _import(module)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError(f"{target}: {module} has no attribute {name!r}") from None
    if isinstance(found, AsyncBroker):
        _check(found, target, loops)
        found.is_worker_process = True
        _bound_pulls(found)
        _import_tasks(modules, patterns)
        return _copies(found, target, loops)
    if not callable(found):
        raise TargetError(f"{target} is {found!r}: neither a taskiq broker nor a broker factory")
    each = [_make(found, target) for _ in range(loops)]
    if len({id(broker) for broker in each}) < loops:
        raise TargetError(f"{target} returned the same broker twice: each loop needs its own")
    for broker in each:
        _check(broker, target, loops)
        broker.is_worker_process = True
        _bound_pulls(broker)
    _import_tasks(modules, patterns)
    _check_tasks(each, target)
    brokers = Brokers(each)
    if loops > 1:
        for broker in each:
            _stand_in(brokers, broker, target)
    return brokers


def _make(factory: Any, target: str) -> AsyncBroker:
    try:
        broker = factory()
    except Exception as error:
        raise FactoryError(f"{target} failed: {_say(error)}") from error
    if asyncio.iscoroutine(broker):
        broker.close()
        raise TargetError(
            f"{target} is a coroutine function: a broker factory must be a plain function"
        )
    if not isinstance(broker, AsyncBroker):
        raise TargetError(f"{target} returned {broker!r}, which is not a taskiq broker")
    return broker


def _copies(template: AsyncBroker, target: str, loops: int) -> Brokers:
    if loops == 1:
        return Brokers([template])
    brokers = Brokers([_copy(template, target) for _ in range(loops)])
    _stand_in(brokers, template, target)
    return brokers


def _copy(template: AsyncBroker, target: str) -> AsyncBroker:
    """Copy a broker that nobody has started: what a loop changes is its own, the rest is shared.

    A client is never copied: that of nats draws the names of its inboxes from a generator of its
    own, so a copy would listen where the original does.

    Raises:
        TargetError: not a class of which it is known what a loop changes.
    """
    backend = template.result_backend
    nats: Any = sys.modules.get("taskiq_nats")
    for known, what in (
        (nats is not None and isinstance(template, _classes_of(nats)), template),
        (
            isinstance(backend, DummyResultBackend)
            or (nats is not None and isinstance(backend, nats.NATSObjectStoreResultBackend)),
            backend,
        ),
    ):
        if not known:
            raise TargetError(
                f"{target}: each loop needs its own {type(what).__name__}, and only those of "
                "taskiq-nats can be copied: pass the name of a function that returns a new broker, "
                "or use --loops 1"
            )
    broker: Any = copy.copy(template)
    broker.client = type(broker.client)()
    broker.state = copy.copy(template.state)
    broker.custom_dependency_context = dict(template.custom_dependency_context)
    broker.dependency_overrides = dict(template.dependency_overrides)
    broker.result_backend = copy.copy(backend)
    broker.middlewares = [copy.copy(middleware) for middleware in template.middlewares]
    for middleware in broker.middlewares:
        middleware.set_broker(broker)
    for config in ("stream_config", "consumer_config"):  # completed when the broker starts
        if hasattr(broker, config):
            setattr(broker, config, copy.copy(getattr(broker, config)))
    made: AsyncBroker = broker
    return made


def _stand_in(brokers: Brokers, broker: AsyncBroker, target: str) -> None:
    try:
        brokers.stand_in(broker)
    except TypeError as error:
        raise TargetError(f"{target} works on one loop only ({error}): use --loops 1") from error


def _classes_of(nats: Any) -> tuple[type, ...]:
    return (nats.NatsBroker, nats.PullBasedJetStreamBroker, nats.PushBasedJetStreamBroker)


def _check(broker: AsyncBroker, target: str, loops: int) -> None:
    kind = type(broker).__name__
    if isinstance(broker, InMemoryBroker):
        raise TargetError(
            f"{target} is an {kind}, which runs tasks in the program that sends them: "
            "a worker receives nothing from it (see docs/distributed.md for a first try)"
        )
    nats: Any = sys.modules.get("taskiq_nats")
    if loops == 1 or nats is None:
        return
    if isinstance(broker, nats.NatsBroker) and not broker.queue:
        raise TargetError(
            f"{target} is a {kind} without a queue, so each loop would run every task: "
            f"{kind}(..., queue='workers'), or use --loops 1"
        )
    # A second subscriber finds the consumer by the queue's name, or takes it from the first.
    if isinstance(broker, nats.PushBasedJetStreamBroker) and not (
        broker.queue
        and broker.consumer_config
        and broker.queue
        == broker.consumer_config.durable_name
        == broker.consumer_config.deliver_group
    ):
        raise TargetError(
            f"{target} is a {kind} whose consumer is not that of a queue, so the loops cannot "
            f"share it: {kind}(..., queue='workers', consumer_config=ConsumerConfig("
            "durable_name='workers', deliver_group='workers')), or use --loops 1"
        )


def _bound_pulls(broker: Any) -> None:
    nats: Any = sys.modules.get("taskiq_nats")
    if nats is None or not isinstance(broker, nats.PullBasedJetStreamBroker):
        return
    if broker.pull_consume_timeout is None:
        broker.pull_consume_timeout = PULL_SECONDS


def _check_tasks(each: Sequence[AsyncBroker], target: str) -> None:
    """See that every loop can run every task."""
    names = [set(broker.get_all_tasks()) for broker in each]
    differing = sorted(names[0].union(*names) - names[0].intersection(*names))
    if differing:
        raise TargetError(
            f"{target} registers different tasks on each broker: {', '.join(differing)} "
            "(a function that is registered more than once needs a task_name=)"
        )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise TargetError(f"cannot import {name}: {_say(error)}") from error


def _import_tasks(modules: Iterable[str], patterns: Iterable[str]) -> None:
    for name in dict.fromkeys([*modules, *_discover(patterns)]):
        _import(name)


def _discover(patterns: Iterable[str]) -> Iterator[str]:
    """Yield the names of modules below the current folder, those in hidden folders left out."""
    for pattern in patterns:
        try:
            paths = sorted(Path().glob(pattern))
        except (NotImplementedError, ValueError) as error:
            raise TargetError(f"--tasks-pattern {pattern!r}: {error}") from None
        for path in paths:
            parts = path.with_suffix("").parts
            if path.suffix == ".py" and all(part.isidentifier() for part in parts):
                yield ".".join(parts)


def _say(error: BaseException) -> str:
    """Say in a line what went wrong, and where in whose file."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name in {"nats", "taskiq_nats"}:
        text += f" ({EXTRA})"
    ours = {__file__, importlib.__file__}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours and not frame.filename.startswith("<frozen ")
    ]
    if frames and not isinstance(error, SyntaxError):
        text += f" ({os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno})"
    return " ".join(text.split())
