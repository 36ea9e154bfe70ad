"""Where every Python thread and every task of the event loop stands, as text."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import Any

MOST_THREADS = 200
MOST_TASKS = 100
MOST_FRAMES = 50


def of_thread(ident: int) -> str:
    """The stack of one thread, the innermost call last."""
    frame = sys._current_frames().get(ident)
    return "it has ended" if frame is None else _stack(frame)


def of_everything(loop: asyncio.AbstractEventLoop) -> str:
    """The stacks of all threads, then of the tasks that wait."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    own = threading.get_ident()
    parts = [
        f"thread {names.get(ident, '(not of Python)')} ({ident})\n{_stack(frame)}"
        for ident, frame in list(frames.items())[:MOST_THREADS]
        if ident != own
    ]
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    parts += [_task(task) for task in tasks[:MOST_TASKS]]
    parts.append(f"{len(frames) - 1} threads, {len(tasks)} tasks")
    return "\n".join(parts)


def _stack(frame: Any) -> str:
    return "".join(traceback.format_stack(frame, limit=MOST_FRAMES))


def _task(task: asyncio.Task[Any]) -> str:
    lines = [f"task {task.get_name()}\n"]
    # `Task.get_stack` gives the outermost coroutine only.
    awaited: Any = task.get_coro()
    while awaited is not None and len(lines) < MOST_FRAMES:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            break
        lines += traceback.format_stack(frame, limit=1)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(lines)
