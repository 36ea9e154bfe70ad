"""The soak test itself: a few seconds of it, and that it counts what it must."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import BINARY, ROOT

SOAK = ROOT / "tests" / "soak"


@pytest.fixture
def soak_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SOAK))
    names = [file.stem for file in SOAK.glob("*.py")]
    yield
    for name in names:
        sys.modules.pop(name, None)


def run_soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK / "soak.py"), "--binary", str(BINARY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_few_seconds_of_reloads_and_signals_lose_no_request() -> None:
    done = run_soak("--seconds", "6", "--no-crashes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("good\n") and "SIGHUP storm" in done.stdout


@pytest.mark.usefixtures("soak_modules")
def test_a_crash_excuses_one_closed_connection_of_each_client() -> None:
    import time

    from counts import Counts

    counts = Counts()
    began = time.monotonic()
    assert not counts.is_excused("a", "closed", began)
    excuse = counts.excuse("kill -9")
    assert not counts.is_excused("a", "timeout", began) and not counts.is_excused("a", "refused", began)
    assert counts.is_excused("a", "closed", began) and not counts.is_excused("a", "closed", began)
    assert counts.is_excused("b", "cut off", began)
    excuse.end(-1)
    assert not counts.is_excused("c", "closed", began)
    assert counts.is_good()
    counts.note("failed", "one")
    assert not counts.is_good() and "failed: one" in counts.report()


@pytest.mark.usefixtures("soak_modules")
def test_the_client_tells_how_a_request_failed() -> None:
    import asyncio

    from http_client import RequestFailed, once

    async def kind_against(answer: bytes) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return str((await once(port, "GET", "/")).status)
        except RequestFailed as problem:
            return problem.kind
        finally:
            server.close()
            await server.wait_closed()

    async def kinds() -> list[str]:
        answers = [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        ]
        return [await kind_against(answer) for answer in answers]

    assert asyncio.run(kinds()) == ["closed", "cut off", "cut off", "cut off", "malformed", "200"]
