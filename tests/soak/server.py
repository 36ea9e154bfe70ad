"""The server under test: its folder, its process, and what /proc says about it and its workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import plugins

WORKERS = 2
LOOP_STALL_SECONDS = 4
DRAIN_SECONDS = 10
# Far above what a worker needs, within reach of the plugin that leaks.
MEMORY_LIMIT_MB = 300
# So that workers are recycled every now and then.
REQUESTS_OF_A_WORKER = 4000


class Usage(NamedTuple):
    memory_mb: float
    descriptors: int
    threads: int


class Process(NamedTuple):
    pid: int
    # In clock ticks since boot: with the pid it names a process for ever.
    started: str
    state: str
    parent: int
    session: int


def process(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields[19], fields[0], int(fields[1]), int(fields[3]))


def processes() -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def usage(pid: int) -> Usage | None:
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return Usage(int(fields["VmRSS"].split()[0]) / 1024, descriptors, int(fields["Threads"]))
    except (OSError, KeyError):
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary.resolve()
        self.folder = folder
        self.port = free_port()
        self.generation = 1
        self.pidfile = folder / "pserve.pid"
        self.log_path = folder / "server.log"
        (folder / "plugins").mkdir()
        for stem, source in plugins.FILES.items():
            self.write_plugin(stem, source)
        self.write_plugin("versioned", plugins.versioned(1))
        self.write_ini()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PSERVE_")}
        for name in ("PORT", "VIRTUAL_ENV", "NOTIFY_SOCKET"):
            environment.pop(name, None)
        with self.log_path.open("wb") as log:
            # A session of its own: whatever is left of it at the end is found by its number.
            self.process = subprocess.Popen(
                [str(self.binary), "-i", "pserve.ini"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.seen: set[tuple[int, str]] = set()

    def write_plugin(self, stem: str, source: str) -> None:
        (self.folder / "plugins" / f"{stem}.py").write_text(source)

    def remove_plugin(self, stem: str) -> None:
        (self.folder / "plugins" / f"{stem}.py").unlink()

    def write_ini(self, spoilt: bool = False) -> None:
        text = f"""
[network]
bindto = 127.0.0.1
port = {"many" if spoilt else self.port}
[paths]
plugins = plugins
pidfile = pserve.pid
[server]
workers = {WORKERS}
access_log = access.log
required_plugins = hello
[limits]
drain_timeout = {DRAIN_SECONDS}
loop_stall = {LOOP_STALL_SECONDS}
max_memory_mb = {MEMORY_LIMIT_MB}
max_requests = {REQUESTS_OF_A_WORKER}
[plugin_options]
plain = threads=8
[main]
generation = {self.generation}
"""
        # Moved into place: the server never reads half of it.
        half = self.folder / "pserve.ini.new"
        half.write_text(text)
        half.replace(self.folder / "pserve.ini")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[Process]:
        """The workers: children that run the same binary, and those that have ended and are not waited for."""
        found = [one for one in processes() if one.parent == self.pid and self._is_ours(one)]
        self.seen.update((one.pid, one.started) for one in found)
        return found

    def workers(self) -> list[Process]:
        return [one for one in self.children() if one.state != "Z"]

    def _is_ours(self, one: Process) -> bool:
        if one.state == "Z":
            return True
        try:
            return Path(os.readlink(f"/proc/{one.pid}/exe")) == self.binary
        except OSError:
            return False

    def kill_worker(self, worker: Process) -> bool:
        """Kills a child of the server, after a look that the number is still this child's."""
        now = process(worker.pid)
        if now is None or now.started != worker.started or now.parent != self.pid or now.state == "Z":
            return False
        os.kill(worker.pid, signal.SIGKILL)
        return True

    def log_size(self) -> int:
        return self.log_path.stat().st_size

    def log_since(self, position: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def usages(self) -> tuple[Usage | None, list[Usage]]:
        """Of the process that is signalled, and of its workers; a server of one process is its own worker."""
        main = usage(self.pid)
        workers = [found for one in self.workers() if (found := usage(one.pid)) is not None]
        return main, workers or ([main] if main is not None else [])

    def stop(self, limit_seconds: float) -> tuple[int | None, float]:
        """Asks for the end. Gives the exit status, `None` when it had to be killed, and the time it took."""
        self.children()
        began = time.monotonic()
        if self.is_alive():
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_seconds), time.monotonic() - began
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - began

    def left_over(self) -> list[Process]:
        """Processes of the server's session, and workers that were seen once, that still run."""
        return [
            one
            for one in processes()
            if one.pid != os.getpid() and (one.session == self.pid or (one.pid, one.started) in self.seen)
        ]

    def kill_what_is_left(self) -> None:
        if self.is_alive():
            self.process.kill()
            self.process.wait()
        for one in self.left_over():
            try:
                os.kill(one.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
