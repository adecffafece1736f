"""Puts our loop in the place of asyncio's selector loop, inside the child process.

CPython's tests make their loops by five names: `asyncio.new_event_loop`, `asyncio.EventLoop`,
`asyncio.SelectorEventLoop`, the same two in `asyncio.unix_events`, and the default policy. All of
them are led to our class. `asyncio.unix_events._UnixSelectorEventLoop`, which is the base of our
class, keeps its name, and so do the mock loops of CPython's `utils.TestLoop`.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.streams
import asyncio.unix_events
import functools
import importlib
import ssl
import sys
import types
from typing import Any


class PlacementError(Exception):
    """Our loop cannot be put in place."""


class Placement:
    """Counts the loops made while our class stands in asyncio's place.

    `ours` is the number of instances of our class, `foreign` that of real selector loops which
    are not ours. Counting happens in `__init__`, so the class itself stays as its users know it.
    """

    def __init__(self, loop_class: type[asyncio.AbstractEventLoop]) -> None:
        self.ours = 0
        self.foreign = 0
        self.loop_class = loop_class

    def install(self) -> None:
        """Replace the names, then make one loop to see that it worked.

        Raises:
            PlacementError: `asyncio.new_event_loop()` still makes another loop.
        """
        native: type[Any] = asyncio.unix_events._UnixSelectorEventLoop
        if self.loop_class is not native:
            self._count(native)
        self._count(self.loop_class)
        for module in (asyncio, asyncio.unix_events):
            for name in ("SelectorEventLoop", "EventLoop"):
                if hasattr(module, name):
                    setattr(module, name, self.loop_class)
        policy = getattr(asyncio.unix_events, "_UnixDefaultEventLoopPolicy", None)
        if policy is not None:
            policy._loop_factory = self.loop_class
        elif type(_made_and_closed()) is not self.loop_class:  # 3.16 has no policies
            asyncio.events.new_event_loop = asyncio.new_event_loop = self.loop_class
        made = type(_made_and_closed())
        if made is not self.loop_class:
            raise PlacementError(f"asyncio.new_event_loop() makes {made}, not {self.loop_class}")
        self.ours = self.foreign = 0

    def _count(self, loop_class: type[Any]) -> None:
        original = loop_class.__init__

        @functools.wraps(original)
        def counting(loop: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(loop, self.loop_class):
                # Once per loop, even where our `__init__` calls the one of the native loop.
                self.ours += loop_class is self.loop_class
            else:
                self.foreign += 1
            original(loop, *args, **kwargs)

        loop_class.__init__ = counting


def place_native_streams() -> None:
    """Put loop_pool's streams in the place of asyncio's, also for `asyncio.start_server`."""
    streams = importlib.import_module("loop_pool._loop.streams")
    for module in (asyncio, asyncio.streams):
        module.StreamReader = streams.StreamReader
        module.StreamWriter = streams.StreamWriter
        module.StreamReaderProtocol = streams.StreamProtocol


def place_native_tls() -> None:
    """Give asyncio's tests the contexts of `loop_pool.tls` in place of those of `ssl`.

    The tests alone: the methods of `ssl.SSLContext` name their class as a global of `ssl`.
    """
    tls = importlib.import_module("loop_pool.tls")
    given = types.ModuleType("ssl")
    vars(given).update(vars(ssl))
    for name in tls.__all__:
        setattr(given, name, getattr(tls, name))
    for name, module in list(sys.modules.items()):
        if name.startswith("test.test_asyncio.") and getattr(module, "ssl", None) is ssl:
            vars(module)["ssl"] = given


def load_loop_class(spec: str) -> type[asyncio.AbstractEventLoop]:
    """Import the class named by `spec`, `module:Class`.

    Raises:
        PlacementError: there is no such class, or it is no `asyncio.BaseEventLoop`.
    """
    module, _, name = spec.partition(":")
    try:
        loop_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PlacementError(f"cannot load the loop {spec}: {error}") from error
    if not (isinstance(loop_class, type) and issubclass(loop_class, asyncio.BaseEventLoop)):
        raise PlacementError(f"{spec} is no subclass of asyncio.BaseEventLoop")
    return loop_class


def _made_and_closed() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop
