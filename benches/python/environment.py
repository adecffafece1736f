"""Installs the peers into the environment of the benchmarks, one by one.

    .venv-bench/bin/python benches/python/environment.py UV

The peers are the group `bench` of `pyproject.toml`. One that cannot be installed (there is no wheel
for this Python or this machine, or no connection) does not keep the others away: its reason goes
into `not-installed.json` in the environment, from where the driver puts it into the results. Only
wheels are taken, as what a source distribution needs to be built is not known here.

talyn's wheel is linked with libpython, which an interpreter that is built without it lacks. All
that it needs of it is there nevertheless, in the interpreter itself: an empty library of that name
is made in the environment, and `child.py` loads it first.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"
GROUP = "bench"
INSTALL_SECONDS = 300
REASON_LENGTH = 300
NEED_LIBPYTHON = {"talyn"}
"""Packages whose wheels are linked with libpython."""
PEERS = {"mt-asyncio": "mt_asyncio", "peregrine-server": "peregrine", "weft-server": "weft"}
"""Package -> the peer that it is, where it has another name."""


def reasons_file() -> Path:
    """Where the reasons lie, in the environment of the running Python."""
    return Path(sys.prefix, "not-installed.json")


def libpython_stub() -> Path:
    """Where an empty libpython lies in the environment, if the interpreter is built without one."""
    version = sysconfig.get_config_var("LDVERSION")
    return Path(sys.prefix, "lib", f"libpython{version}.so.1.0")


def read_reasons() -> dict[str, str]:
    """Peer, or another package -> why it is not installed; empty where nothing was noted."""
    try:
        reasons: dict[str, str] = json.loads(reasons_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return reasons


def package_name(requirement: str) -> str:
    """`uvicorn[standard]>=0.38` -> `uvicorn`; raises `ValueError` if it has no name."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if match is None:
        raise ValueError(f"no package is named in {requirement!r}")
    return match[0]


def one_line(said: str) -> str:
    """What uv said of a failure, without its drawing."""
    words = re.sub(r"[^\x20-\x7e]+", " ", said).split()
    text = " ".join(word for word in words if word not in {"x", "error:"})
    return text if len(text) <= REASON_LENGTH else text[:REASON_LENGTH] + "..."


def install(uv: str, requirement: str) -> str | None:
    """Install one requirement; returns the reason if that fails."""
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    try:
        done = subprocess.run(
            [*command, "--only-binary", ":all:", requirement],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"not within {INSTALL_SECONDS} s"
    return one_line(done.stderr) if done.returncode else None


def has_libpython() -> bool:
    """Whether the interpreter is built with a libpython."""
    return bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))


def make_libpython_stub() -> str | None:
    """Make an empty libpython; returns the reason if that fails."""
    stub = libpython_stub()
    compiler = shlex.split(os.environ.get("CC", "cc"))
    library = ["-shared", f"-Wl,-soname,{stub.name}", "-o", str(stub)]
    command = [*compiler, *library, "-x", "c", os.devnull]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return f"no stand-in for {stub.name} can be made: {error}"
    if done.returncode:
        return f"no stand-in for {stub.name} can be made: {one_line(done.stderr)}"
    return None


def main() -> int:
    """Install all; the exit code is 0 even if some cannot be installed."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    requirements = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["dependency-groups"]
    reasons = {}
    for requirement in requirements[GROUP]:
        name = package_name(requirement)
        reason = install(sys.argv[1], requirement)
        if reason is None and name in NEED_LIBPYTHON and not has_libpython():
            reason = make_libpython_stub()
        if reason is not None:
            reasons[PEERS.get(name, name)] = reason
            print(f"left out: {requirement}: {reason}", file=sys.stderr)
    reasons_file().write_text(json.dumps(reasons, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
