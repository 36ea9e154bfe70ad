"""What has to be different in the standard library for plugins that were written for one thread."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import types
from collections.abc import Sequence
from typing import Any

import _pserve

from pserve_runtime.logs import report


def install() -> None:
    """Applies all of them, once, at the start."""
    _keep_own_signals()
    sys.meta_path.insert(0, _Sqlite3Finder())
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_pserve.mark_forked)


def _keep_own_signals() -> None:
    """A plugin that asks for one of the server's signals is told so; the server's handling stays."""
    real = signal.signal
    given: dict[int, Any] = {}

    def set_handler(signalnum: int, handler: Any) -> Any:
        if signalnum not in _pserve.OWN_SIGNALS:
            return real(signalnum, handler)
        name = signal.Signals(signalnum).name
        report("WARNING", f"a plugin asked for {name}, which stays the server's; its handler is not called")
        previous = given.get(signalnum, signal.SIG_DFL)
        given[signalnum] = handler
        return previous

    set_handler.__doc__ = real.__doc__
    signal.signal = set_handler  # type: ignore[assignment]


class _Sqlite3Finder(importlib.abc.MetaPathFinder):
    """Lets a connection opened in a constructor be used by a plain handler, which runs on another thread.

    Handlers of one plugin run one at a time, so that `check_same_thread` guards nothing here; a plugin that names
    it keeps its own choice.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "sqlite3.dbapi2":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader)
        return spec


class _PatchingLoader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        self._real.exec_module(module)
        real = module.connect  # type: ignore[attr-defined]

        def connect(*args: Any, **kwargs: Any) -> Any:
            # check_same_thread is the fifth positional argument.
            if len(args) < 5:
                kwargs.setdefault("check_same_thread", False)
            return real(*args, **kwargs)

        connect.__doc__ = real.__doc__
        module.connect = connect  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
