"""The plot of docs/performance.md: for each workload a bar for every program, drawn as SVG."""

from __future__ import annotations

from xml.sax.saxutils import escape

from figures import Figures, Line
from report import number
from work import BY_NAME

SHOWN = ("small", "plain", "rows", "post", "key", "pause", "static", "tls")
WIDTH = 760
LABEL_WIDTH = 160
BAR_WIDTH = 480
BAR_HEIGHT = 16
STEP = 21
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.ours { fill: #c2410c; }
.peer { fill: #8b949e; }
.warp { fill: #d0d7de; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .ours { fill: #f97316; }
  .warp { fill: #484f58; }
}
"""


def kind(line: Line) -> str:
    if line.label.startswith("pserve"):
        return "ours"
    return "warp" if line.label == "bare warp" else "peer"


def group(title: str, lines: list[Line], top: int) -> tuple[list[str], int]:
    """The elements of one workload, and where the next one begins."""
    elements = [f'<text class="title" x="8" y="{top + 14}">{escape(title)}</text>']
    top += 24
    # By share of bare warp, not by rate: the machine may have been slower in the one's minute than in the other's.
    most = max(line.of_warp for line in lines)
    for line in lines:
        width = max(1.0, BAR_WIDTH * line.of_warp / most)
        middle = top + 12.5
        value = f"{number(line.rate.middle)}/s"
        elements += [
            f'<text x="{LABEL_WIDTH - 6}" y="{middle}" text-anchor="end">{escape(line.label)}</text>',
            f'<rect class="{kind(line)}" x="{LABEL_WIDTH}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}"/>',
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{middle}">{value}</text>',
        ]
        top += STEP
    return elements, top + 14


def plot(figures: Figures) -> str:
    elements: list[str] = []
    top = 8
    for name in SHOWN:
        lines = figures.tables.get(name)
        if lines:
            more, top = group(BY_NAME[name].title, lines, top)
            elements += more
    title = "Requests per second on one core, by program"
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join((head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *elements, "</svg>", ""))
