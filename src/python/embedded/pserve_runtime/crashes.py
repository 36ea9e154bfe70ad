"""What is left behind when a plugin takes the process down: Python's stacks, and word of who asked for the end."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import _pserve

from pserve_runtime.context import current_owner_name
from pserve_runtime.logs import report

HARMLESS = {getattr(signal, name, None) for name in ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGSTOP", "SIGTSTP")}
"""What does not end a process that has not asked for anything else."""

ENDS_THE_SERVER = {signal.SIGINT, signal.SIGTERM, signal.SIGABRT}
"""Of the server's own signals those that it ends for."""

FAULTS = {signal.SIGSEGV, signal.SIGBUS}
"""What the process ends by when it is sent them, unless Python code has asked for them."""


def install(plugins_dir: str, crash_report_fd: int | None, stacks_fd: int, stacks_signal: int) -> None:
    """Applies it all, once, at the start."""
    if crash_report_fd is None:
        try:
            crash_report_fd = os.dup(2)
        except OSError:
            crash_report_fd = None
    if crash_report_fd is not None:
        faulthandler.enable(file=crash_report_fd, all_threads=True)
    faulthandler.register(stacks_signal, file=stacks_fd, all_threads=True, chain=False)
    _keep_the_fault_handler(stacks_signal)
    _keep_descriptors()
    _leave_notes(plugins_dir)


def _keep_the_fault_handler(stacks_signal: int) -> None:
    """The server reads what it writes; a plugin that sets it up for itself changes nothing."""

    def enable(file: Any = None, all_threads: bool = True, **_: Any) -> None:
        """Enabled it is from the start; its report goes to the server's log."""

    def disable() -> bool:
        """It stays enabled."""
        return True

    real_register, real_unregister = faulthandler.register, faulthandler.unregister
    ours = {*_pserve.OWN_SIGNALS, stacks_signal}

    def register(signum: int, *args: Any, **kwargs: Any) -> None:
        if signum in ours:
            report("WARNING", f"a plugin asked for the stacks at signal {signum}, which stays the server's")
        else:
            real_register(signum, *args, **kwargs)

    def unregister(signum: int) -> bool:
        return False if signum in ours else real_unregister(signum)

    faulthandler.enable, faulthandler.disable = enable, disable  # type: ignore[assignment]
    faulthandler.register, faulthandler.unregister = register, unregister  # type: ignore[assignment]


def _keep_descriptors() -> None:
    """Whoever closes everything from some number on means a process of his own: here it would be the server's sockets.

    A forked child may do it.
    """
    real, server = os.closerange, os.getpid()

    def closerange(fd_low: int, fd_high: int, /) -> None:
        if os.getpid() == server:
            name = current_owner_name() or "a plugin's thread"
            report("ERROR", f"{name} called os.closerange({fd_low!r}, {fd_high!r}) in the server's process; not done")
        else:
            real(fd_low, fd_high)

    closerange.__doc__ = real.__doc__
    os.closerange = closerange


def _leave_notes(plugins_dir: str) -> None:
    """What ends the process leaves word first of who called it."""

    def noting(module: Any, name: str, words_of: Callable[..., str | None]) -> None:
        real = getattr(module, name, None)
        if real is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                words = words_of(*args, **kwargs)
                if words is not None:
                    _leave_note(words, plugins_dir)
            except Exception:
                # The real one says what is wrong with its arguments.
                return real(*args, **kwargs)
            return real(*args, **kwargs)

        call.__name__ = call.__qualname__ = name
        call.__doc__ = real.__doc__
        setattr(module, name, call)

    noting(os, "_exit", lambda status: f"called os._exit({status!r:.20})")
    noting(os, "abort", lambda: "called os.abort()")
    noting(os, "kill", lambda pid, sig: _aimed_at_us("os.kill", pid in (os.getpid(), 0, -os.getpgrp(), -1), sig))
    noting(os, "killpg", lambda pgid, sig: _aimed_at_us("os.killpg", pgid in (0, os.getpgrp()), sig))
    noting(signal, "raise_signal", lambda sig: _aimed_at_us("signal.raise_signal", True, sig))
    noting(signal, "pthread_kill", lambda thread, sig: _aimed_at_us("signal.pthread_kill", True, sig))


def _aimed_at_us(function: str, is_us: bool, number: int) -> str | None:
    if not is_us or number == 0 or number in HARMLESS:
        return None
    if number in _pserve.OWN_SIGNALS:
        ends = number in ENDS_THE_SERVER
    elif number in FAULTS:
        # No code of Python's has asked for it when its handler is unknown to Python.
        ends = signal.getsignal(number) in (None, signal.SIG_DFL)
    else:
        ends = number == signal.SIGKILL or signal.getsignal(number) is signal.SIG_DFL
    if not ends:
        return None
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(int(number))
    return f"sent {name} to its own process with {function}"


def _leave_note(words: str, plugins_dir: str) -> None:
    # Two functions of ours stand between here and the caller.
    frame: Any = sys._getframe(2)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    name = current_owner_name()
    # A thread that a plugin has started knows no owner.
    while name is None and frame is not None:
        folder, file = os.path.split(frame.f_code.co_filename)
        if folder == plugins_dir:
            name = os.path.splitext(file)[0]
        frame = frame.f_back
    _pserve.note(name or "", f"{words} at {place}")
