"""Reads `exclusions.toml`: the tests of uvicorn that do not judge native HTTP, each with why."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class ExclusionsError(Exception):
    """The file of exclusions does not have the form that its head describes."""


def read(path: Path) -> dict[str, str]:
    """Return the reason of each excluded test; the names as `name_of` makes them.

    Raises:
        ExclusionsError: the file is not TOML, or an entry lacks its reason, or is there twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ExclusionsError(f"{path.name}: {error}") from error
    reasons: dict[str, str] = {}
    for entry in table.get("exclusion", []):
        reason = _reason(entry, path)
        for name in entry.get("tests", []):
            if name in reasons:
                raise ExclusionsError(f"{path.name}: {name} is listed twice")
            reasons[name] = reason
    return reasons


def _reason(entry: dict[str, Any], path: Path) -> str:
    reason = entry.get("reason", "")
    if not isinstance(reason, str) or not reason.strip():
        raise ExclusionsError(f"{path.name}: an entry without a reason: {entry}")
    return " ".join(reason.split())


def name_of(nodeid: str) -> str:
    """The name of a test in the list: `test_http.test_close`, with its parameters if it has any."""
    path, _, test = nodeid.partition("::")
    name, _, parameters = test.partition("[")
    kept = "-".join(each for each in parameters.removesuffix("]").split("-") if each != PROTOCOL)
    file = path.rpartition("/")[2].removesuffix(".py")
    return f"{file}.{name}[{kept}]" if kept else f"{file}.{name}"


PROTOCOL = "native"
"""What stands in a test's parameters for a protocol that we give it."""
