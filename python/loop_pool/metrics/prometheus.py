"""The metrics of a pool for Prometheus, with ``prometheus_client``.

::

    registry.register(loop_pool.metrics.prometheus.Collector(loop_pool.current_pool()))

Names are ``loop_pool_``, the name in :data:`loop_pool.metrics.METRICS`, the unit, and for counters
``_total``: ``loop_pool_callbacks_total``, ``loop_pool_busy_seconds_total``, ``loop_pool_ready``.
Each sample has the label ``loop``, ``loop-pool-0`` and so on.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, final

from . import METRICS, missing, read

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from .._pool.pool import Pool
    from . import Metric

    type _Family = CounterMetricFamily | GaugeMetricFamily

__all__ = ["Collector", "exposition"]

_UNITS = {"s": "seconds", "By": "bytes"}


@final
class Collector:
    """Reads a pool at each scrape. Register it: ``registry.register(Collector(pool))``.

    It does nothing between scrapes, and holds a weak reference to the pool. A closed pool has no
    samples. Unregister its collector before you register one for the next pool. Two pools at the
    same time need a registry each, because their metrics have the same names and labels.

    A second collector for the same pool in the same registry has no samples, so a lifespan that
    runs on each loop may register one each time.

    Args:
        pool: the pool, from :func:`loop_pool.current_pool` or ``Runner.get_pool()``.

    Raises:
        ImportError: ``prometheus_client`` is not installed.

    Threads: created and used in any thread.
    """

    def __init__(self, pool: Pool) -> None:
        try:
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        except ModuleNotFoundError as error:
            raise missing("prometheus-client") from error
        self._families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        self._pool = weakref.ref(pool)
        self._has_nothing_to_add = False

    def describe(self) -> list[_Family]:
        """Return the metrics without samples, so that the registry detects duplicate names."""
        # The registry does not say who it is, and asks nothing else when it is given a collector.
        registry = sys._getframe(1).f_locals.get("self")
        others = getattr(registry, "_collector_to_names", ())
        pool = self._pool()
        self._has_nothing_to_add = pool is not None and any(
            isinstance(other, Collector) and other is not self and other._pool() is pool
            for other in others
        )
        if self._has_nothing_to_add:
            return []
        return [self._family(metric) for metric in METRICS]

    def collect(self) -> list[_Family]:
        """Return the metrics with a sample per loop, or none if the pool is closed.

        All samples are from one reading of the pool. Any thread.
        """
        records = [] if self._has_nothing_to_add else read(self._pool)
        if not records:
            return []
        families = []
        for metric in METRICS:
            family = self._family(metric)
            for record in records:
                family.add_metric([record.name], getattr(record, metric.field))
            families.append(family)
        return families

    def _family(self, metric: Metric) -> _Family:
        unit = _UNITS.get(metric.unit, "")
        name = f"loop_pool_{metric.name}"
        family: _Family = self._families[metric.kind](
            name, metric.description, labels=["loop"], unit=unit
        )
        return family


def exposition(pool: Pool) -> tuple[str, bytes]:
    """Return the metrics of a pool as Prometheus reads them: the content type, and the text.

    Raises:
        ImportError: ``prometheus_client`` is not installed.

    Threads: any.
    """
    collector = Collector(pool)
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(collector)
    return CONTENT_TYPE_LATEST, generate_latest(registry)
