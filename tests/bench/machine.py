"""The machine and its cores: what the report names, and which core does what."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from measure import Cores


def cores() -> Cores:
    cpus = sorted(os.sched_getaffinity(0))
    server, load = str(cpus[0]), str(cpus[-1])
    if len(cpus) >= 4:
        return Cores(server, load, f"{cpus[0]},{cpus[1]}", f"{cpus[-1]},{cpus[-2]}")
    return Cores(server, load, ",".join(map(str, cpus)), load)


def describe() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    count = len(os.sched_getaffinity(0))
    return {
        "Processor": f"{model}, {count} core{'s' if count != 1 else ''}",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Two workers": "cores of their own" if count >= 4 else "share a core with the load",
    }


def raise_limit_of_files() -> None:
    """Thousands of connections are as many descriptors; the programs and wrk inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
