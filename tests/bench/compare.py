"""Compares the speed of this server with the Python program's on the reader's own machine: `make bench`.

Both get the same plugin files and run on one core, wrk on another; they take turns, several rounds, because machines
change their speed within minutes. What counts is the ratio of medians.

    compare.py [--seconds 4] [--rounds 3] [--connections 64]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PEER = "pluginserver==0.10.5"
PLUGINS = """
import asyncio
from plugincore.baseplugin import BasePlugin

ROWS = [{"id": n, "name": f"row {n}", "value": n * 1.5, "tags": ["a", "b"], "ok": True} for n in range(1000)]

class Small(BasePlugin):
    async def request_handler(self, **data):
        return 200, {"hello": data.get("name", "world"), "n": 1}

class Large(BasePlugin):
    async def request_handler(self, **data):
        return 200, {"rows": ROWS}

class Sleeping(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0)
        return 200, {"slept": True}

class Plain(BasePlugin):
    def request_handler(self, **data):
        return 200, {"hello": data.get("name", "world"), "n": 1}
"""
WORK = [
    ("small JSON answer, async", "/small?name=x"),
    ("small JSON answer, async with a pause", "/sleeping"),
    ("1,000 rows of JSON, async", "/large"),
    ("small JSON answer, plain handler", "/plain?name=x"),
]
NOT_IN_PEER = {"/plain?name=x"}


def peer_command() -> list[str]:
    venv = ROOT / "target" / "bench-venv"
    program = venv / "bin" / "pserve"
    if not program.exists():
        print(f"==> installing {PEER} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", PEER], check=True)
    return [str(venv / "bin" / "python"), str(program)]


def wrk() -> str:
    if shutil.which("wrk") is None:
        print("==> installing wrk", file=sys.stderr)
        root = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*root, "apt-get", "install", "-y", "-qq", "wrk"], check=True, stdout=sys.stderr)
    return "wrk"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    def __init__(self, name: str, command: list[str], folder: Path, cpu: int) -> None:
        self.name = name
        self.port = free_port()
        ini = folder / f"{name}.ini"
        text = f"[network]\nbindto=127.0.0.1\nport=int:{self.port}\n[paths]\nplugins={folder / 'plugins'}\n"
        ini.write_text(text + "[main]\nx=1\n")
        environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
        self.process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *command, "-i", str(ini)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/small", timeout=5).read()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.name} does not answer") from None
                time.sleep(0.05)

    def measure(self, path: str, seconds: int, connections: int, cpu: int) -> tuple[float, str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        command = ["taskset", "-c", str(cpu), wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(f"{self.name} {path}: errors\n{output}")
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
        return rate, re.search(r"99%\s+(\S+)", output)[1]

    def memory_mb(self) -> float:
        """Of the process and its children, what they share counted once."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in (str(pid), *children)]
        return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts) / 1024

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, load_cpu = cpus[0], cpus[-1]
    if server_cpu == load_cpu:
        print("only one core here: server and load share it, so the figures say little", file=sys.stderr)
    ours_command, theirs_command = [str(ROOT / "target" / "release" / "pserve")], peer_command()
    wrk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plugins").mkdir()
        (folder / "plugins" / "work.py").write_text(PLUGINS)
        ours = Program("pserve", ours_command, folder, server_cpu)
        theirs = Program("pluginserver", theirs_command, folder, server_cpu)
        try:
            ours.wait()
            theirs.wait()
            print(f"one core, {options.connections} connections, {options.rounds} rounds of {options.seconds} s")
            print(f"memory at start: pserve {ours.memory_mb():.0f} MB, pluginserver {theirs.memory_mb():.0f} MB\n")
            print(f"{'':40}{'pserve':>10}{'p99':>10}{'pluginserver':>14}{'p99':>10}{'ratio':>8}")
            for title, path in WORK:
                report(title, path, ours, theirs, options, load_cpu)
            print(f"\nmemory after load: pserve {ours.memory_mb():.0f} MB, pluginserver {theirs.memory_mb():.0f} MB")
        finally:
            ours.stop()
            theirs.stop()


def report(title: str, path: str, ours: Program, theirs: Program, options: argparse.Namespace, cpu: int) -> None:
    rounds: dict[str, list[tuple[float, str]]] = {ours.name: [], theirs.name: []}
    for _ in range(options.rounds):
        for program in (ours, theirs):
            if program is theirs and path in NOT_IN_PEER:
                continue
            rounds[program.name].append(program.measure(path, options.seconds, options.connections, cpu))
    middle = {
        name: statistics.median(rate for rate, _ in results) if results else 0 for name, results in rounds.items()
    }
    tails = {name: results[-1][1] if results else "-" for name, results in rounds.items()}
    ratio = f"{middle[ours.name] / middle[theirs.name]:.1f}" if middle[theirs.name] else "-"
    theirs_text = f"{middle[theirs.name]:.0f}/s" if middle[theirs.name] else "fails"
    print(
        f"{title:40}{middle[ours.name]:8.0f}/s{tails[ours.name]:>10}{theirs_text:>14}{tails[theirs.name]:>10}{ratio:>8}"
    )


if __name__ == "__main__":
    main()
