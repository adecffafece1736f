"""``loop-pool worker``: a taskiq receiver on every loop of a pool."""
