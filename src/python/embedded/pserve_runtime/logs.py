"""Python's `logging`, `warnings` and `print` on their way to the server's log and to standard output."""

from __future__ import annotations

import io
import logging
import select
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import _pserve

from pserve_runtime.context import current_owner_name

_PLAIN = logging.Formatter("%(message)s")


class ServerLogHandler(logging.Handler):
    """Hands every record to the server's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.formatter is _PLAIN:
                write(record.levelno, record.name, record.getMessage(), _traceback_of(record))
            else:
                # A plugin wants its lines in a form of its own.
                write(record.levelno, record.name, self.format(record))
        except Exception:
            self.handleError(record)


def _traceback_of(record: logging.LogRecord) -> str | None:
    """What `logging` puts below a message."""
    if record.exc_info and not record.exc_text:
        record.exc_text = _PLAIN.formatException(record.exc_info)
    parts = [part for part in (record.exc_text, record.stack_info) if part]
    return "\n".join(parts) if parts else None


def write(number: int, name: str, message: str, traceback: str | None = None) -> None:
    """Writes a record of plugin code to the server's log, with whose it is."""
    _pserve.log(number, name, message, traceback, current_owner_name())


def report(level: str, message: str, traceback: str | None = None) -> None:
    """A line of the server's own. It does not go through `logging`, which plugins may set up as they like."""
    _pserve.log(logging.getLevelName(level), "pserve", message, traceback)


class _Levels:
    """The levels that the configuration gives to loggers, told to `logging`: what it drops costs nothing here, and
    what it lets through the server's log judges again."""

    def __init__(self) -> None:
        self._general: int | None = None
        self._own: set[str] = set()
        self._given: dict[str, int] = {}

    def belong_to(self, plugin: str, names: Iterable[str]) -> None:
        """Loggers of these names have the plugin's level."""
        for name in names:
            _pserve.logger_belongs_to(name, plugin)
            self._own.add(name)
            self._give(name)

    def refresh(self) -> None:
        """Takes the configuration up as it is now, whatever plugins have done to their loggers."""
        general, by_name = _pserve.log_levels()
        if general != self._general:
            self._general = general
            logging.getLogger().setLevel(general)
            # asyncio tells at DEBUG which selector it uses; that is no news for a server's log.
            logging.getLogger("asyncio").setLevel(max(general, logging.INFO))
        known = {name for name in list(logging.root.manager.loggerDict) if name.lower() in by_name}
        for name in known | self._own | set(self._given) | set(by_name):
            self._give(name)

    def _give(self, name: str) -> None:
        if name == "root":
            # Its level is that of all others; what is logged with it the server's log judges alone.
            return
        level = _pserve.level_of_logger(name)
        if not level and name not in self._given:
            return
        logger = logging.getLogger(name)
        if level:
            self._given[name] = level
            logger.setLevel(level)
        elif logger.level == self._given.pop(name, None):
            logger.setLevel(logging.NOTSET)


levels = _Levels()


def install() -> None:
    """Sends the root logger to the server's log, and makes `print` reach standard output at once."""
    handler = ServerLogHandler()
    handler.setFormatter(_PLAIN)
    root = logging.getLogger()
    root.addHandler(handler)
    levels.refresh()
    _stay_installed(root, handler)
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
