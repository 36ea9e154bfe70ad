"""Thousands of calls that end in every way that there is leave nothing behind: as many Python objects, tasks and threads
as before, and no more memory. PSERVE_LEAK_CALLS=50000 asks for more of them."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Callable

import pytest
from conftest import PATIENCE, Server, Start, eventually

CALLS = int(os.environ.get("PSERVE_LEAK_CALLS", "1000"))
CONNECTIONS = 10

PLUGIN = """
import asyncio
import gc
import threading
from aiohttp import web
from contextvars import ContextVar
from plugincore.baseplugin import BasePlugin

KEPT = ContextVar("kept")


class Answers(BasePlugin):
    async def request_handler(self, **data):
        KEPT.set(bytearray(10_000))
        return {"rows": [1, 2.5, "text", None], **{key: value for key, value in data.items() if key == "n"}}


class Waits(BasePlugin):
    async def request_handler(self, **data):
        KEPT.set(bytearray(10_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0.0001)
        return {"data": str(len(data))}


class Asks(BasePlugin):
    # Its task, in the first step.
    async def request_handler(self, **data):
        asyncio.current_task().set_name("asks")
        await asyncio.wait_for(asyncio.sleep(0), 5)
        return "asked"


class Plain(BasePlugin):
    def request_handler(self, **data):
        KEPT.set(bytearray(10_000))
        return {"plain": True}


class PlainLater(BasePlugin):
    def request_handler(self, **data):
        async def later():
            await asyncio.sleep(0)
            return "later"
        return later()


class Raises(BasePlugin):
    async def request_handler(self, **data):
        big = bytearray(10_000)
        raise ValueError("raised")


class RaisesLater(BasePlugin):
    async def request_handler(self, **data):
        big = bytearray(10_000)
        asyncio.current_task()
        await asyncio.sleep(0)
        raise ValueError("raised later")


class PlainRaises(BasePlugin):
    def request_handler(self, **data):
        raise ValueError("raised")


class Streams(BasePlugin):
    async def request_handler(self, **data):
        response = web.StreamResponse()
        await response.prepare(data["request"])
        await response.write(b"piece" * 100)
        await response.write_eof()
        return response


class Checked(BasePlugin):
    async def _check_auth(self, data):
        await asyncio.sleep(0)
        return True

    async def request_handler(self, **data):
        return "checked"


class Hangs(BasePlugin):
    # For clients that leave, and for the limit.
    begun = 0

    async def request_handler(self, **data):
        type(self).begun += 1
        big = bytearray(10_000)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)


class TimesOut(Hangs):
    pass


class Counts(BasePlugin):
    async def request_handler(self, **data):
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        pages = int(open("/proc/self/statm").read().split()[1])
        counts = {
            "objects": len(gc.get_objects()),
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "memory": pages * 4096,
            "begun": Hangs.begun,
        }
        return counts
"""

INI = "[plugin_options]\nhangs=cancel_on_disconnect=1\ntimesout=timeout=0.02\nplain=threads=4\n"


class Client:
    """One connection that is used for many requests."""

    def __init__(self, server: Server) -> None:
        self.connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.reader = self.connection.makefile("rb")

    def get(self, path: str) -> int:
        self.connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        code = int(self.reader.readline().split()[1])
        length = None
        while (line := self.reader.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if length is not None:
            assert len(self.reader.read(length)) == length
            return code
        while size := int(self.reader.readline(), 16):
            assert len(self.reader.read(size + 2)) == size + 2
        self.reader.readline()
        return code

    def close(self) -> None:
        self.reader.close()
        self.connection.close()


def on_many_connections(calls: int, work: Callable[[int], None]) -> None:
    """Does it on several threads; a mistake on any of them is raised here."""
    mistakes: list[BaseException] = []

    def run() -> None:
        try:
            work(calls // CONNECTIONS)
        except BaseException as mistake:
            mistakes.append(mistake)

    threads = [threading.Thread(target=run) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if mistakes:
        raise mistakes[0]


def answered(server: Server, path: str, code: int, calls: int) -> None:
    def work(count: int) -> None:
        client = Client(server)
        for number in range(count):
            assert client.get(f"{path}?n={number}") == code
        client.close()

    on_many_connections(calls, work)


def left(server: Server, calls: int) -> None:
    """Clients that leave once their call has begun."""
    begun = server.get("/counts").json()["begun"]
    reset = struct.pack("ii", 1, 0)
    for _ in range(0, calls, 50):
        connections = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(50)]
        for connection in connections:
            connection.sendall(b"GET /hangs HTTP/1.1\r\nHost: x\r\n\r\n")
        begun += 50
        eventually(lambda expected=begun: server.get("/counts").json()["begun"] == expected)
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.close()


def settled(server: Server) -> dict[str, int]:
    """What there is when no call is under way any more."""
    eventually(lambda: not re.search(r"^pserve_requests_in_flight\{[^}]*\} [1-9]", server.get("/metrics").text, re.M))
    eventually(lambda: server.get("/counts").json()["tasks"] == 1)
    return server.get("/counts").json()


WAYS: dict[str, Callable[[Server, int], None]] = {
    "answers": lambda server, calls: answered(server, "/answers", 200, calls),
    "waits": lambda server, calls: answered(server, "/waits", 200, calls),
    "asks": lambda server, calls: answered(server, "/asks", 200, calls),
    "plain": lambda server, calls: answered(server, "/plain", 200, calls),
    "plain, awaited": lambda server, calls: answered(server, "/plainlater", 200, calls),
    "raises": lambda server, calls: answered(server, "/raises", 500, calls),
    "raises later": lambda server, calls: answered(server, "/raiseslater", 500, calls),
    "plain, raises": lambda server, calls: answered(server, "/plainraises", 500, calls),
    "own check": lambda server, calls: answered(server, "/checked", 200, calls),
    "streams": lambda server, calls: answered(server, "/streams", 200, calls),
    "times out": lambda server, calls: answered(server, "/timesout", 504, calls),
    "left": left,
}


@pytest.mark.parametrize("way", WAYS)
def test_calls_leave_nothing_behind(start: Start, way: str) -> None:
    server = start({"leaks.py": PLUGIN}, ini=INI, aiohttp=True)
    call = WAYS[way]
    # Caches and pools fill first.
    call(server, max(200, CALLS // 3))
    before = settled(server)
    call(server, CALLS)
    after = settled(server)
    # One object in a hundred calls would be a coincidence of what is being collected; one for each a leak.
    assert after["objects"] - before["objects"] < CALLS / 20, (before, after)
    assert (after["tasks"], after["threads"] <= before["threads"] + 8) == (1, True), (before, after)
    if "ASAN_OPTIONS" not in os.environ:
        # The 10,000 bytes of each call would be seen, and of 50,000 calls a few hundred; the sanitizer keeps what is freed.
        assert after["memory"] - before["memory"] < 4_000_000 + CALLS * 300, (before, after)
