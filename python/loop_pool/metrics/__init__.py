"""``Pool.stats()`` for monitoring systems.

:mod:`loop_pool.metrics.prometheus` and :mod:`loop_pool.metrics.opentelemetry` read a pool when they
are collected, in the collecting thread, without pausing a loop. Neither is imported here, because
each requires a package that loop_pool does not: ``pip install 'loop_pool[metrics]'``.

Both use :data:`METRICS`, so names, units and descriptions are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import weakref

    from .._pool.pool import LoopStats, Pool

__all__ = ["METRICS", "Metric"]


class Metric(NamedTuple):
    """How a field of :class:`loop_pool.LoopStats` appears in a monitoring system."""

    field: str
    """The field of ``LoopStats``."""
    name: str
    """The name, without the prefix, the unit and the ``_total`` of Prometheus."""
    kind: Literal["counter", "gauge"]
    """A counter only increases, from 0 when the loop is created; a gauge is a current value."""
    unit: str
    """In UCUM notation, as OpenTelemetry requires; counted objects are in braces."""
    description: str


METRICS = (
    Metric(
        "callbacks",
        "callbacks",
        "counter",
        "{callback}",
        "Callbacks, task steps and transport turns run by the loop.",
    ),
    Metric("turns", "turns", "counter", "{turn}", "Turns begun by the loop."),
    Metric("polls", "polls", "counter", "{poll}", "Polls of the kernel by the loop."),
    Metric(
        "ready",
        "ready",
        "gauge",
        "{callback}",
        "Ready callbacks at the start of the loop's last turn.",
    ),
    Metric(
        "timers",
        "timers",
        "gauge",
        "{timer}",
        "Pending timers at the start of the loop's last turn.",
    ),
    Metric(
        "descriptors",
        "descriptors",
        "gauge",
        "{descriptor}",
        "Descriptors watched by the loop, including one of its own.",
    ),
    Metric(
        "busy",
        "busy",
        "counter",
        "s",
        "Time spent by the loop outside the kernel's wait, up to its last turn.",
    ),
    Metric(
        "idle",
        "idle",
        "counter",
        "s",
        "Time spent by the loop in the kernel's wait, up to its last turn.",
    ),
    Metric(
        "transports", "transports", "gauge", "{transport}", "Open native transports of the loop."
    ),
    Metric("bytes_in", "read", "counter", "By", "Bytes read by the loop's native transports."),
    Metric(
        "bytes_out",
        "written",
        "counter",
        "By",
        "Bytes written by the loop's native transports.",
    ),
    Metric(
        "read_ahead",
        "read_ahead",
        "gauge",
        "By",
        "Bytes that other threads have read for the loop and that are not yet delivered.",
    ),
    Metric(
        "jobs",
        "jobs",
        "counter",
        "{job}",
        "Socket jobs, the loop's own or of other loops, that its thread took from a deque.",
    ),
    Metric(
        "stolen_by",
        "stolen_by",
        "counter",
        "{job}",
        "Socket jobs of other loops run by the loop's thread.",
    ),
    Metric(
        "stolen_from",
        "stolen_from",
        "counter",
        "{job}",
        "Socket jobs of the loop run by other threads.",
    ),
    Metric(
        "spawned",
        "spawned",
        "counter",
        "{task}",
        "Coroutines spawned without a loop and started by this loop.",
    ),
    Metric(
        "spawned_stolen",
        "spawned_stolen",
        "counter",
        "{task}",
        "Spawned coroutines taken over from other loops.",
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
        "Times that another thread woke the loop's thread through the kernel.",
    ),
    Metric(
        "tasks",
        "tasks",
        "gauge",
        "{task}",
        "Suspended tasks in the registry, including dead ones not yet swept.",
    ),
    Metric(
        "tasks_swept",
        "tasks_swept",
        "counter",
        "{task}",
        "Dead tasks removed from the registry.",
    ),
)
"""A metric for each field of ``LoopStats`` except the name, which is the label."""


def read(pool: weakref.ref[Pool]) -> list[LoopStats]:
    """Return a record for each loop. Any thread.

    The list is empty if the pool is closed, or belongs to the parent of this process. The reference
    is weak because registries live as long as the process, and must not keep a closed pool alive.
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
