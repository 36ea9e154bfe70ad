"""What has to be different in the standard library for plugins that were written for one thread."""

from __future__ import annotations

import asyncio
import functools
import importlib.machinery
import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import _pserve

from pserve_runtime import late_ssl
from pserve_runtime.logs import report

_after_import: dict[str, Callable[[Any], None]] = {}
"""What is done to a module when somebody imports it."""


def install() -> None:
    """Applies all of them, once, at the start."""
    _keep_own_signals()
    _keep_shared_settings()
    _show_tasks_of_calls()
    _after_import.update(
        {
            "sqlite3.dbapi2": _share_sqlite3_connections,
            "ssl": late_ssl.give_to_asyncio,
            "aiohttp.web_fileresponse": _send_files_through_the_writer,
            "aiohttp.web_request": _know_our_requests,
        }
    )
    sys.meta_path.insert(0, _AfterImport(_after_import))
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_pserve.mark_forked)


class _Namespace:
    """What `argparse` calls by this name, as long as nobody has imported that or looked closely."""

    def __repr__(self) -> str:
        return repr(_grown(self))

    def __eq__(self, other: object) -> Any:
        return _grown(self) == other

    def __contains__(self, name: str) -> bool:
        return name in _grown(self)


def _grown(early: _Namespace) -> Any:
    import argparse  # noqa: F401

    return early


def namespace(**values: Any) -> Any:
    """An `argparse.Namespace`, which it becomes in the moment that somebody could tell."""
    made = _Namespace()
    vars(made).update(values)

    def become(module: Any) -> None:
        made.__class__ = module.Namespace

    if "argparse" in sys.modules:
        become(sys.modules["argparse"])
    else:
        _after_import["argparse"] = become
    return made


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


LOWEST_RECURSION_LIMIT = 1000
LONGEST_SWITCH_INTERVAL = 0.1


def _keep_shared_settings() -> None:
    """What one plugin sets counts for all: a value that would stop the others from working is not taken."""
    set_limit, set_interval = sys.setrecursionlimit, sys.setswitchinterval

    def setrecursionlimit(limit: int, /) -> None:
        if isinstance(limit, int) and 0 < limit < LOWEST_RECURSION_LIMIT:
            report("WARNING", f"a plugin asked for a recursion limit of {limit}; it is {LOWEST_RECURSION_LIMIT}")
            limit = LOWEST_RECURSION_LIMIT
        set_limit(limit)

    def setswitchinterval(interval: float, /) -> None:
        if isinstance(interval, (int, float)) and interval > LONGEST_SWITCH_INTERVAL:
            report("WARNING", f"a plugin asked for a switch interval of {interval} s; it is {LONGEST_SWITCH_INTERVAL}")
            interval = LONGEST_SWITCH_INTERVAL
        set_interval(interval)

    setrecursionlimit.__doc__, setswitchinterval.__doc__ = set_limit.__doc__, set_interval.__doc__
    sys.setrecursionlimit, sys.setswitchinterval = setrecursionlimit, setswitchinterval


def _show_tasks_of_calls() -> None:
    """A call gets its asyncio task when it waits, or here, when its code asks which task it is in."""
    real_current, real_all = asyncio.current_task, asyncio.all_tasks

    @functools.wraps(real_current)
    def current_task(loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Task[Any] | None:
        task = real_current(loop)
        if task is None and (loop is None or loop is asyncio.get_running_loop()):
            return _pserve.task_of_call()  # type: ignore[no-any-return]
        return task

    @functools.wraps(real_all)
    def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
        _pserve.task_of_call()
        return real_all(loop)

    asyncio.current_task = asyncio.tasks.current_task = current_task
    asyncio.all_tasks = asyncio.tasks.all_tasks = all_tasks


class _AfterImport:
    """Runs a function of ours on certain modules right after they were imported."""

    def __init__(self, patches: dict[str, Callable[[Any], None]]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self._patches[name])
        return spec


class _PatchingLoader:
    def __init__(self, real: Any, patch: Callable[[Any], None]) -> None:
        self._real = real
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        self._real.exec_module(module)
        self._patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _share_sqlite3_connections(module: Any) -> None:
    """Lets a connection opened in a constructor be used by a plain handler, which runs on another thread.

    SQLite itself is built for threads. Handlers of one plugin run one at a time; one that asks for `threads=N`, or
    starts threads, has to lock as with any other object. A plugin that names `check_same_thread` keeps its choice.
    """
    real_connect, real_class = module.connect, module.Connection

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
    module.connect, module.Connection = connect, Connection


def _send_files_through_the_writer(module: Any) -> None:
    """The connection's socket belongs to the server: `sendfile` has nothing to write to."""
    module.NOSENDFILE = True


def _know_our_requests(module: Any) -> None:
    """Our requests pass `isinstance(request, web.Request)`."""
    from pserve_runtime.request import Request

    module.Request.register(Request)
    module.BaseRequest.register(Request)
