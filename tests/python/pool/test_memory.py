"""The memory of a process that has many pools, one after another.

The C heap in use is counted, which does not depend on how the allocator happens to place it: the
size of the process does.
"""

from __future__ import annotations

import ctypes

import pytest

from ..support import HANG, check_script

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts by mallinfo2, which is glibc's"
)

HEAP = """
    import asyncio, ctypes, gc
    import loop_pool

    FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Info

    def in_use():
        info = mallinfo2()
        return info.uordblks + info.hblkhd

    async def main():
        await loop_pool.gather(*(asyncio.sleep(0) for _ in range(8)))
        return in_use()

    def pools(count):
        for _ in range(count):
            loop_pool.run(main(), loops=4)
            gc.collect()
        return in_use()

    before = pools(10)  # with what is made once in a process
    print(loop_pool.run(main(), loops=4) - before, pools(20) - before)
"""
READ_SIZE = 256 * 1024
"""What a loop, and the monitor, read into (`config::READ_SIZE`)."""


@pytest.mark.timeout(5 * HANG)  # Each pool starts four threads and ends them.
def test_pools_take_little_of_the_heap_and_leave_nothing_there() -> None:
    """Memory to read into, of which nothing was read, came and went with each loop: fragments."""
    # `mallinfo2` counts the first arena alone.
    heap = check_script(HEAP, env={"MALLOC_ARENA_MAX": "1"}, timeout=4 * HANG)
    taken, left = map(int, heap.split())
    assert taken < 2 * READ_SIZE
    assert left < 20 * 2048
