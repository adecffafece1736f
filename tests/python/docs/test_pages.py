"""What the pages say exists: links, commands and their options, files, names, examples."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import loop_pool
from loop_pool import _cli, metrics

from ..support import ROOT, check_script

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "benches/**/*.md", "src/**/*.md")
    for page in ROOT.glob(pattern)
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PATH = re.compile(r"(?:src|python|tests|tools|docs|benches|examples|\.ci|\.github)/[\w./*-]+")
MADE = ("benches/results", "python/loop_pool/_core.")
"""Files that a command makes."""

RUN_ELSEWHERE = {
    "docs/reference.md": "docs/test_reference",
    "docs/recipes.md": "docs/test_recipes",
    "docs/sync.md": "sync/test_face",
    "docs/testing.md": "ecosystem/test_pytest_plugin",
    "docs/distributed.md": "worker/test_brokers",
}
"""The pages whose examples another file runs."""


@functools.cache
def text(name: str) -> str:
    """The page, without its comments."""
    return re.sub(r"<!--.*?-->", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


@functools.cache
def prose(name: str) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", text(name))


def commands(name: str) -> list[str]:
    """The lines of a page's blocks that are no Python, and its inline code."""
    blocks = [body for _, language, body in FENCE.findall(text(name)) if language in ("", "sh")]
    return [line.strip() for body in blocks for line in body.splitlines()] + CODE.findall(
        prose(name)
    )


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        again = seen.get(slug, 0)
        seen[slug] = again + 1
        result.add(f"{slug}-{again}" if again else slug)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_each_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in LINK.findall(prose(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_each_file_that_is_named_exists(name: str) -> None:
    missing = []
    for code in CODE.findall(prose(name)):
        for path in PATH.findall(code):
            bare = path.rstrip(".")
            if bare.startswith(MADE) or code.partition(bare)[0].endswith(("/", ":")):
                continue  # Of another project, or made by a command.
            if not any(list(folder.glob(bare)) for folder in (ROOT, (ROOT / name).parent)):
                missing.append(path)
    assert not missing


LAYERS = ("src/sys", "src/reactor", "src/scheduler", "src/transport", "src/event_loop", "src/pool")
LAYERS += ("src/py", "python/loop_pool")
"""The layers from below, as `docs/architecture.md` names them."""

WALKS = ("A byte from socket to protocol and back", "A spawned coroutine", "A stuck loop")


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_goes_through_the_layers_in_order(walk: str) -> None:
    """Up or down, with one turn at most; each step names one file that exists."""
    section = text("docs/architecture.md").partition(f"\n## {walk}\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^\| \d+ \|.*\| `([^`]+)` \|$", section, re.MULTILINE)
    assert len(steps) >= 7
    assert all((ROOT / step).is_file() for step in steps)
    heights = [
        next(n for n, layer in enumerate(LAYERS) if step.startswith(layer)) for step in steps
    ]
    moves = [after > before for before, after in pairwise(heights) if after != before]
    assert sum(after != before for before, after in pairwise(moves)) <= 1


def targets() -> set[str]:
    """The targets of the Makefile."""
    lines = (ROOT / "Makefile").read_text()
    listed = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", lines, re.MULTILINE)
    assert listed is not None
    return set(listed[1].replace("\\\n", " ").split()) | set(
        re.findall(r"^([a-z-]+):", lines, re.MULTILINE)
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_target_of_make_exists(name: str) -> None:
    known = targets()
    asked = {
        word
        for line in commands(name)
        for words in re.findall(r"^(?:[A-Z_]+=\S+ )*make((?: +[\w-]+(?![\w=-]))+)", line)
        for word in words.split()
    }
    assert asked <= known


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command of `loop-pool`."""
    top = argparse.ArgumentParser()
    subparsers = top.add_subparsers()
    for subcommand in _cli._SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return dict(subparsers.choices)


@functools.cache
def options_of_serve() -> set[str]:
    """The options of `loop-pool serve`, which leaves them to uvicorn's own parser."""
    pytest.importorskip("uvicorn")
    shown = check_script("""
        from loop_pool import _cli

        _cli.main(["serve", "--help"])
    """)
    return set(re.findall(r"--[a-z][\w-]*", shown))


def known_options(command: str) -> set[str]:
    """The options that a command of `loop-pool` takes."""
    if command == "serve":
        return options_of_serve()
    return {option for action in parsers()[command]._actions for option in action.option_strings}


@pytest.mark.parametrize("name", NAMES)
def test_each_command_and_option_exists(name: str) -> None:
    unknown = []
    for line in commands(name):
        for command, rest in re.findall(r"\bloop-pool (?!-)([a-z]+)\b([^|;#]*)", line):
            if command not in parsers():
                unknown.append(command)
                continue
            wanted = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
            if wanted:
                unknown += sorted(wanted - known_options(command))
    assert not unknown


def test_each_option_in_the_table_of_serve_exists() -> None:
    rows = re.findall(r"^\| `(--[\w-]+)[^|]*\| `(UVICORN_\w+)", text("docs/serving.md"), re.M)
    assert rows
    assert {option for option, _ in rows} <= options_of_serve()


def lookup(dotted: str) -> object:
    """What `loop_pool.a.b` names; a module is imported."""
    value: Any = loop_pool
    path = "loop_pool"
    for part in dotted.split(".")[1:]:
        path += f".{part}"
        if hasattr(value, part):
            value = getattr(value, part)
        elif part in getattr(value, "__annotations__", {}):
            return None
        else:
            value = importlib.import_module(path)
    return value


METRICS = {f"loop_pool.{metric.name}" for metric in metrics.METRICS}
"""Names that look like ours, and are OpenTelemetry's."""


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_exists(name: str) -> None:
    unknown = []
    for code in CODE.findall(prose(name)):
        for dotted in re.findall(r"(?<![\w./'-])loop_pool(?:\.[A-Za-z_]\w*)+(?![\w/])", code):
            if dotted in METRICS:
                continue
            try:
                lookup(dotted)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("loop_pool"):
                    unknown.append(dotted)
    assert not unknown


def test_the_table_of_the_readme_has_each_field_of_the_figures() -> None:
    table = text("README.md").partition("## Reading `pool.stats()`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {field for row in rows for field in CODE.findall(row)}
    assert named == set(loop_pool.LoopStats.__annotations__)


@dataclass(frozen=True)
class Example:
    """A block of Python in a page."""

    page: str
    number: int
    source: str


EXAMPLES = [
    Example(name, number, textwrap.dedent(body))
    for name in NAMES
    for number, body in enumerate(
        body for _, language, body in FENCE.findall(text(name)) if language == "python"
    )
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda it: f"{it.page}-{it.number}")
def test_each_example_is_python_and_uses_names_that_exist(example: Example) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(example.source, example.page, "exec", flags | ast.PyCF_ONLY_AST)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"loop_pool(\.\w+)+", dotted):
                lookup(dotted)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loop_pool"):
            for alias in node.names:
                lookup(f"{node.module}.{alias.name}")


AROUND = {
    ("README.md", 0): """
        import asyncio, threading, time
        import loop_pool

        run = loop_pool.run

        async def client(server_is_up=0.01):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", 8888)
                except OSError:
                    await asyncio.sleep(server_is_up)
                else:
                    break
            writer.write(b"hello\\n")
            assert await reader.readline() == b"HELLO\\n"
            writer.close()
            await writer.wait_closed()

        def shortened(main):
            async def both():
                serving = asyncio.ensure_future(main)
                await asyncio.wait([serving, asyncio.ensure_future(client())],
                                   return_when=asyncio.FIRST_COMPLETED)
                serving.cancel()
                await asyncio.wait([serving])
            run(both(), loops=2)

        loop_pool.run = shortened
        {example}
    """,
    ("docs/observability-ps-top.md", 0): """
        import loop_pool
        async def main(): pass
        {example}
    """,
    ("docs/observability-stuck.md", 0): """
        import loop_pool
        async def main(): pass
        {example}
    """,
    ("docs/observability-stuck.md", 1): """
        import threading
        import time, types
        import loop_pool
        observed = threading.Event()
        histogram = types.SimpleNamespace(observe=lambda seconds: observed.set())
        async def main():
            {example}
            time.sleep(0.3)  # longer than slow_callback_duration
            assert await loop_pool.call(loop_pool.current_pool().loops[1], observed.wait, 30)
        loop_pool.run(main(), loops=2)
    """,
    ("docs/observability.md", 0): """
        import asyncio, builtins
        import loop_pool
        {example}
        async def main():
            printed = asyncio.Event()
            builtins.print = lambda line: printed.set()
            watching = asyncio.create_task(watch(loop_pool.current_pool(), 0.001))
            await printed.wait()
            watching.cancel()
        loop_pool.run(main(), loops=2)
    """,
    ("docs/observability.md", 1): """
        import loop_pool
        async def main():
            {example}
            labels = dict(loop="loop-pool-0")
            assert REGISTRY.get_sample_value("loop_pool_ready", labels) is not None
        loop_pool.run(main(), loops=2)
    """,
    ("docs/observability.md", 2): """
        import loop_pool
        async def main():
            {example}
        loop_pool.run(main(), loops=2)
    """,
    ("docs/observability.md", 3): """
        import builtins
        import loop_pool
        async def main():
            pool = loop_pool.current_pool()
            builtins.print = lambda *words: None
            {example}
        loop_pool.run(main(), loops=2)
    """,
}
"""What stands around an example that no other file runs, so that it runs and ends."""

NOT_ALONE = {
    "docs/serving.md": "0, 2: applications that need FastAPI, which serve/test_deploy and "
    "docs/test_recipes "
    "serve where it is installed; 1: serves until a signal, as serve/test_serve has it; "
    "3, 4: fragments",
}
"""Pages with examples that are read by machine only, and why."""


def test_each_example_is_run_by_some_test() -> None:
    ran = {page for page, _ in AROUND} | set(RUN_ELSEWHERE) | set(NOT_ALONE)
    assert {example.page for example in EXAMPLES} <= ran
    for page in {page for page, _ in AROUND}:
        numbers = {example.number for example in EXAMPLES if example.page == page}
        assert numbers == {number for other, number in AROUND if other == page}
    for name, module in RUN_ELSEWHERE.items():
        assert Path(name).name in (ROOT / "tests" / "python" / f"{module}.py").read_text()


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if (example.page, example.number) in AROUND],
    ids=lambda it: f"{it.page}-{it.number}",
)
def test_an_example_runs(example: Example) -> None:
    if "metrics.prometheus" in example.source:
        pytest.importorskip("prometheus_client")
    if "metrics.opentelemetry" in example.source:
        pytest.importorskip("opentelemetry")
    around = textwrap.dedent(AROUND[example.page, example.number])
    (indent,) = re.findall(r"^( *)\{example\}", around, re.MULTILINE)
    body = textwrap.indent(example.source, indent).strip()
    check_script(around.replace("{example}", body))
