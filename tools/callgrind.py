"""What callgrind counted, for each function of this repository, also where it was inlined.

In: the file that `valgrind --tool=callgrind --dump-instr=yes` leaves, and the program that ran.
Out: a `Counts`. A compiled function mostly consists of others that were inlined into it, of which
callgrind knows nothing. The program's line tables know them: `addr2line` tells for each instruction
through which lines it came to be where it is, and the source, to which functions these belong.

Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import bisect
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

OPTIONS = (
    "--tool=callgrind",
    "--dump-instr=yes",
    "--compress-strings=no",
    "--compress-pos=no",
)
"""How callgrind has to be run for `instructions` to read its file."""


class MalformedError(Exception):
    """A file of callgrind, or an answer of addr2line, is not as expected."""


class Instruction(NamedTuple):
    """What one instruction of a program cost."""

    object: str
    """The file of the program or the library that it is in."""
    symbol: str
    """The compiled function that it is in."""
    address: int
    """Where it is in the file."""
    own: int
    """How often it ran."""
    called: int
    """Instructions that ran in what it called."""


class Cost(NamedTuple):
    """Instructions of one function."""

    own: int
    """Those of its own code, with inlined code from outside of the repository."""
    inclusive: int
    """These, and those of all that it called."""


class Counts(NamedTuple):
    """What one workload cost, in instructions."""

    total: int
    functions: Mapping[str, Cost]


def instructions(text: str) -> Iterator[Instruction]:
    """Read a file that callgrind wrote with `OPTIONS`.

    Raises:
        MalformedError: A line is not understood.
    """
    current = symbol = ""
    is_call = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("0x"):
            parts = line.split()
            if len(parts) != 3 or not symbol:
                raise MalformedError(f"line {number}: {line!r}")
            address, cost = int(parts[0], 16), int(parts[2])
            own, called = (0, cost) if is_call else (cost, 0)
            yield Instruction(current, symbol, address, own, called)
            is_call = False
        elif line.startswith("ob="):
            current = line[3:]
        elif line.startswith("fn="):
            # Of a function that calls itself, the second level has a name of its own.
            symbol = re.sub(r"'\d+$", "", line[3:])
        elif line.startswith("calls="):
            is_call = True
        elif line.startswith(("positions:", "events:")):
            if line not in ("positions: instr line", "events: Ir"):
                raise MalformedError(f"line {number}: {line!r}")
        elif line and re.match(r"(?:#|[a-z]+:|(?:fl|fi|fe|cob|cfi|cfl|cfn)=)", line, re.I) is None:
            raise MalformedError(f"line {number}: {line!r}")


class Line(NamedTuple):
    """A line of a source."""

    path: str
    number: int


def frames(program: str, addresses: Sequence[int]) -> dict[int, list[Line]]:
    """Ask addr2line which lines each instruction comes from, the innermost first.

    Raises:
        OSError: There is no addr2line.
        MalformedError: It did not answer for each address.
    """
    answer = subprocess.run(
        ["addr2line", "--inlines", "--addresses", "--exe", program],
        input="".join(f"{address:#x}\n" for address in addresses),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    found = parse_frames(answer.stdout)
    if answer.returncode != 0 or found.keys() != set(addresses):
        raise MalformedError(f"addr2line: status {answer.returncode}, {len(found)} addresses")
    return found


def parse_frames(text: str) -> dict[int, list[Line]]:
    """Read what addr2line says; a line that it does not know is left out."""
    found: dict[int, list[Line]] = {}
    lines: list[Line] = []
    for line in text.splitlines():
        if line.startswith("0x"):
            lines = found.setdefault(int(line, 16), [])
            continue
        path, _, rest = line.rpartition(":")
        number = re.match(r"\d+", rest)
        if number is not None and number.group() != "0":
            lines.append(Line(path, int(number.group())))
    return found


FUNCTION = re.compile(r"\s*(?:pub(?:\([^)]*\))? )?(?:[a-z]+ |\"C\" )*fn (\w+)")
IMPL = re.compile(r"(\s*)(?:unsafe )?impl\b(?P<rest>.*)")


def functions_of(source: str) -> tuple[list[int], list[str]]:
    """The functions of a Rust source: the lines where they begin, and their names with the types'.

    A line belongs to the last function that begins at or before it. This leans on the layout that
    rustfmt makes.
    """
    begins: list[int] = []
    names: list[str] = []
    of = ("", "")
    for number, line in enumerate(source.splitlines(), 1):
        impl = IMPL.fullmatch(line)
        function = FUNCTION.match(line)
        if impl is not None:
            of = (impl.group(1), implementor(impl.group("rest")))
        elif of[1] and line.startswith(of[0] + "}"):
            of = ("", "")
        if function is not None:
            name = function.group(1)
            begins.append(number)
            names.append(f"{of[1]}::{name}" if of[1] else name)
    return begins, names


def implementor(rest: str) -> str:
    """The type in what follows `impl`: `<T: Send> Trait<T> for Type<T> {` is `Type`."""
    while rest != (rest := re.sub(r"<[^<>]*>", "", rest)):
        pass
    name = re.search(r"([A-Za-z_]\w*)\W*$", rest.partition(" where ")[0])
    return name.group(1) if name is not None else ""


class Sources:
    """Tells in which function of the repository a line is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._functions: dict[str, tuple[list[int], list[str]]] = {}

    def function(self, line: Line) -> str | None:
        """The function of a line: `src/a.rs: Type::name`. None outside of the repository."""
        try:
            path = Path(line.path).resolve().relative_to(self._root)
        except ValueError:
            return None
        if line.path not in self._functions:
            text = (self._root / path).read_text(encoding="utf-8")
            self._functions[line.path] = functions_of(text)
        begins, names = self._functions[line.path]
        index = bisect.bisect(begins, line.number) - 1
        return f"{path.as_posix()}: {names[index] if index >= 0 else '?'}"


Where = Callable[[Instruction], Sequence[str]]
"""The functions that an instruction is in, the innermost first, each once; at least one."""


def count(found: Iterable[Instruction], where: Where) -> Counts:
    """Add up what each function cost.

    What calls itself, by way of others too, has more inclusive instructions than ran: no more than
    all are shown.
    """
    total = 0
    own: dict[str, int] = defaultdict(int)
    inclusive: dict[str, int] = defaultdict(int)
    for each in found:
        names = where(each)
        total += each.own
        own[names[0]] += each.own
        for name in names:
            inclusive[name] += each.own + each.called
    costs = {name: Cost(own[name], min(cost, total)) for name, cost in inclusive.items()}
    return Counts(total, costs)


def attribution(
    found: Iterable[Instruction],
    lines: Mapping[int, Sequence[Line]],
    function: Callable[[Line], str | None],
) -> Where:
    """Find the functions of each instruction by its lines, or else by the compiled function.

    Args:
        found: The instructions of the program to which `lines` belong.
        lines: What `frames` says of them.
        function: `Sources.function`.
    """
    known: dict[int, list[str]] = {}
    homes: dict[str, str] = {}
    places = {each.address: (each.object, each.symbol) for each in found}
    for address, (_, symbol) in places.items():
        names = [function(line) for line in lines[address]]
        known[address] = list(dict.fromkeys(name for name in names if name is not None))
        if names and names[-1] is not None:
            homes[symbol] = names[-1]

    def where(each: Instruction) -> Sequence[str]:
        if places.get(each.address) != (each.object, each.symbol):
            return [each.symbol]
        # What the compiler made of no line at all belongs to the function that it compiled.
        return known[each.address] or [homes.get(each.symbol, each.symbol)]

    return where


def read(path: Path, program: Path, sources: Sources) -> Counts:
    """What callgrind counted into `path` while `program` ran.

    Raises:
        OSError: There is no addr2line.
        MalformedError: The file, or an answer of addr2line, is not as expected.
    """
    found = list(instructions(path.read_text(encoding="utf-8", errors="replace")))
    ours = [each for each in found if each.object == str(program)]
    lines = frames(str(program), sorted({each.address for each in ours}))
    return count(found, attribution(ours, lines, sources.function))
