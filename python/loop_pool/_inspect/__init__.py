"""Inspection of a running pool: its socket, and the clients ``loop-pool ps`` and ``top``."""
