"""What is measured apart from the workloads, each program alone on the machine: start-up, reloads, memory."""

from __future__ import annotations

import http.client
import time

import load
from folder import Folder
from install import Missing
from load import Request
from measure import Cores, progress
from programs import BY_NAME, Setup
from results import Memory, Results
from running import Running
from work import CONNECTIONS, SMALL, plural

STARTS = 5
RELOADS = 5
PLUGINS = 100
# Whatever a program puts off at its start is done by then.
SETTLE_SECONDS = 1.0
WITH_PLUGINS = ("pserve", "pluginserver")


def start_up(results: Results, folder: Folder, cores: Cores, names: list[str]) -> None:
    """From the start of the process to the first 200, asked for every two milliseconds."""
    for name in names:
        for copies in (1, PLUGINS) if name in WITH_PLUGINS else (0,):
            path = f"/copy{copies - 1}" if copies else SMALL
            label = f"{name}, {plural(copies, 'plugin')}" if copies else f"{name}, one application"
            times = []
            for _ in range(STARTS):
                try:
                    running = Running(BY_NAME[name], Setup(copies), folder, cores.server)
                except Missing as reason:
                    results.missing[name] = str(reason)
                    break
                try:
                    times.append(running.wait(path))
                except Missing as reason:
                    results.missing[name] = str(reason)
                    break
                finally:
                    running.stop()
            if times:
                results.startup[label] = times
                progress(f"  start-up {label:30} {', '.join(f'{1000 * one:.0f}' for one in times)} ms")


def reloads(results: Results, folder: Folder, cores: Cores, names: list[str]) -> None:
    for name in names:
        if name not in WITH_PLUGINS:
            continue
        try:
            running = Running(BY_NAME[name], Setup(PLUGINS), folder, cores.server)
        except Missing as reason:
            results.missing[name] = str(reason)
            continue
        try:
            running.wait(f"/copy{PLUGINS - 1}")
            for what, path in (("one plugin", "/reload/copy0"), (f"all {PLUGINS} plugins", "/reload/all")):
                found = _times(running, path)
                results.reload.setdefault(what, {})[name] = found
                text = found if isinstance(found, str) else ", ".join(f"{1000 * one:.1f}" for one in found) + " ms"
                progress(f"  reload   {name}, {what:15} {text}")
        except Missing as reason:
            results.missing[name] = str(reason)
        finally:
            running.stop()


def _times(running: Running, path: str) -> list[float] | str:
    times = []
    for _ in range(RELOADS):
        began = time.monotonic()
        try:
            status, _ = running.request(path)
        except (OSError, http.client.HTTPException) as error:
            return f"fails: {error}"
        if status != 200:
            return f"answers {status}"
        times.append(time.monotonic() - began)
    return times


def memory(results: Results, folder: Folder, cores: Cores, names: list[str], seconds: int) -> None:
    """At the start, and the most while 64 connections ask for small answers and then for large ones."""
    for name in names:
        try:
            running = Running(BY_NAME[name], Setup(), folder, cores.server)
        except Missing as reason:
            results.missing[name] = str(reason)
            continue
        try:
            running.wait(SMALL)
            time.sleep(SETTLE_SECONDS)
            at_start = running.memory_mb()
            with load.Peak(running) as peak:
                for path in (SMALL, "/rows"):
                    load.run(running, Request(path, CONNECTIONS), seconds, cores.load)
            results.memory[name] = Memory(at_start, peak.mb)
            progress(f"  memory   {name:15} at start {at_start:.1f} MB, under load {peak.mb:.1f} MB")
        except Missing as reason:
            results.missing[name] = str(reason)
        finally:
            running.stop()
