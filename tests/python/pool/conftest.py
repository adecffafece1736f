"""Nearly all tests here need the package."""

from __future__ import annotations

from pathlib import Path

from ..support import ORACLE_ONLY

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
