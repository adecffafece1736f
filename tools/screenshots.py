#!/usr/bin/env python3
"""Make docs/images/*.svg: what `loop-pool ps` and `loop-pool top` show of a pool under load.

Run it with an interpreter that has loop_pool and its extra `cli`: `python tools/screenshots.py`.
It starts a pool of 4 loops that serves itself (tools/screenshots.py --load), and looks at it.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"

LOOPS = 4


# -- the load --------------------------------------------------------------------------------------


async def answer(reader, writer):
    """Serve one connection: each line comes back."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


async def look_up(key):
    """Stand for a query."""
    await asyncio.sleep(0.02 + key % 7 / 50)
    return key


async def handle_order(number):
    """Stand for work that awaits other tasks."""
    while True:
        async with asyncio.TaskGroup() as group:
            for part in ("customer", "stock"):
                group.create_task(look_up(number), name=f"order {number}: {part}")


async def talk(port, number):
    """Stand for a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(b"hello\n")
            await reader.readline()
            await asyncio.sleep(0.005)
    finally:
        writer.close()


async def grind():
    """Hold a loop up, again and again."""
    while True:
        await asyncio.sleep(0.5)
        compress_everything(0.9)


def compress_everything(seconds):
    """Take that long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


async def load():
    """Put work on each loop until standard input ends."""
    import loop_pool

    loops = loop_pool.current_pool().loops
    server = await loop_pool.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tasks = [
        loop_pool.spawn(talk(port, number), loop=loops[number % 3], name=f"client {number}")
        for number in range(12)
    ]
    tasks += [
        loop_pool.spawn(handle_order(number), loop=loops[number % 3], name=f"order {number}")
        for number in range(6)
    ]
    tasks.append(loop_pool.spawn(grind(), loop=loops[3], name="archive"))
    tasks.append(loop_pool.spawn(look_up(10**6), loop=loops[3], name="refresh cache"))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    server.close()


# -- the pictures ----------------------------------------------------------------------------------


def read(pid, request, **arguments):
    """Ask the pool; say in the stacks where things usually are, not where they are here."""
    from loop_pool._inspect import client as inspect_client

    reading = inspect_client.read(pid, request, **arguments)
    return replace(
        reading,
        loops=tuple(replace(it, stack=tuple(map(usual, it.stack))) for it in reading.loops),
        tasks=tuple(replace(it, stack=tuple(map(usual, it.stack))) for it in reading.tasks),
    )


def usual(frame):
    """Return a line of a stack with other paths."""
    frame = frame.replace(str(Path(asyncio.__file__).parents[1]), "/usr/lib/python3.14t")
    return frame.replace(__file__, "/srv/shop.py")


def picture_ps(pid):
    """Return what `loop-pool ps` shows, as SVG."""
    from rich.console import Console

    from loop_pool._inspect import ps as ps_command

    deadline = time.monotonic() + 60
    while True:
        first = read(pid, "stats")
        time.sleep(ps_command.BETWEEN)
        reading = read(pid, "snapshot")
        if any(loop.stack for loop in reading.loops):
            break
        if time.monotonic() > deadline:
            raise TimeoutError("no loop is stuck")
    console = Console(record=True, width=150, file=io.StringIO(), force_terminal=True)
    ps_command.print_rich(console, reading, reading.rates(first), stacks=False)
    return console.export_svg(title="loop-pool ps")


async def pictures_top(pid):
    """Return what `loop-pool top` shows, of a loop with tasks and of one that is stuck."""
    from loop_pool._inspect.top_screen import HELD_UP, Top

    app = Top(pid, 0.5, read)
    pictures = {}
    async with app.run_test(size=(150, 36)) as pilot:
        await until(pilot, lambda: app._tasks.row_count > 4 and app._rates)
        await pilot.press("down")
        await until(pilot, lambda: app._looked is not None and app._tasks.row_count > 4)
        rows = [row.value for row in app._tasks.rows]
        names = {str(task.id): task.name for task in app._looked.tasks}
        wanted = next(at for at, key in enumerate(rows) if names[key].startswith("order"))
        await pilot.press("tab", *["down"] * wanted)
        await pilot.pause()
        pictures["top"] = app.export_screenshot(title="loop-pool top")
        await pilot.press("shift+tab", "down", "down")
        await until(pilot, lambda: app._looked is not None and is_stuck(app))
        await pilot.press("p", "tab", "ctrl+home")
        await until(pilot, lambda: is_stuck(app) and app._chosen == HELD_UP)
        await pilot.pause()
        pictures["top-stuck"] = app.export_screenshot(title="loop-pool top")
    return pictures


def is_stuck(app):
    """Whether the selected loop is shown as being stuck."""
    return app._looked is not None and any(loop.stack for loop in app._looked.loops)


async def until(pilot, condition):
    """Wait for what is to be seen."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what is to be shown does not come")
        await pilot.pause(0.02)


def main():
    """Make all pictures; return the exit code."""
    if sys.argv[1:] == ["--load"]:
        import loop_pool

        loop_pool.run(load(), loops=LOOPS, inspect=True)
        return 0
    pool = subprocess.Popen(
        [sys.executable, __file__, "--load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if pool.stdout.readline() != "ready\n":
            return 1
        time.sleep(3)  # let it have a past
        pictures = {"ps": picture_ps(pool.pid), **asyncio.run(pictures_top(pool.pid))}
    finally:
        pool.kill()
        pool.communicate()
    IMAGES.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        path = IMAGES / f"{name}.svg"
        path.write_text(picture.rstrip() + "\n", encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
