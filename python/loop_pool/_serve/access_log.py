"""Lines of the access log: uvicorn's, or in a format with the atoms of gunicorn."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import time
from typing import TYPE_CHECKING, Any, final

from .files import NAMES_A_FILE, length_of
from .plan import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .http_server import App

error_logger = logging.getLogger("uvicorn.error")
access_logger = logging.getLogger("uvicorn.access")

UNKNOWN = "-"
"""Stands for what there is not."""

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905


# -- uvicorn's lines -----------------------------------------------------------------------------


def uvicorn_log() -> Callable[[dict[str, Any], int], None] | None:
    """Return what writes uvicorn's line for a scope and a status; ``None``: nobody reads it."""
    from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

    if not access_logger.hasHandlers():
        return None

    def log(scope: Any, status: int) -> None:
        client, path = get_client_addr(scope), get_path_with_query_string(scope)
        version = scope["http_version"]
        access_logger.info(
            '%s - "%s %s HTTP/%s" %d', client, scope["method"], path, version, status
        )

    return log


def log_websocket(scope: Any, status: int) -> None:
    """Write uvicorn's line for a WebSocket, which is accepted with the status 101.

    As uvicorn does, not in the access log: it is written whether there is one or not.
    """
    from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

    client, path = get_client_addr(scope), get_path_with_query_string(scope)
    outcome = "[accepted]" if status == 101 else status
    error_logger.info('%s - "WebSocket %s" %s', client, path, outcome)


# -- a format ------------------------------------------------------------------------------------


@final
class Exchange:
    """A request, and what an application has sent in response so far."""

    __slots__ = (
        *("_counter", "began", "headers", "is_gone", "length"),
        *("path", "query", "scope", "status", "target"),
    )

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        # An application may change its scope on the way.
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.target: str = scope["raw_path"].decode("latin-1")
        """As the client has sent it, with the root path before it."""
        if self.query:
            self.target += f"?{self.query}"
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.length = 0
        self.is_gone = False
        """Whether the application has heard that the client is gone."""
        self.began = time.time()
        self._counter = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long the application has taken so far."""
        return time.perf_counter() - self._counter

    def take(self, message: Any, length: int = 0) -> bool:
        """Take note of a message to the client; return whether it ends the response.

        Args:
            message: of ASGI.
            length: bytes that it sends of a file.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
            return False
        if self.scope["method"] != "HEAD":
            if kind == "http.response.body":
                self.length += len(message.get("body", b""))
            else:
                self.length += length
        return kind in _ENDING and not message.get("more_body", False)


_ENDING = ("http.response.body", *NAMES_A_FILE)


@final
class AccessFormat:
    """A format such as ``%(h)s %(r)s %(s)s %(D)s``, with gunicorn's atoms.

    Raises:
        OptionError: it has an atom that does not exist.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[str | Callable[[Exchange], str]] = []
        end = 0
        for found in re.finditer(r"%(?:%|\(([^)]*)\)s)?", text):
            if found.start() > end:
                self._parts.append(text[end : found.start()])
            end = found.end()
            self._parts.append("%" if found[0] == "%%" else _atom(found[1], text[found.start() :]))
        if end < len(text):
            self._parts.append(text[end:])

    def line(self, exchange: Exchange) -> str:
        """Return the line for a request."""
        return "".join(part if isinstance(part, str) else part(exchange) for part in self._parts)


def _atom(name: str | None, text: str) -> Callable[[Exchange], str]:
    """Return what gives the text of an atom; ``text``: the format from the atom on."""
    if name is not None:
        if name in ATOMS:
            return ATOMS[name]
        header = re.fullmatch(r"\{([^{}]+)\}([io])", name)
        if header is not None:
            wanted = header[1].lower().encode("latin-1", "replace")
            if header[2] == "i":
                return lambda exchange: _header(exchange.scope["headers"], wanted)
            return lambda exchange: _header(exchange.headers, wanted)
    atoms = ", ".join(f"%({known})s" for known in ATOMS)
    raise OptionError(
        f"`access_log_format` has no atom at {text[:20]!r}; there are {atoms}, %({{name}}i)s, "
        "%({name}o)s and %%"
    )


def _header(headers: Any, wanted: bytes) -> str:
    values = [value for name, value in headers if name.lower() == wanted]
    return _safe(b", ".join(values).decode("latin-1")) if values else UNKNOWN


def _safe(text: str) -> str:
    r"""Escape what would end a field or a line: ``"``, ``\`` and what is not printable ASCII."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        f"\\{char}"
        if char in '"\\'
        else char
        if " " <= char <= "~"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def _client(exchange: Exchange) -> str:
    client = exchange.scope.get("client")
    return _safe(str(client[0])) if client else UNKNOWN


def _user(exchange: Exchange) -> str:
    """Return the name in the credentials of the scheme Basic."""
    scheme, _, credentials = _header(exchange.scope["headers"], b"authorization").partition(" ")
    if scheme.lower() != "basic":
        return UNKNOWN
    try:
        name, _, _ = base64.b64decode(credentials.strip()).decode().partition(":")
    except binascii.Error, UnicodeDecodeError:
        return UNKNOWN
    return _safe(name) or UNKNOWN


def _time(exchange: Exchange) -> str:
    """As Apache writes it, in any locale: ``[10/Oct/2026:13:55:36 +0200]``."""
    at = time.localtime(exchange.began)
    return f"[{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', at)}]"


def _version(exchange: Exchange) -> str:
    return f"HTTP/{exchange.scope['http_version']}"


ATOMS: dict[str, Callable[[Exchange], str]] = {
    "h": _client,
    "l": lambda exchange: UNKNOWN,
    "u": _user,
    "t": _time,
    "r": lambda exchange: (
        f"{exchange.scope['method']} {_safe(exchange.target)} {_version(exchange)}"
    ),
    "s": lambda exchange: UNKNOWN if exchange.status is None else str(exchange.status),
    "m": lambda exchange: exchange.scope["method"],
    "U": lambda exchange: _safe(exchange.path),
    "q": lambda exchange: _safe(exchange.query),
    "H": _version,
    "b": lambda exchange: str(exchange.length) if exchange.length else UNKNOWN,
    "B": lambda exchange: str(exchange.length),
    "f": lambda exchange: _header(exchange.scope["headers"], b"referer"),
    "a": lambda exchange: _header(exchange.scope["headers"], b"user-agent"),
    "T": lambda exchange: str(int(exchange.seconds)),
    "M": lambda exchange: str(int(exchange.seconds * 1e3)),
    "D": lambda exchange: str(int(exchange.seconds * 1e6)),
    "L": lambda exchange: f"{exchange.seconds:.6f}",
    "p": lambda exchange: f"<{os.getpid()}>",
}
"""gunicorn's atoms, without those of a WSGI environment."""


# -- who writes it -------------------------------------------------------------------------------


def logged(app: App, access_format: AccessFormat | None) -> App:
    """Return the application with a line in the access log for each HTTP request.

    It is written when the response is complete, or when the application gives up.
    """
    if access_format is None or not access_logger.hasHandlers():
        return app

    async def logging_app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        exchange = Exchange(scope)
        is_logged = False

        def log() -> None:
            nonlocal is_logged
            is_logged = True
            access_logger.info("%s", access_format.line(exchange))

        async def logged_receive() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                exchange.is_gone = True
            return message

        async def logged_send(message: Any) -> None:
            # Sending a part of an open file moves on in it.
            length = length_of(message) if message["type"] in NAMES_A_FILE else 0
            await send(message)
            if exchange.take(message, length) and not is_logged:
                log()

        try:
            await app(scope, logged_receive, logged_send)
        finally:
            if not is_logged:
                if exchange.status is None and not exchange.is_gone:
                    exchange.status = 500  # what the server answers then
                log()

    return logging_app
