"""`loop_pool.metrics`: what monitoring systems are told of a pool, and at what cost."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ..support import ROOT, Threads, check_script, eventually, turns, wait_for

loop_pool = pytest.importorskip("loop_pool")
from loop_pool import metrics  # noqa: E402

from ..pool.support import run  # noqa: E402

NAMES = {
    "callbacks": ("loop_pool_callbacks_total", "loop_pool.callbacks", "{callback}"),
    "turns": ("loop_pool_turns_total", "loop_pool.turns", "{turn}"),
    "polls": ("loop_pool_polls_total", "loop_pool.polls", "{poll}"),
    "ready": ("loop_pool_ready", "loop_pool.ready", "{callback}"),
    "timers": ("loop_pool_timers", "loop_pool.timers", "{timer}"),
    "descriptors": ("loop_pool_descriptors", "loop_pool.descriptors", "{descriptor}"),
    "busy": ("loop_pool_busy_seconds_total", "loop_pool.busy", "s"),
    "idle": ("loop_pool_idle_seconds_total", "loop_pool.idle", "s"),
    "transports": ("loop_pool_transports", "loop_pool.transports", "{transport}"),
    "bytes_in": ("loop_pool_read_bytes_total", "loop_pool.read", "By"),
    "bytes_out": ("loop_pool_written_bytes_total", "loop_pool.written", "By"),
    "read_ahead": ("loop_pool_read_ahead_bytes", "loop_pool.read_ahead", "By"),
    "jobs": ("loop_pool_jobs_total", "loop_pool.jobs", "{job}"),
    "stolen_by": ("loop_pool_stolen_by_total", "loop_pool.stolen_by", "{job}"),
    "stolen_from": ("loop_pool_stolen_from_total", "loop_pool.stolen_from", "{job}"),
    "spawned": ("loop_pool_spawned_total", "loop_pool.spawned", "{task}"),
    "spawned_stolen": (
        "loop_pool_spawned_stolen_total",
        "loop_pool.spawned_stolen",
        "{task}",
    ),
    "handoffs": ("loop_pool_handoffs_total", "loop_pool.handoffs", "{handoff}"),
    "wakes": ("loop_pool_wakes_total", "loop_pool.wakes", "{wake}"),
    "tasks": ("loop_pool_tasks", "loop_pool.tasks", "{task}"),
    "tasks_swept": ("loop_pool_tasks_swept_total", "loop_pool.tasks_swept", "{task}"),
}
"""Field of `LoopStats` -> its name for Prometheus, and its name and unit for OpenTelemetry.

Dashboards and alerts depend on these.
"""

COUNTERS = {field for field, names in NAMES.items() if names[0].endswith("_total")}

Samples = dict[tuple[str, str], float]
"""(name of the sample, loop) -> value."""


class FixedPool:
    """Stands for a pool: its records are told, and readings of them are counted."""

    def __init__(self, loops: int = 2) -> None:
        fields = loop_pool.LoopStats._fields[1:]
        self.records = [
            loop_pool.LoopStats(
                f"loop-pool-{loop}",
                **{field: 100 * loop + number for number, field in enumerate(fields, 1)},
            )
            for loop in range(loops)
        ]
        self.readings = 0

    def stats(self) -> list[Any]:
        self.readings += 1
        return self.records


# What is told


@pytest.mark.smoke
def test_each_field_of_the_statistics_has_a_metric() -> None:
    described = [metric.field for metric in metrics.METRICS]
    assert sorted(described) == sorted(set(loop_pool.LoopStats._fields) - {"name"})
    assert set(described) == set(NAMES)


@pytest.mark.smoke
def test_each_metric_is_described_for_a_person() -> None:
    for metric in metrics.METRICS:
        assert re.fullmatch(r"[A-Z][^\n]+\.", metric.description), metric
    assert len({metric.description for metric in metrics.METRICS}) == len(metrics.METRICS)


def test_each_metric_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    for field, (prometheus, opentelemetry, unit) in NAMES.items():
        row = f"| `{field}` | `{prometheus}` | `{opentelemetry}` | `{unit}` |"
        assert row in page, field


@pytest.mark.smoke
def test_the_import_of_the_package_needs_no_extra() -> None:
    source = """
        import sys
        import loop_pool.metrics
        print("prometheus_client" in sys.modules, "opentelemetry" in sys.modules)
    """
    assert check_script(source) == "False False\n"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("use", "module", "distribution"),
    [
        ("prometheus.Collector(pool)", "prometheus_client", "prometheus-client"),
        ("opentelemetry.instrument(pool)", "opentelemetry", "opentelemetry-api"),
    ],
)
def test_without_its_extra_it_says_how_to_get_it(use: str, module: str, distribution: str) -> None:
    source = f"""
        import sys
        sys.modules[{module!r}] = None  # as if it were not installed
        import loop_pool, loop_pool.metrics.prometheus, loop_pool.metrics.opentelemetry
        async def main():
            pool = loop_pool.current_pool()
            try:
                loop_pool.metrics.{use}
            except ImportError as error:
                print(error)
        loop_pool.run(main(), loops=1)
    """
    said = check_script(source)
    assert said.startswith(f"{distribution} is not installed")
    assert "pip install 'loop_pool[metrics]'" in said


# Prometheus


@pytest.fixture
def prometheus() -> Any:
    """`loop_pool.metrics.prometheus`."""
    pytest.importorskip("prometheus_client")
    from loop_pool.metrics import prometheus

    return prometheus


@pytest.fixture
def registry(prometheus: Any) -> Any:
    """A registry of `prometheus_client`, with nothing in it."""
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def scrape(registry: Any) -> Samples:
    """What Prometheus gets, through the text and a strict parser of it."""
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    return {
        (sample.name, sample.labels["loop"]): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_each_field_of_each_loop_is_a_sample(prometheus: Any, registry: Any) -> None:
    pool = FixedPool()
    registry.register(prometheus.Collector(pool))
    assert scrape(registry) == {
        (names[0], record.name): getattr(record, field)
        for record in pool.records
        for field, names in NAMES.items()
    }


def test_a_scrape_reads_the_pool_once_and_nothing_else_does(prometheus: Any, registry: Any) -> None:
    pool = FixedPool()
    registry.register(prometheus.Collector(pool))
    assert pool.readings == 0
    scrape(registry)
    assert pool.readings == 1


def test_names_types_and_units_follow_the_conventions(prometheus: Any) -> None:
    pool = FixedPool()
    families = list(prometheus.Collector(pool).collect())
    assert len(families) == len(NAMES)
    by_name = {names[0].removesuffix("_total"): field for field, names in NAMES.items()}
    for family in families:
        field = by_name[family.name]
        assert re.fullmatch("loop_pool(_[a-z]+)+", family.name)
        assert family.type == ("counter" if field in COUNTERS else "gauge")
        assert family.unit == {"s": "seconds", "By": "bytes"}.get(NAMES[field][2], "")
        assert family.name.endswith(family.unit)
        assert family.documentation
        for sample in family.samples:
            assert list(sample.labels) == ["loop"]


def test_what_is_announced_is_what_comes(prometheus: Any) -> None:
    """By `describe` a registry finds clashes when a collector is registered."""
    pool = FixedPool()
    collector = prometheus.Collector(pool)
    announced, come = collector.describe(), collector.collect()
    assert [(family.name, family.type, family.unit) for family in announced] == [
        (family.name, family.type, family.unit) for family in come
    ]
    assert not any(family.samples for family in announced)


def test_a_pool_s_own_figures_are_told_while_it_works(prometheus: Any, registry: Any) -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        registry.register(prometheus.Collector(pool))
        await loop_pool.spawn(turns(1_000), loop=pool.loops[1])
        before = {record.name: record for record in pool.stats()}
        samples = await asyncio.to_thread(scrape, registry)
        after = {record.name: record for record in pool.stats()}
        assert len(samples) == len(NAMES) * len(pool.loops)
        for field in COUNTERS:
            for loop, record in before.items():
                value = samples[NAMES[field][0], loop]
                assert getattr(record, field) <= value <= getattr(after[loop], field), field

    run(main)


def test_counters_only_grow(prometheus: Any, registry: Any) -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        registry.register(prometheus.Collector(pool))
        work = [loop_pool.spawn(turns(20_000), loop=loop) for loop in pool.loops]
        last: Samples = {}
        rounds = 0
        while not all(task.done() for task in work) or rounds < 3:
            samples = await asyncio.to_thread(scrape, registry)
            for key, value in last.items():
                if key[0].endswith("_total"):
                    assert samples[key] >= value, key
            last, rounds = samples, rounds + 1
        for loop in ("loop-pool-0", "loop-pool-1"):
            key = "loop_pool_callbacks_total", loop
            await eventually(lambda key=key: scrape(registry)[key] >= 20_000, "all are counted")
            assert last["loop_pool_busy_seconds_total", loop] > 0

    run(main)


def test_a_closed_pool_has_no_samples_and_is_not_kept(prometheus: Any, registry: Any) -> None:
    collectors, references = [], []

    async def main() -> None:
        pool = loop_pool.current_pool()
        references.append(weakref.ref(pool))
        collectors.append(prometheus.Collector(pool))
        registry.register(collectors[-1])
        assert scrape(registry)

    run(main)
    assert scrape(registry) == {}
    gc.collect()
    assert references[0]() is None
    assert scrape(registry) == {}


def test_a_lifespan_on_each_loop_may_register_one(prometheus: Any, registry: Any) -> None:
    from prometheus_client import CollectorRegistry

    pool, others = FixedPool(), CollectorRegistry()
    collectors = [prometheus.Collector(pool) for _ in range(3)]
    for collector in collectors:
        registry.register(collector)
    others.register(prometheus.Collector(pool))
    samples = scrape(registry)
    assert len(samples) == len(pool.records) * len(NAMES)
    assert scrape(others) == samples
    assert next(iter(registry.restricted_registry(["loop_pool_ready"]).collect())).samples
    for collector in collectors:
        registry.unregister(collector)
    assert scrape(registry) == {}
    with pytest.raises(ValueError, match="Duplicated timeseries"):  # another pool's do clash
        others.register(prometheus.Collector(FixedPool()))
    registry.register(prometheus.Collector(FixedPool()))


def test_of_two_pools_the_second_takes_the_first_one_s_place(
    prometheus: Any, registry: Any
) -> None:
    async def main(earlier: Any) -> Any:
        pool = loop_pool.current_pool()
        collector = prometheus.Collector(pool)
        if earlier is not None:
            with pytest.raises(ValueError, match="Duplicated timeseries"):
                registry.register(collector)
            registry.unregister(earlier)
        registry.register(collector)
        samples = scrape(registry)
        assert {loop for _, loop in samples} == {
            f"loop-pool-{index}" for index in range(len(pool.loops))
        }
        await turns(10_000)
        return collector, samples["loop_pool_callbacks_total", "loop-pool-0"]

    first, _ = run(lambda: main(None), loops=3)
    _, callbacks = run(lambda: main(first), loops=2)
    assert callbacks < 10_000, "each pool counts from its own beginning"


def test_scrapes_go_on_while_pools_begin_and_end(prometheus: Any) -> None:
    """Each gives all samples or none, whatever the pool is doing."""
    from prometheus_client import CollectorRegistry

    current: Any = None
    over = threading.Event()
    sizes: set[int] = set()
    scrapes = 0

    async def main() -> None:
        nonlocal current
        pool = loop_pool.current_pool()
        registry = CollectorRegistry()
        registry.register(prometheus.Collector(pool))
        current = registry
        before = scrapes
        work = [loop_pool.spawn(turns(100), loop=loop) for loop in pool.loops]
        await eventually(lambda: scrapes > before + 1, "it is scraped")
        for task in work:
            await task

    def read() -> None:
        nonlocal scrapes
        while not over.is_set():
            if current is not None:
                sizes.add(len(scrape(current)))
                scrapes += 1

    with Threads(read, read):
        try:
            for _ in range(30):
                run(main, loops=3)
            wait_for(lambda: 0 in sizes, "the closed pool is scraped")
        finally:
            over.set()
    assert sizes == {0, 3 * len(NAMES)}


def test_in_a_forked_child_the_parent_s_pool_has_no_samples() -> None:
    pytest.importorskip("prometheus_client")
    source = """
        import asyncio, os, warnings
        import loop_pool
        from loop_pool.metrics.prometheus import Collector
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process
        async def main():
            collector = Collector(loop_pool.current_pool())
            pid = os.fork()
            if pid == 0:
                os._exit(len(collector.collect()))
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            print(os.waitstatus_to_exitcode(status), len(collector.collect()))
        loop_pool.run(main(), loops=2)
    """
    assert check_script(source) == f"0 {len(NAMES)}\n"


# OpenTelemetry


@pytest.fixture
def opentelemetry() -> Any:
    """`loop_pool.metrics.opentelemetry`."""
    pytest.importorskip("opentelemetry.metrics")
    from loop_pool.metrics import opentelemetry

    return opentelemetry


@pytest.fixture
def provider(opentelemetry: Any) -> Iterator[Any]:
    """A provider of the SDK, with a `reader` that keeps what it collects."""
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    provider.reader = reader
    yield provider
    provider.shutdown()


def collect(provider: Any) -> list[Any]:
    """The scopes of which a provider's reader finds something."""
    data = provider.reader.get_metrics_data()
    if data is None:
        return []
    return [scope for resource in data.resource_metrics for scope in resource.scope_metrics]


def observations(scope: Any) -> Samples:
    """(name, loop) -> value."""
    return {
        (metric.name, point.attributes["loop"]): point.value
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_without_a_provider_nothing_is_read(opentelemetry: Any) -> None:
    source = """
        import loop_pool
        from loop_pool.metrics.opentelemetry import instrument
        async def main():
            pool = loop_pool.current_pool()
            read = type(pool).stats
            type(pool).stats = lambda self: print("read") or read(self)
            instrument(pool)
            instrument(pool)
        loop_pool.run(main(), loops=1)
        print("done")
    """
    assert check_script(source) == "done\n"


def test_a_provider_that_is_set_later_is_used() -> None:
    pytest.importorskip("opentelemetry.sdk.metrics")
    source = """
        import loop_pool
        from loop_pool.metrics.opentelemetry import instrument
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        async def main():
            instrument(loop_pool.current_pool())
            reader = InMemoryMetricReader()
            provider = MeterProvider([reader], shutdown_on_exit=False)
            metrics.set_meter_provider(provider)
            (resource,) = reader.get_metrics_data().resource_metrics
            (scope,) = resource.scope_metrics
            print(len(scope.metrics))
            provider.shutdown()
        loop_pool.run(main(), loops=1)
    """
    assert check_script(source) == f"{len(NAMES)}\n"


def test_each_field_of_each_loop_is_observed(opentelemetry: Any, provider: Any) -> None:
    pool = FixedPool()
    opentelemetry.instrument(pool, provider)
    assert pool.readings == 0
    (scope,) = collect(provider)
    assert scope.scope.name == "loop_pool"
    assert scope.scope.version == loop_pool.__version__
    assert observations(scope) == {
        (names[1], record.name): getattr(record, field)
        for record in pool.records
        for field, names in NAMES.items()
    }
    by_name = {names[1]: field for field, names in NAMES.items()}
    for metric in scope.metrics:
        field = by_name[metric.name]
        assert metric.unit == NAMES[field][2]
        assert metric.data.is_monotonic is (field in COUNTERS)
        assert metric.description


def test_two_pools_are_two_scopes(opentelemetry: Any, provider: Any) -> None:
    pools = FixedPool(1), FixedPool(2)
    for pool in pools:
        opentelemetry.instrument(pool, provider)
    scopes = sorted(collect(provider), key=lambda scope: scope.scope.attributes["pool"])
    first, second = scopes
    assert first.scope.attributes["pool"] != second.scope.attributes["pool"]
    assert [len(observations(each)) for each in scopes] == [len(NAMES), 2 * len(NAMES)]


def test_the_same_pool_twice_is_as_once(
    opentelemetry: Any, provider: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FixedPool(1)
    opentelemetry.instrument(pool, provider)
    once = pool.readings, collect(provider)
    readings = pool.readings
    opentelemetry.instrument(pool, provider)
    (scope,) = collect(provider)
    assert observations(scope) == observations(once[1][0])
    assert pool.readings == 2 * readings, "each metric is read once"
    assert not caplog.records


def test_a_closed_pool_is_not_observed_and_not_kept(opentelemetry: Any, provider: Any) -> None:
    references = []

    async def main() -> None:
        pool = loop_pool.current_pool()
        references.append(weakref.ref(pool))
        opentelemetry.instrument(pool, provider)
        (scope,) = await asyncio.to_thread(collect, provider)
        before = observations(scope)
        await loop_pool.spawn(turns(1_000), loop=pool.loops[1])
        (scope,) = await asyncio.to_thread(collect, provider)
        key = ("loop_pool.callbacks", "loop-pool-1")
        assert observations(scope)[key] >= before[key] + 1_000

    run(main)
    assert all(not observations(scope) for scope in collect(provider))
    gc.collect()
    assert references[0]() is None
