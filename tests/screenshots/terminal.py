"""Draws docs/images/terminal.svg from what `pserve dev` writes to a terminal: a request, a mistake, and its mend."""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = 96
PATIENCE = 30.0
PLUGIN = """from plugincore.baseplugin import BasePlugin

class Greet(BasePlugin):
    async def request_handler(self, **data):
        return {"hello": data.get("name", "world")}
"""
# Every colour can be read on the background, which the picture brings along: light and dark pages show it alike.
BACKGROUND, TEXT, DIM = (24, 26, 31), (220, 223, 228), (160, 165, 175)
NORMAL = [(90, 95, 105), (255, 123, 123), (126, 211, 133), (229, 192, 123)]
NORMAL += [(120, 180, 255), (214, 150, 240), (95, 210, 220), TEXT]
THEME = TerminalTheme(BACKGROUND, TEXT, NORMAL, NORMAL)
DESCRIPTION = """A terminal with pserve dev: the table of routes, a request with its status and time, a saved
mistake with the line that is wrong, the request that shows it, and the saved mend."""
# Without a font of the network's: whatever the reader's own terminal has.
PICTURE = f"""<svg class="rich-terminal" viewBox="0 0 {{width}} {{height}}" role="img" xmlns="http://www.w3.org/2000/svg">
<title>{DESCRIPTION}</title>
<style>
.{{unique_id}}-title {{{{ font: 16px system-ui, sans-serif; }}}}
.{{unique_id}}-matrix {{{{
  font: {{char_height}}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  line-height: {{line_height}}px;
}}}}
{{styles}}
</style>
<defs>{{lines}}</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})">
{{backgrounds}}
<g class="{{unique_id}}-matrix">{{matrix}}</g>
</g>
</svg>
"""


class Terminal:
    """A program with a terminal of its own, and all that it has written."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PSERVE_", "NO_COLOR"))
        }
        environment["TERM"] = "xterm-256color"
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=writer, stdout=writer, stderr=writer, start_new_session=True
        )
        os.close(writer)
        self.written = b""

    def wait_for(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Reads on until the plain text has this."""
        end = time.monotonic() + PATIENCE
        while not (found := re.compile(pattern).search(plain(self.text), start)):
            ready, _, _ = select.select([self.reader], [], [], end - time.monotonic())
            assert ready, f"no {pattern!r} in\n{self.text}"
            self.written += os.read(self.reader, 65536)
        return found

    @property
    def text(self) -> str:
        return self.written.decode(errors="replace").replace("\r\n", "\n")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        os.close(self.reader)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def ask(address: str) -> None:
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).read()
    except urllib.error.HTTPError as error:
        error.close()


def record(binary: Path, folder: Path) -> str:
    """A few minutes of work, as the terminal shows them."""
    plugin = folder / "plugins" / "greet.py"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN)
    terminal = Terminal([str(binary), "dev"], folder)
    try:
        address = terminal.wait_for(r"http://127\.0\.0\.1:\d+(?=/greet)")[0]
        terminal.wait_for("ready after.*\n")
        ask(f"{address}/greet?name=Ada")
        terminal.wait_for(r"200 .*name=Ada\n")
        plugin.write_text(PLUGIN.replace('"world")}', '"world")'))
        terminal.wait_for(r"does not load(?s:.*)\^\n")
        ask(f"{address}/greet?name=Ada")
        terminal.wait_for(r"500 .*name=Ada\n")
        plugin.write_text(PLUGIN.replace('"world")', '"world").title()'))
        end = terminal.wait_for(r"mended greet\.py.*\n").end()
        ask(f"{address}/greet?name=grace")
        terminal.wait_for(r"200 .*name=grace\n", end)
    finally:
        terminal.stop()
    shown = terminal.text.replace(address, "http://127.0.0.1:9192").replace(str(folder), "/home/ada")
    return "\x1b[2m$\x1b[0m pserve dev\n" + shown[: shown.rindex("name=grace\n") + len("name=grace\n")]


def draw(recording: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    text = Text.from_ansi(recording.rstrip())
    # Rich blends dim text into the background until it is hard to read.
    for number, span in enumerate(text.spans):
        if getattr(span.style, "dim", False):
            text.spans[number] = span._replace(style=f"rgb({DIM[0]},{DIM[1]},{DIM[2]})")
    console.print(text)
    return console.export_svg(title="pserve dev", theme=THEME, code_format=PICTURE, unique_id="terminal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "pserve")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "terminal.svg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = draw(record(options.binary.resolve(), Path(folder)))
    options.output.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n")
    print(f"{options.output}: {len(picture)} bytes")


if __name__ == "__main__":
    main()
