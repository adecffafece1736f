"""The application in the container: how many loops there are, and which one answered."""

import threading

from fastapi import FastAPI

import loop_pool

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, object]:
    """Say where this request was served."""
    loops = len(loop_pool.current_pool().loops)
    return {"loops": loops, "served by": threading.current_thread().name}
