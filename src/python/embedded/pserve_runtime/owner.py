"""Whose task is it: every asyncio task that a plugin starts is remembered, so that it can end with the plugin."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterable
from typing import Any

from pserve_runtime.context import OWNER
from pserve_runtime.logs import report


class Owner:
    """One plugin, or one plugin file while it is imported, as the owner of tasks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: set[asyncio.Future[Any]] = set()
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)

    def adopt(self, task: asyncio.Future[Any]) -> None:
        """Remembers a task until it is done."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def task_callback(self, task: Any) -> None:
        """What plugins know as `task_callback`: a task handed over ends with the plugin."""
        if isinstance(task, asyncio.Future):
            self.adopt(task)
        elif asyncio.iscoroutine(task):
            self.adopt(self.context.run(asyncio.ensure_future, task))
        else:
            report("WARNING", f"task_callback of {self.name} was given a {type(task).__name__}, which is no task")


def task_factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Makes tasks for the event loop and gives each to the plugin whose code asked for it."""
    task = asyncio.Task(coro, loop=loop, **options)
    owner = OWNER.get()
    if isinstance(owner, Owner) and not task.done():
        owner.adopt(task)
    return task


async def cancel_all(owners: Iterable[Owner], seconds: float) -> None:
    """Cancels the tasks of these owners and awaits them, no longer than the limit."""
    current = asyncio.current_task()
    tasks = {task for owner in owners for task in owner.tasks if task is not current and not task.done()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, stubborn = await asyncio.wait(tasks, timeout=seconds)
    for task in stubborn:
        report("WARNING", f"a task does not end although it was cancelled: {task!r}")
