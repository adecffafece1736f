#!/usr/bin/env python3
"""Installs the programs that tests and benchmarks start for themselves, and starts PostgreSQL.

    python3 tools/services.py                # install what is missing; as root, with apt
    python3 tools/services.py --if-possible  # the same, or say what is left out and succeed
    python3 tools/services.py --where nats   # the path of one program

They come from Debian's packages. The command starts no server, and neither do the packages: each
test runs its own by `running` or `postgres`, on a free port and with data of its own. Runs on any
python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

PACKAGES = {
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "nats-server": "nats-server",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "curl": "curl",
}
"""The programs that the tests start, each with the Debian package that brings it."""

LARGE = {"chromium-headless-shell": "chromium-headless-shell"}
"""As `PACKAGES`, but some hundred MB, and not in every distribution: only `--large` installs them,
and the tests run without."""

START_SECONDS = 30.0
"""A server that is not ready so long after its start, or has not ended so long after it was told
to, counts as hung."""

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


# --- starting servers -----------------------------------------------------------------------------


class ServiceError(Exception):
    """A server did not start; the text says why, with what it wrote."""


class Service(NamedTuple):
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    url: str = ""

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def postgres(program: str, certificate: tuple[Path, Path] | None = None) -> Iterator[Service]:
    """A PostgreSQL server, of the given `postgres` (as `where` finds it).

    Its `url` is that of the database `postgres`, for a user with all rights. Nothing is synced to
    disk. With the files of a certificate and of its key, connections may use TLS.

    Raises `ServiceError` if it does not start.
    """
    with folder("postgres") as home:
        user = _unprivileged("postgres")
        data = str(home / "data")
        initdb = [str(Path(program).with_name("initdb")), "--pgdata", data, "--auth", "trust"]
        done = subprocess.run(
            [*initdb, "--username", "tester", "--no-sync", "--encoding", "UTF8", "--locale", "C"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=home,
            user=user,
        )
        if done.returncode:
            raise ServiceError(f"{initdb[0]} failed: {done.stdout.decode(errors='replace')}")
        is_ready = [str(Path(program).with_name("pg_isready")), "--quiet", "--host", "127.0.0.1"]

        def ready(port: int) -> bool:
            return subprocess.run([*is_ready, "--port", str(port)], check=False).returncode == 0

        port = free_port()
        options = [f"--port={port}", "--listen_addresses=127.0.0.1", "--fsync=off"]
        options += [f"--unix_socket_directories={home}"]
        if certificate is not None:
            options.append("--ssl=on")
            for name, file in zip(("ssl_cert_file", "ssl_key_file"), certificate):
                options.append(f"--{name}={_give(file, home, user)}")
        with running([program, "-D", data, *options], port, home, ready, user) as service:
            yield service._replace(url=f"postgresql://tester@127.0.0.1:{port}/postgres")


def _give(file: Path, home: Path, user: int | None) -> Path:
    """Copy a file to where a server's user can read it, and nobody else can."""
    copy = home / file.name
    shutil.copyfile(file, copy)
    copy.chmod(0o600)
    if user is not None:
        os.chown(copy, user, -1)
    return copy


def free_port() -> int:
    """Return a port that is free, outside of the range from which the kernel gives out ports.

    So nothing else that asks for any free port gets it before the server binds it.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    ports = range(10_000, int(limits[0]))
    for port in random.sample(ports, len(ports)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise ServiceError(f"no free port in {ports}")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    home: Path,
    ready: Callable[[int], bool],
    user: int | None = None,
) -> Iterator[Service]:
    """Start a server, wait until it is ready, and stop it in the end.

    Raises `ServiceError` if it ends instead, or is not ready within `START_SECONDS`.
    """
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home, user=user
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(port):
            if process.poll() is not None:
                raise ServiceError(f"{command[0]} ended: {log.read_text(errors='replace')}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{command[0]} is not ready: {log.read_text(errors='replace')}")
            time.sleep(0.01)
        yield Service(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.contextmanager
def folder(owner: str) -> Iterator[Path]:
    """A folder for the data of a server, which may run as another user."""
    home = Path(tempfile.mkdtemp(prefix=f"loop_pool-{owner}-"))
    try:
        user = _unprivileged(owner)
        if user is not None:
            os.chown(home, user, -1)
        yield home
    finally:
        shutil.rmtree(home)


def _unprivileged(name: str) -> int | None:
    """The user to run a server as which refuses to run as root; None: the one we are."""
    if os.geteuid() != 0 or name != "postgres":
        return None
    return pwd.getpwnam(name).pw_uid


# --- installing them ------------------------------------------------------------------------------


def missing(packages: Mapping[str, str] = PACKAGES) -> list[str]:
    """The programs that are not there."""
    return [program for program in packages if where(program) is None]


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
    parser.add_argument("--large", action="store_true", help="install what is large, too")
    parser.add_argument(
        "--where", choices=sorted({**PACKAGES, **LARGE}), help="print where one of them is"
    )
    options = parser.parse_args(arguments)
    if options.where is not None:
        path = where(options.where)
        if path is not None:
            print(path)
        return 0 if path is not None else 1
    still = provide({program: PACKAGES[program] for program in missing()})
    if options.large:
        # By itself: apt installs nothing at all if it does not know one of several packages.
        provide({program: LARGE[program] for program in missing(LARGE)})
    if still and options.if_possible:
        print("The tests that need them are left out.", file=sys.stderr)
        return 0
    return 1 if still else 0


if __name__ == "__main__":
    sys.exit(main())
