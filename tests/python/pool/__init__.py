"""Pools: `run`, `spawn`, groups, executors, servers of all loops, stuck loops, shutdown."""
