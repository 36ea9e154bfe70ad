"""Runs the fenced blocks of a Markdown page in a temporary folder, and holds what they print against what the page shows.

In a block of a terminal `$ ` (for root `# `) stands before each command; the lines below it are its output. Where that
varies the page says `...`, which stands for anything; times of day, durations, versions, process numbers and ids of
requests may differ from what is shown, and so may the width of a column. Nothing else may.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conftest import BINARY, PATIENCE, ROOT, Server

ADDRESS = "http://127.0.0.1:9192"
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CURL = re.compile(r"`(curl [^`]+)`")
# A shown text of one of these kinds stands for every text of its kind.
VARYING = [
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}",
    r"\d\d:\d\d:\d\d",
    r"\d+(?:\.\d+)? m?s\b",
    r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])",
    r"\b[0-9a-z]{8}-\d+\b",
]


@dataclass
class Part:
    """A command of a terminal with its output, or another block as a whole."""

    language: str
    text: str
    output: str = ""

    @property
    def first(self) -> str:
        return next(line for line in self.text.splitlines() if line.strip()).strip()


def pages() -> list[str]:
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def parts_of(page: str) -> list[Part]:
    text = (ROOT / page).read_text()
    parts: list[Part] = []
    for block in FENCE.finditer(text):
        body = re.sub(rf"^{block['indent']}", "", block["text"], flags=re.MULTILINE)
        commands = list(_commands(body)) if block["language"] == "console" else []
        parts.extend(commands or [Part(block["language"], body)])
    parts.extend(Part("console", command) for command in INLINE_CURL.findall(FENCE.sub("", text)))
    return parts


def _commands(block: str) -> Iterator[Part]:
    prompt = re.escape(block[:2]) if block.startswith(("$ ", "# ")) else None
    if prompt is None:
        return
    for command in re.finditer(rf"^{prompt}((?:.*\\\n)*.*)\n((?:(?!{prompt}).*\n)*)", block, re.MULTILINE):
        yield Part("console", command[1], command[2])


def pattern_of(shown: str) -> str:
    """The regular expression that an output must match as a whole to be the one that is shown."""
    kinds = re.compile("|".join(f"(?P<k{number}>{kind})" for number, kind in enumerate(VARYING)))
    lines = []
    for line in shown.strip().splitlines():
        pattern, end = "", 0
        for found in kinds.finditer(line):
            pattern += _literally(line[end : found.start()]) + f"(?:{VARYING[int(str(found.lastgroup)[1:])]})"
            end = found.end()
        lines.append((pattern + _literally(line[end:])).strip())
    # A line of `...` alone stands for any number of lines.
    return re.sub(r"\n\.\*(?=\n|$)", r"(?:\\n.*)*?", "\n".join(lines))


def _literally(text: str) -> str:
    return re.sub(r"(?:\\ )+", " +", re.escape(text)).replace(r"\.\.\.", ".*")


def is_shown(shown: str, printed: str) -> bool:
    printed = "\n".join(line.strip() for line in printed.strip().splitlines())
    return re.fullmatch(pattern_of(shown), printed) is not None


@dataclass
class Scene:
    """A page, a folder to try it in, and what of the page has not been tried yet."""

    page: str
    folder: Path
    left: list[Part] = field(default_factory=list)
    # Texts of the page, and what takes their place here.
    places: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = self.left or parts_of(self.page)
        (self.folder / "bin").mkdir()
        (self.folder / "bin" / "pserve").symlink_to(BINARY)
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.variables = {"PATH": path, "HOME": str(self.folder), "PSERVE_NETWORK_PORT": "0", **self.variables}

    def skip(self, first: str) -> Part:
        """Takes out what begins with this line."""
        part = next((part for part in self.left if part.first.startswith(first)), None)
        assert part is not None, f"{self.page} has no {first!r} any more"
        self.left.remove(part)
        return part

    def take(self, language: str, first: str = "") -> str:
        """The next block of this language that begins like this, as it is to be used here."""
        for part in self.left:
            if part.language == language and part.first.startswith(first):
                self.left.remove(part)
                return self.here(part.text)
        raise AssertionError(f"{self.page} has no {language} {first!r} left")

    def here(self, text: str) -> str:
        for theirs, ours in self.places.items():
            text = text.replace(theirs, ours)
        return text

    def there(self, text: str) -> str:
        for theirs, ours in self.places.items():
            text = text.replace(ours, theirs)
        return text

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def plugin(self, name: str, first: str = "") -> None:
        self.write(f"plugins/{name}", self.take("python", first))

    def check(self, text: str) -> None:
        """The server knows every key of this INI text, and `pserve check` has nothing to say against it."""
        self.write("pserve.ini", text)
        done = self.shell("pserve check -i pserve.ini --json")
        report = json.loads(done.stdout)
        assert report["errors"] == report["warnings"] == 0, report["findings"]
        shown = self.shell("pserve -i pserve.ini --print-config")
        assert shown.returncode == 0, shown.stderr
        for key in re.findall(r"^(\w+) *=", text, re.MULTILINE):
            assert re.search(rf"^{key} = ", shown.stdout, re.MULTILINE), f"{key} is not in force:\n{shown.stdout}"

    def serve(self, ini: str = "", *arguments: str, ready: str = r"serves (https?://|unix:)") -> Server:
        """Starts the server with this INI text and the plugins of the folder, once they have been checked."""
        if not arguments:
            self.variables.setdefault("PSERVE_PATHS_PLUGINS", str(self.folder / "plugins"))
            self.check(ini)
        server = Server(self.folder, self.variables, list(arguments), ready)
        self.servers.append(server)
        self.places[ADDRESS] = f"http://127.0.0.1:{server.port}"
        if server.port:
            self.variables["PSERVE_NETWORK_PORT"] = str(server.port)
        return server

    def stop(self) -> None:
        while self.servers:
            self.servers.pop().stop()
        self.variables["PSERVE_NETWORK_PORT"] = "0"

    def shell(self, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.variables}
        if "VIRTUAL_ENV" not in self.variables:
            environment.pop("VIRTUAL_ENV", None)
        given = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "timeout": PATIENCE, **options}
        arguments = ["bash", "-c", command]
        return subprocess.run(arguments, capture_output=True, text=True, env=environment, **given)  # type: ignore[call-overload,no-any-return]

    def run(self, first: str = "", status: int = 0, **options: object) -> str:
        """Runs the next command that begins like this, and compares what it prints where the page shows something."""
        part = next((part for part in self.left if part.language == "console" and part.first.startswith(first)), None)
        assert part is not None, f"{self.page} has no command {first!r} left"
        self.left.remove(part)
        done = self.shell(self.here(part.text), **options)
        assert done.returncode == status, f"{part.text}\n{done.stdout}{done.stderr}"
        printed = self.there(done.stdout)
        assert not part.output or is_shown(part.output, printed), f"{part.text}\nprinted\n{printed}"
        return printed

    def run_all(self) -> None:
        while any(part.language == "console" for part in self.left):
            self.run()
