"""Python's `logging`, `warnings` and `print` on their way to the server's log and to standard output."""

from __future__ import annotations

import io
import logging
import select
import sys
from typing import Any, TextIO

import _pserve


class ServerLogHandler(logging.Handler):
    """Hands every record to the server's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _pserve.log(record.levelno, record.name, self.format(record))
        except Exception:
            self.handleError(record)


def report(level: str, message: str) -> None:
    """A line of the server's own. It does not go through `logging`, which plugins may set up as they like."""
    _pserve.log(logging.getLevelName(level), "pserve", message)


def install(level: int) -> None:
    """Sends the root logger to the server's log, and makes `print` reach standard output at once."""
    handler = ServerLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    _stay_installed(root, handler)
    # asyncio tells at DEBUG which selector it uses; that is no news for a server's log.
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    sys.stdout = _open_tolerant(1)
    sys.stderr = _open_tolerant(2)


def _stay_installed(root: logging.Logger, handler: logging.Handler) -> None:
    """Plugins may set `logging` up as in a program of their own; records reach the server's log all the same."""
    remove, configure = root.removeHandler, logging.basicConfig

    def remove_other(other: logging.Handler) -> None:
        if other is not handler:
            remove(other)

    def configure_beside(**options: Any) -> None:
        if not any(options.get(name) for name in ("filename", "handlers", "stream")):
            # It would write to standard error what the server's log has already.
            level = options.get("level")
            if level is not None:
                root.setLevel(level)
            return
        # Out of sight meanwhile, as `basicConfig` does nothing for a logger that has handlers.
        root.handlers[:] = [other for other in root.handlers if other is not handler]
        try:
            configure(**options)
        finally:
            root.handlers.append(handler)

    configure_beside.__doc__ = configure.__doc__
    root.removeHandler = remove_other  # type: ignore[method-assign]
    logging.basicConfig = configure_beside  # type: ignore[assignment]


PIECE_BYTES = 4096
"""What a pipe that is ready takes in one piece without letting the writer wait (`PIPE_BUF`, pipe(7))."""

READER_PATIENCE_MS = 200


class _TolerantFile(io.FileIO):
    """Standard output that nobody reads any more, or that a plugin has closed, is no error of whoever prints; one whose
    reader has stopped reading costs what is printed, and not the event loop."""

    _is_stuck = False

    def write(self, data: Any) -> int:
        pieces = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(pieces) and self._has_room():
                done += super().write(pieces[done : done + PIECE_BYTES]) or 0
        except OSError:
            pass
        return len(pieces)

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        self._is_stuck = not poll.poll(0 if self._is_stuck else READER_PATIENCE_MS)
        return not self._is_stuck


def _open_tolerant(descriptor: int) -> TextIO:
    raw = _TolerantFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True
    )
