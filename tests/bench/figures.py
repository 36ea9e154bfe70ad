"""From samples to what a reader compares: medians, spreads, ratios, and the bars that this server is held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from results import Measured, Results, Sample
from work import BY_NAME, COUNTS, Workload, plural


@dataclass(frozen=True)
class Range:
    middle: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Range | None:
        return Range(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Line:
    """One program in one workload. Times in milliseconds, the processor's in microseconds for each request."""

    label: str
    rate: Range
    # None where the work is waiting.
    of_warp: float | None
    # How many times this one's rate this server does; `None` for this server itself.
    ours: Range | None
    cpu: float
    p50: float
    p99: float
    p999: float
    errors: dict[str, int]


def line(label: str, samples: list[Sample], ours: list[Sample], waits: bool) -> Line:
    errors: Counter[str] = Counter()
    for sample in samples:
        errors.update(sample.run.errors)
    middle = {name: median(getattr(sample.run, name) for sample in samples) for name in ("cpu", "p50", "p99", "p999")}
    return Line(
        label=label,
        rate=Range.of([sample.run.rate for sample in samples]),
        of_warp=None if waits else median(sample.run.rate / sample.probe for sample in samples),
        ours=Range.of(ratios(ours, samples, waits)) if ours is not samples else None,
        errors=dict(errors),
        **middle,
    )


def ratios(first: list[Sample], second: list[Sample], waits: bool) -> list[float]:
    """Of two programs, round by round. Each rate is held against its own probes, since machines change their speed
    within minutes; not so where the work is waiting, which no machine does faster."""
    found = []
    for one, other in zip(first, second):
        if one.run.rate and other.run.rate:
            ratio = one.run.rate / other.run.rate
            found.append(ratio if waits else ratio * other.probe / one.probe)
    return found


def lines(work: Workload, measured: Measured) -> list[Line]:
    """In the order of the workload, bare warp last where the probes did the same work."""
    found = []
    for entry in work.entries:
        samples = measured.samples.get(entry.label)
        if samples:
            ours = samples if entry.label == entry.ours else measured.samples.get(entry.ours, [])
            found.append(line(entry.label, samples, ours, work.waits))
    if work.probe_is_same and measured.probes:
        rate = median(probe.rate for probe in measured.probes)
        probes = [Sample(probe, probe.rate) for probe in measured.probes]
        # A round of this server's is held against its own probes: that is its share of bare warp, the other way round.
        shares = [sample.run.rate / sample.probe for sample in measured.samples.get("pserve", [])]
        warp = line("bare warp", probes, probes, work.waits)
        found.append(Line(**{**vars(warp), "of_warp": 1.0 if rate else 0.0, "ours": Range.of(shares)}))
    return found


@dataclass(frozen=True)
class Bar:
    title: str
    value: float | None
    limit: float
    at_least: bool
    unit: str = "x"

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Figures:
    def __init__(self, results: Results) -> None:
        self.results = results
        self.tables = {
            name: lines(BY_NAME[name], measured) for name, measured in results.workloads.items() if name in BY_NAME
        }

    def line(self, work: str, label: str) -> Line | None:
        return next((one for one in self.tables.get(work, []) if one.label == label), None)

    def ours(self, work: str, peer: str) -> float | None:
        found = self.line(work, peer)
        return found.ours.middle if found and found.ours else None

    def p99(self, work: str, label: str = "pserve") -> float | None:
        found = self.line(work, label)
        return found.p99 if found else None

    def flatness(self, *places: tuple[str, str]) -> float | None:
        """The slowest of these lines as a share of the fastest, each held against bare warp."""
        found = [self.line(work, label) for work, label in places]
        shares = [one.of_warp for one in found if one]
        return min(shares) / max(shares) if len(shares) == len(places) else None

    def start(self, label: str) -> float | None:
        return median(self.results.startup[label]) if label in self.results.startup else None

    def memory(self, when: str) -> float | None:
        both = [self.results.memory.get(name) for name in ("pserve", "pluginserver")]
        return quotient(*(getattr(one, when) if one else None for one in both))

    def second_worker(self) -> float | None:
        """How many times one worker's rate two do. Where the load has no core of its own beside two workers, from the
        processor's time for each request: two cores do twice what one does, less what each request costs more."""
        one, two = (self.line("workers", f"pserve, {text}") for text in ("1 worker", "2 workers"))
        if one is None or two is None:
            return None
        if self.results.machine.get("Two workers") == "cores of their own":
            return two.rate.middle / one.rate.middle
        return quotient(2 * one.cpu, two.cpu)

    def bars(self) -> list[Bar]:
        many = [("many", f"pserve, {plural(count, 'plugin')}") for count in COUNTS]
        return [
            Bar("small async answer, of pluginserver's rate", self.ours("small", "pluginserver"), 5.0, True),
            Bar("small async answer, of granian RSGI's", self.ours("small", "granian RSGI"), 1.6, True),
            Bar("small async answer, of bare warp's", self.ours("small", "bare warp"), 0.65, True),
            Bar("plain handler, of pluginserver's async one", self.ours("plain", "pluginserver"), 4.0, True),
            Bar("plain handler, of granian WSGI's", self.ours("plain", "granian WSGI"), 1.3, True),
            Bar("100 KB answer, of pluginserver's", self.ours("rows", "pluginserver"), 15.0, True),
            Bar("100 KB answer, of robyn's (level: within 5 %)", self.ours("rows", "robyn"), 0.95, True),
            Bar(
                "p99 at 64 connections, of pluginserver's",
                quotient(self.p99("small"), self.p99("small", "pluginserver")),
                0.5,
                False,
            ),
            Bar("p99 of an async plugin while a plain handler computes", self.p99("beside"), 20.0, False, " ms"),
            Bar(
                "p99 of /healthz while a plain handler computes, 250 times/s",
                self.p99("healthz"),
                2.0,
                False,
                " ms",
            ),
            Bar("memory at start, of pluginserver's", self.memory("start_mb"), 0.7, False),
            Bar("memory under load, of pluginserver's", self.memory("load_mb"), 0.8, False),
            Bar(
                "start-up with one plugin, of pluginserver's",
                quotient(self.start("pserve, 1 plugin"), self.start("pluginserver, 1 plugin")),
                0.5,
                False,
            ),
            Bar("1, 100 and 1,000 plugins: slowest of fastest", self.flatness(*many), 0.95, True),
            Bar(
                "64 and 512 connections: slower of faster",
                self.flatness(("small", "pserve"), ("c512", "pserve")),
                0.95,
                True,
            ),
            Bar("two workers, of one", self.second_worker(), 1.7, True),
        ]


def quotient(first: float | None, second: float | None) -> float | None:
    return first / second if first is not None and second else None
