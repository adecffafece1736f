"""The native streams, under the name that existing scripts import; see ``_loop.streams``."""

from __future__ import annotations

from ._loop.streams import StreamProtocol, StreamReader, StreamWriter, listen, open_connection

__all__ = ["StreamProtocol", "StreamReader", "StreamWriter", "listen", "open_connection"]
