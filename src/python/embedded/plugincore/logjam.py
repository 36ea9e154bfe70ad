"""The log as plugins write to it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
import traceback
from typing import Any

from pserve_runtime.logs import write

LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "EXCEPTION": 50}


# What a `%` format takes an argument for; a per cent sign in a sentence is none.
_CONVERSION = re.compile(r"%[-+0#]*\d*(?:\.\d+)?[srdifgexXc]")


class LogJam:
    """A named log: calling it logs at INFO, its methods at their own level.

    Lines go to the server's log, and to `file` as well when one is given. Arguments are joined by blanks, or
    formatted when the first one is a format for the others.
    """

    def __init__(
        self, *, name: str | None = None, level: str | int | None = None, file: str | None = None, stdio: bool = True
    ) -> None:
        if not name:
            raise ValueError("LogJam needs name=")
        self.name = name
        self.file = file
        self.stdio = stdio
        self.levels = dict(LEVELS)
        self.threshold = _threshold(level)

    def __call__(self, *args: Any) -> None:
        self._write(20, args)

    def debug(self, *args: Any) -> None:
        self._write(10, args)

    def info(self, *args: Any) -> None:
        self._write(20, args)

    def warn(self, *args: Any) -> None:
        self._write(30, args)

    warning = warn

    def error(self, *args: Any) -> None:
        self._write(40, args)

    def critical(self, *args: Any) -> None:
        self._write(50, args)

    def exception(self, *args: Any) -> None:
        """Logs at ERROR, with the traceback of the exception that is being handled."""
        trace = traceback.format_exc().rstrip("\n") if sys.exc_info()[0] is not None else None
        self._write(40, (_text(args),), trace)

    def log(self, level: str | int, *args: Any) -> None:
        """Logs at a level given by name or number."""
        self._write(_threshold(level), args)

    def _write(self, number: int, args: tuple[Any, ...], trace: str | None = None) -> None:
        if number < self.threshold:
            return
        text = _text(args)
        if self.stdio:
            write(number, self.name, text, trace)
        if self.file:
            text = text if trace is None else f"{text}\n{trace}"
            now = time.time()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now * 1000) % 1000:03d}"
            line = f"{stamp} - {self.name} - {logging.getLevelName(number)} - {text}\n"
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(line)

    def common_log(
        self,
        *,
        ip: str | None = None,
        path: str | None = None,
        size: int | None = None,
        method: str | None = None,
        protocol: str | None = None,
        status: int | str | None = None,
        user_ident: str = "-",
        user_auth: str = "-",
        timestamp: float | None = None,
        file: Any = None,
    ) -> str:
        """Appends a line in Common Log Format to `file` (a path or an open file) and returns it, without its end."""
        given = {"ip": ip, "path": path, "size": size, "method": method, "protocol": protocol, "status": status}
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise AttributeError(f"common_log needs {', '.join(missing)}")
        when = time.localtime(timestamp)
        month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[when.tm_mon - 1]
        stamp = time.strftime(f"%d/{month}/%Y:%H:%M:%S %z", when)
        line = f'{ip} {user_ident} {user_auth} [{stamp}] "{method} {path} {protocol}" {status} {size}'
        # Nothing that a client sends may begin another line.
        line = re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", line)
        if hasattr(file, "write"):
            print(line, file=file)
        elif file:
            with open(file, "a", encoding="utf-8") as opened:
                opened.write(line + "\n")
        return line


def os_print(text: str) -> None:
    """Prints a line to standard output at once; nobody reading it is no error."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def _threshold(level: str | int | None) -> int:
    if level is None:
        return 0
    if isinstance(level, int):
        return level
    return LEVELS.get(level.upper(), 20)


def _text(args: tuple[Any, ...]) -> str:
    if len(args) > 1 and isinstance(args[0], str) and len(_CONVERSION.findall(args[0])) == len(args) - 1:
        try:
            return args[0] % args[1:]
        except (TypeError, ValueError):
            pass
    return " ".join(str(arg) for arg in args)
