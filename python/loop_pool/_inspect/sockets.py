"""The paths of inspection sockets, and who may use them.

In: this process and its user. Out: a listening socket in a directory that only this user can
access. ``server`` creates the sockets, ``client`` finds them. Must never wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_POOLS = 64
"""Of one process, that answer at once."""

MAX_CLIENTS = 64
"""Of one pool: those that are served, and as many that wait for it."""

_making = threading.Lock()
"""Held while a socket is bound that does not listen yet, which another pool would call stale."""


def _forget() -> None:
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def folder() -> Path:
    """Return the folder of the sockets, which is made if need be.

    ``$XDG_RUNTIME_DIR/loop_pool`` if that variable names a folder of the user's own that nobody
    else can write, else ``loop_pool-<uid>`` in the folder for temporary files.

    Raises:
        PermissionError: it belongs to somebody else, is open to others, or is no folder.
        OSError: it cannot be made.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_our_folder(runtime, others=0o022):
        path = Path(runtime, "loop_pool")
    else:
        path = Path(tempfile.gettempdir(), f"loop_pool-{os.geteuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not _is_our_folder(path, others=0o077):
        raise PermissionError(
            f"{path} must be a directory of this user with mode 0700: "
            "the pool does not create its socket there"
        )
    return path


def _is_our_folder(path: str | Path, others: int) -> bool:
    """Whether a path is a folder of this user's; ``others``: permissions that nobody may have."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & others
    )


def _clean(place: Path) -> None:
    """Remove the sockets that processes have left behind: they are gone, and nobody listens."""
    for path in place.glob("*.sock"):
        with contextlib.suppress(ValueError, OSError):
            pid = int(path.stem.partition("-")[0])
            # A process that does not exist here may be that of a container with the same folder.
            if (pid == os.getpid() or not _exists(pid)) and not _is_served(path):
                path.unlink()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            with reach(path) as address:
                probe.connect(address)
        except ConnectionRefusedError, FileNotFoundError:
            return False
        except OSError:
            return True
    return True


def socket_name(pid: int, pool: int) -> str:
    """Return the name of the socket of a process's first pool, second pool and so on."""
    return f"{pid}.sock" if pool == 1 else f"{pid}-{pool}.sock"


@contextlib.contextmanager
def reach(path: Path) -> Iterator[str]:
    """Give an address by which a unix socket can be bound or connected, however long its path is.

    Raises:
        OSError: the folder is not there; or the path is too long, on a system without ``/proc``.
    """
    if len(os.fsencode(path)) <= _MAX_ADDRESS or not Path("/proc/self/fd").exists():
        yield str(path)
        return
    place = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{place}/{path.name}"
    finally:
        os.close(place)


_MAX_ADDRESS = 100
"""Bytes of a path that fit into the address of a unix socket everywhere, and its end."""


def listen(place: Path) -> tuple[socket.socket, Path]:
    """Make the socket of the first pool of this process that has none. Any thread.

    Sockets that processes have left behind are removed.

    Raises:
        OSError: it cannot be made, or as many pools as may have one.
    """
    with _making:
        _clean(place)
        return _listen(place)


def _listen(place: Path) -> tuple[socket.socket, Path]:
    listener = socket.socket(socket.AF_UNIX)
    path = None
    try:
        listener.setblocking(False)
        for pool in range(1, MAX_POOLS + 1):
            free = place / socket_name(os.getpid(), pool)
            with reach(free) as address:
                try:
                    listener.bind(address)  # until it listens, nobody gets in
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                else:
                    path = free
                    break
        if path is None:
            raise OSError(
                errno.EADDRINUSE, f"{MAX_POOLS} pools of this process can be inspected already"
            )
        path.chmod(0o600)
        listener.listen(MAX_CLIENTS)
    except BaseException:
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)
        raise
    return listener, path


def is_allowed(sock: socket.socket) -> bool:
    """Whether the peer of a unix socket is a process of this user's, or of root's.

    Where the system does not tell, the folder's permissions have to do.
    """
    peer = credentials(sock)
    return peer is None or peer[1] in {0, os.geteuid()}


def credentials(sock: socket.socket) -> tuple[int, int] | None:
    """Return the process and the user at the other end of a unix socket; None: it is not told.

    The process is 0 if it is in another namespace.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid


_CREDENTIALS = struct.Struct("iII")
"""Of ``SO_PEERCRED``: process, user, group."""
