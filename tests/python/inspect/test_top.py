"""The screen of `loop-pool top`: what it shows, and what it does for keys."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

pytest.importorskip("textual", reason="the extra cli is not installed")
from loop_pool._inspect import ps as ps_command
from loop_pool._inspect import top_help, top_screen
from loop_pool._inspect.client import InspectError, ProcessGoneError, _not_inspected

from ..support import HANG
from .screen import PID, TASK, FakePool, runs, shown

# What it shows


@runs
async def test_it_shows_the_pool_and_its_loops(pool: FakePool) -> None:
    pool.change(1, callbacks=700, busy=0.25, descriptors=12)
    async with shown(pool.ask) as screen:
        await screen.until(lambda: len(screen.column("loops", "loop")) == 3, "the loops")
        assert screen.column("loops", "loop") == ["loop-pool-0", "loop-pool-1", "loop-pool-2"]
        assert screen.column("loops", "fds") == ["0", "12", "0"]
        assert "process 4711, 3 loops" in screen.text("title")
        assert screen.text("settings") == "read every 50 ms"


@runs
async def test_rates_are_those_since_the_reading_before(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        pool.gate.clear()
        pool.change(2, callbacks=700, busy=0.25)
        pool.gate.set()
        await screen.until(
            lambda: screen.column("loops", "callbacks/s") == ["0", "0", "700"], "the rate"
        )


@runs
async def test_tasks_and_rates_are_there_soon_however_long_the_interval(pool: FakePool) -> None:
    async with shown(pool.ask, interval=3600.0) as screen:
        await screen.until(lambda: screen.column("tasks", "task") == ["first"], "the tasks")
        await screen.until(lambda: screen.column("loops", "busy") == ["0%"] * 3, "the rates")


@runs
async def test_a_loop_that_is_stuck_stands_out_with_its_stack(pool: FakePool) -> None:
    pool.change(0, stuck=2.5, stack=("/srv/app.py:12 spin",))
    async with shown(pool.ask) as screen:
        await screen.until(
            lambda: screen.column("tasks", "state")[:1] == [top_screen.HELD_UP], "the row"
        )
        assert screen.column("loops", "state")[0] == "stuck 2.5 s"
        table = screen.table("loops")
        assert table.get_cell("0", "loop").style == "bold red"
        await screen.press("tab", "up")
        await screen.until(lambda: "/srv/app.py:12 spin" in screen.text("frames"), "its stack")
        pool.change(0, stuck=0.0, stack=())
        await screen.until(lambda: screen.column("tasks", "task") == ["first"], "its end")


@runs
async def test_selecting_a_loop_shows_its_tasks_as_a_tree(pool: FakePool) -> None:
    pool.tasks += [
        dataclasses.replace(TASK, id=2, loop=1, name="parent"),
        dataclasses.replace(TASK, id=3, loop=1, name="other", awaited_by=()),
        dataclasses.replace(TASK, id=4, loop=1, name="child", awaited_by=(2,)),
        dataclasses.replace(TASK, id=5, loop=1, name="grandchild", awaited_by=(4,)),
    ]
    pool.change(1, omitted=1300)
    async with shown(pool.ask) as screen:
        await screen.until(lambda: screen.column("tasks", "task") == ["first"], "loop 0's task")
        await screen.press("down")
        tree = ["parent", "└─ child", "   └─ grandchild", "other"]
        await screen.until(lambda: screen.column("tasks", "task") == tree, "loop 1's tasks")
        assert screen.text("heading").startswith("Tasks of loop-pool-1: 4 and 1,300 more")


@runs
async def test_selecting_a_task_shows_who_awaits_it_and_its_stack(pool: FakePool) -> None:
    pool.tasks.append(
        dataclasses.replace(
            TASK, id=2, name="child", stack=("/srv/db.py:77 query",), awaited_by=(1,)
        )
    )
    async with shown(pool.ask) as screen:
        await screen.until(lambda: len(screen.column("tasks", "task")) == 2, "the tasks")
        assert "/srv/app.py:9 pause" in screen.text("frames")
        await screen.press("tab", "down")
        await screen.until(lambda: "/srv/db.py:77 query" in screen.text("frames"), "its stack")
        assert "awaited by first" in screen.text("frames")
        await screen.until_read(pool)
        assert screen.selected("tasks", "task") == "└─ child"


@runs
async def test_a_selected_task_stays_selected_wherever_it_moves(pool: FakePool) -> None:
    pool.tasks = [dataclasses.replace(TASK, id=key, name=f"t{key}") for key in range(1, 6)]
    async with shown(pool.ask) as screen:
        await screen.until(lambda: len(screen.column("tasks", "task")) == 5, "the tasks")
        await screen.press("tab", "down", "down")
        assert screen.selected("tasks", "task") == "t3"
        pool.tasks = [task for task in pool.tasks if task.name not in {"t1", "t4"}]
        pool.tasks.insert(0, dataclasses.replace(TASK, id=9, name="t9"))
        pool.tasks.insert(0, dataclasses.replace(TASK, id=8, name="t8"))
        order = ["t8", "t9", "t2", "t3", "t5"]
        await screen.until(lambda: screen.column("tasks", "task") == order, "the new order")
        assert screen.selected("tasks", "task") == "t3"
        pool.tasks.pop(3)
        await screen.until(lambda: len(screen.column("tasks", "task")) == 4, "the end of t3")
        assert screen.selected("tasks", "task") == "t5"  # what is in its place


# What looking costs


@runs
async def test_tasks_that_are_dear_to_look_at_are_looked_at_seldom(pool: FakePool) -> None:
    pool.cost = 1.0  # in 200 seconds, then
    async with shown(pool.ask) as screen:
        await screen.until_read(pool, 10)
        assert [request for request, _ in pool.asked].count("snapshot") == 1
        assert "read every 3:20 min only" in screen.text("heading")
        await screen.press("down")
        await screen.until(lambda: pool.has_told(1), "the other loop's tasks")
        assert all(
            arguments["limit"] == top_screen.TASKS for _, arguments in pool.asked if arguments
        )


# Sorting


@runs
async def test_each_column_sorts_the_loops(pool: FakePool) -> None:
    names = {
        "ready": "ready",
        "timers": "timers",
        "fds": "descriptors",
        "transports": "transports",
        "stole": "stolen_by",
        "stolen": "stolen_from",
        "handoffs": "handoffs",
        "thread": "thread",
        "lag": "lag",
    }
    for field in names.values():
        for index, value in enumerate((9, 100, 20)):
            pool.change(index, **{field: value})
    for index, task in enumerate(("b", "a", "c")):
        pool.change(index, task=task, stuck=float(index))
    async with shown(pool.ask, interval=60.0) as screen:
        await screen.until(lambda: screen.table("tasks").row_count == 1, "the second reading")
        for name in list(ps_command.COLUMNS)[1:]:
            await screen.press("s")
            order = screen.column("loops", "loop")
            order = [loop.rpartition("-")[2] for loop in order]
            if name in names:
                assert order == ["1", "2", "0"], name  # as numbers, the greatest first
            elif name == "task":
                assert order == ["1", "0", "2"]
            await screen.press("r")
            turned = [loop.rpartition("-")[2] for loop in screen.column("loops", "loop")]
            if name in names or name == "task":
                assert turned == order[::-1], name
            marks = [str(column.label) for column in screen.table("loops").columns.values()]
            assert [mark.strip(" ▲▼") for mark in marks if mark.strip() != mark.strip(" ▲▼")] == [
                name
            ]
        await screen.press("S")
        assert screen.app._sorting["loops"].column == list(ps_command.COLUMNS)[-2]
        await screen.until(lambda: "▼thread" in screen.picture(), "the mark")


@runs
async def test_sorting_keeps_the_selected_loop(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        await screen.press("down")
        assert screen.selected("loops", "loop") == "loop-pool-1"
        pool.change(2, callbacks=10**6)
        await screen.press("r")
        assert screen.column("loops", "loop")[0] == "loop-pool-2"
        await screen.until_read(pool)
        assert screen.selected("loops", "loop") == "loop-pool-1"
        assert screen.app._selected == 1


@runs
async def test_the_tasks_are_sorted_where_the_user_is_among_them(pool: FakePool) -> None:
    pool.tasks = [
        dataclasses.replace(TASK, id=1, name="b", age=9.0, state="ready", coro="x"),
        dataclasses.replace(TASK, id=2, name="a", age=100.0, awaited_by=(1,), coro="z"),
        dataclasses.replace(TASK, id=3, name="c", age=20.0, state="pending", coro="y"),
    ]
    async with shown(pool.ask, interval=60.0) as screen:
        await screen.until(lambda: len(screen.column("tasks", "task")) == 3, "the tasks")
        await screen.press("tab")
        orders = []
        for _ in range(4):
            await screen.press("s")
            orders.append("".join(screen.column("tasks", "task")))
        assert orders == ["cba", "acb", "bca", "b└─ ac"]
        assert screen.app._sorting["loops"].column == "loop"


@runs
async def test_a_click_on_a_heading_sorts_and_another_turns_round(pool: FakePool) -> None:
    async with shown(pool.ask, interval=60.0) as screen:
        await screen.until(lambda: screen.table("tasks").row_count == 1, "the second reading")
        assert await screen.pilot.click("#loops", offset=(3, 0))
        await screen.until(lambda: screen.app._sorting["loops"] == ("loop", True), "the turn")
        assert screen.column("loops", "loop")[0] == "loop-pool-2"


# Keys


@runs
async def test_pause_keeps_what_is_shown(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        await screen.press("p")
        assert "paused" in screen.text("settings")
        await screen.pilot.pause()
        asked = len(pool.asked)
        pool.change(0, ready=5)
        pool.tasks.append(dataclasses.replace(TASK, id=2, loop=1, name="elsewhere"))
        # The tasks of another loop are asked for once; the numbers are kept.
        await screen.press("down")
        await screen.until(lambda: screen.column("tasks", "task") == ["elsewhere"], "its tasks")
        assert pool.asked[-1] == ("snapshot", {"loop": 1, "limit": top_screen.TASKS})
        assert screen.column("loops", "ready")[0] == "0"
        assert len(pool.asked) <= asked + 2  # one was on its way
        await screen.press("p")
        await screen.until(lambda: screen.column("loops", "ready")[0] == "5", "going on")
        assert "paused" not in screen.text("settings")


@runs
async def test_plus_and_minus_change_the_interval_within_bounds(pool: FakePool) -> None:
    async with shown(pool.ask, interval=1.0) as screen:
        await screen.press("+")
        assert screen.text("settings") == "read every 500 ms"
        await screen.press(*"+" * 5)
        assert screen.app._interval == top_help.LEAST
        await screen.press(*"-" * 20)
        assert screen.app._interval == top_help.MOST


@runs
async def test_help_tells_each_column_and_key(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        await screen.press("?")
        assert isinstance(screen.app.screen, top_screen.Help)
        await screen.until_read(pool)  # it goes on below
        await screen.press("q")
        assert not isinstance(screen.app.screen, top_screen.Help)
        assert screen.app.is_running
    told = [line.split()[0] for line in top_help.HELP.splitlines() if line.startswith("  ")]
    assert set(ps_command.COLUMNS) - {"loop"} <= set(told)


@runs
async def test_a_terminal_that_is_too_small_says_so(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        all_of_it = screen.app.query_one("#all")
        await screen.pilot.resize_terminal(40, 10)
        await screen.until(lambda: not all_of_it.display, "the message")
        assert "40 columns and 10 lines" in screen.text("narrow")
        assert screen.app.query_one("#narrow").display
        await screen.pilot.resize_terminal(100, 30)
        await screen.until(lambda: bool(all_of_it.display), "the tables")


# What can go wrong


@runs
async def test_the_end_of_the_process_is_told_and_its_last_state_kept(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        pool.error = ProcessGoneError(f"there is no process {PID}")
        await screen.until(lambda: "has ended" in screen.text("message"), "the message")
        asked = len(pool.asked)
        assert screen.column("loops", "loop")[0] == "loop-pool-0"
        await screen.press("s", "r", "tab", "down")  # still works
        assert len(pool.asked) == asked
        assert screen.app.trouble == f"process {PID} has ended"


@runs
async def test_the_end_of_the_pool_is_told_and_another_one_shown(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        await screen.press("down", "down")
        await screen.until(lambda: pool.has_told(2), "loop 2")
        pool.error = InspectError(_not_inspected(PID))
        await screen.until(lambda: "has closed" in screen.text("message"), "the message")
        assert screen.app.trouble
        pool.loops, pool.uptime, pool.error = pool.loops[:1], 0.0, None
        await screen.until(lambda: screen.column("loops", "loop") == ["loop-pool-0"], "the other")
        await screen.until(lambda: screen.column("tasks", "task") == ["first"], "its tasks")
        assert (screen.text("message"), screen.app.trouble) == ("", "")


@runs
async def test_trouble_is_told_and_tried_again(pool: FakePool) -> None:
    async with shown(pool.ask) as screen:
        await screen.until_read(pool)
        pool.error = InspectError(f"process {PID} did not answer within 5 seconds")
        await screen.until(lambda: "did not answer" in screen.text("message"), "the message")
        pool.error = None
        await screen.until(lambda: not screen.text("message"), "the recovery")


@runs
async def test_a_pool_without_tasks_and_then_with_some(pool: FakePool) -> None:
    pool.tasks = []
    async with shown(pool.ask) as screen:
        await screen.until(lambda: "Tasks of loop-pool-0: 0" in screen.text("heading"), "none")
        assert screen.text("frames") == ""
        pool.tasks = [TASK]
        await screen.until(lambda: screen.column("tasks", "task") == ["first"], "one")
        assert "/srv/app.py:9 pause" in screen.text("frames")


def test_leaving_does_not_wait_for_a_pool_that_hangs() -> None:
    pool = FakePool()
    pool.gate.clear()

    async def leave() -> None:
        async with shown(pool.ask) as screen:
            await screen.until(lambda: bool(pool.asked), "the question")
            await screen.press("q")

    before = time.monotonic()
    asyncio.run(leave())  # waits for the threads of the loop's executor
    assert time.monotonic() - before < HANG  # for so long the question goes unanswered
    pool.gate.set()


@runs
async def test_ctrl_c_leaves_with_its_exit_code(pool: FakePool) -> None:
    async with shown(pool.ask, interval=60.0) as screen:
        await screen.press("?", "ctrl+c")
    assert screen.app.return_value == 130
