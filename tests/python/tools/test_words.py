"""Words of our own that gave way to the field's stay out of the Python sources and the pages.

`tests/layering.rs` holds the Rust sources to the same list.
"""

import re
from pathlib import Path

from ..support import ROOT

GIVEN_UP = set((ROOT / "tests" / "retired_words.txt").read_text().split())

GIVEN_UP_IN_THE_PACKAGE = {"site", "told"}
"""Words that mean something else in examples and tools; in the package, names may not use them."""

PLACES = (
    "*.md",
    "docs/*.md",
    "src/**/*.md",
    "python/**/*.py",
    "python/**/*.pyi",
    "tests/python/**/*.py",
    "tools/*.py",
    "benches/python/*.py",
    "examples/**/*.py",
)


def words(text: str) -> set[str]:
    """The words of a text, those within names too, without the `s` of a plural."""
    parts = re.findall(r"[A-Z]?[a-z]+", text)
    return {part.lower() for part in parts} | {part.lower().removesuffix("s") for part in parts}


def names(text: str) -> set[str]:
    """The words within the names that a Python source binds."""
    bound = re.findall(r"\b(?:def|class|for|as)\s+(\w+)|(\w+)\s*(?::[^=\n]+)?=[^=]", text)
    return {word for pair in bound for name in pair for word in words(name)}


def files(*patterns: str) -> list[Path]:
    """The files that are looked through, but for this one."""
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [path for path in found if path != Path(__file__)]


def test_words_that_were_given_up_stay_out() -> None:
    found = {
        str(path.relative_to(ROOT)): given_up
        for path in files(*PLACES)
        if path.name != "CHANGELOG.md" and (given_up := words(path.read_text()) & GIVEN_UP)
    }
    assert not found


def test_names_of_the_package_use_none_either() -> None:
    found = {
        str(path.relative_to(ROOT)): given_up
        for path in files("python/**/*.py")
        if (given_up := names(path.read_text()) & GIVEN_UP_IN_THE_PACKAGE)
    }
    assert not found


def test_a_word_is_found_in_whatever_form() -> None:
    assert words("seats, next_seat, NextSeat") & GIVEN_UP == {"seat"}
    assert names("told: list[int] = []\nfor site in x: pass\nif a == told: pass\n") == {
        "told",
        "site",
    }
