"""What ``Pool.stats()`` shows, for monitoring systems.

:mod:`loop_pool.metrics.prometheus` and :mod:`loop_pool.metrics.opentelemetry` read a pool when they
are asked, on whatever thread asks, and stop no loop for it. Neither is imported here, as each needs
a package that loop_pool itself does without: ``pip install 'loop_pool[metrics]'``.

Both follow :data:`METRICS`, so names, units and descriptions are the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import weakref

    from .._pool.pool import LoopStats, Pool

__all__ = ["METRICS", "Metric"]


class Metric(NamedTuple):
    """How a field of :class:`loop_pool.LoopStats` is described to a monitoring system."""

    field: str
    """The field of ``LoopStats``."""
    name: str
    """What it is called, without the prefix, the unit and the ``_total`` of Prometheus."""
    kind: Literal["counter", "gauge"]
    """A counter only grows, from 0 when the loop is made; a gauge is what holds now."""
    unit: str
    """As UCUM writes it, which is as OpenTelemetry wants it; what is counted is in braces."""
    description: str


METRICS = (
    Metric(
        "callbacks",
        "callbacks",
        "counter",
        "{callback}",
        "Callbacks, task steps and turns of transports that the loop has run.",
    ),
    Metric("turns", "turns", "counter", "{turn}", "Turns that the loop has begun."),
    Metric("polls", "polls", "counter", "{poll}", "Times that the loop has asked the kernel."),
    Metric(
        "ready",
        "ready",
        "gauge",
        "{callback}",
        "Callbacks that were ready when the loop's last turn began.",
    ),
    Metric(
        "timers",
        "timers",
        "gauge",
        "{timer}",
        "Timers that were pending when the loop's last turn began.",
    ),
    Metric(
        "descriptors",
        "descriptors",
        "gauge",
        "{descriptor}",
        "Descriptors that the loop watches, one of its own included.",
    ),
    Metric(
        "busy",
        "busy",
        "counter",
        "s",
        "Time that the loop has spent outside the kernel's wait, up to its last turn.",
    ),
    Metric(
        "idle",
        "idle",
        "counter",
        "s",
        "Time that the loop has spent in the kernel's wait, up to its last turn.",
    ),
    Metric(
        "transports", "transports", "gauge", "{transport}", "Native transports of the loop open."
    ),
    Metric(
        "bytes_in", "read", "counter", "By", "Bytes that the loop's native transports have read."
    ),
    Metric(
        "bytes_out",
        "written",
        "counter",
        "By",
        "Bytes that the loop's native transports have written.",
    ),
    Metric(
        "read_ahead",
        "read_ahead",
        "gauge",
        "By",
        "Bytes that other threads have read for the loop and that are not delivered yet.",
    ),
    Metric(
        "jobs",
        "jobs",
        "counter",
        "{job}",
        "Pieces of socket work, the loop's own or others', that its thread took from a deque.",
    ),
    Metric(
        "stolen_by",
        "stolen_by",
        "counter",
        "{job}",
        "Pieces of other loops' socket work that the loop's thread has done.",
    ),
    Metric(
        "stolen_from",
        "stolen_from",
        "counter",
        "{job}",
        "Pieces of the loop's socket work that other threads have done.",
    ),
    Metric(
        "spawned",
        "spawned",
        "counter",
        "{task}",
        "Coroutines of spawn that were left to any loop and begun here.",
    ),
    Metric(
        "spawned_stolen",
        "spawned_stolen",
        "counter",
        "{task}",
        "Coroutines of spawn taken over from other loops.",
    ),
    Metric(
        "handoffs",
        "handoffs",
        "counter",
        "{handoff}",
        "Times that the loop was stuck in a callback and the monitor took over its sockets.",
    ),
    Metric(
        "wakes",
        "wakes",
        "counter",
        "{wake}",
        "Times that another thread has woken the loop's thread through the kernel.",
    ),
    Metric(
        "tasks",
        "tasks",
        "gauge",
        "{task}",
        "Tasks that the registry holds: suspended ones, and dead ones that it has not yet found.",
    ),
    Metric(
        "tasks_swept",
        "tasks_swept",
        "counter",
        "{task}",
        "Dead tasks that the registry has found and dropped.",
    ),
)
"""A metric for each field of ``LoopStats`` but the name, which is what tells the loops apart."""


def read(pool: weakref.ref[Pool]) -> list[LoopStats]:
    """Return a record for each loop. Any thread.

    There are none if the pool is closed, or belongs to the parent of this process. The pool is
    referred to weakly, as registries live as long as the process: a closed pool is not to live as
    long.
    """
    if (alive := pool()) is None:
        return []
    try:
        return alive.stats()
    except RuntimeError:
        return []


def missing(distribution: str) -> ImportError:
    """Return the exception that says how to get a package that is not installed."""
    return ImportError(f"{distribution} is not installed: pip install 'loop_pool[metrics]'")
