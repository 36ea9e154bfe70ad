"""docs/images/terminal.svg shows what `pserve dev` writes today, and can be read."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

from conftest import BINARY, PATIENCE, ROOT
from pages import is_shown

PICTURE = ROOT / "docs" / "images" / "terminal.svg"
# That of Rich's pictures.
CHARACTER_WIDTH = 12.2


def text_of(picture: str) -> str:
    """Line by line: pieces with the same y, with blanks up to the x of each."""
    lines: dict[float, str] = {}
    pieces = r"<text class=\"terminal-r\d+\" x=\"([\d.]+)\" y=\"([\d.]+)\"[^>]*>([^<]*)</text>"
    for x, y, piece in re.findall(pieces, picture):
        before = lines.get(float(y), "").ljust(round(float(x) / CHARACTER_WIDTH))
        lines[float(y)] = before + html.unescape(piece).replace("\xa0", " ").strip("\n")
    return "\n".join(lines[y].rstrip() for y in sorted(lines))


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_shows_what_the_program_writes(tmp_path: Path) -> None:
    script = ROOT / "tests" / "screenshots" / "terminal.py"
    command = [sys.executable, str(script), "--binary", str(BINARY), "--output", str(tmp_path / "now.svg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    shown, now = text_of(PICTURE.read_text()), text_of((tmp_path / "now.svg").read_text())
    assert shown.startswith("$ pserve dev\n") and "> 5 |" in shown and "mended greet.py" in shown
    assert is_shown(shown, now), f"`make screenshots` draws it anew\n{shown}\nand now\n{now}"


def test_it_can_be_read_by_everybody_without_a_network() -> None:
    picture = PICTURE.read_text()
    assert "<title>" in picture and 'role="img"' in picture
    assert re.findall(r"url\((?!#)|href|@import|font-face", picture) == []
    [background] = re.findall(r"<rect fill=\"(#\w{6})\"", picture)
    colours = re.findall(r"\.terminal-r\d+ \{ ?fill: (#\w{6})", picture)
    assert len(colours) >= 5
    for colour in colours:
        # WCAG 2.2, 1.4.3
        assert (luminance(colour) + 0.05) / (luminance(background) + 0.05) >= 4.5, colour
