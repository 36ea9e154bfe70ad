"""The interpreter's main thread: its event loop from the start of the process to its end."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from plugincore.configfile import Config

from pserve_runtime import crashes, patches
from pserve_runtime.loader import Loader, LoadOutcome, Slot
from pserve_runtime.logs import levels, report
from pserve_runtime.owner import task_factory
from pserve_runtime.thread_loop import ThreadLoop

LAST_TASKS_SECONDS = 3.0


class Runtime:
    """The event loop, the loader, and the way into both from the server."""

    def __init__(
        self,
        *,
        plugins_dir: str,
        ini_file: str,
        log_file: str | None,
        level: str,
        wake_fd: int,
        pump: Callable[[], None],
        on_loop_replaced: Callable[[], None],
        crash_report_fd: int | None,
        stacks_fd: int,
        stacks_signal: int,
    ) -> None:
        patches.install()
        crashes.install(plugins_dir, crash_report_fd, stacks_fd, stacks_signal)
        self._wake_fd = wake_fd
        self._pump = pump
        self._on_loop_replaced = on_loop_replaced
        self._level = level
        self._stopping = False
        self._admin: set[asyncio.Task[Any]] = set()
        self.loop = self._new_loop()
        self._loader = Loader(plugins_dir, patches.namespace(ini_file=ini_file, log=log_file, level=level))

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.set_task_factory(task_factory)
        loop.add_reader(self._wake_fd, self._pump)
        return loop

    def run(self) -> None:
        """Runs the loop until `stop`. A plugin that stops or closes it does not end the server."""
        while not self._stopping:
            started = time.monotonic()
            try:
                self.loop.run_forever()
            except BaseException as error:
                # asyncio lets SystemExit and KeyboardInterrupt of a task through.
                report(
                    "ERROR", f"{type(error).__name__} reached the event loop from a plugin's task; the server goes on"
                )
                if isinstance(error, OSError) and error.errno == errno.EBADF:
                    self._drop_broken_loop()
            else:
                if not self._stopping:
                    report("WARNING", "a plugin stopped the event loop; it goes on")
            if self.loop.is_closed():
                self._replace_loop()
            if not self._stopping and time.monotonic() - started < 0.001:
                time.sleep(0.01)
        self._finish()

    def _drop_broken_loop(self) -> None:
        """A plugin has closed a descriptor that was not its own: the loop cannot go on."""
        with contextlib.suppress(Exception):
            self.loop.close()

    def _replace_loop(self) -> None:
        report("ERROR", "a plugin closed the event loop; a new one starts and every plugin is loaded again")
        self.loop = self._new_loop()
        self._admin.clear()
        self._on_loop_replaced()

    def stop(self) -> None:
        """Ends `run` after the current turn of the loop."""
        self._stopping = True
        self.loop.stop()

    def _finish(self) -> None:
        """Cancels what is left, then does what Python does at the end of a process, except for ending it."""
        try:
            left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=LAST_TASKS_SECONDS))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except BaseException:
            report("ERROR", "the last tasks did not end well", traceback.format_exc())
        try:
            atexit._run_exitfuncs()
        except BaseException:
            report("ERROR", "an atexit function failed", traceback.format_exc())
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue

    def spawn(self, coro: Coroutine[Any, Any, Any], done: Callable[[asyncio.Task[Any]], None]) -> None:
        """Runs a coroutine of the server itself; `done` gets the finished task."""
        task = asyncio.Task(coro, loop=self.loop)
        self._admin.add(task)
        task.add_done_callback(self._admin.discard)
        task.add_done_callback(done)

    def enter_handler_thread(self) -> None:
        """Lets plain handlers on the calling thread see the event loop."""
        ThreadLoop(self).install()

    async def load(
        self,
        folder: str,
        files: list[tuple[str, dict[str, str], str | None]],
        sections: dict[str, dict[str, Any]],
        has_global_key: bool,
        initialize_seconds: float,
    ) -> list[LoadOutcome]:
        """Loads plugin files with a fresh configuration."""
        self._loader.move_to(folder)
        sections.setdefault("logging", {"level": self._level})
        config = Config(items=sections)
        levels.refresh()
        try:
            return await self._loader.load(files, config, has_global_key, initialize_seconds)
        finally:
            # What the operator asks for stands above what a plugin's code has set meanwhile.
            levels.refresh()

    async def inspect(self, path: str) -> dict[str, Any]:
        """What reading a plugin file tells, without running it."""
        from pserve_runtime.inspection import inspect_file

        return inspect_file(path, self._loader.folder.folder)

    async def importers(self, modules: list[str]) -> list[str]:
        """The plugin files that import one of these modules of the plugins folder, by way of others too."""
        from pserve_runtime.importers import importers_of

        return importers_of(self._loader.folder.folder, modules)

    async def terminate(self, slots: list[Slot]) -> None:
        """Ends plugins."""
        await self._loader.terminate(slots)

    async def terminate_all(self) -> None:
        """Ends every plugin."""
        await self._loader.terminate_all()
