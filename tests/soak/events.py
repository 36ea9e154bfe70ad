"""What happens to the server while the load runs: reloads, signals, new configurations, crashes."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from counts import Counts
from http_client import Answer, RequestFailed, once
from server import DRAIN_SECONDS, LOOP_STALL_SECONDS, MEMORY_LIMIT_MB, WORKERS, Server, usage

import plugins

RECOVERY_SECONDS = 2.0
REPLACEMENT_SECONDS = 15.0
# A new set of workers must have loaded, and the old one must have drained.
RELOAD_SECONDS = DRAIN_SECONDS + 20.0
# Clients notice a closed connection when they next look at it.
GRACE_SECONDS = 1.0
# In a row and on connections of their own, so that every worker has been asked.
LOOKS = 12
PAUSE_SECONDS = 0.05
STORM_SIGNALS = 5
STORM_PAUSE_SECONDS = 0.2
# Connections at a time that look for a worker that answers, while another takes some of them and does not.
PROBES_BESIDE_A_HANG = 8

Event = Callable[[], Awaitable[None]]


class Events:
    def __init__(self, server: Server, counts: Counts, seed: int) -> None:
        self.server = server
        self.counts = counts
        self.random = random.Random(seed)
        self._version = 1

    def harmless(self) -> dict[str, Event]:
        return {
            "reload all": self.reload_all,
            "SIGHUP, new INI": self.sighup_with_new_ini,
            "reload one": self.reload_one,
            "broken and mended": self.broken_and_mended,
            "SIGHUP storm": self.sighup_storm,
            "come and go": self.come_and_go,
            "INI that cannot work": self.sighup_with_spoilt_ini,
            "SIGUSR1": self.sigusr1,
            "short hang": self.short_hang,
        }

    def crashes(self) -> dict[str, Event]:
        return {
            "segmentation fault": lambda: self.crash_by_plugin("segfaults"),
            "kill -9": self.kill_worker,
            "os._exit": lambda: self.crash_by_plugin("exits"),
            "hang": self.hang,
            "leak": self.leak,
        }

    async def reload_all(self) -> None:
        answer = await self._control("/reload/all")
        self._expect(answer, answer is not None and answer.status == 200 and "failed" not in self._data(answer))

    async def reload_one(self) -> None:
        name = self.random.choice(plugins.WELL_BEHAVED)
        answer = await self._control(f"/reload/{name}")
        self._expect(answer, answer is not None and self._data(answer) == {"reloaded": name, "success": True})

    async def broken_and_mended(self) -> None:
        """A file with a mistake keeps the old plugin; the mended one is in force on every worker at once."""
        self.server.write_plugin("versioned", "this is not python\n")
        answer = await self._control("/reload/versioned")
        self._expect(answer, answer is not None and answer.status == 500)
        await self._is_everywhere("/versioned", {"version": self._version}, at_once=True)
        self._version += 1
        self.server.write_plugin("versioned", plugins.versioned(self._version))
        answer = await self._control("/reload/versioned")
        self._expect(answer, answer is not None and answer.status == 200)
        await self._is_everywhere("/versioned", {"version": self._version}, at_once=True)

    async def come_and_go(self) -> None:
        self.server.write_plugin("added", plugins.added())
        answer = await self._control("/load/added")
        self._expect(answer, answer is not None and answer.status == 200)
        await self._is_everywhere("/added", {"hello": "soak"}, at_once=True)
        answer = await self._control("/unload/added")
        self._expect(answer, answer is not None and answer.status == 200)
        self.server.remove_plugin("added")
        await self._is_everywhere("/added", None, at_once=True)

    async def sighup_with_new_ini(self) -> None:
        await self._signal_with_new_ini(signal.SIGHUP)

    async def sigusr1(self) -> None:
        await self._signal_with_new_ini(signal.SIGUSR1)

    async def sighup_storm(self) -> None:
        for _ in range(STORM_SIGNALS):
            await asyncio.sleep(STORM_PAUSE_SECONDS)
            self.server.signal(signal.SIGHUP)
        await self._signal_with_new_ini(signal.SIGHUP)

    async def sighup_with_spoilt_ini(self) -> None:
        """The old server goes on and says why; what it was asked for afterwards is done."""
        position = self.server.log_size()
        self.server.write_ini(spoilt=True)
        self.server.signal(signal.SIGHUP)
        if not await self._until(lambda: "[network] port" in self.server.log_since(position), RELOAD_SECONDS):
            self.counts.note("no effect", "SIGHUP with a wrong port: nothing in the log")
        await self._is_everywhere("/generation", {"generation": self.server.generation}, at_once=True)
        self.server.write_ini()

    async def short_hang(self) -> None:
        """An async handler that blocks its event loop for a moment: others wait, none fails."""
        await self._control("/hangs?seconds=0.5", is_control=False)

    async def crash_by_plugin(self, name: str) -> None:
        position = self.server.log_size()
        before = {(one.pid, one.started) for one in self.server.workers()}
        excuse = self.counts.excuse(name)
        answer = None
        try:
            answer = await once(self.server.port, "GET", f"/{name}?now=1")
        except RequestFailed as problem:
            if problem.kind not in ("closed", "cut off"):
                self.counts.note("failed", str(problem))
        if answer is not None and answer.status == 503:
            excuse.end(0)
            await self._lift_quarantine(name)
            return
        await self._recovered(name)
        await self._replaced(name, before)
        excuse.end(GRACE_SECONDS)
        if not await self._until(lambda: name in self.server.log_since(position), RECOVERY_SECONDS):
            self.counts.note("unexplained", f"the log does not name {name}")

    async def kill_worker(self) -> None:
        workers = self.server.workers()
        if not workers:
            self.counts.note("no effect", "no worker to kill")
            return
        excuse = self.counts.excuse("kill -9")
        worker = self.random.choice(workers)
        if self.server.kill_worker(worker):
            await self._recovered("kill -9")
            await self._replaced("kill -9", {(worker.pid, worker.started)}, one_of_them=False)
        excuse.end(GRACE_SECONDS)

    async def hang(self) -> None:
        """An async handler that blocks its event loop for good: its worker is replaced, the other serves."""
        before = {(one.pid, one.started) for one in self.server.workers()}
        excuse = self.counts.excuse("hang")
        target = f"/hangs?seconds={LOOP_STALL_SECONDS * 100}"
        hanging = asyncio.ensure_future(self._ignore_end(target))
        await asyncio.wait([hanging], timeout=RECOVERY_SECONDS / 2)
        if hanging.done() and hanging.result() == 503:
            excuse.end(0)
            await self._lift_quarantine("hangs")
            return
        await self._recovered("hang", probes=PROBES_BESIDE_A_HANG)
        await self._replaced("hang", before, LOOP_STALL_SECONDS + DRAIN_SECONDS + REPLACEMENT_SECONDS)
        await hanging
        excuse.end(GRACE_SECONDS)

    async def leak(self) -> None:
        """Drives every worker over its memory limit: each is replaced, and no request is lost by it."""
        before = {(one.pid, one.started) for one in self.server.workers()}
        kib = 4096
        for _ in range(2 * WORKERS * MEMORY_LIMIT_MB * 1024 // kib):
            measures = [usage(pid) for pid, _ in before]
            if all(found is None or found.memory_mb > MEMORY_LIMIT_MB + 20 for found in measures):
                break
            await self._control(f"/leaks?kib={kib}", is_control=False)
        await self._replaced("leak", before, DRAIN_SECONDS + REPLACEMENT_SECONDS)

    async def _ignore_end(self, target: str) -> int | None:
        """The status, if there is an answer: a worker that is replaced gives none."""
        try:
            return (await once(self.server.port, "GET", target, patience=LOOP_STALL_SECONDS + RELOAD_SECONDS)).status
        except RequestFailed as problem:
            if problem.kind == "timeout":
                self.counts.note("failed", f"the worker that hangs is not replaced: {problem}")
            return None

    async def _lift_quarantine(self, name: str) -> None:
        """It did no harm this time, because of its earlier crashes; a reload lets it serve again."""
        self.counts.events["quarantine"] += 1
        answer = await self._control(f"/reload/{name}")
        self._expect(answer, answer is not None and answer.status == 200)
        await self._is_everywhere(f"/{name}", {"alive": True}, at_once=True)

    async def _recovered(self, name: str, probes: int = 1) -> None:
        """`/hello` must answer on a new connection, however many attempts that takes."""
        began = time.monotonic()
        while self.server.is_alive() and time.monotonic() - began < RELOAD_SECONDS:
            if any(await asyncio.gather(*(self._is_hello_there() for _ in range(probes)))):
                break
            await asyncio.sleep(PAUSE_SECONDS)
        took = time.monotonic() - began
        self.counts.slowest_recovery = max(self.counts.slowest_recovery, took)
        if took > RECOVERY_SECONDS:
            self.counts.note("recovery", f"{name}: /hello answered after {took:.1f} s")

    async def _is_hello_there(self) -> bool:
        try:
            return (await once(self.server.port, "GET", "/hello", patience=RECOVERY_SECONDS / 4)).status == 200
        except RequestFailed:
            return False

    async def _replaced(
        self, name: str, before: set[tuple[int, str]], limit: float = REPLACEMENT_SECONDS, one_of_them: bool = True
    ) -> None:
        """One of those workers (or each of them) must have gone, and there must be as many as before."""
        began = time.monotonic()

        def is_done() -> bool:
            now = {(one.pid, one.started) for one in self.server.workers()}
            gone = before - now
            return (bool(gone) if one_of_them else gone == before) and len(now) >= WORKERS

        if not await self._until(is_done, limit):
            self.counts.note("replacement", f"{name}: not within {limit:.0f} s")
        self.counts.slowest_replacement = max(self.counts.slowest_replacement, time.monotonic() - began)

    async def _signal_with_new_ini(self, number: signal.Signals) -> None:
        self.server.generation += 1
        self.server.write_ini()
        self.server.signal(number)
        await self._is_everywhere("/generation", {"generation": self.server.generation})
        if not self.server.is_alive():
            self.counts.note("no effect", f"{number.name} ended the server")

    async def _is_everywhere(self, target: str, expected: Any, at_once: bool = False) -> None:
        """Waits until many answers in a row are that; `None` is a 404. `at_once`: from the first one on."""
        deadline = time.monotonic() + (0 if at_once else RELOAD_SECONDS)
        in_a_row = 0
        while in_a_row < LOOKS:
            answer = await self._control(target, is_control=False)
            is_it = answer is not None and (
                answer.status == 404 if expected is None else answer.status == 200 and answer.json() == expected
            )
            in_a_row = in_a_row + 1 if is_it else 0
            if is_it:
                continue
            if time.monotonic() > deadline:
                shown = "no answer" if answer is None else f"{answer.status} {answer.body[:200]!r}"
                self.counts.note("no effect", f"{target}: {shown}, not {expected}")
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _control(self, target: str, is_control: bool = True) -> Answer | None:
        began = time.monotonic()
        try:
            return await once(self.server.port, "GET", target, patience=RELOAD_SECONDS)
        except RequestFailed as problem:
            if not self.counts.is_excused("events", problem.kind, began):
                self.counts.note("control" if is_control else "failed", str(problem))
            return None

    def _expect(self, answer: Answer | None, is_right: bool) -> None:
        # One without an answer has been counted already.
        if answer is not None and not is_right:
            self.counts.note("control", f"{answer.status} {re.sub(rb'[ ]+', b' ', answer.body[:300])!r}")

    @staticmethod
    def _data(answer: Answer) -> dict[str, Any]:
        data = answer.json()
        return data if isinstance(data, dict) else {}

    async def _until(self, is_done: Callable[[], bool], limit: float) -> bool:
        deadline = time.monotonic() + limit
        while not is_done():
            if time.monotonic() > deadline or not self.server.is_alive():
                return False
            await asyncio.sleep(PAUSE_SECONDS)
        return True
