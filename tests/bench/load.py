"""One run of wrk against a program, and what it found."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from running import Running

SCRIPT = Path(__file__).resolve().parent / "wrk.lua"
SAMPLE_SECONDS = 0.1
# A handler that computes is at work once the program has taken this much of the processor.
AT_WORK_SECONDS = 0.05


@dataclass(frozen=True)
class Run:
    """Times in milliseconds, the processor's in microseconds for each request."""

    rate: float
    p50: float
    p99: float
    p999: float
    cpu: float
    # What went wrong and how often: {"status": 3}.
    errors: dict[str, int]


def parse(output: str, cpu_seconds: float) -> Run:
    """From what wrk.lua printed, among wrk's own lines."""
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise ValueError(f"no figures in what wrk printed:\n{output}")
    found = json.loads(line)
    requests = found["requests"]
    errors = {name: found[name] for name in ("connect", "read", "write", "timeout", "status") if found[name]}
    times = (found[name] / 1000 for name in ("p50", "p99", "p999"))
    rate = requests / (found["microseconds"] / 1e6)
    return Run(rate, *times, cpu_seconds * 1e6 / requests if requests else 0.0, errors)


@dataclass(frozen=True)
class Request:
    path: str
    connections: int
    threads: int = 1
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    # The file with the body, if any.
    body: Path | None = None
    # Before each request; 0: as fast as the answers come.
    pause_ms: int = 0


def command(address: str, request: Request, seconds: int) -> list[str]:
    options = [
        f"-t{request.threads}",
        f"-c{request.connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(SCRIPT),
    ]
    for name, value in request.headers:
        options += ["-H", f"{name}: {value}"]
    body = [str(request.body)] if request.body else []
    return ["wrk", *options, address + request.path, "--", request.method, str(request.pause_ms), *body]


def run(running: Running, request: Request, seconds: int, cpus: str, rest: bool = True) -> Run:
    before = running.cpu_seconds()
    wrk = ["taskset", "-c", cpus, *command(running.address, request, seconds)]
    done = subprocess.run(wrk, check=True, capture_output=True, text=True)
    found = parse(done.stdout, running.cpu_seconds() - before)
    if rest:
        running.rest()
    return found


@contextlib.contextmanager
def computing(running: Running, path: str, seconds: float):
    """Has a handler compute in the program as long as the block lasts, or for these seconds."""

    def call() -> None:
        with contextlib.suppress(OSError):
            running.request(f"{path}?seconds={seconds}")

    before = running.cpu_seconds()
    caller = threading.Thread(target=call)
    caller.start()
    while running.cpu_seconds() - before < AT_WORK_SECONDS and caller.is_alive():
        time.sleep(0.01)
    try:
        yield
    finally:
        caller.join()


class Peak:
    """The most memory that a program has while the block lasts."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._over.is_set():
            self.mb = max(self.mb, self.running.memory_mb())
            self._over.wait(SAMPLE_SECONDS)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
