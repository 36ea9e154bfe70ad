"""A slow plugin on the event loop and a fast one: what is checked is the order in which they end, never a time. Work that
is not to end before the fast answers have come waits for a word after them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from conftest import HOLDING, PATIENCE, Server, Start, eventually, gauge

PLUGIN = """
import asyncio
import threading
from plugincore.baseplugin import BasePlugin

ENDED = []
MAY_END = threading.Event()


class Turns(BasePlugin):
    async def request_handler(self, **data):
        turns = 0
        while not MAY_END.is_set():
            turns += 1
            await asyncio.sleep(0)
        ENDED.append("turns")
        return {"turns": turns}


class Chunks(BasePlugin):
    async def request_handler(self, **data):
        while True:
            sum(range(5000))
            if MAY_END.is_set():
                break
            await asyncio.sleep(0)
        ENDED.append("chunks")
        return "chunks"


class OneChunk(BasePlugin):
    async def request_handler(self, **data):
        sum(range(5000))
        ENDED.append("chunk")
        return "chunk"


class Callbacks(BasePlugin):
    # Each callback makes the next one: the loop's list is never empty.
    async def request_handler(self, **data):
        ended = asyncio.get_running_loop().create_future()
        def again():
            if MAY_END.is_set():
                ended.set_result("callbacks")
            else:
                asyncio.get_running_loop().call_soon(again)
        again()
        return await ended


class Fast(BasePlugin):
    async def request_handler(self, **data):
        ENDED.append("fast")
        return {"before": len(ENDED) - 1}


class FastWaits(BasePlugin):
    async def request_handler(self, **data):
        for _ in range(3):
            await asyncio.sleep(0)
        return {"before": len(ENDED)}


class FastPlain(BasePlugin):
    def request_handler(self, **data):
        return {"before": len(ENDED)}


class End(BasePlugin):
    def request_handler(self, **data):
        MAY_END.set()
        return list(ENDED)
"""


def ask(server: Server, path: str) -> socket.socket:
    """Sends a request, whose answer is read later."""
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return connection


def status(connection: socket.socket) -> str:
    return connection.makefile("rb").readline().decode().split()[1]


@contextmanager
def burst(server: Server, path: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ask(server, path)) for _ in range(count)]


def fast_ones_answer(server: Server) -> None:
    for _ in range(5):
        for path in ("/fast", "/fastwaits", "/fastplain"):
            assert server.get(path).status == 200


def test_thousands_of_short_turns_keep_no_other_plugin_from_answering(start: Start) -> None:
    server = start({"fair.py": PLUGIN})
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(server.get, path) for path in ("/turns", "/callbacks")]
        eventually(lambda: gauge(server, "pserve_requests_in_flight", "turns") == 1)
        fast_ones_answer(server)
        assert not any(one.done() for one in slow)
        assert "turns" not in server.get("/end").json()
        assert slow[0].result(PATIENCE).json()["turns"] > 50
        assert slow[1].result(PATIENCE).text == "callbacks"


def test_a_burst_of_calls_that_compute_and_wait_keeps_no_other_plugin_from_answering(start: Start) -> None:
    server = start({"fair.py": PLUGIN})
    with burst(server, "/chunks", 500) as slow:
        eventually(lambda: gauge(server, "pserve_requests_in_flight", "chunks") == 500)
        fast_ones_answer(server)
        assert "chunks" not in server.get("/end").json()
        assert {status(one) for one in slow} == {"200"}


def test_a_call_does_not_wait_for_the_whole_queue_of_another_plugin(start: Start) -> None:
    server = start({"fair.py": PLUGIN, "holding.py": HOLDING})
    with burst(server, "/hold", 1) as held:
        server.wait_for_log("holds the loop")
        with burst(server, "/onechunk", 300) as slow:
            eventually(lambda: gauge(server, "pserve_requests_waiting", "onechunk") == 300)
            with burst(server, "/fast", 1) as fast, burst(server, "/fastwaits", 1) as waits:
                for plugin in ("fast", "fastwaits"):
                    eventually(lambda plugin=plugin: gauge(server, "pserve_requests_waiting", plugin) == 1)
                server.get("/release")
                assert {status(one) for one in [*held, *fast, *waits, *slow]} == {"200"}
    ended = server.get("/end").json()
    assert ended.count("chunk") == 300
    assert ended.index("fast") < 10, "the last call of the queue was another plugin's only one"


def test_calls_of_one_plugin_begin_in_the_order_in_which_they_came(start: Start) -> None:
    source = (
        PLUGIN
        + """

class Ordered(BasePlugin):
    async def request_handler(self, **data):
        ENDED.append(int(data["n"]))
"""
    )
    server = start({"fair.py": source, "holding.py": HOLDING})
    with burst(server, "/hold", 1) as held:
        server.wait_for_log("holds the loop")
        with ExitStack() as stack:
            calls = []
            for number in range(40):
                calls.append(stack.enter_context(ask(server, f"/ordered?n={number}")))
                eventually(lambda number=number: gauge(server, "pserve_requests_waiting", "ordered") == number + 1)
            server.get("/release")
            assert {status(one) for one in [*held, *calls]} == {"200"}
    assert server.get("/end").json() == list(range(40))
