"""The screen of ``loop-pool top``: a textual application, imported only when it is shown.

At every interval it requests the figures of all loops and the tasks of the selected loop. Reporting
tasks takes time of that loop, so after an expensive reading it waits longer before the next one:
all readings together take at most :data:`SHARE` of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator  # noqa: TC003 - textual looks at annotations
from typing import Any, ClassVar, NamedTuple

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import Resize  # noqa: TC002 - likewise
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from .client import (
    InspectError,
    Loop,
    ProcessGoneError,
    Rates,
    Reading,
    Task,
    _not_inspected,
    read,
    tree,
)
from .ps import BETWEEN, COLUMNS, LEFT, STYLES, branch, duration, title
from .top_help import HELP, LEAST, MOST

SHARE = 0.005
"""Of the time of the pool, for looking at its tasks."""

TASKS = 200
"""Tasks that are shown, the oldest of the loop."""

REQUEST_TIMEOUT = 5.0
"""Seconds that the pool has for an answer."""

ROOM = (50, 16)
"""Columns and lines of the least terminal in which it is shown."""

INTERRUPTED = 130
"""What the application returns after Ctrl-C, as a shell gives it."""

HELD_UP = "where it is held up"

TASK_COLUMNS = ("task", "state", "age", "coroutine")


class Cell(Text):
    """What is shown in a table, and what the table is sorted by."""

    def __init__(self, text: str, order: Any, style: str = "", right: bool = False) -> None:
        super().__init__(text, style=style, justify="right" if right else "left")
        self.order = order

    def is_like(self, other: Cell) -> bool:
        """Whether it looks the same and sorts the same."""
        return (self.plain, self.style, self.order) == (other.plain, other.style, other.order)


class Sorting(NamedTuple):
    """What a table is sorted by."""

    column: str
    reverse: bool = False


class Help(ModalScreen[None]):
    """What is shown, and the keys."""

    CSS = """
    Help { align: center middle; }
    #help { width: 94; max-width: 100%; height: auto; max-height: 100%; }
    #help { border: round $primary; background: $surface; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark,h", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(id="help"):
            yield Static(HELP, markup=False)


class Top(App[int]):
    """Shows a pool until the user leaves. Used in one thread, which it runs a loop of its own in.

    Args:
        pid: the process.
        interval: seconds between two readings.
        ask: how to ask the process, as :func:`_inspect_client.read`; called in other threads.
        note: what is said before the interval.
    """

    TITLE = "loop-pool top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { text-style: bold; padding: 0 1; }
    #settings { color: $text-muted; padding: 0 1; }
    #message { color: $text-error; padding: 0 1; display: none; }
    #message.shown { display: block; }
    #loops { height: auto; max-height: 40%; }
    #heading { text-style: bold; padding: 1 1 0 1; }
    #tasks { height: 1fr; }
    #stack { height: 9; border-top: solid $primary; padding: 0 1; }
    #narrow { display: none; padding: 0 1; color: $text-error; }
    .narrow #narrow { display: block; }
    .narrow #all { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Leave"),
        Binding("ctrl+c", "interrupt", "Leave", show=False, priority=True),
        Binding("question_mark,h", "help", "Help", key_display="?"),
        ("p", "pause", "Pause"),
        ("s", "sort(1)", "Sort by next column"),
        Binding("S", "sort(-1)", "Sort by previous column", show=False),
        ("r", "reverse", "Reverse"),
        Binding("plus,equals_sign", "hasten(0.5)", "Faster", key_display="+"),
        Binding("minus", "hasten(2)", "Slower", key_display="-"),
        Binding("tab", "app.focus_next", "Loops, tasks, stack", key_display="tab"),
    ]

    def __init__(
        self, pid: int, interval: float, ask: Callable[..., Reading] = read, note: str = ""
    ) -> None:
        super().__init__()
        self.trouble = ""
        """Why the last reading failed; empty: it did not. A sentence without its full stop."""
        self._pid = pid
        self._note = note
        self._interval = interval
        self._ask = ask
        self._reading: Reading | None = None
        """The last one; None if it failed."""
        self._looked: Reading | None = None
        """The last one with tasks, those of the selected loop."""
        self._rates: dict[int, Rates] = {}
        self._selected = 0
        """The loop whose tasks are shown."""
        self._chosen: str | None = None
        """The key of the row of the task whose stack is shown."""
        self._sorting = {"loops": Sorting("loop"), "tasks": Sorting("task")}
        self._paused = False
        self._tasks_due = 0.0
        """When the tasks may be looked at again."""
        self._read_now = asyncio.Event()
        # Kept, because the last reading may be shown after they have left the screen.
        self._title, self._settings, self._message, self._heading, self._frames, self._narrow = (
            Static(id=name, markup=False)
            for name in ("title", "settings", "message", "heading", "frames", "narrow")
        )
        self._loops = DataTable[Cell](id="loops", cursor_type="row", fixed_columns=1)
        self._tasks = DataTable[Cell](id="tasks", cursor_type="row")

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield self._narrow
        with Vertical(id="all"):
            yield self._title
            yield self._settings
            yield self._message
            yield self._loops
            yield self._heading
            yield self._tasks
            with VerticalScroll(id="stack"):
                yield self._frames
        yield Footer()

    def on_mount(self) -> None:
        """Begin to watch."""
        for table, names in ((self._loops, COLUMNS), (self._tasks, TASK_COLUMNS)):
            for name in names:
                table.add_column(_label(table, name, Sorting("")), key=name)
            self._mark_sorted(table)
        self._loops.focus()
        self._show_settings()
        self.run_worker(self._watch(), exclusive=True)

    def on_resize(self, event: Resize) -> None:
        """Show that there is no room for it, if so."""
        size = event.size
        self._narrow.update(
            f"Too small: this terminal has {size.width} columns and {size.height} lines, "
            f"loop-pool top needs {ROOM[0]} and {ROOM[1]}."
        )
        self.screen_stack[0].set_class(size.width < ROOM[0] or size.height < ROOM[1], "narrow")

    # -- reading ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            self._read_now.clear()
            new = self._reading is None
            try:
                await self._look()
            except ProcessGoneError:
                self._fail(
                    f"process {self._pid} has ended", "showing its last state. Press q to quit."
                )
                return
            except InspectError as error:
                closed = self._looked is not None and str(error) == _not_inspected(self._pid)
                trouble = f"the pool of process {self._pid} has closed" if closed else str(error)
                self._fail(trouble, "showing the last reading. Retrying.")
            # A new pool has no tasks and no rates yet.
            pause = min(BETWEEN, self._interval) if new and self._reading else self._interval
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read_now.wait(), pause)

    def _fail(self, trouble: str, sequel: str) -> None:
        self.trouble = trouble
        self._reading = None
        self._say(f"{trouble[:1].upper()}{trouble[1:]}; {sequel}")

    async def _look(self) -> None:
        selected, now = self._selected, time.monotonic()
        if self._paused:
            if now >= self._tasks_due and self._looked is None:
                await self._look_at_tasks(selected)
            return
        # A pool that was not there a moment ago may have fewer loops.
        if self._reading is None or now < self._tasks_due:
            reading = await self._read("stats")
        else:
            reading = await self._look_at_tasks(selected)
        if not self._paused:
            self._show_loops(reading)
        self.trouble = ""
        self._say("")

    async def _look_at_tasks(self, selected: int) -> Reading:
        reading = await self._read("snapshot", loop=selected, limit=TASKS)
        if selected == self._selected:
            self._tasks_due = time.monotonic() + reading.cost / SHARE
            self._looked = reading
            self._show_tasks()
        return reading

    async def _read(self, request: str, **arguments: int) -> Reading:
        """Ask in a thread of its own, which leaving does not wait for."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reading] = loop.create_future()

        def settle(reading: Reading | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            elif reading is not None:
                answer.set_result(reading)

        def work() -> None:
            outcome: tuple[Reading | None, BaseException | None]
            try:
                outcome = self._ask(self._pid, request, timeout=REQUEST_TIMEOUT, **arguments), None
            except BaseException as error:  # raised where it is awaited
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the user has left: the loop is closed
                loop.call_soon_threadsafe(settle, *outcome)

        threading.Thread(target=work, name="loop-pool-top", daemon=True).start()
        return await answer

    # -- showing ----------------------------------------------------------------------------------

    def _say(self, message: str) -> None:
        widget = self._message
        widget.update(message)
        widget.set_class(bool(message), "shown")

    def _show_settings(self) -> None:
        paused = "; paused, p goes on" if self._paused else ""
        self._settings.update(f"{self._note}read every {duration(self._interval)}{paused}")

    def _show_loops(self, reading: Reading) -> None:
        before, self._reading = self._reading, reading
        same = before is not None and before.uptime <= reading.uptime
        self._rates = reading.rates(before) if before is not None and same else {}
        self._title.update(title(reading))
        rows = {str(loop.index): self._loop_row(loop) for loop in reading.loops}
        if rows and str(self._selected) not in rows:
            self._select(reading.loops[0].index)
        at_cursor = _key_at_cursor(self._loops)
        _fill(self._loops, rows)
        self._sort(self._loops, at_cursor if at_cursor in rows else str(self._selected))

    def _loop_row(self, loop: Loop) -> list[Cell]:
        style = "bold red" if loop.stuck else "dim" if not loop.running else ""
        cells = []
        for name, cell in COLUMNS.items():
            text, order = cell(loop, self._rates.get(loop.index))
            cells.append(Cell(text, order, style, right=name not in LEFT))
        return cells

    def _show_tasks(self) -> None:
        table, reading = self._tasks, self._looked
        loops = () if reading is None else reading.loops
        loop = next((loop for loop in loops if loop.index == self._selected), None)
        if reading is None or loop is None:
            self._heading.update("")
            table.clear()
        else:
            more = f" and {loop.omitted:,} more" if loop.omitted else ""
            wait = reading.cost / SHARE
            dear = f"; read every {duration(wait)} only" if wait > self._interval else ""
            heading = f"Tasks of {loop.name}: {len(reading.tasks):,}{more}{dear}"
            self._heading.update(heading)
            row = table.cursor_row
            if self._chosen is not None:
                self._chosen = _key_at_cursor(table)
            rows = dict(self._task_rows(reading, loop))
            _fill(table, rows)
            if self._chosen not in rows:  # it has ended: go on with that in its place
                self._chosen = None
            self._sort(table, self._chosen)
            if self._chosen is None and rows:
                row = min(row, len(rows) - 1)
                self._chosen = table.ordered_rows[row].key.value
                self._move(table, row)
        self._show_stack()

    def _task_rows(self, reading: Reading, loop: Loop) -> Iterator[tuple[str, list[Cell]]]:
        sorting = self._sorting["tasks"]
        if loop.stack:
            first = (2 if sorting.reverse else 0,)
            cells = [Cell("(the loop)", first, "red"), Cell(HELD_UP, first, "red")]
            age = Cell(duration(loop.stuck), first, right=True)
            yield HELD_UP, [*cells, age, Cell("", first)]
        flat = sorting.column != "task"
        for place, node in enumerate(node for node in tree(reading.tasks) if not node.seen):
            task = node.task
            name = task.name if flat else f"{branch(node)}{task.name}"
            state = Cell(task.state, (1, task.state), STYLES.get(task.state.partition(" ")[0], ""))
            age = Cell(duration(task.age), (1, task.age), right=True)
            coro = Cell(task.coro, (1, task.coro))
            yield str(task.id), [Cell(name, (1, place)), state, age, coro]

    def _show_stack(self) -> None:
        self._frames.update(Text("\n".join(self._stack())))

    def _stack(self) -> Iterator[str]:
        reading = self._looked
        if reading is None or self._chosen is None:
            return
        if self._chosen == HELD_UP:
            loop = next(it for it in reading.loops if it.index == self._selected)
            yield f"{loop.name} has been inside this for {duration(loop.stuck)}:"
            yield from (f"  {frame}" for frame in loop.stack)
            return
        tasks: dict[int, Task] = {task.id: task for task in reading.tasks}
        task = tasks[int(self._chosen)]
        yield f"{task.name}, {task.coro}, from {task.origin}: {task.state}"
        awaiters = [tasks[it].name for it in task.awaited_by if it in tasks]
        if awaiters:
            yield f"awaited by {', '.join(awaiters)}"
        yield from (f"  {frame}" for frame in task.stack)
        if not task.stack:
            yield "  no stack: its loop did not get to tell it, or it is not written in Python"

    # -- sorting ----------------------------------------------------------------------------------

    def _sort(self, table: DataTable[Cell], selected: str | None) -> None:
        """Put the rows of a table in order, and the cursor on the one that was selected.

        That is the one at the cursor, which the user may have moved without its message having
        arrived yet.
        """
        column, reverse = self._sorting[table.id or ""]
        with table.prevent(DataTable.RowHighlighted):
            table.sort(column, key=lambda cell: cell.order, reverse=reverse)
        if selected is not None and selected in table.rows:
            self._move(table, table.get_row_index(selected))

    def _move(self, table: DataTable[Cell], row: int) -> None:
        with table.prevent(DataTable.RowHighlighted):
            table.move_cursor(row=row)

    def _mark_sorted(self, table: DataTable[Cell]) -> None:
        sorting = self._sorting[table.id or ""]
        for key, column in table.columns.items():
            column.label = _label(table, str(key.value), sorting)
        table.refresh()

    def _sort_by(self, table: DataTable[Cell], sorting: Sorting) -> None:
        self._sorting[table.id or ""] = sorting
        self._mark_sorted(table)
        if table.id == "tasks":
            self._show_tasks()
        else:
            self._sort(table, _key_at_cursor(table))

    def _table_in_use(self) -> DataTable[Cell]:
        return self._tasks if self._tasks.has_focus else self._loops

    # -- what the user does -----------------------------------------------------------------------

    def _select(self, index: int) -> None:
        """Turn to another loop."""
        self._selected = index
        self._looked = self._chosen = None
        self._tasks_due = 0.0
        self._show_tasks()
        self._read_now.set()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the tasks of another loop, or the stack of another task."""
        table, key = event.data_table, event.row_key.value
        # The rows may have moved since.
        if key is None or key not in table.rows or table.get_row_index(key) != table.cursor_row:
            return
        if table.id == "tasks":
            self._chosen = key
            self._show_stack()
        elif int(key) != self._selected:
            self._select(int(key))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; again: the other way round."""
        name, table = event.column_key.value, event.data_table
        if name == self._sorting[table.id or ""].column:
            self.action_reverse(table)
        elif name is not None:
            self._sort_by(table, _first_sorting(name))

    def action_sort(self, step: int) -> None:
        """Sort by a column further on: the loops, or the tasks if the user is there."""
        table = self._table_in_use()
        names = [str(key.value) for key in table.columns]
        at = names.index(self._sorting[table.id or ""].column)
        self._sort_by(table, _first_sorting(names[(at + step) % len(names)]))

    def action_reverse(self, table: DataTable[Cell] | None = None) -> None:
        """Sort the other way round."""
        table = table or self._table_in_use()
        column, reverse = self._sorting[table.id or ""]
        self._sort_by(table, Sorting(column, not reverse))

    def action_pause(self) -> None:
        """Keep what is shown, or go on."""
        self._paused = not self._paused
        self._show_settings()
        self._read_now.set()

    def action_hasten(self, factor: float) -> None:
        """Read more often, or less."""
        self._interval = min(MOST, max(LEAST, self._interval * factor))
        self._show_settings()
        self._read_now.set()

    def action_help(self) -> None:
        """Say what is shown, and the keys."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help())

    def action_interrupt(self) -> None:
        """Leave by Ctrl-C."""
        self.exit(INTERRUPTED)


def _first_sorting(column: str) -> Sorting:
    """How one wants to see a column first: of numbers the greatest, of words the first."""
    return Sorting(column, column not in LEFT and column != "coroutine")


def _label(table: DataTable[Cell], name: str, sorting: Sorting) -> Text:
    """Return the heading of a column. It is as wide with a mark as without."""
    mark = " " if name != sorting.column else "▼" if sorting.reverse else "▲"
    if name == "age" or (table.id == "loops" and name not in LEFT):
        return Text(mark + name, justify="right")
    return Text(name + mark)


def _key_at_cursor(table: DataTable[Cell]) -> str | None:
    return table.ordered_rows[table.cursor_row].key.value if table.row_count else None


def _fill(table: DataTable[Cell], rows: dict[str, list[Cell]]) -> None:
    """Let a table have these rows, by their keys, with the least change."""
    with table.prevent(DataTable.RowHighlighted):
        for key in [str(row.value) for row in table.rows]:
            if key not in rows:
                table.remove_row(key)
        for key, cells in rows.items():
            if key not in table.rows:
                table.add_row(*cells, key=key)
                continue
            for column, cell in zip(table.columns, cells, strict=True):
                if not cell.is_like(table.get_cell(key, column)):
                    table.update_cell(key, column, cell, update_width=True)
