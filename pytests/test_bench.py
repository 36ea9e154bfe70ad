"""The benchmark's own arithmetic: what it reads from wrk, its ratios, its bars, its report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT

BENCH = ROOT / "tests" / "bench"


@pytest.fixture(autouse=True)
def bench_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCH))
    names = [file.stem for file in BENCH.glob("*.py")]
    for name in names:
        sys.modules.pop(name, None)
    yield
    for name in names:
        sys.modules.pop(name, None)


WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 64 connections
{"requests": 2000, "microseconds": 2000000, "p50": 1500, "p99": 2500, "p999": 4000, """
WRK += '"connect": 0, "read": 0, "write": 0, "timeout": 0, "status": %d}\n'


def sample(rate: float, probe: float, **more: object):
    from load import Run
    from results import Sample

    return Sample(Run(**{"rate": rate, "p50": 1.0, "p99": 2.0, "p999": 3.0, "cpu": 10.0, "errors": {}, **more}), probe)


def results(**more: object):
    from results import Results

    return Results("2026-01-02 03:04", {"Processor": "a test"}, {}, **more)


def small(ours: list, theirs: list):
    """Figures in which pserve and pluginserver have done the small JSON answer."""
    from figures import Figures
    from results import Measured

    probes = [one.run for one in (sample(1000, 1000), sample(1200, 1200))]
    measured = Measured({"pserve": ours, "pluginserver": theirs}, probes, {"robyn": "ended at its start"})
    return Figures(results(workloads={"small": measured}))


def test_wrk_output_becomes_rates_times_and_errors() -> None:
    from load import parse

    run = parse(WRK % 0, cpu_seconds=0.5)
    assert (run.rate, run.p50, run.p99, run.p999, run.cpu, run.errors) == (1000.0, 1.5, 2.5, 4.0, 250.0, {})
    assert parse(WRK % 3, 0.5).errors == {"status": 3}
    with pytest.raises(ValueError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1", 0.5)


def test_a_run_without_an_answer_is_no_division_by_zero() -> None:
    from load import parse

    run = parse((WRK % 0).replace("2000,", "0,", 1), 0.5)
    assert (run.rate, run.cpu) == (0.0, 0.0)


def test_ratios_are_taken_between_shares_of_bare_warp_round_by_round() -> None:
    # The machine was half as fast while pluginserver ran in the second round: still three times.
    figures = small([sample(300, 1000), sample(300, 1000)], [sample(100, 1000), sample(50, 500)])
    line = figures.line("small", "pluginserver")
    assert (line.ours.low, line.ours.middle, line.ours.high) == (3.0, 3.0, 3.0)
    assert (line.rate.low, line.rate.middle, line.rate.high) == (50, 75, 100)
    assert figures.line("small", "pserve").ours is None


def test_what_waits_is_compared_without_the_speed_of_the_machine() -> None:
    from figures import ratios

    assert ratios([sample(300, 1000)], [sample(100, 500)], waits=True) == [3.0]
    assert ratios([sample(300, 1000)], [sample(100, 500)], waits=False) == [1.5]
    assert ratios([sample(300, 1000)], [sample(0, 500)], waits=True) == []


def test_bare_warp_gets_a_line_from_the_probes() -> None:
    warp = small([sample(600, 1000)], [sample(100, 1000)]).line("small", "bare warp")
    assert (warp.rate.middle, warp.of_warp, warp.ours.middle) == (1100, 1.0, 0.6)


def test_bars_are_met_missed_or_not_measured() -> None:
    figures = small([sample(600, 1000, p99=1.0)], [sample(100, 1000, p99=1.9)])
    bars = {bar.title: bar for bar in figures.bars()}
    assert bars["small async answer, of pluginserver's rate"].is_met is True
    assert bars["small async answer, of bare warp's"].is_met is False
    assert bars["p99 at 64 connections, of pluginserver's"].is_met is False
    assert bars["two workers, of one"].is_met is None
    assert len(figures.bars()) == 16


def test_bars_of_start_up_memory_and_flatness() -> None:
    from figures import Figures
    from results import Measured, Memory

    found = results(
        startup={"pserve, 1 plugin": [0.1, 0.2, 0.1], "pluginserver, 1 plugin": [0.4]},
        memory={"pserve": Memory(30, 40), "pluginserver": Memory(50, 50)},
        workloads={
            "many": Measured({f"pserve, {text}": [sample(rate, 100)] for text, rate in MANY.items()}),
            "workers": Measured({f"pserve, {text}": [sample(50, 100, cpu=cpu)] for text, cpu in WORKERS.items()}),
        },
    )
    values = {bar.title: bar.value for bar in Figures(found).bars()}
    assert values["start-up with one plugin, of pluginserver's"] == 0.25
    assert values["memory at start, of pluginserver's"] == 0.6
    assert values["memory under load, of pluginserver's"] == 0.8
    assert values["1, 100 and 1,000 plugins: slowest of fastest"] == 0.9
    assert values["two workers, of one"] == 1.6


MANY = {"1 plugin": 50, "100 plugins": 47.5, "1,000 plugins": 45}
WORKERS = {"1 worker": 10.0, "2 workers": 12.5}


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    from results import Memory, Results

    figures = small([sample(300, 1000)], [sample(100, 1000, errors={"status": 1})])
    figures.results.memory["pserve"] = Memory(1.5, 2.5)
    figures.results.reload["one plugin"] = {"pserve": [0.1], "pluginserver": "answers 500"}
    figures.results.save(tmp_path / "new" / "results.json")
    assert Results.load(tmp_path / "new" / "results.json") == figures.results


def test_the_report_shows_who_is_ahead_who_failed_and_why() -> None:
    from report import report

    text = report(small([sample(100, 1000)], [sample(200, 1000, errors={"status": 7})]))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "**0.50x**" in lines["pluginserver"] and "7 status" in lines["pluginserver"]
    assert "* robyn: ended at its start." in text
    assert "* granian WSGI: WSGI has no async handlers." in text
    widths = {len(line) for line in lines.values() if "requests/s" in line or "pluginserver " in line[:15]}
    assert len(widths) == 1


def test_numbers_have_three_digits_that_count() -> None:
    from report import number

    assert [number(value) for value in (0.123, 9.999, 12.34, 123.4, 51643.2)] == [
        "0.12",
        "10.00",
        "12.3",
        "123",
        "51,643",
    ]


def test_the_report_goes_between_the_marks_of_the_page_and_nowhere_else() -> None:
    from report import BEGIN, END, between_marks

    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\n## After\n"
    once = between_marks(page, "new\n")
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\n## After\n"
    assert between_marks(once, "new\n") == once
    with pytest.raises(ValueError, match="has no"):
        between_marks("# Title\n", "new")
    assert between_marks((ROOT / "docs" / "performance.md").read_text(), "new")


def test_the_plot_is_well_formed_and_its_longest_bar_is_the_fastest() -> None:
    from plot import BAR_WIDTH, plot

    root = ElementTree.fromstring(plot(small([sample(600, 1000)], [sample(100, 1000)])))
    bars = {one.get("class"): float(one.get("width")) for one in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert bars == {"warp": BAR_WIDTH, "ours": 0.6 * BAR_WIDTH, "peer": 0.1 * BAR_WIDTH}


def test_every_workload_says_of_every_program_how_it_does_or_why_not() -> None:
    from programs import BY_NAME
    from work import ALL, WORKLOADS

    assert len({work.name for work in WORKLOADS}) == len(WORKLOADS)
    for work in WORKLOADS:
        labels = [entry.label for entry in work.entries]
        assert len(set(labels)) == len(labels), work.name
        assert {entry.program for entry in work.entries} <= set(BY_NAME)
        assert set(ALL) <= {entry.program for entry in work.entries} | set(work.cannot), work.name


def test_an_unknown_workload_is_refused_with_the_names_that_there_are() -> None:
    command = [sys.executable, str(BENCH / "bench.py"), "--only", "smal"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "no workload smal; there are small, plain" in done.stderr
