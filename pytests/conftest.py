"""A real server for each test that wants one, with plugin files of the test's own, on a free port."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("PSERVE_BINARY", ROOT / "target" / "debug" / "pserve"))
PATIENCE = 60.0

pytest.register_assert_rewrite("pages", "page_stories")


def eventually(is_so: Callable[[], Any]) -> None:
    """Waits until it is so, with a limit."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.01)


HOLDING = """
import threading
from plugincore.baseplugin import BasePlugin

GATE = threading.Event()


class Hold(BasePlugin):
    # Keeps the event loop to itself, so that calls queue up and begin in one go.
    async def request_handler(self, **data):
        GATE.clear()
        self.log.info("holds the loop")
        GATE.wait(60)
        return "held"


class Release(BasePlugin):
    def request_handler(self, **data):
        GATE.set()
        return "released"
"""


def gauge(server: Server, name: str, plugin: str) -> float:
    """What `/metrics` says of a plugin, in all workers."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    samples = (sample for family in families if family.name == name for sample in family.samples)
    return sum(sample.value for sample in samples if sample.labels["plugin"] == plugin)


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    def __init__(
        self, folder: Path, env: dict[str, str], arguments: list[str], ready: str = r"serves (https?://|unix:)"
    ) -> None:
        self.folder = folder
        self.environment = env
        environment = {**os.environ, **env}
        if "VIRTUAL_ENV" not in env:
            environment.pop("VIRTUAL_ENV", None)
        self.process = subprocess.Popen(
            [str(BINARY), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for_log(ready)
        found = re.findall(r"serves (?:\S+ at )?https?://([^\s\"]+):(\d+)\b", self.log)
        self.port = int(found[-1][1]) if found else 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.decode(errors="replace"))
                self._changed.notify_all()
        with self._changed:
            self._lines.append("")
            self._changed.notify_all()

    @property
    def log(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for_log(self, pattern: str) -> None:
        with self._changed:
            done = self._changed.wait_for(
                lambda: re.search(pattern, "".join(self._lines)) or self._lines[-1:] == [""], PATIENCE
            )
            text = "".join(self._lines)
        assert done and re.search(pattern, text), f"no {pattern!r} in the log:\n{text}"

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Reply:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return self.request("GET", path)

    def post(self, path: str, body: bytes | str, content_type: str = "application/json") -> Reply:
        return self.request("POST", path, body, {"Content-Type": content_type})

    def write_plugin(self, name: str, source: str) -> None:
        (self.folder / "plugins" / name).write_text(source)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers: `start({"file.py": source}, ini="...", aiohttp=True)`."""
    servers: list[Server] = []

    def start_one(
        plugins: dict[str, str],
        ini: str = "",
        aiohttp: bool = False,
        env: dict[str, str] | None = None,
        arguments: list[str] | None = None,
    ) -> Server:
        folder = tmp_path / f"server{len(servers)}"
        (folder / "plugins").mkdir(parents=True)
        for name, source in plugins.items():
            (folder / "plugins" / name).write_text(source)
        network = "" if "[network]" in ini else "[network]\nport=0\n"
        (folder / "pserve.ini").write_text(f"{network}[paths]\nplugins=plugins\n{ini}\n")
        environment = dict(env or {})
        if aiohttp:
            # The tests' own virtual environment has aiohttp, and was made for the Python inside the server.
            environment["VIRTUAL_ENV"] = sys.prefix
        server = Server(folder, environment, arguments or [])
        servers.append(server)
        return server

    yield start_one
    for server in servers:
        server.stop()


@pytest.fixture
def evaluate(start: Start) -> Callable[..., Any]:
    """Runs statements in a handler and gives what they put into `result`, as JSON."""
    source = """
from plugincore.baseplugin import BasePlugin
class Evaluate(BasePlugin):
    async def request_handler(self, **data):
        names = {'self': self, 'data': data, 'result': None}
        exec(data['code'], names)
        return {'result': names['result']}
"""
    server = start({"evaluate.py": source})

    def run(code: str, **more: Any) -> Any:
        reply = server.post("/evaluate", json.dumps({"code": code, **more}))
        assert reply.status == 200, reply.text
        return reply.json()["result"]

    run.server = server  # type: ignore[attr-defined]
    return run
