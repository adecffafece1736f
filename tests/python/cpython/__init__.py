"""CPython's own asyncio tests on our loop: the runner, what is left out, and its tests."""
