#!/usr/bin/env python3
"""Draws the rooms of the sources and which of them import which: `docs/images/rooms.svg`.

    python3 tools/rooms.py            write the picture
    python3 tools/rooms.py --check    say whether the picture is current

The arrows are the imports that the sources have, tests left out. All of them point down: that is
what `tests/layering.rs` and `tests/python/tools/test_layering.py` hold.

The exit status is 0, or 1 if a picture that was to be checked is not current. Runs on any python3
from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "rooms.svg"


class Room(NamedTuple):
    """A folder, or a module that stands alone."""

    name: str
    what: str


PYTHON = [
    Room("_cli", "the command loop-pool"),
    Room("_serve", "serving an application"),
    Room("_worker", "workers of brokers"),
    Room("sync", "primitives for all loops and threads"),
    Room("tls", "contexts for rustls"),
    Room("metrics", "Prometheus, OpenTelemetry"),
    Room("_inspect", "what a pool tells of itself"),
    Room("_pool", "runner, spawn, groups, servers"),
    Room("_loop", "EventLoop, transports, streams"),
    Room("_core", "the native half"),
]
"""Rooms of `python/loop_pool`, highest first."""

NATIVE = [
    Room("module", "the methods of LoopCore"),
    Room("pool", "spawn, PoolTask"),
    Room("http", "ASGI on the layer http"),
    Room("tls", "sslproto's hot half, rustls"),
    Room("streams", "readers and writers"),
    Room("transport", "native transports"),
    Room("socket_ops", "loop.sock_*"),
    Room("event_loop", "callbacks and the turn"),
    Room("asyncio", "asyncio's types, as facts"),
    Room("cpython", "CPython's C interface"),
]
"""Rooms of `src/py`."""

LAYERS = [
    Room("py", "all of pyo3, see the middle"),
    Room("pool", "the loops of a pool, the monitor"),
    Room("event_loop", "one loop without Python"),
    Room("http", "HTTP/1, WebSocket on bytes"),
    Room("tls", "TLS by rustls, a filter on bytes"),
    Room("transport", "sockets as state machines"),
    Room("scheduler", "who sleeps, who steals"),
    Room("reactor", "all of mio"),
    Room("sys", "system calls"),
]
"""Layers of `src`."""

IMPORT = re.compile(r"^\s*from (\.+)([\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
"""A relative import of Python. (The package is written for a newer Python than this one may be.)"""

WIDTH, BOX, STEP, ARCS, TOP = 250, 40, 58, 110, 60


def python_imports() -> dict[str, set[str]]:
    """Of each room of the package, the rooms that its files import."""
    package = ROOT / "python" / "loop_pool"
    names = {room.name for room in PYTHON}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] not in names:
            continue
        for dots, module, names_of in IMPORT.findall(path.read_text(encoding="utf-8")):
            base = parts[: len(parts) - len(dots)]
            first = (*base, *module.split("."))[0] if base or module else ""
            targets = {first} if first else set(re.findall(r"\w+", names_of))
            found[parts[0]] |= (targets & names) - {parts[0]}
    return found


def rust_imports(folder: Path, rooms: list[Room], prefix: str) -> dict[str, set[str]]:
    """Of each room below `folder`, the rooms that its files name behind `prefix`."""
    names = {room.name for room in rooms}
    found: dict[str, set[str]] = {name: set() for name in names}
    named = re.compile(rf"\bcrate::{prefix}(\w+)")
    for path in sorted(folder.rglob("*.rs")):
        room = path.relative_to(folder).parts[0]
        if room in names and "tests" not in path.stem:
            shipped = path.read_text(encoding="utf-8").partition("#[cfg(all(test")[0]
            code = re.sub(r"//[^\n]*", "", shipped.partition("#[cfg(test)]")[0])
            found[room] |= (set(named.findall(code)) & names) - {room}
    return found


def draw_column(title: str, rooms: list[Room], imports: dict[str, set[str]], left: int) -> str:
    """The boxes of a column, and an arc for each import, down its right side."""
    lines = [f'<text class="title" x="{left}" y="{TOP - 24}">{title}</text>']
    middle = {room.name: TOP + STEP * row + BOX / 2 for row, room in enumerate(rooms)}
    right = left + WIDTH
    for row, room in enumerate(rooms):
        top = TOP + STEP * row
        lines += [
            f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{BOX}" rx="6"/>',
            f'<text class="name" x="{left + 10}" y="{top + 17}">{room.name}/</text>',
            f'<text class="what" x="{left + 10}" y="{top + 33}">{room.what}</text>',
        ]
        for other in sorted(imports[room.name], key=lambda name: middle[name]):
            begin, end = middle[room.name] + 4, middle[other] - 4
            reach = right + 14 + (end - begin) / STEP * (ARCS - 24) / len(rooms)
            lines.append(
                f'<path d="M{right} {begin:g} C{reach:g} {begin:g} {reach:g} {end:g} '
                f'{right + 5} {end:g}"/>'
            )
    return "\n".join(lines)


def draw() -> str:
    """The whole picture."""
    columns = [
        ("python/loop_pool", PYTHON, python_imports()),
        ("src/py", NATIVE, rust_imports(ROOT / "src" / "py", NATIVE, "py::")),
        ("src", LAYERS, rust_imports(ROOT / "src", LAYERS, "")),
    ]
    width = 20 + (WIDTH + ARCS) * len(columns)
    height = TOP + STEP * max(len(rooms) for _, rooms, _ in columns)
    drawn = [
        draw_column(title, rooms, imports, 20 + (WIDTH + ARCS) * number)
        for number, (title, rooms, imports) in enumerate(columns)
    ]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img" aria-label="Rooms, and which import which">
<!-- Made by tools/rooms.py from the imports of the sources. -->
<style>
rect {{ fill: #eef3fb; stroke: #4a6fa5; }}
path {{ fill: none; stroke: #4a6fa5; stroke-opacity: .55; marker-end: url(#tip); }}
text {{ font: 12px sans-serif; fill: #1c2733; }}
.title {{ font: bold 15px monospace; }}
.name {{ font: bold 13px monospace; }}
.what {{ fill: #51606f; font-size: 11px; }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 L8 4 L0 8 z" style="fill: #4a6fa5; stroke: none"/></marker></defs>
<rect x="0" y="0" width="{width}" height="{height}" style="fill: #fff; stroke: none"/>
{chr(10).join(drawn)}
</svg>
"""


def main() -> int:
    """Write the picture, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    made = draw()
    if not parser.parse_args().check:
        PICTURE.write_text(made, encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == made:
        return 0
    print(f"{PICTURE.relative_to(ROOT)} is not current: run tools/rooms.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
