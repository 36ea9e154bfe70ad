"""Runs the workloads: programs take turns in every round, with a probe of bare warp before and after each."""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass

import load
from folder import Folder
from install import Missing
from load import Request
from programs import BY_NAME, WARP, Setup
from results import Measured, Results, Sample
from running import Running
from work import CONNECTIONS, SMALL, Entry, Workload

PROBE_SECONDS = 1
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Cores:
    """Lists for taskset. Where there are four cores, two workers get two of their own, and so does their load."""

    server: str
    load: str
    two_servers: str
    two_loads: str

    def of(self, setup: Setup) -> tuple[str, str]:
        return (self.server, self.load) if setup.workers == 1 else (self.two_servers, self.two_loads)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Fleet:
    """The programs that run, started when they are asked for. The ones that wait take next to no time of the core."""

    def __init__(self, folder: Folder, cores: Cores) -> None:
        self.folder = folder
        self.cores = cores
        self.running: dict[tuple[str, Setup], Running] = {}
        self.missing: dict[tuple[str, Setup], str] = {}

    def get(self, name: str, setup: Setup, path: str) -> Running:
        key = (name, setup)
        if key in self.missing:
            raise Missing(self.missing[key])
        if key not in self.running:
            try:
                self.running[key] = Running(BY_NAME[name], setup, self.folder, self.cores.of(setup)[0])
                self.running[key].wait(path)
                load.run(self.running[key], Request(path, CONNECTIONS), WARM_UP_SECONDS, self.cores.of(setup)[1])
            except Missing as reason:
                self.missing[key] = str(reason)
                self._stop(key)
                raise
        return self.running[key]

    def keep(self, wanted: set[tuple[str, Setup]]) -> None:
        for key in [key for key in self.running if key not in wanted]:
            self._stop(key)

    def _stop(self, key: tuple[str, Setup]) -> None:
        running = self.running.pop(key, None)
        if running is not None:
            running.stop()


class Measurement:
    def __init__(self, fleet: Fleet, results: Results, rounds: int, seconds: int) -> None:
        self.fleet = fleet
        self.results = results
        self.rounds = rounds
        self.seconds = seconds

    def run(self, work: Workload) -> None:
        self.measured = self.results.workloads.setdefault(work.name, Measured())
        one = Setup()
        self.fleet.keep({(WARP.name, one), *((entry.program, entry.setup) for entry in work.entries)})
        entries = [entry for entry in work.entries if self._answers(work, entry)]
        for number in range(self.rounds):
            before = self._probe(work)
            for entry in entries:
                run = self._run(work, entry)
                after = self._probe(work)
                self.measured.samples.setdefault(entry.label, []).append(
                    Sample(run, None if before is None else (before + after) / 2)
                )
                progress(
                    f"  {work.name:8} round {number + 1}: {entry.label:26}{run.rate:9.0f}/s  p99 {run.p99:8.2f} ms"
                    + ("" if before is None else f"  warp {before:6.0f}, {after:6.0f}/s")
                    + (f"  errors {run.errors}" if run.errors else "")
                )
                before = after

    def _answers(self, work: Workload, entry: Entry) -> bool:
        """Whether the program starts and its answer is the right one."""
        request = self._request(work, entry)
        try:
            running = self.fleet.get(entry.program, entry.setup, entry.path if entry.setup.copies else SMALL)
            body = request.body.read_bytes() if request.body else b""
            status, answer = running.request(request.path, request.method, body, request.headers)
            if status >= 400 or work.expect.encode() not in answer:
                raise Missing(f"answers {status} {answer[:80].decode(errors='replace')}")
        except (Missing, OSError, http.client.HTTPException) as reason:
            self.measured.failed[entry.label] = str(reason)
            progress(f"  {work.name:8} {entry.label}: {reason}")
            return False
        return True

    def _request(self, work: Workload, entry: Entry) -> Request:
        body = self.fleet.folder.body if work.method == "POST" else None
        threads = len(self.fleet.cores.of(entry.setup)[1].split(","))
        return Request(entry.path, work.connections, threads, work.method, work.headers, body, work.pause_ms)

    def _run(self, work: Workload, entry: Entry) -> load.Run:
        running = self.fleet.get(entry.program, entry.setup, entry.path)
        request, cpus = self._request(work, entry), self.fleet.cores.of(entry.setup)[1]
        seconds = self.seconds * work.times_seconds
        if not entry.beside:
            return load.run(running, request, seconds, cpus)
        # A little longer than wrk, so that the handler computes to the end.
        with load.computing(running, entry.beside, seconds + 0.5):
            return load.run(running, request, seconds, cpus, rest=False)

    def _probe(self, work: Workload) -> float | None:
        if work.waits:
            return None
        warp = self.fleet.get(WARP.name, Setup(), SMALL)
        probe = load.run(warp, Request(work.probe, CONNECTIONS), PROBE_SECONDS, self.fleet.cores.load)
        self.measured.probes.append(probe)
        return probe.rate
