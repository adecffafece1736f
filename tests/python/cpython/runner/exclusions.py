"""Reads `cpython_exclusions.toml`: the tests that do not judge our loop, each with the reason."""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

PRIVATE: Final = "private"
"""The test looks into the selector loop's private parts, or at mocks of them."""

ENVIRONMENT: Final = "environment"
"""The test fails here with asyncio's own loop too (`--check-exclusions` verifies that)."""


class ExclusionsError(Exception):
    """The file of exclusions does not have the form that its head describes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exclusion:
    """One test that is not run, and why."""

    name: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Exclusions:
    """The entries of the file that concern the running interpreter.

    `tests` is keyed by the test's name (`test_events.EPollEventLoopTests.test_x`), `no_loop` by
    the name of a test file in which no loop of ours is made, with the reason.
    """

    tests: dict[str, Exclusion]
    no_loop: dict[str, str]

    def of_file(self, module: str) -> tuple[str, ...]:
        """Names of the excluded tests of the test file `module`."""
        return tuple(name for name in self.tests if name.partition(".")[0] == module)

    @classmethod
    def read(cls, path: Path) -> Exclusions:
        """Read `path`.

        Raises:
            ExclusionsError: the file is not TOML, or an entry lacks its reason, is listed twice,
                or is of an unknown kind.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ExclusionsError(f"{path.name}: {error}") from error
        tests: dict[str, Exclusion] = {}
        no_loop: dict[str, str] = {}
        for entry in table.get("exclusion", []):
            kind, reason = entry.get("kind", PRIVATE), _reason(entry, path)
            if kind not in (PRIVATE, ENVIRONMENT):
                raise ExclusionsError(f"{path.name}: unknown kind {kind!r}")
            if not _concerns_this_python(entry):
                continue
            for name in entry.get("tests", []):
                if name in tests:
                    raise ExclusionsError(f"{path.name}: {name} is listed twice")
                tests[name] = Exclusion(name, kind, reason)
        for entry in table.get("no_loop", []):
            if _concerns_this_python(entry):
                no_loop |= dict.fromkeys(entry.get("files", []), _reason(entry, path))
        return cls(tests, no_loop)


def _reason(entry: dict[str, Any], path: Path) -> str:
    reason = entry.get("reason", "")
    if not isinstance(reason, str) or not reason.strip():
        raise ExclusionsError(f"{path.name}: an entry without a reason: {entry}")
    return " ".join(reason.split())


def _concerns_this_python(entry: dict[str, Any]) -> bool:
    versions = entry.get("python")
    return versions is None or "{}.{}".format(*sys.version_info) in versions
