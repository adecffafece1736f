"""`tools/bench_check.py` and `tools/callgrind.py`: what grew is found, named and refused.

No valgrind: the files of callgrind, the sources and addr2line are made up.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .support import load

callgrind, bench_check = load("callgrind", "bench_check")

HEAD = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
cmd:  counts timers
part: 1

desc: Trigger: Program termination

positions: instr line
events: Ir
summary: 40

"""

PROGRAM = """\
ob=/bin/counts
fl=/root/src/bin/counts.rs
fn=counts::measured
0x10 61 3
fi=/rustc/library/core/src/ptr.rs
0x12 7 5
fe=/root/src/bin/counts.rs
cfi=/root/src/heap.rs
cfn=micro::sift
calls=5 0x20 9
0x14 62 20
cob=/lib/libc.so
cfi=???
cfn=malloc
calls=5 0x30 0
0x14 62 10
0x14 62 2

fl=/root/src/heap.rs
fn=micro::sift
0x20 9 20

ob=/lib/libc.so
fl=???
fn=malloc
0x30 0 6
calls=1 0x30 0
0x30 0 4
fn=malloc'2
0x30 0 4

totals: 40
"""

HEAP = """\
//! A heap.

impl<C: Ord + From<Vec<C>>> Heap<C> {
    pub(super) fn first(&self) -> Option<&C> {
        self.items.first()
    }

    #[inline]
    pub const unsafe fn sift(&mut self) {
        self.items.swap(0, 1);
    }
}

impl<'a, T> Drop for Guard<'a, T>
where
    T: Send,
{
    fn drop(&mut self) {}
}

extern "C" fn free() {
    call();
}
"""


def test_each_instruction_is_read_with_what_it_called() -> None:
    found = [tuple(each) for each in callgrind.instructions(HEAD + PROGRAM)]
    assert found == [
        ("/bin/counts", "counts::measured", 0x10, 3, 0),
        ("/bin/counts", "counts::measured", 0x12, 5, 0),
        ("/bin/counts", "counts::measured", 0x14, 0, 20),
        ("/bin/counts", "counts::measured", 0x14, 0, 10),
        ("/bin/counts", "counts::measured", 0x14, 2, 0),
        ("/bin/counts", "micro::sift", 0x20, 20, 0),
        ("/lib/libc.so", "malloc", 0x30, 6, 0),
        ("/lib/libc.so", "malloc", 0x30, 0, 4),
        ("/lib/libc.so", "malloc", 0x30, 4, 0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "events: Ir Dr\n",
        "positions: line\n",
        HEAD + "fn=f\n+3 1 1\n",
        HEAD + "0x10 1 1\n",
        HEAD + "fn=f\n0x10 1\n",
        HEAD + "(1) what\n",
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(callgrind.MalformedError, match=r"line \d+: "):
        list(callgrind.instructions(text))


def test_a_function_has_its_inlined_code_and_what_it_called() -> None:
    inlined = {
        0x10: ["measured"],
        0x12: ["push", "measured"],
        0x14: ["push", "measured"],
        0x20: ["sift"],
    }
    counts = callgrind.count(
        callgrind.instructions(HEAD + PROGRAM),
        lambda each: inlined.get(each.address, [each.symbol]),
    )
    assert counts.total == 40
    assert counts.functions == {
        "measured": (3, 40),
        "push": (7, 37),
        "sift": (20, 20),
        # It calls itself: what ran is counted once as its own.
        "malloc": (10, 14),
    }


def test_code_without_a_line_belongs_to_what_was_compiled() -> None:
    def instruction(symbol: str, address: int, of: str = "/bin/counts") -> Any:
        return callgrind.Instruction(of, symbol, address, 1, 0)

    lines = {
        0x10: [callgrind.Line("heap.rs", 1), callgrind.Line("heap.rs", 9)],
        0x11: [],
        0x20: [callgrind.Line("heap.rs", 1), callgrind.Line("ptr.rs", 7)],
        0x21: [callgrind.Line("ptr.rs", 7)],
    }
    ours = [instruction("Heap::sift", address) for address in (0x10, 0x11)]
    ours += [instruction("drop_in_place", address) for address in (0x20, 0x21)]
    of = {1: "heap.rs: first", 9: "heap.rs: Heap::sift"}
    where = callgrind.attribution(ours, lines, lambda line: of.get(line.number))
    assert [where(each) for each in ours] == [
        ["heap.rs: first", "heap.rs: Heap::sift"],
        ["heap.rs: Heap::sift"],
        ["heap.rs: first"],
        ["drop_in_place"],
    ]
    assert where(instruction("Heap::sift", 0x10, "/lib/other.so")) == ["Heap::sift"]


def test_what_calls_itself_has_no_more_than_all() -> None:
    each = callgrind.Instruction("/bin/counts", "f", 0x10, 5, 100)
    assert callgrind.count([each], lambda each: [each.symbol]).functions == {"f": (5, 5)}


def test_the_lines_of_an_instruction_are_read_innermost_first() -> None:
    answer = (
        "0x0000000000000010\n/root/src/heap.rs:9\n/root/src/bin/counts.rs:61 (discriminator 3)\n"
        "0x0000000000000012\n??:0\n/root/src/heap.rs:?\n"
    )
    assert callgrind.parse_frames(answer) == {
        0x10: [("/root/src/heap.rs", 9), ("/root/src/bin/counts.rs", 61)],
        0x12: [],
    }


def test_a_line_belongs_to_the_function_that_begins_before_it(tmp_path: Path) -> None:
    source = tmp_path / "src" / "heap.rs"
    source.parent.mkdir()
    source.write_text(HEAP, encoding="utf-8")
    sources = callgrind.Sources(tmp_path)
    of = {
        line.strip(): sources.function(callgrind.Line(str(source), number))
        for number, line in enumerate(HEAP.splitlines(), 1)
    }
    assert of["//! A heap."] == "src/heap.rs: ?"
    assert of["self.items.first()"] == "src/heap.rs: Heap::first"
    assert of["self.items.swap(0, 1);"] == "src/heap.rs: Heap::sift"
    assert of["fn drop(&mut self) {}"] == "src/heap.rs: Guard::drop"
    assert of["call();"] == "src/heap.rs: free"
    assert sources.function(callgrind.Line("/rustc/library/core/src/ptr.rs", 7)) is None


# Comparing.


def baseline(workloads: dict[str, dict[str, tuple[int, int]]], **made_by: str) -> Any:
    """A baseline of made-up workloads, of functions with own and inclusive instructions."""
    counted = {
        name: bench_check.Counts(
            sum(own for own, _ in functions.values()),
            {of: bench_check.Cost(*cost) for of, cost in functions.items()},
        )
        for name, functions in workloads.items()
    }
    return bench_check.Baseline(made_by, counted)


BEFORE = {"timers": {"insert": (700, 1000), "sift": (300, 300)}, "inbox": {"push": (500, 500)}}


def test_what_has_not_grown_passes() -> None:
    after = {"timers": {"insert": (715, 1030), "sift": (315, 315)}, "inbox": {"push": (100, 100)}}
    lines, well = bench_check.report(baseline(BEFORE), baseline(after), 3.0)
    assert well
    assert "none of 2 workloads grew by more than 3 %" in lines
    assert any(line.startswith("inbox") and line.endswith("-80.00 %  shrank") for line in lines)


def test_a_workload_that_grew_is_refused_and_the_function_named() -> None:
    after = {"timers": {"insert": (700, 1031), "sift": (331, 331)}, "inbox": {"push": (500, 500)}}
    lines, well = bench_check.report(baseline(BEFORE), baseline(after), 3.0)
    assert not well
    text = "\n".join(lines)
    assert "1 of 2 workloads grew by more than 3 %" in text
    (sift,) = (line.split() for line in lines if line.endswith("sift"))
    assert sift == ["300", "->", "331", "+10.3", "%", "300", "->", "331", "sift"]
    assert "insert" not in text


def test_a_function_that_is_new_is_named_and_the_worst_comes_first() -> None:
    after = {"timers": {"insert": (720, 1120), "sift": (300, 300), "check": (100, 100)}}
    before = {"timers": BEFORE["timers"]}
    (growth,) = bench_check.compare(baseline(before).workloads, baseline(after).workloads)
    assert [name for name, _, _ in growth.functions()] == ["check", "insert"]
    assert any("new" in line and "check" in line for line in bench_check.lines_of(growth, 3.0))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"new": {"f": (1, 1)}}, "new .* is not in the baseline"),
        ({"old": {"f": (1, 1)}}, {}, "old .* is in the baseline alone"),
    ],
)
def test_a_workload_that_is_missing_on_a_side_is_refused(
    before: dict[str, dict[str, tuple[int, int]]],
    after: dict[str, dict[str, tuple[int, int]]],
    said: str,
) -> None:
    lines, well = bench_check.report(baseline(before), baseline(after), 3.0)
    assert not well
    assert any(re.match(said, line) for line in lines)


def test_another_compiler_is_compared_with_a_warning() -> None:
    grown = {"timers": {"insert": (2000, 2300), "sift": (300, 300)}, "inbox": BEFORE["inbox"]}
    before = baseline(BEFORE, rustc="1.95.0", target="x86_64")
    lines, well = bench_check.report(before, baseline(grown, rustc="1.96.0", target="x86_64"), 3.0)
    assert not well
    assert lines[0] == "warning: rustc: 1.95.0 in the baseline, 1.96.0 here"
    assert "It may be the compiler" in lines[-1]
    lines, _ = bench_check.report(before, baseline(grown, rustc="1.95.0", target="x86_64"), 3.0)
    assert "warning" not in "\n".join(lines)
    assert "compiler" not in "\n".join(lines)


# The command.


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the compiler, valgrind and what they do; the workloads are what is put in here."""
    workloads = dict(baseline(BEFORE).workloads)
    monkeypatch.setattr(bench_check.services, "where", lambda program: f"/bin/{program}")
    monkeypatch.setattr(bench_check, "compiler", lambda: {"host": "x86_64", "release": "1.95.0"})
    monkeypatch.setattr(bench_check, "output_of", lambda command: "valgrind-3.19.0")

    def count_all(valgrind: str, only: str, jobs: int) -> dict[str, Any]:
        return {name: counts for name, counts in workloads.items() if only in name}

    monkeypatch.setattr(bench_check, "count_all", count_all)
    return workloads


def test_a_stored_baseline_is_what_the_next_run_is_compared_with(
    counted: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--baseline", str(tmp_path / "folder" / "one.json")]
    assert bench_check.main([*where, "--update"]) == 0
    assert bench_check.main(where) == 0
    counted["inbox"] = baseline({"inbox": {"push": (600, 600)}}).workloads["inbox"]
    assert bench_check.main([*where, "--only", "timers"]) == 0
    capsys.readouterr()
    assert bench_check.main(where) == 1
    said = capsys.readouterr().out
    assert "inbox" in said
    assert "+20.00 %  GREW" in said
    assert bench_check.main([*where, "--limit", "20"]) == 0


def test_a_baseline_keeps_what_matters_one_function_a_line(
    counted: dict[str, Any], tmp_path: Path
) -> None:
    functions = {"f": (990, 1000), "little": (4, 4), "g": (6, 6), "main": (0, 1000)}
    counted["inbox"] = baseline({"inbox": functions}).workloads["inbox"]
    path = tmp_path / "one.json"
    assert bench_check.main(["--baseline", str(path), "--update"]) == 0
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["workloads"]["inbox"] == {
        "total": 1000,
        "functions": {"f": [990, 1000], "g": [6, 6]},
    }
    assert '"f": [990, 1000],\n' in text
    assert bench_check.from_json(text).workloads["timers"] == counted["timers"]


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"workloads": {"a": 1}, "made_by": {}}'])
def test_without_a_baseline_nothing_is_compared(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert bench_check.main(["--baseline", str(path)]) == 2
    said = capsys.readouterr().err
    assert ("--update" if text is None else "no baseline") in said


def test_without_valgrind_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_check.services, "where", lambda _: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert bench_check.main([]) == 2
    said = capsys.readouterr().err
    assert "As root: apt-get install --no-install-recommends valgrind" in said


def test_an_update_of_a_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_check.main(["--update", "--only", "timers"])
    assert "--update without --only" in capsys.readouterr().err
