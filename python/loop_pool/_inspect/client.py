"""The client of ``server``: queries a running pool and parses its answers.

In: a process ID. Out: :class:`Loop` and :class:`Task` records, the tree of awaiting tasks, and
rates from two readings. Every failure is one :class:`InspectError` with a single line for the user.
Answers are not trusted: they are validated and made printable.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .server import VERSION
from .sockets import MAX_POOLS, credentials, reach, socket_name
from .switch import SWITCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT = 10.0
"""Seconds that an answer may take in all."""

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes."""


class InspectError(Exception):
    """A process could not be asked. Its text is one line for the user."""


class ProcessGoneError(InspectError):
    """There is no such process, or none any more."""


# -- asking ----------------------------------------------------------------------------------------


def ask(
    pid: int, request: str, *, timeout: float = TIMEOUT, pool: int | None = None, **arguments: int
) -> dict[str, Any]:
    """Ask the pool of a process, and wait for the answer. Any thread.

    Args:
        pid: the process.
        request: ``stats`` or ``snapshot``.
        timeout: seconds.
        pool: which of the process's pools, from 1; None: the first that there is.
        arguments: ``loop`` and ``limit`` of a snapshot.

    Raises:
        InspectError: there is no answer, or none that can be used.
    """
    deadline = time.monotonic() + timeout
    path = _find_socket(pid, pool)
    question = json.dumps({"version": VERSION, "request": request, **arguments}).encode()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            with reach(path) as address:
                _connect(sock, address, deadline)
            _check_server(sock, pid)
            sock.sendall(question + b"\n")
            line = _read_line(sock, pid, deadline)
    except TimeoutError:
        raise InspectError(f"process {pid} did not answer within {timeout:g} seconds") from None
    except PermissionError:
        raise InspectError(_not_ours(pid)) from None
    except ConnectionRefusedError, FileNotFoundError:
        _check_exists(pid)
        raise InspectError(_not_inspected(pid)) from None
    except OSError as error:
        _check_exists(pid)
        raise InspectError(
            f"process {pid} closed the connection: {error.strerror or error}"
        ) from None
    return _understand(pid, line)


def _connect(sock: socket.socket, address: str, deadline: float) -> None:
    while True:
        try:
            sock.connect(address)
            return
        except BlockingIOError:  # so many wait to be served that there is no place to wait
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.05)


def _read_line(sock: socket.socket, pid: int, deadline: float) -> bytes:
    chunks, size = [], 0
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)
        chunk = sock.recv(1024 * 1024)
        if not chunk:
            _check_exists(pid)
            raise InspectError(f"process {pid} closed the connection without an answer")
        chunks.append(chunk)
        size += len(chunk)
        if chunk.endswith(b"\n"):
            return b"".join(chunks)
        if size > MAX_ANSWER:
            raise InspectError(
                f"process {pid} sent an invalid answer: more than {MAX_ANSWER} bytes"
            )


def _refuse_constant(name: str) -> Any:
    # NaN and the infinities, which JSON itself does not know.
    raise ValueError(name)


def _understand(pid: int, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line, parse_constant=_refuse_constant)
        version = answer["version"]
    except ValueError, RecursionError, KeyError, TypeError:
        raise InspectError(f"process {pid} sent an invalid answer") from None
    if version != VERSION:
        raise InspectError(
            f"process {pid} runs a different loop_pool: it speaks protocol version "
            f"{printable(str(version))}, this one speaks {VERSION}"
        )
    if "error" in answer:
        raise InspectError(f"process {pid} refused: {printable(str(answer['error']))}")
    checked: dict[str, Any] = answer
    return checked


def pools(pid: int) -> list[int]:
    """Return the numbers of the pools of a process that can be looked at, which may be none.

    Raises:
        InspectError: there is no such process, or it is another user's.
    """
    return sorted(_find_sockets(pid))


def _find_socket(pid: int, pool: int | None) -> Path:
    """Return where the socket of a process should be.

    Raises:
        InspectError: there is no such process, it is another user's, or has no socket.
    """
    found = _find_sockets(pid)
    if pool is None and found:
        return found[min(found)]
    if pool in found:
        return found[pool]
    if os.geteuid() not in {0, _owner(pid)}:
        raise InspectError(_not_ours(pid))
    if not found:
        raise InspectError(_not_inspected(pid))
    numbers = ", ".join(map(str, sorted(found)))
    raise InspectError(f"process {pid} has no pool {pool} to inspect; it has {numbers}")


def _find_sockets(pid: int) -> dict[int, Path]:
    """Return the sockets of a process by the numbers of its pools."""
    _check_exists(pid)
    found: dict[int, Path] = {}
    for place in _places(pid):
        for pool in range(1, MAX_POOLS + 1):
            path = place / socket_name(pid, pool)
            try:
                if stat.S_ISSOCK(path.lstat().st_mode):
                    found.setdefault(pool, path)
            except PermissionError:
                raise InspectError(_not_ours(pid)) from None
            except OSError:
                continue
    return found


def _places(pid: int) -> Iterator[Path]:
    """The folders where the socket of a process may be; see ``_inspect_place.folder``."""
    uid = _owner(pid)
    environments: list[Mapping[str, str]] = [os.environ]
    with contextlib.suppress(OSError):  # it is another user's, or the system does not tell
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        theirs = (os.fsdecode(pair).partition("=") for pair in pairs)
        environments.insert(0, {name: value for name, _, value in theirs})
    for environment in environments:
        if runtime := environment.get("XDG_RUNTIME_DIR"):
            yield Path(runtime, "loop_pool")
        if temporary := environment.get("TMPDIR"):
            yield Path(temporary, f"loop_pool-{uid}")
    yield Path(f"/run/user/{uid}", "loop_pool")
    yield Path(tempfile.gettempdir(), f"loop_pool-{uid}")
    yield Path("/tmp", f"loop_pool-{uid}")


def _check_exists(pid: int) -> None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError, OverflowError:
        raise ProcessGoneError(f"there is no process {pid}") from None
    except PermissionError:
        return


def _owner(pid: int) -> int:
    """Return the user of a process; where the system does not tell, this one's."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return os.geteuid()


def _check_server(sock: socket.socket, pid: int) -> None:
    """Make sure that it is the process itself that listens, as far as the system tells."""
    peer = credentials(sock)
    if peer is not None and peer[0] not in {0, pid}:  # 0: it is in another namespace
        raise InspectError(f"the socket of process {pid} is served by process {peer[0]}")


def _not_ours(pid: int) -> str:
    owner = _owner(pid)
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    return f"process {pid} belongs to user {name}: only that user and root may inspect its pool"


def _not_inspected(pid: int) -> str:
    return (
        f"process {pid} has no pool to inspect: start it with {SWITCH}=1 in its "
        "environment, or by loop_pool.run(..., inspect=True)"
    )


# -- understanding ---------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Return a text without characters that do something to a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of the pool, as of one reading."""

    index: int
    name: str
    thread: int | None
    """The kernel's number of its thread."""
    running: bool
    lag: float | None
    """Seconds that a callback from another thread waits, or has waited, for its turn."""
    stuck: float
    """Seconds since it last got on, if it does not."""
    task: str | None
    """The name of the task that it was running."""
    ready: int
    timers: int
    descriptors: int
    transports: int
    callbacks: int
    busy: float
    idle: float
    stolen_by: int
    stolen_from: int
    handoffs: int
    omitted: int
    """Tasks that it has beside those that were told."""
    stack: tuple[str, ...]
    """Where its thread is, if the loop is held up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, as of one snapshot."""

    id: int
    name: str
    loop: int
    state: str
    age: float
    """Seconds."""
    origin: str
    coro: str
    stack: tuple[str, ...]
    """Outermost first."""
    awaited_by: tuple[int, ...]


class Rates(NamedTuple):
    """What a loop did between two readings."""

    callbacks: float
    """Per second."""
    busy: float
    """The share of the time, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a pool has answered."""

    pid: int
    loop_pool: str
    python: str
    gil: bool
    time: float
    uptime: float
    loops: tuple[Loop, ...]
    tasks: tuple[Task, ...] = ()
    cost: float = 0.0
    """Processor seconds that the answer took in the pool's process."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    def rates(self, before: Reading) -> dict[int, Rates]:
        """Return what each loop has done since an earlier reading, by its index."""
        passed = self.time - before.time
        old = {loop.index: loop for loop in before.loops}
        rates = {}
        for loop in self.loops:
            then = old.get(loop.index)
            if then is None or passed <= 0:
                continue
            # A loop notes its time when it asks the kernel: one that is stuck has not, and that
            # of one that slept counts from when it went to sleep.
            busy = 1.0 if loop.stuck else (loop.busy - then.busy) / passed
            rates[loop.index] = Rates(
                (loop.callbacks - then.callbacks) / passed, min(1.0, max(0.0, busy))
            )
        return rates


def read(pid: int, request: str = "snapshot", **arguments: Any) -> Reading:
    """Ask a process as :func:`ask`, and make sense of the answer. Any thread.

    Raises:
        InspectError: there is no answer, or none that can be used.
    """
    answer = ask(pid, request, **arguments)
    try:
        return Reading(
            pid=pid,
            loop_pool=_text(answer["loop_pool"]),
            python=_text(answer["python"]),
            gil=bool(answer["gil"]),
            time=float(answer["time"]),
            uptime=float(answer["uptime"]),
            loops=tuple(map(_loop, answer["loops"])),
            tasks=tuple(map(_task, answer.get("tasks", ()))),
            cost=float(answer.get("cost", 0.0)),
            raw=answer,
        )
    except KeyError, TypeError, ValueError, AttributeError:
        raise InspectError(f"process {pid} sent an invalid answer") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return printable(value)


def _stack(value: Any) -> tuple[str, ...]:
    return tuple(_text(frame) for frame in value or ())


def _loop(answer: dict[str, Any]) -> Loop:
    counts = {name: int(answer[name]) for name in _COUNTS}
    thread, lag, task = answer["thread"], answer["lag"], answer["task"]
    return Loop(
        name=_text(answer["name"]),
        thread=None if thread is None else int(thread),
        running=bool(answer["running"]),
        lag=None if lag is None else float(lag),
        stuck=float(answer["stuck"]),
        task=None if task is None else _text(task),
        busy=float(answer["busy"]),
        idle=float(answer["idle"]),
        omitted=int(answer.get("omitted", 0)),
        stack=_stack(answer.get("stack")),
        **counts,
    )


_COUNTS = (
    "index",
    "ready",
    "timers",
    "descriptors",
    "transports",
    "callbacks",
    "stolen_by",
    "stolen_from",
    "handoffs",
)


def _task(answer: dict[str, Any]) -> Task:
    return Task(
        id=int(answer["id"]),
        name=_text(answer["name"]),
        loop=int(answer["loop"]),
        state=_text(answer["state"]),
        age=float(answer["age"]),
        origin=_text(answer["origin"]),
        coro=_text(answer["coro"]),
        stack=_stack(answer["stack"]),
        awaited_by=tuple(int(task) for task in answer["awaited_by"]),
    )


# -- the tree --------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A task's place in the tree of who awaits whom."""

    task: Task
    last: tuple[bool, ...]
    """For each level from the root down to this one, whether the node there is the last of its
    siblings; empty for a root."""
    seen: bool
    """Whether it has been shown with what it awaits already: another task awaits it too."""
    leaf: bool
    """Whether nothing hangs from it here."""


def tree(tasks: tuple[Task, ...]) -> Iterator[Node]:
    """Yield tasks from the top: each is followed by those that it awaits.

    A task that nobody awaits is a root; of a circle, the one that came first.
    """
    by_id = {task.id: task for task in tasks}
    awaited: dict[int, list[Task]] = {}
    roots = []
    for task in by_id.values():
        parents = [parent for parent in task.awaited_by if parent in by_id and parent != task.id]
        for parent in parents:
            awaited.setdefault(parent, []).append(task)
        if not parents:
            roots.append(task)
    shown: set[int] = set()
    for root in (*roots, *by_id.values()):
        if root.id in shown:
            continue
        # Iterative: a chain of tasks may be longer than the recursion limit.
        pending: list[tuple[Task, tuple[bool, ...]]] = [(root, ())]
        while pending:
            task, last = pending.pop()
            seen = task.id in shown
            shown.add(task.id)
            children = [] if seen else awaited.get(task.id, [])
            yield Node(task, last, seen, not children)
            final = len(children) - 1
            pending += [(child, (*last, index == final)) for index, child in enumerate(children)][
                ::-1
            ]
