"""The metrics of a pool for OpenTelemetry, using only its API.

::

    loop_pool.metrics.opentelemetry.instrument(loop_pool.current_pool())

Names are ``loop_pool.`` plus the name in :data:`loop_pool.metrics.METRICS`, with its unit:
``loop_pool.callbacks``, ``loop_pool.busy`` in ``s``, ``loop_pool.read`` in ``By``. Each observation
has the attribute ``loop``: ``loop-pool-0`` and so on.

Counters become observable counters. Gauges become observable up-down counters, because unlike
OpenTelemetry's gauges their sum over the loops is meaningful.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from .. import _core
from . import METRICS, missing, read

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

    from .._pool.pool import Pool

__all__ = ["instrument"]

_lock = threading.Lock()
_numbers: weakref.WeakKeyDictionary[Pool, int] = weakref.WeakKeyDictionary()
"""The pools that are instrumented, numbered from 0. Under `_lock`."""
_next_number = itertools.count()


def instrument(pool: Pool, meter_provider: MeterProvider | None = None) -> None:
    """Add the metrics of a pool to a meter provider. Any thread.

    The pool is read when a reader collects, in the reader's thread, once per instrument. Nothing is
    computed in between, or without a provider. The reference to the pool is weak: a closed pool has
    no observations. A second call for the same pool has no effect.

    The instrumentation scope is ``loop_pool``, with the version of the package and an attribute
    ``pool`` that numbers the pools of the process from 0. Without it the SDK would drop the
    instruments of a second pool as duplicates.

    Args:
        pool: the pool, from :func:`loop_pool.current_pool` or ``Runner.get_pool()``.
        meter_provider: ``None``: the global one, even if it is set later.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed.
    """
    try:
        from opentelemetry.metrics import get_meter
    except ModuleNotFoundError as error:
        raise missing("opentelemetry-api") from error
    with _lock:
        number = _numbers.get(pool)
        if number is None:
            number = _numbers[pool] = next(_next_number)
    meter = get_meter("loop_pool", _core.__version__, meter_provider, attributes={"pool": number})
    reference = weakref.ref(pool)
    for metric in METRICS:
        create = (
            meter.create_observable_counter
            if metric.kind == "counter"
            else meter.create_observable_up_down_counter
        )
        create(
            f"loop_pool.{metric.name}",
            [functools.partial(_observe, reference, metric.field)],
            unit=metric.unit,
            description=metric.description,
        )


def _observe(pool: weakref.ref[Pool], field: str, options: CallbackOptions) -> list[Observation]:
    from opentelemetry.metrics import Observation

    return [Observation(getattr(record, field), {"loop": record.name}) for record in read(pool)]
