#!/usr/bin/env python3
"""Runs tests under ThreadSanitizer, AddressSanitizer and Miri, as far as this machine has them.

    python3 tools/sanitize.py [tsan] [asan] [miri]

They need the nightly toolchain, and of it two components:
`rustup component add miri rust-src --toolchain nightly`. What cannot run is left out, with a line
that says why; that is no failure. The exit status is 1 if a test failed or something was found.
Each builds into a folder of its own under `target/`; the package that is in use stays as it is.
Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARGO = ("cargo", "+nightly")
COMPONENTS = "rustup component add miri rust-src --toolchain nightly"

MIRI_FLAGS = "-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-env-set=RUST_BACKTRACE=0"

MIRI_RUNS = {
    "-Zmiri-many-seeds=0..4": (
        *("event_loop::current", "event_loop::inbox", "event_loop::owner_cell"),
        *("event_loop::progress", "pool::task_phase", "scheduler::idle", "transport::ending"),
        *("transport::read_steps", "transport::read_wait", "transport::state"),
    ),
    "-Zmiri-tree-borrows -Zmiri-ignore-leaks": (
        *("event_loop::eager_start", "event_loop::generations", "transport::flow"),
        *("event_loop::ready", "event_loop::turn", "id::tests", "metrics::tests", "pool::builder"),
        *("pool::detector", "pool::adaptive_spin", "pool::placement", "pool::registry"),
        *("reactor::registration", "reactor::slots", "reactor::timer_heap", "scheduler::shared"),
        *("sys::address", "sys::clock", "transport::descriptor", "transport::read_buffer"),
        *("transport::source", "transport::write_queue"),
    ),
}
"""What asks the kernel for nothing that Miri does not know. The words that threads share are run
under four interleavings; the rest once, by the newer model of references, as what other crates
bring along (crossbeam-epoch) is not made for the older one, and frees nothing at the end."""

ASAN_PYTHONS = {"3.14t": (".venv", "not stress"), "3.14": (".venv-3.14", "smoke")}
"""Where each is, and which tests run on it. The one without the GIL has threads to run into each
other. The one with it can be told to take each object from the allocator that is watched."""

ASAN_TESTS = {
    "loop": ("collection",),
    "transport": ("stream", "read", "write", "flow", "datagram", "shared", "server"),
    "streams": ("native",),
    "tls": ("data", "ends", "wire"),
    "pool": ("spawn", "stealing", "registry", "cancel", "shutdown"),
}
"""Where the extension module's memory has several owners: what is read and written, what goes from
one loop to another, and what ends while somebody is at it."""


class LeftOut(Exception):
    """Why something cannot run on this machine."""


def ask(*command: str) -> str:
    """What a command prints.

    Raises:
        LeftOut: If it is not there, or fails.
    """
    try:
        asked = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise LeftOut(str(error)) from None
    if asked.returncode:
        raise LeftOut(asked.stderr.strip())
    return asked.stdout.strip()


def host() -> str:
    """The platform that nightly Rust builds for.

    Raises:
        LeftOut: If there is no nightly Rust, or it has no sanitizers for that platform.
    """
    lines = ask("rustc", "+nightly", "--version", "--verbose").splitlines()
    platform = next(line.split()[1] for line in lines if line.startswith("host:"))
    if platform != "x86_64-unknown-linux-gnu":
        raise LeftOut(f"tried on Linux x86-64 alone, and this is {platform}")
    return platform


def run(command: Sequence[str], **environment: str) -> int:
    """Runs a command, and returns its exit status."""
    print("+", *command, flush=True)
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=False
    ).returncode


def tsan() -> int:
    """All Rust tests but those that only read the sources, with std instrumented as well."""
    platform = host()
    source = Path(ask("rustc", "+nightly", "--print", "sysroot"), "lib/rustlib/src/rust/library")
    if not source.is_dir():
        raise LeftOut(f"std is built anew for it: {COMPONENTS}")
    command = [*CARGO, "test", "-Zbuild-std", "--target", platform, "--no-default-features"]
    return run(
        [*command, "--lib", "--test", "memory", "--no-fail-fast"],
        CARGO_TARGET_DIR="target/tsan",
        RUSTFLAGS="-Zsanitizer=thread",
        TSAN_OPTIONS=f"suppressions={ROOT / 'tools/tsan.supp'}",
    )


def miri() -> int:
    """The Rust tests that ask the kernel for nothing that Miri does not know."""
    ask(*CARGO, "miri", "--version")
    command = [*CARGO, "miri", "test", "--no-default-features", "--lib", "--"]
    return max(
        run([*command, *tests], CARGO_TARGET_DIR="target/miri", MIRIFLAGS=f"{MIRI_FLAGS} {flags}")
        for flags, tests in MIRI_RUNS.items()
    )


def asan() -> int:
    """A part of the Python tests, with the extension module instrumented."""
    platform = host()
    runtime = asan_runtime(platform)
    return max(asan_on(version, platform, runtime) for version in ASAN_PYTHONS)


def asan_runtime(platform: str) -> Path:
    """The compiler's own runtime as a shared library, for interpreters that were built without it.

    Raises:
        LeftOut: If it cannot be linked.
    """
    installed = Path(ask("rustc", "+nightly", "--print", "target-libdir", "--target", platform))
    folder = ROOT / "target/asan"
    folder.mkdir(parents=True, exist_ok=True)
    # Not by the usual name: the runtime takes a library called so for another one, and gives up.
    archive, runtime = folder / "runtime.a", folder / "runtime.so"
    try:
        shutil.copy(installed / "librustc-nightly_rt.asan.a", archive)
    except OSError as error:
        raise LeftOut(str(error)) from None
    # It lets a program begin with the runtime, and no shared library may contain it.
    ask("ar", "d", str(archive), "asan_preinit.cpp.o")
    whole = ("-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive")
    system = ("-lpthread", "-ldl", "-lm", "-lrt", "-lresolv")
    ask("gcc", "-shared", "-o", str(runtime), *whole, *system)
    return runtime


def asan_on(version: str, platform: str, runtime: Path) -> int:
    """Builds the extension module for one interpreter, and runs the tests with it."""
    environment, marked = ASAN_PYTHONS[version]
    python = ROOT / environment / "bin/python"
    target = ROOT / "target/asan" / version
    built = run(
        [*CARGO, "build", "--lib", "--target", platform],
        CARGO_TARGET_DIR=str(target),
        CARGO_PROFILE_DEV_DEBUG="line-tables-only",
        RUSTFLAGS="-Zsanitizer=address",
        PYO3_PYTHON=str(python),
        PYO3_BUILD_EXTENSION_MODULE="1",
    )
    if built:
        return built
    package = target / "package" / "loop_pool"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        ROOT / "python/loop_pool", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    suffix = ask(str(python), "-c", "import sysconfig as s; print(s.get_config_var('EXT_SUFFIX'))")
    shutil.copy(target / platform / "debug/libloop_pool.so", package / f"_core{suffix}")
    tests = [
        f"tests/python/{room}/test_{name}.py"
        for room, names in ASAN_TESTS.items()
        for name in names
    ]
    options = ["-m", marked, "-n", "2", "--timeout", "300", "-p", "no:cacheprovider"]
    return run(
        [str(python), "-m", "pytest", *tests, *options],
        PYTHONPATH=str(package.parent),
        # Without the GIL it has no other allocator than its own, which can fill what is freed.
        PYTHONMALLOC="debug" if version.endswith("t") else "malloc",
        LD_PRELOAD=str(runtime),
        # What the interpreter never frees is no concern of ours.
        ASAN_OPTIONS="detect_leaks=0",
    )


STEPS = {"tsan": tsan, "asan": asan, "miri": miri}


def main(arguments: Sequence[str]) -> int:
    """Runs what was asked for, one after another."""
    unknown = set(arguments) - set(STEPS)
    if unknown:
        print(f"what to run is one of {', '.join(STEPS)}; not {', '.join(unknown)}")
        return 2
    failed = False
    for name in arguments or STEPS:
        began = time.monotonic()
        try:
            status = STEPS[name]()
        except LeftOut as reason:
            print(f"left out: {name} ({reason})")
            continue
        outcome = "nothing found" if not status else "FAILED"
        print(f"{name}: {outcome}, after {time.monotonic() - began:.0f} s")
        failed |= status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
