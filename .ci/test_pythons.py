#!/usr/bin/env python3
"""Builds and tests against every CPython here from 3.9 to 3.13, and notes in docs/pythons.md what came of it.

    .ci/test_pythons.py [3.9 3.13 ...]      all of them, or those

One after the other, in one target folder: what does not depend on Python is built once. Needs about 3 GB below target/.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TARGET = TOP / "target" / "pythons"
PAGE = TOP / "docs" / "pythons.md"
OLDEST, NEWEST = (3, 9), (3, 13)
# What a Python must tell about itself.
QUESTION = """
import os, sys, sysconfig
variable = sysconfig.get_config_var
folder, library = variable("LIBDIR") or "", variable("LDLIBRARY") or ""
folders = [folder, os.path.join(folder, variable("MULTIARCH") or "")]
print(os.path.realpath(sys.executable))
print(sys.version.split()[0], sys.implementation.name)
print(os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
print(not variable("Py_GIL_DISABLED"))
print(bool(variable("Py_ENABLE_SHARED")) and any(os.path.exists(os.path.join(one, library)) for one in folders))
"""


@dataclass
class Python:
    executable: str
    version: str
    lacks: list[str]

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", self.version))


@dataclass
class Outcome:
    """What one Python came to: counts, and the names of what failed."""

    rust: str = "not run"
    pytest: str = "not run"
    failed: list[str] = field(default_factory=list)


def find_pythons() -> list[Python]:
    """One for each executable: on the PATH, in the usual folders, of pyenv and of uv."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    folders = [*os.get_exec_path(), "/usr/bin", "/usr/local/bin", *glob.glob("/opt/python*/bin")]
    folders += glob.glob(f"{pyenv}/versions/*/bin") + glob.glob(f"{home}/.local/share/uv/python/*/bin")
    found: dict[str, Python] = {}
    for folder in folders:
        for candidate in sorted(Path(folder).glob("python3*")):
            if re.fullmatch(r"python3(\.\d+)?", candidate.name):
                python = ask(candidate)
                if python is not None and OLDEST <= python.numbers[:2] <= NEWEST:
                    found.setdefault(python.executable, python)
    return sorted(found.values(), key=lambda python: python.numbers)


def ask(candidate: Path) -> Python | None:
    try:
        # pyenv's stand-ins for versions that are not chosen end with an error.
        done = subprocess.run([str(candidate), "-I", "-c", QUESTION], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    executable, about, headers, lock, library = done.stdout.splitlines()
    version, implementation = about.split()
    if implementation != "cpython":
        return None
    there = {"headers": headers, "lock (it is free-threaded)": lock, "shared libpython": library}
    lacks = [what for what, is_there in there.items() if is_there != "True"]
    return Python(executable, version, lacks)


def rust_tests() -> list[str]:
    """The unit tests, and the black-box tests that load plugins."""
    return sorted(path.stem for path in (TOP / "tests").glob("*.rs") if "BasePlugin" in path.read_text())


def run(command: list[str], environment: dict[str, str], log: Path) -> tuple[int, str]:
    """The exit status, and what it has written to the log."""
    print(f"    $ {' '.join(command)}", flush=True)
    with log.open("a+b") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode())
        file.flush()
        start = file.tell()
        done = subprocess.run(command, cwd=TOP, env=environment, stdout=file, stderr=subprocess.STDOUT)
        file.seek(start)
        return done.returncode, file.read().decode(errors="replace")


def examine(python: Python) -> Outcome:
    """Builds with it and runs the tests. What they said is in a log file of its own below target/."""
    outcome = Outcome()
    log = TARGET / f"python-{python.version}.log"
    log.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYO3_PYTHON": python.executable,
        "CARGO_TARGET_DIR": str(TARGET),
        "CARGO_INCREMENTAL": "0",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "PSERVE_BINARY": str(TARGET / "debug" / "pserve"),
    }
    status, _ = run(["cargo", "build", "--locked"], environment, log)
    if status != 0:
        outcome.rust = outcome.pytest = "does not build"
        outcome.failed.append("build")
        return outcome

    venv = TARGET / f"venv-{python.version}"
    tests = str(venv / "bin" / "python")
    status, _ = run([python.executable, "-m", "venv", "--clear", str(venv)], environment, log)
    if status == 0:
        packages = ["-r", str(TOP / "pytests" / "requirements.txt")]
        status, _ = run([tests, "-m", "pip", "install", "--quiet", *packages], environment, log)
    if status == 0:
        status, said = run([tests, "-m", "pytest", "-q", "-p", "no:cacheprovider", "pytests"], environment, log)
        outcome.pytest = pytest_summary(said) or f"ended with {status}"
        outcome.failed += re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    else:
        outcome.pytest = "no packages"
    if status != 0 and not outcome.failed:
        outcome.failed.append("pytest")
    shutil.rmtree(venv, ignore_errors=True)

    named = [word for name in rust_tests() for word in ("--test", name)]
    status, said = run(["cargo", "test", "--locked", "--no-fail-fast", "--lib", *named], environment, log)
    outcome.rust = rust_summary(said)
    outcome.failed += re.findall(r"^test (\S+) \.\.\. FAILED", said, re.MULTILINE)
    # Programs that end without a word on single tests, too.
    outcome.failed += re.findall(r"^    `(--\S+(?: \S+)?)`$", said, re.MULTILINE)
    if status != 0 and not outcome.failed:
        outcome.failed.append("cargo test")
    return outcome


def pytest_summary(said: str) -> str | None:
    """As `262 passed, 2 skipped`."""
    found = re.findall(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s", said, re.MULTILINE)
    return found[-1] if found else None


def rust_summary(said: str) -> str:
    """That of all test programs together."""
    counts = re.findall(r"^test result: .* (\d+) passed; (\d+) failed", said, re.MULTILINE)
    passed, failed = (sum(int(count[column]) for count in counts) for column in (0, 1))
    return f"{failed} failed, {passed} passed" if failed else f"{passed} passed"


def note(rows: dict[str, str]) -> None:
    """Puts the rows into the page's table; those of other versions stay."""
    page = PAGE.read_text()
    begin, end = "<!-- pythons: written by `make test-pythons` -->\n", "<!-- pythons: end -->"
    before, rest = page.split(begin)
    table, after = rest.split(end)
    head, rule, *known = table.strip().splitlines()
    lines = {line.split("|")[1].strip(): line for line in known} | rows
    ordered = sorted(lines.items(), key=lambda item: [int(number) for number in re.findall(r"\d+", item[0])])
    PAGE.write_text(before + begin + "\n".join([head, rule, *(line for _, line in ordered)]) + "\n" + end + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="as 3.9 or 3.11.2; all without")
    wanted = parser.parse_args().versions
    found = find_pythons()
    chosen = [python for python in found if not wanted or {python.minor, python.version} & set(wanted)]
    for python in chosen:
        lacks = f"left out: it has no {' and no '.join(python.lacks)}" if python.lacks else "to be tested"
        print(f"{python.version:10} {python.executable}: {lacks}")
    # Of two that are the same version, the last.
    usable = {python.version: python for python in chosen if not python.lacks}
    if not usable:
        print("test_pythons: there is no such Python here", file=sys.stderr)
        return 1
    TARGET.mkdir(parents=True, exist_ok=True)
    # A shell that starts this in the background has them ignored, and so would the servers under test.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    outcomes: dict[str, Outcome] = {}
    for python in usable.values():
        print(f"==> {python.version}", flush=True)
        outcomes[python.version] = outcome = examine(python)
        today = datetime.date.today().isoformat()
        state = f"**{len(outcome.failed)} failed**" if outcome.failed else "works"
        note({python.version: f"| {python.version} | {state} | {outcome.rust} | {outcome.pytest} | {today} |"})

    print(f"\n{'Python':10} {'Rust tests':28} {'Python tests':36}")
    for version, outcome in outcomes.items():
        print(f"{version:10} {outcome.rust:28} {outcome.pytest:36}")
        for name in outcome.failed:
            print(f"{'':10} failed: {name}")
    return 1 if any(outcome.failed for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
