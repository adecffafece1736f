"""A TCP echo server of tonio, through its own API: `python tonio_server.py THREADS [work]`.

It prints one line of JSON, its port or the reason why it does not serve, and ends when standard
input does.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
from typing import Any, NoReturn

from protocols import BACKLOG, READ_SIZE, work


def end_with_parent() -> NoReturn:
    """End the process when the parent closes standard input."""
    while os.read(0, 65536):
        pass
    os._exit(0)


def answer(message: dict[str, Any]) -> None:
    """Tell the parent."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def main() -> None:
    """Serve until the parent closes standard input."""
    try:
        from tonio import colored
        from tonio.colored import net
    except ImportError as error:
        answer({"error": f"ImportError: {error}"})
        return

    working = "work" in sys.argv[2:]

    async def echo(stream: Any) -> None:
        try:
            while data := await stream.receive_some(READ_SIZE):
                if working:
                    work()
                await stream.send_all(data)
        except ConnectionError:
            pass
        finally:
            stream.close()

    async def serve() -> None:
        listeners = await net.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
        answer(
            {
                "port": listeners[0].socket.getsockname()[1],
                "version": importlib.metadata.version("tonio"),
                "gil_enabled": sys._is_gil_enabled(),
            }
        )
        await net.serve_listeners(echo, listeners)

    # Its threads wait for the poller, so one more that sleeps costs them nothing.
    threading.Thread(target=end_with_parent, daemon=True).start()
    colored.run(serve(), threads=int(sys.argv[1]))


# Whatever a package prints must not come between the answers.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")

if __name__ == "__main__":
    os.dup2(2, 1)
    main()
