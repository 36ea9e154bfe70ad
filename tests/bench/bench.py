"""Measures this server against what a user would pick instead, on the reader's own machine: `make bench`.

Options come through `make bench BENCH_OPTIONS="..."`. docs/performance.md says how to read what it prints.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import install
import machine
import once
import report
from figures import Figures
from folder import Folder
from measure import PROBE_SECONDS, Fleet, Measurement, progress
from plot import plot
from programs import PROGRAMS
from results import Results
from work import ALL, WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
KEPT = ROOT / "target" / "bench"
ONCE = {"startup": "start-up", "reload": "reloads", "memory": "memory"}
# What starting programs and wrk takes, roughly.
START_SECONDS = 2.0
WRK_SECONDS = 0.25


def arguments() -> argparse.Namespace:
    names = ", ".join([*(work.name for work in WORKLOADS), *ONCE])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the most telling workloads, once, in under two minutes")
    parser.add_argument("--only", metavar="NAME,...", help=f"only these: {names}")
    parser.add_argument("--rounds", type=int, help="how often the programs take turns (3; quick: 1)")
    parser.add_argument("--seconds", type=int, help="for each measurement (2; quick: 1)")
    parser.add_argument("--write-docs", action="store_true", help="put the report into docs/performance.md")
    parser.add_argument("--results", type=Path, metavar="FILE", help="measure nothing; report what this file holds")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1 if options.quick else 2)
    options.names = [name.strip() for name in options.only.split(",")] if options.only else None
    for name in options.names or ():
        if name not in names.split(", "):
            parser.error(f"there is no workload {name}; there are {names}")
    return options


def chosen(options: argparse.Namespace) -> tuple[list[Workload], list[str]]:
    """The workloads, and the names of what is measured apart from them."""
    if options.names is not None:
        return [work for work in WORKLOADS if work.name in options.names], [one for one in ONCE if one in options.names]
    if options.quick:
        return [work for work in WORKLOADS if work.quick], ["startup", "memory"]
    return list(WORKLOADS), list(ONCE)


def estimate(works: list[Workload], apart: list[str], options: argparse.Namespace) -> float:
    """In seconds."""
    total = 0.0
    for work in works:
        run = options.seconds * work.times_seconds + WRK_SECONDS
        probe = 0.0 if work.waits else PROBE_SECONDS + WRK_SECONDS
        total += options.rounds * (len(work.entries) * (run + probe) + probe)
    starts = {(entry.program, entry.setup) for work in works for entry in work.entries}
    programs = 2 if options.quick else len(ALL)
    total += START_SECONDS * len(starts)
    total += (once.STARTS * programs * 0.8 if "startup" in apart else 0) + (10 if "reload" in apart else 0)
    return total + (programs * (START_SECONDS + 2 * options.seconds + 1) if "memory" in apart else 0)


def measure(options: argparse.Namespace) -> Results:
    works, apart = chosen(options)
    if not install.OURS.exists() or shutil.which("wrk") is None:
        raise SystemExit("the release build or wrk is missing; `make bench` sees to both")
    install.bare_warp()
    machine.raise_limit_of_files()
    cores = machine.cores()
    if cores.server == cores.load:
        progress("only one core here: server and load share it, so the figures say little")
    results = Results(f"{datetime.datetime.now():%Y-%m-%d %H:%M}", machine.describe(), {})
    for name in dict.fromkeys(program.peer for program in PROGRAMS if program.peer):
        try:
            install.peer(name)
            results.versions[name] = install.versions(name)
        except install.Missing as reason:
            results.missing[name] = str(reason)
            progress(f"  {name}: {reason}")
    form = f"{options.rounds} round{'s' if options.rounds > 1 else ''} of {options.seconds} s"
    results.machine["Measured"] = f"{form} for each program, on one core, the load on another"
    seconds = estimate(works, apart, options)
    progress(f"{form}; this takes about {f'{seconds / 60:.0f} minutes' if seconds > 120 else f'{seconds:.0f} seconds'}")
    with tempfile.TemporaryDirectory(prefix="pserve-bench-") as name:
        folder = Folder(Path(name))
        peers = ["pserve", "pluginserver"] if options.quick else list(ALL)
        if "startup" in apart:
            once.start_up(results, folder, cores, peers)
        if "reload" in apart:
            once.reloads(results, folder, cores, peers)
        if "memory" in apart:
            once.memory(results, folder, cores, peers, options.seconds)
        fleet = Fleet(folder, cores)
        try:
            measurement = Measurement(fleet, results, options.rounds, options.seconds)
            for work in works:
                measurement.run(work)
        finally:
            fleet.keep(set())
    # A name of its own, so that a short run takes no long one's place.
    kept = KEPT / f"results-{datetime.datetime.now():%Y%m%d-%H%M%S}.json"
    results.save(kept)
    progress(f"==> kept; --results {kept.relative_to(ROOT)} reports it again")
    return results


def main() -> None:
    # As by Ctrl-C: the programs that were started are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = arguments()
    results = Results.load(options.results) if options.results else measure(options)
    figures = Figures(results)
    text = report.report(figures)
    print(text)
    if options.write_docs:
        report.write(PAGE, text)
        PLOT.write_text(plot(figures))
        print(f"==> written: {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
