"""The parts of `suite.py`, the runner of CPython's own asyncio tests.

One test file runs in one child process. Data flows one way::

    exclusions.toml -> exclusions -> supervisor (parent) --spec--> child (placement, tests)
                                         ^                            |
                                         +------- events (JSON) ------+
                                         v
                                       summary

`model` holds the values that travel; it imports nothing of the others.
"""
