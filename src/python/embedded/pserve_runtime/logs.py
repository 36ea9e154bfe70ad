"""Python's `logging`, `warnings` and `print` on their way to the server's log and to standard output."""

from __future__ import annotations

import logging
import sys
from typing import Any

import _pserve


class ServerLogHandler(logging.Handler):
    """Hands every record to the server's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _pserve.log(record.levelno, record.name, self.format(record))
        except Exception:
            self.handleError(record)


def install(level: int) -> None:
    """Sends the root logger to the server's log, and makes `print` reach standard output at once."""
    handler = ServerLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    # asyncio tells at DEBUG which selector it uses; that is no news for a server's log.
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(write_through=True, line_buffering=True, errors="backslashreplace")
