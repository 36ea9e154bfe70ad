"""The report: the same Markdown for the terminal and for docs/performance.md, between its two marks."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from figures import Bar, Figures, Line, Range
from results import Results
from work import WORKLOADS, Workload

BEGIN = "<!-- make bench: from here -->"
END = "<!-- make bench: to here -->"
HEAD = (
    "program",
    "requests/s",
    "lowest-highest",
    "of bare warp",
    "pserve does",
    "CPU µs",
    "p50",
    "p99",
    "p99.9",
    "errors",
)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned, so that it reads well in a terminal as well."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def text(row: tuple[str, ...]) -> str:
        first, *others = (f"{cell:{'<' if place == 0 else '>'}{widths[place]}}" for place, cell in enumerate(row))
        return "| " + " | ".join((first, *others)) + " |"

    rule = (
        "|"
        + "|".join("-" * (width + 2) if place == 0 else "-" * (width + 1) + ":" for place, width in enumerate(widths))
        + "|"
    )
    return "\n".join((text(head), rule, *(text(row) for row in rows)))


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: Range | None) -> str:
    """A peer that is ahead is shown as such."""
    if ratio is None:
        return ""
    text = f"{number(ratio.middle)}x"
    if ratio.low != ratio.high:
        text += f" ({number(ratio.low)}-{number(ratio.high)})"
    return f"**{text}**" if ratio.middle < 0.995 else text


def errors(line: Line) -> str:
    return ", ".join(f"{count} {name}" for name, count in line.errors.items())


def row(line: Line) -> tuple[str, ...]:
    if not line.rate.high:
        return (line.label, "no answer", *[""] * (len(HEAD) - 3), errors(line))
    spread = f"{number(line.rate.low)}-{number(line.rate.high)}" if line.rate.low != line.rate.high else ""
    measures = (number(value) for value in (line.cpu, line.p50, line.p99, line.p999))
    return (
        line.label,
        number(line.rate.middle),
        spread,
        "" if line.of_warp is None else number(line.of_warp),
        times(line.ours),
        *measures,
        errors(line),
    )


def reasons(by_label: dict[str, str]) -> list[str]:
    """One line for all that have the same reason."""
    grouped: dict[str, list[str]] = {}
    for label, reason in by_label.items():
        grouped.setdefault(reason, []).append(label)
    return [f"{', '.join(labels)}: {reason}." for reason, labels in grouped.items()]


def workload(work: Workload, figures: Figures) -> str:
    measured = figures.results.workloads[work.name]
    parts = [f"### {work.title}"]
    lines = figures.tables[work.name]
    if lines:
        parts.append(table(HEAD, [row(line) for line in lines]))
    remarks = [*reasons({**work.cannot, **measured.failed}), *work.notes]
    if remarks:
        parts.append("\n".join(f"* {remark}" for remark in remarks))
    return "\n\n".join(parts)


def milliseconds(found: list[float] | str) -> tuple[str, str]:
    if isinstance(found, str):
        return found, ""
    return f"{number(1000 * median(found))} ms", f"{number(1000 * min(found))}-{number(1000 * max(found))}"


def start_up(results: Results) -> str:
    rows = [(label, *milliseconds(found)) for label, found in results.startup.items()]
    return "### Start-up: from the start of the process to the first answer\n\n" + table(
        ("program", "median", "lowest-highest"), rows
    )


def reload(results: Results) -> str:
    rows = [
        (f"{name}, {what}", *milliseconds(found))
        for what, programs in results.reload.items()
        for name, found in programs.items()
    ]
    others = "* granian, robyn and uvicorn: no reload by request; they are restarted."
    return (
        "### Reload, with 100 plugins loaded\n\n"
        + table(("program", "median", "lowest-highest"), rows)
        + "\n\n"
        + others
    )


def memory(results: Results) -> str:
    rows = [(name, f"{one.start_mb:.1f} MB", f"{one.load_mb:.1f} MB") for name, one in results.memory.items()]
    return "### Memory of all processes of a program (PSS)\n\n" + table(
        ("program", "at start", "most under load"), rows
    )


def bar(one: Bar) -> tuple[str, ...]:
    value = "not measured" if one.value is None else f"{number(one.value)}{one.unit}"
    met = {True: "met", False: "**not met**", None: ""}[one.is_met]
    return one.title, f"{'at least' if one.at_least else 'at most'} {one.limit:g}{one.unit}", value, met


def bars(figures: Figures) -> str:
    return "### Bars\n\n" + table(("what", "wanted", "measured", ""), [bar(one) for one in figures.bars()])


def report(figures: Figures) -> str:
    results = figures.results
    facts = {"Date": results.date, **results.machine, **results.versions}
    parts = ["\n".join(f"* {name}: {text}" for name, text in facts.items())]
    if results.missing:
        parts.append("\n".join(f"* **{name} is missing**: {reason}" for name, reason in results.missing.items()))
    parts += [workload(work, figures) for work in WORKLOADS if work.name in results.workloads]
    for section, part in ((results.startup, start_up), (results.reload, reload), (results.memory, memory)):
        if section:
            parts.append(part(results))
    parts.append(bars(figures))
    return "\n\n".join(parts) + "\n"


def between_marks(page: str, text: str) -> str:
    """The page with everything between the marks replaced. Errs when it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def write(page: Path, text: str) -> None:
    page.write_text(between_marks(page.read_text(), text))
