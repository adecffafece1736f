"""What the documents tell people to deploy with, read out of them, and traffic to try it with."""

from __future__ import annotations

import http.client
import itertools
import re
import shlex
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..support import HANG, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = ROOT / "docs" / "deploy.md"
SERVING = ROOT / "docs" / "serving.md"
CONTAINERFILE = ROOT / "examples" / "container" / "Containerfile"


def blocks(document: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of a document that are in the language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    # Every fence is consumed in turn, so that the end of one is not taken for a beginning.
    every = re.finditer(r"^```.*?^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [found[1] for block in every if (found := fence.fullmatch(block[0]))]


def block(document: Path, language: str, beginning: str = "") -> str:
    """Return the only block in the language that begins so."""
    (found,) = (text for text in blocks(document, language) if text.startswith(beginning))
    return found


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Replace each key, which must be there exactly once."""
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times in\n{text}"
        text = text.replace(old, new)
    return text


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `loop-pool serve` in a block, from the application on."""
    for line in text.replace("\\\n", " ").splitlines():
        _, found, rest = line.partition("loop-pool serve ")
        if found:
            yield [word for word in shlex.split(rest, comments=True) if word != "&"]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return the options as the command understands them; it does not begin to serve."""
    from loop_pool._cli import serve as serve_command

    command = serve_command._command()
    return command.make_context("loop-pool serve", list(arguments)).params


class Failure(NamedTuple):
    """A request that was not answered as it should."""

    method: str
    what: str


class Traffic:
    """Clients in threads that send numbered requests, one after another, until the block ends.

    Each has a connection that it keeps; an answer is the process's id and the request's number.
    """

    def __init__(self, port: int, clients: int, *, keep: bool = True) -> None:
        self._port = port
        self._keep = keep
        self._over = threading.Event()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        methods = itertools.cycle(("GET", "POST"))
        self._threads = [
            threading.Thread(target=self._run, args=(next(methods),)) for _ in range(clients)
        ]
        self.answers: Counter[int] = Counter()
        """The id of a process -> how many requests it has answered."""
        self.failures: list[Failure] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        self._over.set()
        for thread in self._threads:
            thread.join(HANG)
            assert not thread.is_alive()

    def _run(self, method: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG)
        while not self._over.is_set():
            number = str(next(self._numbers))
            try:
                connection.request(method, f"/{number}", b"x" if method == "POST" else None)
                response = connection.getresponse()
                text = response.read().decode()
                process, _, answered = text.partition(" ")
                problem = None
                if (response.status, answered) != (200, f"/{number}"):
                    problem = f"{response.status} {text}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            if problem is not None or not self._keep:
                connection.close()
            with self._lock:
                if problem is None:
                    self.answers[int(process)] += 1
                else:
                    self.failures.append(Failure(method, problem))
        connection.close()
