"""A crawler on all loops that asks for a bounded number of pages at a time.

    python examples/crawler.py [--loops N] [--pages N] [--limit N]

It serves a site of its own, whose pages take a moment and link to each other, and crawls it level
by level: `loop_pool.map` fetches and parses the pages that are new, on all loops, with at most
`--limit` requests under way. Links lead in circles; no page may be fetched twice. The program
prints which loop fetched how many pages, and ends. It needs no other package.

The exit code is 0 if every page was fetched once and within the limit, 1 if not, 2 if an option is
wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from html.parser import HTMLParser

from load_test_client import bounded_int

import loop_pool

PAGE_SECONDS = 0.01
LINKS = 3


class Site:
    """Pages that link to each other, over HTTP. Used by all loops at the same time."""

    def __init__(self, pages: int) -> None:
        """Make a site of so many pages."""
        self.pages = pages
        self.requests: Counter[str] = Counter()
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def links(self, page: int) -> list[int]:
        """Return the pages that a page links to: some below it in a tree, and one before it."""
        below = range(LINKS * page + 1, LINKS * page + LINKS + 1)
        return [link for link in below if link < self.pages] + [page // 2]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, on the loop that the connection was placed on."""
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        except asyncio.IncompleteReadError, ConnectionError:  # a client that has gone
            return await close(writer)
        with self._lock:
            self.requests[path] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(PAGE_SECONDS)
            links = self.links(int(path.removeprefix("/")))
            body = "".join(f'<p><a href="/{link}">page {link}</a></p>\n' for link in links)
            writer.write(f"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n{body}".encode())
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            with self._lock:
                self.under_way -= 1
            await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, be it broken or not."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class Links(HTMLParser):
    """Finds the links of a page."""

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note where an anchor leads."""
        if tag == "a":
            self.found += [value for name, value in attributes if name == "href" and value]


class Crawler:
    """Fetches what can be reached. Used on all loops: it is not changed after it is made."""

    def __init__(self, port: int, limit: int) -> None:
        """Ask a port of this machine, with at most `limit` requests under way."""
        self.port = port
        self.limit = limit

    async def fetch(self, path: str) -> tuple[int, list[str]]:
        """Return the number of the loop that fetched a page, and where its links lead."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
        if head.split()[1] != b"200":
            raise ConnectionError(f"{path}: {head.splitlines()[0].decode()}")
        links = Links()
        links.feed(body.decode())
        return loop_pool.current_pool().loops.index(asyncio.get_running_loop()), links.found

    async def crawl(self, start: str) -> Counter[int]:
        """Fetch all that can be reached from a page; return how many pages each loop fetched."""
        fetched: Counter[int] = Counter()
        seen = {start}
        level = [start]
        while level:
            below: list[str] = []
            async for loop, links in loop_pool.map(self.fetch, level, limit=self.limit):
                fetched[loop] += 1
                below += [link for link in dict.fromkeys(links) if link not in seen]
                seen.update(links)
            level = below
        return fetched


async def run(options: argparse.Namespace) -> int:
    """Serve the site and crawl it; return the exit code. Runs on loop 0."""
    site = Site(options.pages)
    async with await loop_pool.start_server(site.serve, "127.0.0.1", 0) as server:
        crawler = Crawler(server.sockets[0].getsockname()[1], options.limit)
        begin = time.perf_counter()
        fetched = await crawler.crawl("/0")
        seconds = time.perf_counter() - begin
    for loop in range(len(loop_pool.current_pool().loops)):
        print(f"loop {loop}: {fetched[loop]} pages fetched and parsed")
    print(f"{fetched.total()} pages in {seconds:.2f} s, at most {site.most_under_way} at a time")
    problems = []
    if len(site.requests) != site.pages:
        problems.append(f"{site.pages - len(site.requests)} pages were not fetched")
    if twice := sum(count > 1 for count in site.requests.values()):
        problems.append(f"{twice} pages were fetched more than once")
    if site.most_under_way > options.limit:
        problems.append(f"{site.most_under_way} requests were under way at a time")
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument(
        "--pages",
        type=bounded_int(1, 100_000),
        default=500,
        help="pages of the site; default: %(default)s",
    )
    parser.add_argument(
        "--limit",
        type=bounded_int(1, 1_000),
        default=20,
        help="requests under way at a time; default: %(default)s",
    )
    options = parser.parse_args()
    try:
        return loop_pool.run(run(options), loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
