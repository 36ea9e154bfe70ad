"""What the soak test counts, which of it must be zero, and which failures a crash excuses."""

from __future__ import annotations

import time
from collections import Counter

MOST_DETAILS_OF_A_KIND = 5

# Each with what it means; the order is that of the report.
MUST_BE_ZERO = {
    "failed": "requests without a whole answer, outside of crashes",
    "wrong": "answers with a wrong status or body",
    "slow clients": "requests of slow clients without a right answer",
    "control": "/reload, /load, /unload that failed or were not right",
    "no effect": "reloads, signals and new configurations that did not come into force",
    "recovery": "crashes after which /hello took more than 2 s",
    "replacement": "workers that were not replaced in time",
    "unexplained": "crashes whose plugin the log does not name",
    "panics": "panics in the log",
    "memory": "processes over the bound of memory at the end",
    "descriptors": "processes over the bound of open descriptors at the end",
    "threads": "processes over the bound of threads at the end",
    "workers": "workers too many or too few at the end, zombies too",
    "stop": "a stop that was late, or whose exit status was not 0",
    "left over": "processes, pidfile or listening socket after the stop",
}


class Excuse:
    """The time around a crash within which a client may lose the one request that it had in that worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since = time.monotonic()
        self.until = float("inf")
        self.clients: set[str] = set()

    def end(self, grace_seconds: float) -> None:
        self.until = time.monotonic() + grace_seconds


class Counts:
    def __init__(self) -> None:
        self.zero: Counter[str] = Counter({name: 0 for name in MUST_BE_ZERO})
        self.requests: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.details: list[str] = []
        self.latencies: list[float] = []
        self.all_latencies: list[float] = []
        self.slowest_recovery = 0.0
        self.slowest_replacement = 0.0
        self._excuses: list[Excuse] = []
        self._started = time.monotonic()

    def note(self, name: str, detail: str) -> None:
        """Counts one of what must not be."""
        self.zero[name] += 1
        if self.zero[name] <= MOST_DETAILS_OF_A_KIND:
            self.details.append(f"{time.monotonic() - self._started:7.1f} s  {name}: {detail}")

    def latency(self, seconds: float) -> None:
        self.latencies.append(seconds)
        self.all_latencies.append(seconds)

    def excuse(self, name: str) -> Excuse:
        excuse = Excuse(name)
        self._excuses.append(excuse)
        return excuse

    def is_excused(self, client: str, kind: str, began: float) -> bool:
        """Whether a crash explains it: the connection was closed, before the answer or within it, or the server has
        given the worker up. The request must have been under way around the crash, and a client loses no more than
        one request to a crash."""
        if kind not in ("closed", "cut off", "given up"):
            return False
        now = time.monotonic()
        for excuse in self._excuses:
            if excuse.since <= now and began <= excuse.until and now <= excuse.until and client not in excuse.clients:
                excuse.clients.add(client)
                self.excused[excuse.name] += 1
                return True
        return False

    def is_good(self) -> bool:
        return not any(self.zero.values())

    def report(self) -> str:
        lines = ["", "must be zero"]
        for name, meaning in MUST_BE_ZERO.items():
            lines.append(f"  {self.zero[name]:6}  {name:13} {meaning}")
        lines += ["", "for information"]
        lines.append(f"  requests  {sum(self.requests.values())}: {_listed(self.requests)}")
        lines.append(f"  events    {sum(self.events.values())}: {_listed(self.events)}")
        lines.append(f"  lost to crashes, which is excused  {sum(self.excused.values())}: {_listed(self.excused)}")
        lines.append(f"  /hello    {percentiles(self.all_latencies)}")
        lines.append(
            f"  slowest recovery {self.slowest_recovery:.2f} s, slowest new worker {self.slowest_replacement:.2f} s"
        )
        if self.details:
            lines += ["", "the first of what should not have been", *self.details]
        return "\n".join(lines)


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


def percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "p50 - p99 - max -"
    ordered = sorted(seconds)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000 for part in (0.5, 0.99)]
    return f"p50 {at[0]:.1f} ms p99 {at[1]:.1f} ms max {ordered[-1] * 1000:.0f} ms"
