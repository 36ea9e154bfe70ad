"""The event loop as plain handlers see it from a thread of the blocking pool."""

from __future__ import annotations

import asyncio
from typing import Any


class ThreadLoop:
    """Stands for the server's event loop on another thread.

    `asyncio.get_running_loop()` gives it to plain handlers. What schedules work wakes the real loop up; everything
    else is passed on.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    @property
    def _real(self) -> asyncio.AbstractEventLoop:
        # Looked up each time: the server starts a new loop when a plugin has closed the old one.
        return self._runtime.loop  # type: ignore[no-any-return]

    def install(self) -> None:
        """Makes this the running loop of the calling thread, for the life of the thread."""
        asyncio._set_running_loop(self)  # type: ignore[attr-defined]

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self._real.call_soon_threadsafe(callback, *args, context=context)

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._real.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self._real, context)
        self._real.call_soon_threadsafe(self._schedule, handle)
        return handle

    def _schedule(self, handle: asyncio.TimerHandle) -> None:
        self._real.call_at(handle.when(), _run_unless_cancelled, handle)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = self._real.create_task(coro, **options)
        # The task has put its first step on the loop's list; a loop asleep in `select` has not seen it.
        self._real.call_soon_threadsafe(_nothing)
        return task

    def stop(self) -> None:
        self._real.call_soon_threadsafe(self._real.stop)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _run_unless_cancelled(handle: asyncio.TimerHandle) -> None:
    if not handle.cancelled():
        handle._run()  # type: ignore[attr-defined]


def _nothing() -> None:
    pass
