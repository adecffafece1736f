"""Runs CPython's own asyncio tests with our loop in place of the selector loop.

    python tests/python/cpython/suite.py                       # all files of test.test_asyncio
    python tests/python/cpython/suite.py test_events           # one file, class or test
    python tests/python/cpython/suite.py --loop asyncio:SelectorEventLoop     # the oracle
    python tests/python/cpython/suite.py --native-streams test_streams        # our streams as well
    python tests/python/cpython/suite.py --native-tls test_ssl test_sslproto  # TLS by rustls
    PYTHONASYNCIODEBUG=1 python tests/python/cpython/suite.py  # all loops in debug mode

Each file runs in a process of its own. A test that hangs or crashes is named with its stacks, and
a new process goes on with the rest. The tests in `exclusions.toml` are left out. The last
line is `N passed, N failed, N skipped` (excluded tests count as skipped).

Exit status: 0 when all passed; 1 on any failure, error, hang, crash, unexpected success, exception
that no one could catch, stale exclusion, or file in which no loop of ours was made; 2 when there is
nothing to run, no such loop, or no proper file of exclusions; 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

RUNNER = Path(__file__).resolve()
HERE = RUNNER.parent
sys.path.insert(0, str(HERE))

from runner import child, summary  # noqa: E402
from runner.exclusions import ENVIRONMENT, Exclusions, ExclusionsError  # noqa: E402
from runner.model import ChildSpec, FileReport, Outcome, is_selected  # noqa: E402
from runner.placement import PlacementError, load_loop_class  # noqa: E402
from runner.supervisor import Limits, interrupted, run_file  # noqa: E402

PACKAGE = "test.test_asyncio"
ORACLE = "asyncio:SelectorEventLoop"
BEYOND = ("test.test_asyncgen", "test.test_unittest.test_async_case")
"""Tests outside the package that run a loop: async generators, unittest."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run CPython's asyncio tests with our loop in place of the selector loop.",
    )
    parser.add_argument(
        "select",
        nargs="*",
        metavar="TEST",
        help="file, class or test (test_events, test_events.EPollEventLoopTests, *datagram*)",
    )
    parser.add_argument("--loop", default="loop_pool:EventLoop", metavar="MODULE:CLASS")
    parser.add_argument(
        "--native-streams",
        action="store_true",
        help="put loop_pool's streams in the place of asyncio's too",
    )
    parser.add_argument(
        "--native-tls",
        action="store_true",
        help="give the tests the contexts of loop_pool.tls in place of those of ssl",
    )
    parser.add_argument("--package", default=PACKAGE, help="package of tests (%(default)s)")
    parser.add_argument(
        "--jobs", "-j", type=int, default=os.process_cpu_count() or 1, help="files at a time"
    )
    parser.add_argument("--test-timeout", type=float, default=Limits().test, metavar="SECONDS")
    parser.add_argument("--file-timeout", type=float, default=Limits().file, metavar="SECONDS")
    parser.add_argument("--exclusions", type=Path, default=HERE / "exclusions.toml", metavar="FILE")
    parser.add_argument(
        "--check-exclusions",
        action="store_true",
        help="run the excluded tests too: one that passes is stale",
    )
    parser.add_argument(
        "--no-exclusions", action="store_true", help="run all tests and judge them all"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="write all results as JSON")
    parser.add_argument("--child", metavar="SPEC", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def modules_of(package: str) -> list[str]:
    """Names of the test modules of `package`, the largest file first; empty without the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = {f"{package}.{file.stem}": file for file in folder.glob("test_*.py")}
    if package == PACKAGE:
        files |= {name: Path(folder.parent, *name.split(".")[1:]) for name in BEYOND}
        files = {
            name: file.with_suffix(".py")
            for name, file in files.items()
            if file.with_suffix(".py").exists()
        }
    return sorted(files, key=lambda name: -files[name].stat().st_size)


def prefix_of(module: str, package: str) -> str:
    """What is taken off the ids of the tests of `module`, so that its own name comes first."""
    return f"{package}." if module.startswith(f"{package}.") else f"{module.rpartition('.')[0]}."


def may_hold(module: str, select: Sequence[str]) -> bool:
    """Whether a test meant by `select` can be in the file `module`."""
    return not select or any("*" in one or one.partition(".")[0] == module for one in select)


class Suite:
    """One run over all files: what to run, what came out, what is stale."""

    def __init__(self, options: argparse.Namespace, exclusions: Exclusions) -> None:
        self.options = options
        self.exclusions = exclusions
        self.select = tuple(one.removeprefix(f"{options.package}.") for one in options.select)
        self.limits = Limits(test=options.test_timeout, file=options.file_timeout)

    def run(self, modules: Iterable[str]) -> list[FileReport]:
        """Run `modules`, `--jobs` at a time, and print a line as each ends."""
        print(summary.HEADER, flush=True)
        with ThreadPoolExecutor(self.options.jobs) as executor:
            try:
                running = [executor.submit(self._run_module, module) for module in modules]
                for each in running:
                    # No wait is without a limit: a signal that comes just before the main thread
                    # sleeps does not wake it.
                    while not each.done():
                        wait([each], timeout=1)
                return [each.result() for each in running]
            except BaseException:
                interrupted.set()
                executor.shutdown(cancel_futures=True)
                raise

    def _run_module(self, module: str) -> FileReport:
        prefix = prefix_of(module, self.options.package)
        excluded = self.exclusions.of_file(module.removeprefix(prefix))
        spec = ChildSpec(
            module=module,
            prefix=prefix,
            loop=self.options.loop,
            events="",
            select=self.select,
            exclude=() if self.options.no_exclusions else excluded,
            native_streams=self.options.native_streams,
            native_tls=self.options.native_tls,
        )
        report = run_file(spec, RUNNER, self.limits)
        if not self.select:
            self._look_for_loops(report)
        print(summary.row(report), flush=True)
        return report

    def _look_for_loops(self, report: FileReport) -> None:
        reason = self.exclusions.no_loop.get(report.module)
        ran = len(report.results) > report.count(Outcome.SKIPPED)
        if ran and not report.loops and reason is None:
            report.problems.append("no loop of ours was made, and the file is not in [[no_loop]]")
        elif report.loops and reason is not None:
            report.problems.append("loops of ours were made, but the file is in [[no_loop]]")

    def stale(self, reports: Sequence[FileReport]) -> list[str]:
        """Exclusions that name no test or, under `--check-exclusions`, one that passes."""
        ran = {report.module: report for report in reports}
        found: list[str] = []
        if not self.select:
            listed = self.exclusions.no_loop
            found += [f"{name}: no such file" for name in listed if name not in ran]
        for name, exclusion in self.exclusions.tests.items():
            report = ran.get(name.partition(".")[0])
            if report is None:
                if not self.select:
                    found.append(f"{name}: no such file")
            elif report.known and name not in report.known:
                found.append(f"{name}: no such test")
            elif self.options.check_exclusions and is_selected(name, self.select):
                if self._passes(name, self.options.loop):
                    found.append(f"{name}: passes, so it need not be excluded")
                elif exclusion.kind == ENVIRONMENT and self._passes(name, ORACLE):
                    found.append(f"{name}: passes with asyncio's own loop")
        return found

    def _passes(self, name: str, loop: str) -> bool:
        """Run one excluded test alone: it may leave a state in which no other test can run."""
        file = f".{name.partition('.')[0]}"
        module = next(m for m in modules_of(self.options.package) if m.endswith(file))
        prefix = prefix_of(module, self.options.package)
        spec = ChildSpec(module=module, prefix=prefix, loop=loop, events="", select=(name,))
        result = run_file(spec, RUNNER, self.limits).results.get(name)
        return result is not None and result.outcome is Outcome.PASSED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; the exit status as the head of this file says."""
    options = parse(argv)
    if options.child:
        return child.main(options.child)
    try:
        exclusions = Exclusions.read(options.exclusions)
        load_loop_class(options.loop)
    except (ExclusionsError, PlacementError) as error:
        print(error, file=sys.stderr)
        return 2
    suite = Suite(options, exclusions)
    modules = [
        module
        for module in modules_of(options.package)
        if may_hold(module.removeprefix(prefix_of(module, options.package)), suite.select)
    ]
    if not modules:
        print(f"no tests of {options.package} {' '.join(options.select)}", file=sys.stderr)
        return 2
    # As Ctrl-C: the children are in sessions of their own, and would outlive us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell ignores it for what it runs in the background, and the tests' processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        reports = suite.run(modules)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    stale = suite.stale(reports)
    if options.results:
        everything = [vars_of(report) for report in reports]
        options.results.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    totals = summary.write(reports, stale, sys.stdout)
    if not totals.passed and not totals.failed and suite.select:
        print(f"no test ran for {' '.join(options.select)}", file=sys.stderr)
        return 2
    return 1 if totals.failed else 0


def vars_of(report: FileReport) -> dict[str, object]:
    """`report` as plain values, for `--results`."""
    return dataclasses.asdict(report) | {"known": sorted(report.known)}


if __name__ == "__main__":
    sys.exit(main())
