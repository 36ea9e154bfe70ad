"""What was measured, as it is kept in a file: no ratios yet."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from load import Run


@dataclass(frozen=True)
class Sample:
    run: Run
    # Requests/s of bare warp: the mean of the probe before and the probe after. None where the work is waiting.
    probe: float | None


@dataclass
class Measured:
    """One workload: samples by the label of an entry, one for each round."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    probes: list[Run] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Memory:
    start_mb: float
    load_mb: float


@dataclass
class Results:
    date: str
    # What the report says about the machine and how it measured: title and text.
    machine: dict[str, str]
    versions: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    workloads: dict[str, Measured] = field(default_factory=dict)
    # Seconds until the first answer, by label.
    startup: dict[str, list[float]] = field(default_factory=dict)
    # Seconds by what was reloaded and label, or why not.
    reload: dict[str, dict[str, list[float] | str]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @staticmethod
    def load(path: Path) -> Results:
        raw = json.loads(path.read_text())
        raw["memory"] = {name: Memory(**one) for name, one in raw["memory"].items()}
        raw["workloads"] = {name: _measured(one) for name, one in raw["workloads"].items()}
        return Results(**raw)


def _measured(raw: dict) -> Measured:
    samples = {
        label: [Sample(Run(**one["run"]), one["probe"]) for one in rounds] for label, rounds in raw["samples"].items()
    }
    return Measured(samples, [Run(**one) for one in raw["probes"]], raw["failed"])
