"""A pytest plugin that gives uvicorn's own tests a server in Rust."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loop_pool._serve.native_http import classes
from loop_pool.pytest_plugin import PoolFactory

from . import protocol, server
from .exclusions import PROTOCOL, ExclusionsError, name_of, read

if TYPE_CHECKING:
    from collections.abc import Iterator

# What uvicorn's `conftest` imports, and we lack. Behind ours: it has some of the same.
sys.path.append(str(Path.cwd() / "packages"))

ASKS = {"http_protocol_cls", "ws_protocol_cls", "unused_tcp_port", "short_socket_name"}
"""The fixtures of uvicorn's by which a test asks for a server or a protocol."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what `suite.py` passes on."""
    parser.addoption("--native-exclusions", type=Path, required=True)
    parser.addoption("--native-results", type=Path, required=True)
    parser.addoption("--native-check-exclusions", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Puts ours where the tests will look for uvicorn's."""
    try:
        reasons = read(config.getoption("--native-exclusions"))
        classes()
    except (ExclusionsError, ImportError) as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(_Suite(config, reasons))
    server.record_configurations()
    protocol.keep_quiet()
    import tests.utils

    tests.utils.Server = server.NativeServer


@pytest.fixture(params=[PROTOCOL])
def http_protocol_cls() -> type:
    """What a test makes a protocol of."""
    return protocol.NativeProtocol


@pytest.fixture(params=[PROTOCOL])
def ws_protocol_cls() -> type:
    """The same, for a WebSocket."""
    return protocol.NativeProtocol


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Each test runs on loop 0 of a pool, so that the server can be in its loop."""
    return "asyncio", {"loop_factory": PoolFactory(loops=1)}


class _Suite:
    """What is to be run, and what came out."""

    def __init__(self, config: pytest.Config, reasons: dict[str, str]) -> None:
        self._config = config
        self._reasons = reasons
        self._checking = config.getoption("--native-check-exclusions")
        self._excluded: dict[str, str] = {}
        self._counts = {"passed": 0, "failed": 0, "skipped": 0}
        self._stale: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_plugin_registered(self, plugin: Any) -> None:
        """Replace the fixtures of uvicorn's `conftest` before pytest has seen them."""
        if getattr(plugin, "__name__", "") == "tests.conftest":
            for fixture in (http_protocol_cls, ws_protocol_cls, anyio_backend):
                setattr(plugin, fixture.__name__, fixture)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what asks for no server, and what is excluded."""
        for name in ("tests.protocols.test_websocket", "tests.test_server"):
            protocol.replace_in(sys.modules.get(name))
        asking = [item for item in items if ASKS & {*getattr(item, "fixturenames", ())}]
        names = {name_of(item.nodeid) for item in asking}
        if not self._config.getoption("keyword"):
            gone = [name for name in self._reasons if not _matches_any(name, names)]
            self._stale += [f"{name}: no such test" for name in gone]
        self._excluded = {
            name: reason
            for name in names
            if (reason := self._reasons.get(name) or self._reasons.get(name.partition("[")[0]))
        }
        items[:] = [
            item for item in asking if (name_of(item.nodeid) in self._excluded) == self._checking
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """A test that has made no server of ours says nothing about it."""
        before = server.made.count
        yield
        assert server.made.count > before, "it has made no native server"

    def pytest_runtest_teardown(self) -> None:
        """Ends the servers of the protocols that the test has made."""
        protocol.close_all()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts."""
        if report.when == "call" or not report.passed:
            if self._checking and report.when == "call" and report.passed:
                self._stale.append(f"{name_of(report.nodeid)}: passes, so it need not be excluded")
            self._counts[report.outcome] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was left out and why."""
        if not self._checking:
            by_reason: dict[str, int] = {}
            for reason in self._excluded.values():
                by_reason[reason] = by_reason.get(reason, 0) + 1
            terminalreporter.section(f"excluded: {len(self._excluded)}")
            for reason, count in by_reason.items():
                terminalreporter.write_line(f"{count:4}  {reason}")
        if self._stale:
            terminalreporter.section("stale exclusions", red=True)
            for line in self._stale:
                terminalreporter.write_line(line)

    def pytest_sessionfinish(self) -> None:
        """Write the counts for `suite.py`."""
        counts = dict(self._counts)
        if self._checking:
            counts = {"passed": counts["failed"], "failed": 0, "skipped": counts["skipped"]}
        else:
            counts["skipped"] += len(self._excluded)
        counts["failed"] += len(self._stale)
        self._config.getoption("--native-results").write_text(json.dumps(counts))


def _matches_any(listed: str, names: set[str]) -> bool:
    return listed in names or any(name.partition("[")[0] == listed for name in names)
