"""`loop-pool worker`: tasks from a broker on all loops."""
