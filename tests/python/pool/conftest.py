"""What pools log. Nearly all tests here need the package."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..support import ORACLE_ONLY

if TYPE_CHECKING:
    from .stuck import Records

ALSO_WITHOUT = {
    "test_cgroup.py",
    "test_gil.py",
    "test_server_regressions.py",
}
"""What runs, in part, on asyncio's own loop, or needs no loop."""

collect_ignore = (
    [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name not in ALSO_WITHOUT]
    if ORACLE_ONLY
    else []
)


@pytest.fixture
def log() -> Iterator[Records]:
    """What `loop_pool` logs. Nothing but warnings and errors."""
    from .stuck import Records

    logger = logging.getLogger("loop_pool")
    handler = Records()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    assert {record.levelname for record in handler.records} <= {"WARNING", "ERROR"}
