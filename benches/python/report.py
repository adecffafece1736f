"""Makes the page of tables and the plots from files of raw results; measures nothing.

The same files make the same bytes. The tables of a suite are printed by its own script
(`--table FILE`), so that they are what was printed when it ran.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from compare import format_agreement
from figures import Document
from goals import format_goals
from losses import format_losses
from plots import describe_plot, make_plots
from suites import SUITES, Suite, SuiteError

TABLE_SECONDS = 60.0
EARLIER = "earlier"
"""Folder of the results of the run that the published one is compared with."""


def read_documents(folder: Path) -> dict[str, Document]:
    """Suite -> its results in a folder, in the order in which the suites run."""
    documents = {}
    for name in SUITES:
        file = folder / f"{name}.json"
        if file.exists():
            documents[name] = json.loads(file.read_text(encoding="utf-8"))
    return documents


def tables_of(suite: Suite, file: Path) -> str:
    """The tables of a file of results; raises `SuiteError` if they cannot be made."""
    done = subprocess.run(
        [sys.executable, suite.script, "--table", file],
        check=False,
        capture_output=True,
        text=True,
        timeout=TABLE_SECONDS,
    )
    if not done.stdout.strip():
        said = done.stderr.strip().splitlines()
        raise SuiteError(f"no tables of {file.name}: {said[-1] if said else 'nothing printed'}")
    return done.stdout.strip()


def format_run(document: Document) -> Iterator[str]:
    """Yield when and how a document was measured; nothing if it does not say."""
    run = document.get("run")
    if run is None:
        return
    kind = "a quick look" if run["quick"] else "a full run"
    if run["partial"] and not run["quick"]:
        kind = "a part of a run"
    yield (
        f"Measured {run['began']} in {run['seconds'] / 60:.0f} min ({kind}) at commit "
        f"{run['commit']}; load before it {run['load_before']}."
    )
    yield (
        f"Other programs used {run['others_cores']:.2f} of a core meanwhile, other guests "
        f"{run['stolen_cores']:.2f}" + (f"; {run['samples']}." if run["samples"] else ".")
    )
    if run["disturbed"]:
        yield "**DISTURBED: do not quote these figures; measure again on a quiet machine.**"


def format_page(folder: Path, images: str) -> Iterator[str]:
    """Yield the page of tables, line by line; `images` is where the plots lie, seen from it."""
    documents = read_documents(folder)
    yield "# Benchmark results"
    yield ""
    yield "Made from the raw results by `make bench-report`; do not edit. How each was measured and"
    yield "how to read it: `benches/python/README.md`."
    for name, drawn in make_plots(documents):
        if drawn is not None:
            yield ""
            yield f"![{describe_plot(name)}]({images}{name}.svg)"
    for name in documents:
        yield ""
        yield f"## {name}"
        yield ""
        lines = list(format_run(documents[name]))
        yield from lines
        if lines:
            yield ""
        yield tables_of(SUITES[name], folder / f"{name}.json")


def write_report(folder: Path, page: Path, images_folder: Path, images: str) -> list[str]:
    """Write page and plots from the results in `folder`; returns what was written or left out.

    Raises `SuiteError` if there are no results or a table cannot be made; then nothing is written.
    """
    documents = read_documents(folder)
    if not documents:
        raise SuiteError(f"there are no results in {folder}")
    text = "\n".join(format_page(folder, images)) + "\n"
    drawings = list(make_plots(documents))
    images_folder.mkdir(parents=True, exist_ok=True)
    said = []
    for name, drawn in drawings:
        file = images_folder / f"{name}.svg"
        if drawn is None:
            said.append(f"{file.name}: left out, as nothing was measured for it")
            file.unlink(missing_ok=True)
        else:
            file.write_text(drawn, encoding="utf-8")
            said.append(str(file))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return [*said, str(page)]


def replace_block(text: str, name: str, lines: Sequence[str]) -> str:
    """Put `lines` between `<!-- name -->` and `<!-- /name -->`; raises `ValueError` without."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    block = "\n".join([*lines, ""])
    replaced, count = pattern.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise ValueError(f"there is not one block {name}, but {count}")
    return replaced


def pairs_of(folder: Path) -> dict[str, tuple[Document, Document]]:
    """Suite -> its earlier results and those that are published, where there are both."""
    earlier, documents = read_documents(folder / EARLIER), read_documents(folder)
    return {name: (old, documents[name]) for name, old in earlier.items() if name in documents}


def write_verdicts(folder: Path, page: Path) -> str:
    """Put goals, losses and what two runs say, made from the results in `folder`, into a page.

    The other run is in `folder/EARLIER`. Returns what it did. Raises `SuiteError` if the page has
    no place for them.
    """
    text = page.read_text(encoding="utf-8")
    documents = read_documents(folder)
    try:
        text = replace_block(text, "goals", list(format_goals(documents)))
        text = replace_block(text, "losses", list(format_losses(documents)))
        text = replace_block(text, "second run", list(format_agreement(pairs_of(folder))))
    except ValueError as error:
        raise SuiteError(f"{page}: {error}") from None
    page.write_text(text, encoding="utf-8")
    return f"{page}: goals, losses, and whether two runs agree"
