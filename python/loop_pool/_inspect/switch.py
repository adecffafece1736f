"""Decides whether a pool is inspected. The server is imported when the first one is."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from .._pool.runner import inspect_by

if TYPE_CHECKING:
    from .._pool.pool import Pool
    from .server import Inspector

logger = logging.getLogger("loop_pool")

SWITCH = "LOOP_POOL_INSPECT"
"""The environment variable that lets every pool of a process answer.

Unset, empty, 0, false, no or off: they do not.
"""


def wanted(choice: bool | None) -> bool:
    """Whether a pool is to answer: as its caller chose, or with None as the environment says."""
    if choice is not None:
        return choice
    return os.environ.get(SWITCH, "").casefold() not in {"", "0", "false", "no", "off"}


def start(pool: Pool, choice: bool | None) -> Inspector | None:
    """Let a pool answer, if it is to. In the thread that runs loop 0, once its loops run.

    Args:
        pool: the pool.
        choice: whether it is to; None: as the environment says, and if that fails, the pool goes on
            without, and the log of ``loop_pool`` says why.

    Raises:
        OSError, RuntimeError: it was asked for with ``choice``, and fails: see ``server``.
    """
    if not wanted(choice):
        return None
    from .server import Inspector

    try:
        return Inspector(pool)
    except (OSError, RuntimeError) as error:  # RuntimeError: out of threads
        if choice:
            raise
        logger.error("loop-pool ps and top cannot inspect this pool: %s", error)
        return None


inspect_by(start)
