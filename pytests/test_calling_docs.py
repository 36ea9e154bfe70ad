"""The examples of docs/calling.md, run as they stand there but for the address."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "calling.md").read_text()
ADDRESS = "http://127.0.0.1:9192"
ORIGIN = "https://app.example.org"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def server(start: Any) -> Any:
    [plugin] = [block for block in blocks("python") if block.startswith("# python_plugins/weather.py")]
    [ini] = blocks("ini")
    return start({"weather.py": plugin}, ini=ini)


def run(server: Any, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    text = text.replace(ADDRESS, f"http://127.0.0.1:{server.port}")
    done = subprocess.run([*command, text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_every_curl_line_gives_the_answer_beneath_it(server):
    count = 0
    for block in blocks("console"):
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            printed = run(server, ["sh", "-c"], command).stdout
            assert printed.rstrip("\n") == expected.rstrip("\n") or not expected, command
            assert printed, command
            count += 1
    assert count == 5


def test_the_shell_script(server):
    [script] = blocks("sh")
    printed = run(server, ["sh", "-c"], script).stdout
    assert printed == "day 0: 20 °C\nday 1: 21 °C\nday 2: 22 °C\nno weather: no town Atlantis\n"


def test_the_python_programs(server):
    of_urllib, of_requests = (block for block in blocks("python") if block.startswith("import "))
    printed = run(server, [sys.executable, "-c"], of_urllib).stdout
    assert re.fullmatch(r"21\n404: no town Atlantis \(request [0-9a-z]{8}-\d+\)\n", printed), printed
    assert run(server, [sys.executable, "-c"], of_requests).stdout == "Oslo [20, 21]\nRome [20, 21]\n"


def test_a_plugin_gives_the_id_on(start):
    [line] = [block for block in blocks("python") if block.startswith("headers = ")]
    source = "from plugincore.baseplugin import BasePlugin\nclass Onward(BasePlugin):\n"
    source += f"    async def request_handler(self, request, **data):\n        {line.strip()}\n        return headers\n"
    reply = start({"onward.py": source}).get("/onward")
    assert reply.json() == {"X-Request-Id": reply.headers["X-Request-Id"]}


def test_the_page(server):
    """Node has no origin of its own: what a browser would ask and insist on is asked and insisted on here."""
    [script] = blocks("javascript")
    as_page = f"""
const realFetch = globalThis.fetch;
globalThis.fetch = async (address, options) => {{
  const names = Object.keys(options.headers).map((name) => name.toLowerCase()).sort();
  const asked = {{
    "Origin": "{ORIGIN}",
    "Access-Control-Request-Method": options.method,
    "Access-Control-Request-Headers": names.join(","),
  }};
  const preflight = await realFetch(address, {{method: "OPTIONS", headers: asked}});
  const allowed = preflight.headers.get("Access-Control-Allow-Headers").toLowerCase().split(/, */);
  const isAllowed = preflight.ok && names.every((name) => allowed.includes(name));
  if (!isAllowed || preflight.headers.get("Access-Control-Allow-Origin") !== "{ORIGIN}") throw new Error("preflight");
  const answer = await realFetch(address, {{...options, headers: {{...options.headers, "Origin": "{ORIGIN}"}}}});
  if (answer.headers.get("Access-Control-Allow-Origin") !== "{ORIGIN}") throw new Error("answer");
  const exposed = answer.headers.get("Access-Control-Expose-Headers").toLowerCase().split(/, */);
  if (!exposed.includes("x-request-id")) throw new Error("the id cannot be read");
  return answer;
}};
"""
    printed = run(server, ["node", "--input-type=module", "--eval"], as_page + script).stdout
    assert re.fullmatch(r"\[ 20, 21 \]\n404: no town Atlantis \(request [0-9a-z]{8}-\d+\)\n", printed), printed
