"""A program that runs: start, wait for its answers, what /proc says about its processes, stop."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from folder import Folder
from install import Missing
from programs import Program, Setup, Start

START_SECONDS = 30.0
# One that takes longer (robyn ends by no signal but SIGKILL) is killed.
STOP_SECONDS = 2.0
POLL_SECONDS = 0.002
REST_SECONDS = 0.1
REST_LOOKS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment() -> dict[str, str]:
    own = {"PORT", "VIRTUAL_ENV", "NOTIFY_SOCKET", "LISTEN_FDS", "PYTHONPATH", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {name: value for name, value in kept.items() if not name.startswith(("PSERVE_", "GRANIAN_", "ROBYN_"))}


class Running:
    def __init__(self, program: Program, setup: Setup, folder: Folder, cpus: str) -> None:
        self.program = program
        self.setup = setup
        self.port = free_port()
        command = program.command(Start(setup, self.port, folder))
        log = folder.path / f"{program.name.replace(' ', '-')}-{self.port}.log"
        self.log = Path(os.devnull) if program.is_chatty else log
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            # A session of its own: all processes of the program are found by its number.
            self.process = subprocess.Popen(
                ["taskset", "-c", cpus, *command],
                cwd=folder.path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def address(self) -> str:
        return f"{'https' if self.setup.tls else 'http'}://127.0.0.1:{self.port}"

    def request(self, path: str, method: str = "GET", body: bytes = b"", headers: tuple = ()) -> tuple[int, bytes]:
        if self.setup.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait(self, path: str) -> float:
        """Waits for the first 200 of this path, and gives the seconds since the start."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request(path)[0] == 200:
                    return time.monotonic() - self.began
            if self.process.poll() is not None:
                raise Missing(f"ended at its start with status {self.process.returncode}: {self._last_words()}")
            if time.monotonic() - self.began > START_SECONDS:
                raise Missing(f"no answer within {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it printed nothing"

    def processes(self) -> list[int]:
        """Of the program's session."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := _stat(int(name))) and int(fields[3]) == self.process.pid:
                found.append(int(name))
        return found

    def cpu_seconds(self) -> float:
        fields = [_stat(pid) for pid in self.processes()]
        return sum(int(one[11]) + int(one[12]) for one in fields if one) / TICKS

    def rest(self) -> None:
        """Waits, for a while, until it takes no time of the processor: wrk leaves requests behind that are still
        worked on, and they would slow down whatever is measured next."""
        last = self.cpu_seconds()
        for _ in range(REST_LOOKS):
            time.sleep(REST_SECONDS)
            now = self.cpu_seconds()
            if now - last < 1.5 / TICKS:
                return
            last = now

    def memory_mb(self) -> float:
        """The proportional share of all its processes: what they have in common is counted once."""
        total = 0
        for pid in self.processes():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: `[1]` is the parent, `[3]` the session."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    return text.rpartition(")")[2].split()
