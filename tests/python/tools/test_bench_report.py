"""`benches/python`: figures, comparisons, tables and plots, made from made-up results."""

import json
import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .benches import (
    all_documents,
    bench,
    compare,
    document,
    figures,
    folders,
    goals,
    losses,
    micro_record,
    micro_tables,
    plots,
    report,
    server_record,
    server_sample,
    suites,
    svg,
)

__all__ = ["folders"]  # a fixture


# --- figures --------------------------------------------------------------------------------------


def test_a_spread_has_median_quartiles_and_range() -> None:
    spread = figures.spread_of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (spread.least, spread.lower, spread.median, spread.upper, spread.most) == (1, 2, 3, 4, 5)
    assert figures.format_spread(spread) == "3.00 (2.00-4.00)"
    assert figures.format_spread(figures.spread_of([7.0])) == "7.00"
    with pytest.raises(ValueError, match="no values"):
        figures.spread_of([])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.0123, "0.012"), (0.5, "0.50"), (12.34, "12.3"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits_that_count(number: float, text: str) -> None:
    assert figures.format_number(number) == text


def test_ratios_are_of_the_same_round() -> None:
    assert figures.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert figures.ratios([2.0], [1.0, 3.0]) == []
    assert figures.ratios([2.0], [0.0]) == []


def test_a_sample_without_a_number_has_no_figure() -> None:
    whole = {"server_cpu_ns": 4000, "requests": 2, "seconds": 2.0}
    assert figures.CPU.values([whole]) == [2.0]
    assert figures.RATE.values([whole]) == [1.0]
    assert figures.CPU.values([whole, {"requests": 2}]) == []
    assert figures.CPU.values([{**whole, "requests": 0}]) == []


def test_the_baseline_is_the_one_named_else_uvloop_else_the_first() -> None:
    names = ["loop_pool, 2", "asyncio, 2", "uvloop, 2"]
    record = server_record("w", {name: [{"p99_us": 1.0}] for name in names})
    assert figures.baseline_of(record) == "uvloop, 2"
    assert figures.baseline_of({**record, "baseline": "asyncio, 2"}) == "asyncio, 2"
    assert figures.baseline_of({**record, "baseline": "gone"}) == "uvloop, 2"
    del record["samples"]["uvloop, 2"]
    record["samples"]["other"] = []
    assert figures.baseline_of(record) == "asyncio, 2"
    del record["samples"]["asyncio, 2"]
    assert figures.baseline_of(record) is None


def test_relative_series_are_ratios_within_the_round() -> None:
    run = document(
        micro_record("switch", uvloop=[100, 200], loop_pool=[50, 150]),
        server_record("alone", {"loop_pool": [{"p99_us": 7.0}]}),
    )
    first, second = figures.relative_series(run)
    assert (first.variant, first.unit, first.values) == ("loop_pool", "x uvloop", (0.5, 0.75))
    assert (second.variant, second.unit, second.values) == ("loop_pool", "us", (7.0,))


# --- comparing two runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([1.00, 1.02, 1.04], [1.01, 1.03, 1.05], "agrees"),
        ([1.00, 1.01, 1.02], [1.025, 1.03, 1.035], "agrees"),  # apart, but by less than 3 %
        ([1.00, 1.02, 1.04], [1.10, 1.12, 1.14], "DIFFERS"),
        ([1.10, 1.12, 1.14], [1.00, 1.02, 1.04], "DIFFERS"),
        ([1.00, 1.20, 1.80], [1.10, 1.30, 1.40], "too noisy"),
        ([1.00, 1.20, 1.80], [3.00, 3.10, 3.20], "DIFFERS"),  # noisy, but beyond doubt
    ],
)
def test_two_runs_agree_within_their_spread(
    old: list[float], new: list[float], verdict: str
) -> None:
    assert compare.judge(figures.spread_of(old), figures.spread_of(new)) == verdict


def test_a_comparison_names_what_differs_and_counts_the_rest() -> None:
    old = document(
        micro_record("switch", uvloop=[100] * 3, loop_pool=[50, 51, 52]),
        micro_record("gone", uvloop=[100] * 3, loop_pool=[50] * 3),
    )
    new = document(
        micro_record("switch", uvloop=[200] * 3, loop_pool=[140, 141, 142]),
        micro_record("new", uvloop=[100] * 3, loop_pool=[50] * 3),
    )
    lines = list(compare.format_comparison(old, new))
    (row,) = [line for line in lines if "DIFFERS" in line and "`" in line]
    assert "`switch`" in row
    assert "loop_pool" in row
    assert "+38 %" in row
    assert lines[-2:] == [
        "3 figures: 0 agree, 1 DIFFER, 1 only in the first run, 1 only in the second run",
        "By chance alone, up to 0 would differ.",
    ]
    same = compare.compare(old, old)
    assert compare.expect_by_chance(same * 10) == pytest.approx(20 * 2 / math.comb(6, 3))
    assert compare.differs(old, new)
    assert not compare.differs(old, old)


def test_what_is_compared_with_another_baseline_is_not_judged() -> None:
    old = document(micro_record("switch", uvloop=[100] * 3, loop_pool=[50] * 3))
    new = document(micro_record("switch", asyncio=[300] * 3, loop_pool=[50] * 3))
    assert [each.verdict for each in compare.compare(old, new)] == ["only in the first run"]


def test_a_comparison_says_what_else_changed() -> None:
    old, new = document(), document(rounds=9)
    new["machine"] = {**new["machine"], "processor": "Y", "load": "other"}
    new["peers"] = {"loop_pool": {"version": "2.0"}}
    assert list(compare.conditions(old, new)) == [
        "processor: X, 4 cores / Y",
        "uvloop: 1.0 / none",
        "loop_pool: 1.0 / 2.0",
        "rounds: 3 / 9",
    ]


def test_the_command_compares_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for file, values in zip(files, ([50, 51, 52], [90, 91, 92]), strict=True):
        run = document(micro_record("switch", uvloop=[100] * 3, loop_pool=values))
        file.write_text(json.dumps(run), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--compare", *map(str, files)])
    assert bench.main() == 1
    assert "1 DIFFER" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bench.py", "--compare", str(files[0]), str(files[0])])
    assert bench.main() == 0


# --- tables, plots, the page ----------------------------------------------------------------------


def test_the_micro_table_has_times_and_ratios_and_reasons() -> None:
    record = micro_record("switch", uvloop=[100, 100, 200], loop_pool=[50, 60, 100])
    record["failures"] = {"rloop": "it crashed", "talyn": "ImportError"}
    run = document(record)
    run["missing"] = {"talyn": "ImportError"}
    text = "\n".join(micro_tables.format_document(run))
    assert "| `switch` (cpu) | 100 | 60.0 / 0.50 (0.50-0.55) |" in text
    assert "Left out: talyn: ImportError" in text
    assert "- rloop has no result of `switch`: it crashed." in text
    assert "talyn has no result" not in text


def test_lost_and_stalled_callbacks_are_noted() -> None:
    samples = [{"operations": 10, "lost": 1, "stalled": 2, "cpu_ns": 1}] * 2
    (note,) = micro_tables.note_samples(samples, "cpu")
    assert note == "of 20 callbacks that were posted 2 were lost, 4 stalled"
    assert not list(micro_tables.note_samples([{"operations": 10, "lost": 0, "stalled": 0}], "cpu"))


@pytest.mark.parametrize(
    ("variant", "style", "split"),
    [
        ("loop_pool, 2 loops", "own", ("loop_pool, loops", 2)),
        ("uvloop, 16", "c1", ("uvloop", 16)),
        ("uvloop", "c1", ("uvloop", 1)),
        ("bare", "c7", ("bare", 1)),
        ("uvloops", "c7", ("uvloops", 1)),
    ],
)
def test_a_variant_s_name_tells_peer_and_number(
    variant: str, style: str, split: tuple[str, int]
) -> None:
    assert plots.style_of(variant) == style
    assert plots.split_count(variant) == split


def test_every_plot_is_drawn_well_formed_and_the_same_each_time() -> None:
    for (name, drawn), (_, again) in zip(
        plots.make_plots(all_documents()), plots.make_plots(all_documents()), strict=True
    ):
        assert drawn is not None, name
        assert drawn == again
        root = ET.fromstring(drawn)
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in drawn
        assert 'class="own' in drawn, name
        assert "nan" not in drawn
        numbers = [
            float(value)
            for element in root.iter()
            for key, value in element.attrib.items()
            if key in {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy"}
        ]
        height = float(root.attrib["height"])
        assert all(0 <= number <= max(svg.WIDTH, height) for number in numbers), name


def test_a_plot_says_how_many_rounds_it_shows_and_that_it_was_disturbed() -> None:
    record = server_record("stuck", {"loop_pool": [server_sample(1.0)] * 2})
    quiet, loud = (document(record, rounds=9, run={"disturbed": each}) for each in (False, True))
    said = "X, 4 cores; median and quartiles of 2 interleaved rounds"
    assert plots.describe([plots.Found(quiet, record)]) == said
    assert plots.describe([plots.Found(loud, record)]) == f"DISTURBED by other programs; {said}"
    drawn = plots.plot_stuck({"pool": loud})
    assert drawn is not None
    assert "DISTURBED" in drawn
    single = server_record("stuck", {"loop_pool": [server_sample(1.0)]})
    assert plots.describe([plots.Found(quiet, single)]) == "X, 4 cores; one round"


def test_a_plot_of_what_nobody_measured_is_left_out() -> None:
    assert {name for name, drawn in plots.make_plots({}) if drawn is not None} == set()
    empty = {"sockets": document(server_record("echo-protocol", {}))}
    assert not any(drawn for _, drawn in plots.make_plots(empty))


def test_plotted_points_are_medians_and_quartiles() -> None:
    record = all_documents()["pool"]["results"][0]
    own, other = plots.scaling_lines(record, figures.CPU)
    assert (own.name, own.style) == ("loop_pool", "own")
    assert [point.x for point in own.points] == [1, 2, 4]
    assert [round(point.median, 3) for point in own.points] == [1.0, 2.0, 3.0]
    assert round(own.points[0].lower, 3) == 0.95
    assert other.style == "c1"


@pytest.mark.parametrize("high", [0.003, 0.9, 1.2, 2.9, 7.5, 9, 15, 180_000])
def test_an_even_axis_names_few_values_from_0_on(high: float) -> None:
    ticks = svg.even_ticks(high)
    assert ticks[0] == 0
    assert ticks[-1] <= high * (1 + 1e-9)
    assert 3 <= len(ticks) <= 8
    step = ticks[1]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in {1, 2, 5}


def test_a_logarithmic_axis_names_values_within_it() -> None:
    assert svg.log_ticks(0.2, 5) == pytest.approx([0.2, 0.5, 1, 2, 5])
    assert svg.log_ticks(0.1, 20_000) == pytest.approx([0.1, 1, 10, 100, 1000, 10_000])
    along = svg.Scale(1, 100, 0, 10, logarithmic=True)
    assert (along(1), along(10), along(100)) == (0, 5, 10)


def test_the_page_and_the_plots_are_made_of_the_results_alone(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    results, _ = folders
    page, images = tmp_path / "docs" / "page.md", tmp_path / "docs" / "images"
    with pytest.raises(suites.SuiteError, match="there are no results"):
        report.write_report(results, page, images, "images/")
    run = all_documents()["micro"]
    run["run"] = {
        "began": "2030-01-01 00:00 UTC",
        "seconds": 120.0,
        "commit": "abc",
        "quick": False,
        "partial": False,
        "load_before": 0.1,
        "others_cores": 0.5,
        "stolen_cores": 0.0,
        "samples": "",
        "disturbed": True,
    }
    (results / "micro.json").write_text(json.dumps(run), encoding="utf-8")
    said = report.write_report(results, page, images, "images/")
    text = page.read_text(encoding="utf-8")
    assert "![The micro benchmarks as ratios to uvloop](images/bench-micro.svg)" in text
    assert "bench-pool" not in text
    assert "| the table |" in text
    assert "commit abc" in text
    assert "DISTURBED" in text
    assert [file.name for file in images.iterdir()] == ["bench-micro.svg"]
    assert "bench-pool.svg: left out, as nothing was measured for it" in said
    report.write_report(results, page, images, "images/")
    assert page.read_text(encoding="utf-8") == text


# --- the goals ------------------------------------------------------------------------------------


def test_a_goal_is_met_by_the_median_of_the_ratios_within_the_rounds() -> None:
    measured = {
        "micro": document(
            micro_record(
                "create_await", uvloop=[100, 200, 100], zuvloop=[10] * 3, loop_pool=[30, 80, 40]
            )
        )
    }
    rows = [line for line in goals.format_goals(measured) if "not measured" not in line][2:]
    assert rows == [
        "| `create_task` + await (`micro/create_await`) | <= 0.40 x uvloop "
        "| 0.40 (0.35-0.40) | met |",
        "|  | <= 1.00 x zuvloop | 4.00 (3.50-6.00) | **missed** |",
    ]


def test_what_was_not_measured_is_not_met() -> None:
    rows = list(goals.format_goals({}))[2:]
    assert len(rows) == len(goals.GOALS)
    assert all(row.endswith("| - | not measured |") for row in rows)


def test_a_goal_may_be_a_lower_bound() -> None:
    goal = next(each for each in goals.GOALS if each.relation == ">=")
    assert goal.to_reach == ">= 0.80 x loop_pool, not stuck"
    assert goal.holds(0.8)
    assert not goal.holds(0.79)


def test_a_goal_may_exclude_its_bound() -> None:
    goal = next(each for each in goals.GOALS if each.relation == "<")
    assert goal.to_reach == "< 1.00 x peregrine, 1 thread"
    assert goal.holds(0.994)
    assert not goal.holds(0.996)


def test_a_goal_may_be_a_time() -> None:
    samples = [{"p99_us": us} for us in (4000.0, 4996.0, 9000.0)]
    own = {"loop_pool, 2 loops, native": samples}
    measured = {"applications": document(server_record("readiness", own))}
    (row,) = (line for line in goals.format_goals(measured) if "`applications/readiness`" in line)
    assert row.endswith("| <= 5 ms | 5.00 (4.50-7.00) ms | met |")
    samples[1]["p99_us"] = 5010.0
    (row,) = (line for line in goals.format_goals(measured) if "`applications/readiness`" in line)
    assert row.endswith("| <= 5 ms | 5.01 (4.50-7.00) ms | **missed** |")


def test_goals_name_workloads_that_there_are() -> None:
    for suite, names in {
        suite: {
            goal.place.partition("/")[2] for goal in goals.GOALS if goal.place.startswith(suite)
        }
        for suite in ("micro", "sockets", "pool", "applications")
    }.items():
        assert names
        assert names <= set(suites.SUITES[suite].workloads())


def test_a_block_of_a_page_is_replaced() -> None:
    page = "a\n<!-- goals -->\nold\n<!-- /goals -->\nb\n"
    new = report.replace_block(page, "goals", ["1", "2"])
    assert new == "a\n<!-- goals -->\n1\n2\n<!-- /goals -->\nb\n"
    assert report.replace_block(new, "goals", ["1", "2"]) == new
    with pytest.raises(ValueError, match="not one block goals, but 0"):
        report.replace_block("nothing", "goals", [])


def test_a_page_without_a_place_for_the_goals_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(Exception, match="not one block goals") as failure:
        report.write_verdicts(tmp_path, page)
    assert type(failure.value).__name__ == "SuiteError"


def test_the_published_table_of_goals_is_that_of_the_published_results() -> None:
    page = bench.VERDICTS.read_text(encoding="utf-8")
    documents = report.read_documents(bench.RESULTS)
    page_again = report.replace_block(page, "goals", list(goals.format_goals(documents)))
    lost = list(losses.format_losses(documents))
    page_again = report.replace_block(page_again, "losses", lost)
    agreed = list(compare.format_agreement(report.pairs_of(bench.RESULTS)))
    assert report.replace_block(page_again, "second run", agreed) == page


def test_what_two_runs_say_is_counted_and_our_differences_are_named() -> None:
    old = document(micro_record("switch", uvloop=[100] * 3, zuvloop=[10] * 3, loop_pool=[50] * 3))
    new = document(micro_record("switch", uvloop=[100] * 3, zuvloop=[20] * 3, loop_pool=[60] * 3))
    lines = list(compare.format_agreement({"micro": (old, new)}))
    assert lines[2] == "| micro | 2 | 0 | 0 | 2 | 0 |"
    assert lines[-1] == (
        "| `micro/switch` | loop_pool | time per operation, x uvloop | 0.50 (0.50-0.50) "
        "| 0.60 (0.60-0.60) |"
    )
    assert list(compare.format_agreement({})) == [
        "Of the published results there is no second run."
    ]
    same = list(compare.format_agreement({"micro": (old, old)}))
    assert same[2:] == ["| micro | 2 | 2 | 0 | 0 | 0 |"]


def test_a_loss_is_told_and_a_peer_that_is_level_or_has_other_loops_is_none() -> None:
    measured = {
        "micro": document(
            micro_record("switch", uvloop=[100, 100], zuvloop=[9, 10], loop_pool=[10, 20]),
            micro_record("level", uvloop=[10, 10], loop_pool=[10, 10.2]),
        ),
        "pool": document(
            server_record(
                "stuck",
                {
                    "loop_pool, 2 loops": [server_sample(2), server_sample(2)],
                    "uvloop, 2 threads": [server_sample(1), server_sample(1)],
                    "uvloop, 1": [server_sample(1), server_sample(1)],
                    "tokio, 2": [server_sample(1), server_sample(1)],
                },
            )
        ),
    }
    rows = list(losses.format_losses(measured))[2:]
    assert rows[0] == (
        "| `micro/switch` | time per operation | loop_pool | 1.56 (1.33-1.78) x zuvloop |"
    )
    assert rows[1].startswith("| `pool/stuck` | CPU per request | loop_pool, 2 loops | 2.00 x uvl")
    assert any("p99 latency" in row for row in rows)
    assert not any("level" in row or "tokio" in row or "uvloop, 1" in row for row in rows)
