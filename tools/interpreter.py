#!/usr/bin/env python3
"""Finds or makes the CPython that loop_pool is built for, and prints its path.

    python3 tools/interpreter.py 3.14t     # the path is the last line of stdout
    python3 tools/interpreter.py --uv      # the path of uv, by which environments are made

In this order: one that is on the PATH or that uv knows; one that uv downloads; one assembled from
packages (`assemble.py`). What is taken is said on stderr. Everything made lies in
`${XDG_CACHE_HOME:-~/.cache}/loop_pool`, is moved to its place when it is whole, and is made once.

Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from assemble import FREEZE_CORE, Version, assemble
from packages import SetupError, publish, say, uv_command

# The modules are those that a poor build lacks. An interpreter of a virtual environment does not
# count: the environment may be removed while ours, made from it, stays.
CHECK = """
import sys, sysconfig, ssl, sqlite3, ctypes, _asyncio
assert sys.version_info[:2] == {number}, sys.version
assert bool(sysconfig.get_config_var("Py_GIL_DISABLED")) is {free_threaded}, "other build"
assert sys._is_gil_enabled() is not {free_threaded}, "the GIL is enabled"
assert sys.prefix == sys.base_prefix, "a virtual environment"
try:
    import test.test_asyncio
except ImportError:
    print("without tests")
else:
    print("with tests")
print(sys.executable)
"""


class Interpreter(NamedTuple):
    """An interpreter that passed the check; `has_tests` tells whether CPython's own came along."""

    path: Path
    has_tests: bool


def cache_folder() -> Path:
    """The folder for everything made here; it survives `make clean`."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path is to be ignored, says the XDG specification.
    root = configured if configured.is_absolute() else Path.home() / ".cache"
    return root / "loop_pool"


@contextlib.contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Holds `lock` against other processes; the kernel releases it if this one dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another set-up to end ({lock}).")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def checked(command: Path | str, version: Version) -> Interpreter | None:
    """The interpreter that `command` runs if it is a whole one of `version`, otherwise None."""
    major, minor = version.number.split(".")
    code = CHECK.format(number=(int(major), int(minor)), free_threaded=version.free_threaded)
    try:
        answer = subprocess.run(
            # Isolated: PYTHONPATH, PYTHON_GIL and the like must not decide.
            [str(command), "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{command} does not run: {error}")
        return None
    if answer.returncode != 0:
        reason = answer.stderr.strip().splitlines()[-1:] or [f"status {answer.returncode}"]
        say(f"{command} will not do: {reason[0]}")
        return None
    tests, path = answer.stdout.splitlines()[-2:]
    return Interpreter(Path(path), tests == "with tests")


# --- the ways to an interpreter, in the order in which they are tried -----------------------------


def on_path(version: Version, _cache: Path) -> Interpreter | None:
    """The interpreter of that name on the PATH."""
    command = shutil.which(f"python{version}")
    return checked(command, version) if command else None


def run_uv(cache: Path, *arguments: str, own_folder: bool) -> str | None:
    """What `uv python ...` printed, or None if it failed; with `own_folder` it looks only in ours.

    Bounded in time: where uv's download host cannot be reached, the next way is to be tried soon.
    """
    environment = {
        **os.environ,
        "UV_NO_CONFIG": "1",
        "UV_HTTP_TIMEOUT": "15",
        "UV_HTTP_RETRIES": "0",
        "UV_SYSTEM_CERTS": "1",
    }
    if own_folder:
        environment["UV_PYTHON_INSTALL_DIR"] = str(cache / "uv-python")
    try:
        answer = subprocess.run(
            [str(uv_command(cache)), "python", *arguments],
            # Not the project's folder: uv would read its settings and find its `.venv`.
            cwd=cache,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def known_to_uv(version: Version, cache: Path, *, own_folder: bool = False) -> Interpreter | None:
    """An interpreter that uv finds on this machine."""
    find = ("find", "--system", "--no-project", "--no-python-downloads", str(version))
    command = run_uv(cache, *find, own_folder=own_folder)
    return checked(command, version) if command else None


def downloaded_by_uv(version: Version, cache: Path) -> Interpreter | None:
    """An interpreter that uv downloads into our cache, where its host can be reached."""
    if run_uv(cache, "install", "--no-bin", str(version), own_folder=True) is None:
        return None
    return known_to_uv(version, cache, own_folder=True)


def assembled(version: Version, cache: Path) -> Interpreter | None:
    """An interpreter assembled from packages; None on machines for which that is not possible."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return None
    if platform.libc_ver()[0] != "glibc":
        return None
    prefix = cache / "interpreters" / cache_key(version)
    with tempfile.TemporaryDirectory(dir=prefix.parent) as scratch:
        target = Path(scratch) / prefix.name
        assemble(version, cache, target, prefix)
        publish(target, prefix)
    interpreter = checked(prefix / "bin" / f"python{version}", version)
    if interpreter is None:
        raise SetupError(f"The assembled Python {version} does not pass its check ({prefix}).")
    return interpreter


WAYS = (
    ("found on the PATH", on_path),
    ("found by uv", known_to_uv),
    ("downloaded by uv", downloaded_by_uv),
    ("assembled from packages", assembled),
)


# --- the search -----------------------------------------------------------------------------------


def cache_key(version: Version) -> str:
    """The name of `version` in the cache; a renewed pin makes a new name, so nothing goes stale."""
    return f"{version}-{FREEZE_CORE[version].release}"


def search(version: Version, cache: Path) -> Interpreter:
    """The first interpreter of `version` that has CPython's own tests, else the first of all.

    The tests are needed by `make test`; Python downloaded by uv comes without them. A way that
    fails ends the search: it means that uv or the parts cannot be fetched, and every later step
    needs them.
    """
    second_best: Interpreter | None = None
    reason = "this machine has none, and cannot assemble one."
    for way, find in WAYS:
        try:
            interpreter = find(version, cache)
        except SetupError as error:
            reason = str(error)
            break
        if interpreter is None:
            say(f"Python {version}, {way}: no.")
        elif interpreter.has_tests:
            say(f"Python {version}, {way}: {interpreter.path}")
            return interpreter
        else:
            say(f"Python {version}, {way}: {interpreter.path}, but without CPython's own tests.")
            second_best = second_best or interpreter
    if second_best:
        say(f"No better Python {version}: {reason}\nTaking {second_best.path}.")
        return second_best
    raise SetupError(
        f"No Python {version} could be found or made: {reason}\n"
        f"If this cannot be put right, install a Python that is called python{version} and put it "
        "on the PATH."
    )


def find_or_make(version: Version, cache: Path) -> Path:
    """The path of the interpreter of `version`: the one taken last time, if it still passes."""
    record = cache / "interpreters" / f"{cache_key(version)}.path"
    if record.is_file():
        remembered = checked(record.read_text(encoding="utf-8").strip(), version)
        if remembered:
            say(f"Python {version}, made or found before: {remembered.path}")
            return remembered.path
    record.parent.mkdir(parents=True, exist_ok=True)
    interpreter = search(version, cache)
    fresh = record.with_suffix(".new")
    fresh.write_text(f"{interpreter.path}\n", encoding="utf-8")
    fresh.replace(record)
    return interpreter.path


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    choice = parser.add_mutually_exclusive_group(required=True)
    versions = {str(version): version for version in FREEZE_CORE}
    choice.add_argument("version", nargs="?", choices=versions, help="the Python version")
    choice.add_argument("--uv", action="store_true", help="print the path of uv instead")
    options = parser.parse_args(arguments)
    cache = cache_folder()
    try:
        with locked(cache / "lock"):
            if options.uv:
                path = uv_command(cache)
            else:
                path = find_or_make(versions[options.version], cache)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
