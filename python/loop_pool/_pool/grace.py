"""How long shutdown may continue after its deadline.

The values are read at each use, so that a test may change them.
"""

GRACE = 1.0
"""Seconds beyond the deadline that a loop has for an answer, once its own work has given up."""

LATE = 0.7
"""The part of the grace after which loops are stopped in the middle of a turn."""

ENOUGH = 0.85
"""The part of it after which nothing more is waited for or looked at."""

REPORTING = GRACE / 10
"""Seconds beyond the deadline in which a loop tells of its tasks."""
