"""`loop_pool.sync`, and what debug mode says of asyncio's own primitives on several loops."""
