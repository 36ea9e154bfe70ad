"""The folder that the programs serve from: plugins, a static file, a certificate, the body of the POST request."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEY = "benchmark-key"
STATIC_BYTES = 50 * 1024

COPY = """
from plugincore.baseplugin import BasePlugin

class Copy{number}(BasePlugin):
    async def request_handler(self, **data):
        return 200, {{"hello": data.get("name", "world"), "n": {number}}}
"""


def order() -> bytes:
    """A body of about 1 KB, as a client of an API would post it."""
    lines = [{"article": f"A-{n:05}", "amount": n + 1, "price": 9.95, "note": "as agreed"} for n in range(13)]
    return json.dumps({"order": 4711, "customer": "Ada Lovelace", "lines": lines}).encode()


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.static = path / "static"
        self.body = path / "order.json"
        self.certificate = path / "server.pem"
        self.key = path / "server.key"
        self.static.mkdir()
        line = "<p>A static page of fifty kilobytes.</p>\n"
        (self.static / "page.html").write_text((line * (STATIC_BYTES // len(line) + 1))[:STATIC_BYTES])
        self.body.write_bytes(order())
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)

    def plugins(self, copies: int, extra: bool) -> Path:
        """The folder with the work, or with that many plugins and nothing else; `extra`: for the Python program."""
        folder = self.path / (f"plugins-{copies}" + ("-extra" if extra else ""))
        if folder.exists():
            return folder
        folder.mkdir()
        for number in range(copies):
            (folder / f"copy{number}.py").write_text(COPY.format(number=number))
        if copies == 0:
            files = [*(HERE / "plugins").glob("*.py")]
            if extra:
                files += (HERE / "peers" / "pluginserver_only").glob("*.py")
            for file in files:
                shutil.copy(file, folder)
        return folder

    def ini(self, name: str, port: int, plugins: Path, tls: bool, lines: dict[str, list[str]]) -> Path:
        """An INI file that this server and the Python program both read, with further lines by section."""
        sections = {
            "network": ["bindto = 127.0.0.1", f"port = int:{port}"],
            "paths": [f"plugins = {plugins}"],
            "plugin_parms": [f"keyed = auth_type=plugin&apikey={KEY}", f"extra = folder={self.static}"],
        }
        if tls:
            sections["SSL"] = ["enabled = bool:true", f"certfile = {self.certificate}", f"keyfile = {self.key}"]
        for section, more in lines.items():
            sections[section] = [*sections.get(section, []), *more]
        file = self.path / f"{name}-{port}.ini"
        file.write_text("".join(f"[{section}]\n" + "\n".join(text) + "\n" for section, text in sections.items()))
        return file
