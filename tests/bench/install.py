"""Installs what the benchmark needs and has not yet: a virtual environment for each peer, bare warp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "bench"
WARP = ROOT / "target" / "bench-warp" / "release" / "bare-warp"
OURS = ROOT / "target" / "release" / "pserve"


class Missing(Exception):
    """A peer that cannot be had on this machine; the text says why."""


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr)


def bare_warp() -> None:
    command = "cargo build --release --locked --quiet --manifest-path tests/bench/bare_warp/Cargo.toml"
    subprocess.run([*command.split(), "--target-dir", "target/bench-warp"], check=True, cwd=ROOT)


def peer(name: str) -> Path:
    """The virtual environment of this peer, of its own so that no peer decides another's versions."""
    requirements = HERE / "requirements" / f"{name}.txt"
    pip = [str(BUILT / name / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    return _environment(name, requirements.read_text(), [[*pip, "-r", str(requirements)]])


def own_environment() -> Path:
    """One without packages for pserve, which would otherwise take up what this machine's Python has installed."""
    return _environment("pserve", "", [])


def _environment(name: str, packages: str, commands: list[list[str]]) -> Path:
    folder = BUILT / name
    # With the interpreter's path: an environment of another Python is made anew.
    wanted = f"{sys.version}\n{packages}"
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == wanted:
        return folder
    if packages:
        say(f"installing {', '.join(packages.split())} into {folder.relative_to(ROOT)}")
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], *commands):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise Missing(f"not installed: {lines[-1] if lines else 'no reason given'}")
    ready.write_text(wanted)
    return folder


def versions(name: str) -> str:
    """What pip installed for this peer beside what every environment has."""
    listing = [str(BUILT / name / "bin" / "pip"), "list", "--format=freeze", "--disable-pip-version-check"]
    done = subprocess.run(listing, capture_output=True, text=True)
    named = [line.split("==")[0] for line in (HERE / "requirements" / f"{name}.txt").read_text().split()]
    return ", ".join(line for line in done.stdout.split() if line.split("==")[0] in named).replace("==", " ")
