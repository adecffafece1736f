"""What speaks HTTP in the tests of serving: the values of `http` that they run on."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from loop_pool import _core

KINDS = ("httptools", pytest.param("h11", marks=pytest.mark.stress), "native")
"""Those that the tests of the protocols run on, in this process.

On h11, which differs from httptools in what parses alone, only with `make stress`.
"""

PROCESSES = ("httptools", "native")
"""Those that the tests of whole servers run on, each in a process."""

on_each_kind = pytest.mark.usefixtures("each_http")
"""On a test of whole servers: it runs on each kind of them.

Others run once, on what the command chooses by itself: they are about the command, its options and
places, signals and the lifespan, which are the same whatever speaks HTTP.
"""

SERVERS = {"native": "loop-pool"}
"""The header `server` of those that are not uvicorn's."""


def is_there(kind: str) -> bool:
    """Whether its packages are installed."""
    if find_spec("uvicorn") is None:
        return False
    if kind == "native":
        return hasattr(_core, "HTTPServer")
    return find_spec(kind) is not None
