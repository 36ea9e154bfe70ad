"""Threads for plain handlers, made by Python itself so that `threading` knows them."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start(run: Callable[[], None]) -> None:
    """Starts one. A daemon: the end of the server does not wait for a handler that hangs."""
    threading.Thread(target=run, name="handler", daemon=True).start()
