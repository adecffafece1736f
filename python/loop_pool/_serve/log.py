"""The log configuration of ``loop_pool.serve``: uvicorn's, with the loop's name in access lines."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

from uvicorn.config import LOGGING_CONFIG

from .._loop.cross_loop_checks import name_of


class LoopName(logging.Filter):
    """Gives each record the attribute ``loop``: the name of the loop it comes from, or ``-``."""

    def filter(self, record: logging.LogRecord) -> bool:
        loop = asyncio._get_running_loop()
        record.loop = "-" if loop is None else name_of(loop)
        return True


def log_config(*, plain_access: bool = False) -> dict[str, Any]:
    """Return the configuration used if none is given; uvicorn changes what it gets.

    Args:
        plain_access: lines of the access log are written as they are, without anything around.
    """
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"loop": {"()": f"{__name__}.{LoopName.__name__}"}}
    config["handlers"]["access"]["filters"] = ["loop"]
    access = config["formatters"]["access"]
    access["fmt"] = access["fmt"].replace("%(levelprefix)s ", "%(levelprefix)s %(loop)s ")
    if plain_access:
        # uvicorn's would take them for its own.
        access |= {"()": "uvicorn.logging.DefaultFormatter", "fmt": "%(message)s"}
    # The pool's own messages use the same handler as uvicorn's.
    config["loggers"]["loop_pool"] = {
        "handlers": ["default"],
        "level": "WARNING",
        "propagate": False,
    }
    return config
