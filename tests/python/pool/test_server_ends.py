"""Pool-wide servers that nobody closed, without a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import loop_pool

from ..transport.servers import (
    POOLS,
    Start,
    ends_with_its_loop,
    names,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("no_collection"),
]


@pytest.mark.parametrize("connects", [False, True])
@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize(("start", "kind"), POOLS, ids=names(POOLS))
def test_a_server_that_nobody_closed_ends_with_its_loops(
    tmp_path: Path, start: Start, kind: Any, loops: int, connects: bool
) -> None:
    ends_with_its_loop(
        lambda main: loop_pool.run(main, loops=loops), tmp_path, start, kind, connects=connects
    )
