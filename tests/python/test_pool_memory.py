"""The memory of a process that has had many pools."""

from __future__ import annotations

from _support import check_script


def test_pools_one_after_another_leave_the_process_as_large_as_it_was() -> None:
    """With one arena of the C heap, large blocks that come and go among small ones fragment it."""
    source = """
    import asyncio, gc, os
    import loop_pool

    async def main():
        await loop_pool.gather(*(asyncio.sleep(0) for _ in range(8)))

    def grown(pools):
        for _ in range(pools):
            loop_pool.run(main(), loops=4)
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = grown(30)
    print(grown(60) - before)
    """
    grown = int(check_script(source, env={"MALLOC_ARENA_MAX": "1"}))
    # Each pool had left some 130 KB.
    assert grown < 60 * 90_000
