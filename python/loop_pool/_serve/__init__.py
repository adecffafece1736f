"""``loop_pool.serve``: an ASGI application on every loop of a pool, with uvicorn."""
