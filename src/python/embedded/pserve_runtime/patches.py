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

    SQLite itself is built for threads. Handlers of one plugin run one at a time; one that asks for `threads=N`, or
    starts threads, has to lock as with any other object. A plugin that names `check_same_thread` keeps its choice.
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
        real_connect, real_class = module.connect, module.Connection  # type: ignore[attr-defined]

        class Connection(real_class):  # type: ignore[misc, valid-type]
            __doc__ = real_class.__doc__

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                # check_same_thread is the fifth positional argument.
                if len(args) < 5:
                    kwargs.setdefault("check_same_thread", False)
                super().__init__(*args, **kwargs)

        def connect(*args: Any, **kwargs: Any) -> Any:
            if len(args) < 5:
                kwargs.setdefault("check_same_thread", False)
            # factory is the sixth.
            if len(args) < 6:
                kwargs.setdefault("factory", Connection)
            return real_connect(*args, **kwargs)

        Connection.__module__, Connection.__qualname__ = real_class.__module__, real_class.__qualname__
        connect.__doc__ = real_connect.__doc__
        module.connect, module.Connection = connect, Connection  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
