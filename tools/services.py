#!/usr/bin/env python3
"""Installs the servers that some tests start for themselves, from Debian's packages.

    python3 tools/services.py                # install what is missing; as root, with apt
    python3 tools/services.py --if-possible  # the same, or say what is left out and succeed
    python3 tools/services.py --where nats   # the path of one program

No server is started, neither by this nor by the packages: each test runs its own, on a free port
and with data of its own. Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGES = {
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "nats-server": "nats-server",
    "haproxy": "haproxy",
}
"""The programs that the tests start, each with the Debian package that brings it."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""What a package asks whether it may start its server; 101 means no (Debian policy)."""


def where(program: str) -> str | None:
    """The path of a program, on the PATH or where Debian puts servers; None if there is none."""
    folders = ["/usr/sbin", "/usr/local/sbin"]
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    # "15" comes before "9.6": the newest one first.
    newest = sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)
    # Debian leaves the programs of PostgreSQL off the PATH, and a link there may be a stray one.
    path = os.pathsep.join([*map(str, newest), os.environ.get("PATH", os.defpath), *folders])
    return shutil.which(program, path=path)


def missing() -> list[str]:
    """The programs that are not there."""
    return [program for program in PACKAGES if where(program) is None]


@contextlib.contextmanager
def no_server_starts() -> Iterator[None]:
    """Keeps packages from starting their servers; leaves a policy that is there as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install(packages: Sequence[str]) -> None:
    """Install packages by apt, whose package lists are fetched if need be; says why if it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "--quiet", *packages]
    for attempt in (command, ["apt-get", "update", "--quiet"], command):
        done = subprocess.run(
            attempt,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
        )
        if attempt is command and done.returncode == 0:
            return
    print(done.stdout, file=sys.stderr)


def provide(packages: Mapping[str, str]) -> list[str]:
    """Install the packages of programs that are missing, if this is root and there is apt.

    Args:
        packages: The package of each program that is missing.

    Returns:
        The programs that are still missing; stderr says which, and how to get them.
    """
    if not packages:
        return []
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        by_hand = f"apt-get install --no-install-recommends {' '.join(packages.values())}"
        print(f"missing: {', '.join(packages)}. As root: {by_hand}", file=sys.stderr)
        return list(packages)
    with no_server_starts():
        install([*packages.values()])
    still = [program for program in packages if where(program) is None]
    if still:
        print(f"could not install: {', '.join(still)}", file=sys.stderr)
    return still


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the options say; the exit status is 0 when every server is there, or left out."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--if-possible", action="store_true", help="succeed without them, too")
    parser.add_argument("--where", choices=sorted(PACKAGES), help="print where one of them is")
    options = parser.parse_args(arguments)
    if options.where is not None:
        path = where(options.where)
        if path is not None:
            print(path)
        return 0 if path is not None else 1
    still = provide({program: PACKAGES[program] for program in missing()})
    if still and options.if_possible:
        print("The tests that need them are left out.", file=sys.stderr)
        return 0
    return 1 if still else 0


if __name__ == "__main__":
    sys.exit(main())
