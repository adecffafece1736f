"""Looking at a pool that runs: what it tells, to whom, and ``loop-pool ps`` and ``top``."""
