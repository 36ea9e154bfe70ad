"""Mixed load on a real server for minutes, with reloads, signals and crashes: `make soak [SOAK_SECONDS=600]`.

It ends with a table of counts that must be zero, and with exit status 1 when one is not.

    soak.py [--seconds 600] [--binary FILE] [--no-crashes] [--seed N] [--keep]

Requests to well-behaved plugins must never fail, whatever is reloaded or signalled. When a worker crashes, a client may
lose the one request that it had in that worker, by a closed connection; these are counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from counts import Counts, percentiles
from events import Event, Events
from http_client import RequestFailed, once
from load import Load
from server import DRAIN_SECONDS, WORKERS, Server, Usage

ROOT = Path(__file__).resolve().parent.parent.parent

START_SECONDS = 60.0
PROGRESS_SECONDS = 10.0
SETTLE_SECONDS = 30.0
# Draining, terminating plugins and ending Python are each bounded in the server.
STOP_SECONDS = DRAIN_SECONDS + 15.0
EVENT_PAUSES_SECONDS = (0.1, 4.0)

# How far a process may be above where it was after the warm-up: allocators keep some, and pools grow with use.
MEMORY_GROWTH_MB = {"supervisor": 16.0, "worker": 64.0}
DESCRIPTOR_GROWTH = {"supervisor": 8, "worker": 16}
THREAD_GROWTH = {"supervisor": 4, "worker": 16}


def default_binary() -> Path:
    builds = [ROOT / "target" / kind / "pserve" for kind in ("release", "debug")]
    return next((build for build in builds if build.exists()), builds[0])


class Soak:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.counts = Counts()
        self.server = Server(options.binary, folder)
        self.load = Load(self.server.port, self.counts, options.seed)
        self.events = Events(self.server, self.counts, options.seed)
        self._began = time.monotonic()

    async def run(self) -> None:
        await self._until_it_answers()
        self.load.start()
        await asyncio.sleep(min(5.0, self.options.seconds / 6))
        # A server without workers of its own, one process, is measured as its own worker.
        at_start = self.server.usages()
        self._progress(0)
        progress = asyncio.ensure_future(self._tell_progress())
        try:
            await self._happen()
        finally:
            progress.cancel()
            await self.load.stop()
        if self.server.is_alive():
            await self._settle(at_start)
        else:
            self.counts.note("stop", "the server has ended by itself")
        self._stop()

    async def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if (await once(self.server.port, "GET", "/hello", patience=5)).status == 200:
                    return
            except RequestFailed:
                pass
            if time.monotonic() > deadline or not self.server.is_alive():
                raise SystemExit(f"the server does not answer:\n{self.server.log_since(0)}")
            await asyncio.sleep(0.1)

    async def _happen(self) -> None:
        """One event after the other, each kind as often as the others."""
        deadline = time.monotonic() + self.options.seconds
        turns: list[tuple[str, Event]] = []
        harmless, crashes = list(self.events.harmless().items()), list(self.events.crashes().items())
        if self.options.no_crashes:
            crashes = []
        for place, event in enumerate(harmless):
            turns.append(event)
            turns += crashes[place : place + 1]
        least, most = EVENT_PAUSES_SECONDS
        pause = min(most, max(least, self.options.seconds / (3 * len(turns))))
        place = 0
        while time.monotonic() < deadline and self.server.is_alive():
            name, event = turns[place % len(turns)]
            place += 1
            self.counts.events[name] += 1
            await event()
            await asyncio.sleep(pause)

    async def _tell_progress(self) -> None:
        before = 0
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            before = self._progress(before)

    def _progress(self, before: int) -> int:
        counts = self.counts
        total = sum(counts.requests.values())
        main, workers = self.server.usages()
        shown = " ".join(_shown(found) for found in workers)
        print(
            f"{time.monotonic() - self._began:5.0f} s  requests {total} ({(total - before) / PROGRESS_SECONDS:.0f}/s)  "
            f"not zero {sum(counts.zero.values())}  excused {sum(counts.excused.values())}  "
            f"events {sum(counts.events.values())}  /hello {percentiles(counts.latencies)}  "
            f"process {_shown(main)}  workers {len(workers)}: {shown}",
            flush=True,
        )
        counts.latencies.clear()
        return total

    async def _settle(self, at_start: tuple[Usage | None, list[Usage]]) -> None:
        """Waits until the last set of workers is alone, then compares with the start."""
        # What the plugin that leaks has kept is its own, and ends with it.
        try:
            await once(self.server.port, "GET", "/reload/all", patience=SETTLE_SECONDS)
        except RequestFailed as problem:
            self.counts.note("control", str(problem))
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            found = self._excesses(at_start)
            if not found or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        for name, detail in found:
            self.counts.note(name, detail)
        main, workers = self.server.usages()
        print(f"at the start process {_shown(at_start[0])}, workers {' '.join(map(_shown, at_start[1]))}")
        print(f"at the end   process {_shown(main)}, workers {' '.join(map(_shown, workers))}", flush=True)

    def _excesses(self, at_start: tuple[Usage | None, list[Usage]]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        children = self.server.children()
        # A build without a supervisor has no children at all.
        if not (self.options.no_crashes and not children):
            running = [one for one in children if one.state != "Z"]
            if len(running) != WORKERS or len(children) != len(running):
                found.append(("workers", f"{len(running)} run, {len(children) - len(running)} are zombies"))
        main, workers = self.server.usages()
        at_start_worker = Usage(*(max(values) for values in zip(*at_start[1])))
        pairs = [("worker", one, at_start_worker) for one in workers]
        if children and main is not None and at_start[0] is not None:
            pairs.append(("supervisor", main, at_start[0]))
        for role, now, then in pairs:
            if now.memory_mb > then.memory_mb + MEMORY_GROWTH_MB[role]:
                found.append(("memory", f"{role}: {then.memory_mb:.0f} MB, then {now.memory_mb:.0f} MB"))
            if now.descriptors > then.descriptors + DESCRIPTOR_GROWTH[role]:
                found.append(("descriptors", f"{role}: {then.descriptors}, then {now.descriptors}"))
            if now.threads > then.threads + THREAD_GROWTH[role]:
                found.append(("threads", f"{role}: {then.threads}, then {now.threads}"))
        return found

    def _stop(self) -> None:
        status, took = self.server.stop(STOP_SECONDS)
        if status != 0:
            self.counts.note("stop", f"exit status {status} after {took:.1f} s")
        left = self.server.left_over()
        deadline = time.monotonic() + 2
        # Workers die with their supervisor; give the system the moment that it needs for that.
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = self.server.left_over()
        for one in left:
            self.counts.note("left over", f"process {one.pid} in state {one.state}")
        if self.server.pidfile.exists():
            self.counts.note("left over", "the pidfile")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.server.port)) == 0:
                self.counts.note("left over", f"something listens on port {self.server.port}")
        for line in self.server.log_since(0).splitlines():
            if "panicked" in line:
                self.counts.note("panics", line)


def _shown(found: Usage | None) -> str:
    return "-" if found is None else f"{found.memory_mb:.0f}MB/{found.descriptors}fd/{found.threads}th"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS", "600")))
    parser.add_argument("--binary", type=Path, default=default_binary())
    parser.add_argument("--no-crashes", action="store_true", help="reloads and signals only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    options = parser.parse_args()
    if not options.binary.exists():
        parser.error(f"{options.binary} is not there; build it first")
    folder = Path(tempfile.mkdtemp(prefix="pserve-soak-"))
    print(f"{options.binary} for {options.seconds:.0f} s in {folder}, seed {options.seed}", flush=True)
    soak = Soak(options, folder)
    is_good = False
    try:
        asyncio.run(soak.run())
        is_good = soak.counts.is_good()
        print(soak.counts.report())
    finally:
        soak.server.kill_what_is_left()
        if is_good and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"the logs are in {folder}")
    print("good" if is_good else "not good")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
