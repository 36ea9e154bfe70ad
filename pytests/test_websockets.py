"""WebSockets with the real aiohttp and with the server's stand-in, spoken to by the `websockets` package."""

from __future__ import annotations

import http.client
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import PATIENCE, Server, Start
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

ECHO = """
import asyncio
from aiohttp import web, WSMsgType
from plugincore.baseplugin import BasePlugin

class Echo(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ends = []
        self.listen = asyncio.Event()
    async def send_much(self, ws, mark):
        for _ in range(100):
            await ws.send_bytes(bytes([mark]) * 50_000)
    async def request_handler(self, request=None, subpath=None, mode='', **data):
        if subpath == 'ends':
            return self.ends
        if subpath == 'listen':
            self.listen.set()
            return 'ok'
        options = {'protocols': ('chat', 'other'), 'max_msg_size': 1000}
        if mode in ('beat', 'push'):
            options['heartbeat'] = 0.8
        ws = web.WebSocketResponse(**options)
        if subpath == 'maybe' and not ws.can_prepare(request):
            return {'websocket': False}
        await ws.prepare(request)
        if mode == 'raise':
            raise ValueError('on purpose')
        if mode == 'say':
            await ws.send_json({'peer': ws.get_extra_info('peername')[0], 'protocol': ws.ws_protocol})
            await ws.close(code=4001, message=b'said all')
            return ws
        if mode == 'push':
            for number in range(50):
                await ws.send_str(str(number))
                await asyncio.sleep(0.05)
            return ws
        if mode == 'deaf':
            await self.listen.wait()
            return ws
        if mode == 'deaf to the end':
            while True:
                message = await ws.receive()
                if message.type == WSMsgType.TEXT:
                    await ws.send_str('echo')
        if mode == 'three':
            await asyncio.gather(*(self.send_much(ws, mark) for mark in b'abc'))
            await ws.send_str('all sent')
            return ws
        if mode == 'other':
            asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(ws.close()))
        kinds = []
        async for message in ws:
            kinds.append(message.type.name)
            if message.type == WSMsgType.TEXT:
                if message.data == 'close':
                    await ws.close()
                else:
                    await ws.send_str('echo ' + message.data)
            elif message.type == WSMsgType.BINARY:
                await ws.send_bytes(message.data[::-1])
        self.ends.append([kinds, ws.close_code, ws.closed, type(ws.exception()).__name__])
        return ws
"""


@pytest.fixture(params=["installed", "stand-in"])
def server(request: pytest.FixtureRequest, start: Start) -> Server:
    return start({"echo.py": ECHO}, aiohttp=request.param == "installed")


@pytest.fixture
def dial(server: Server) -> Iterator[Any]:
    open_ones: list[ClientConnection] = []

    def one(path: str = "/echo", **options: Any) -> ClientConnection:
        ws = connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=PATIENCE, **options)
        open_ones.append(ws)
        return ws

    yield one
    for ws in open_ones:
        ws.close()


def wait_for_end(server: Server) -> Any:
    while not (ends := server.get("/echo/ends").json()):
        pass
    return ends[-1]


def test_text_binary_ping_and_close(server: Server, dial: Any) -> None:
    ws = dial()
    ws.send("grüß")
    assert ws.recv(PATIENCE) == "echo grüß"
    ws.send(b"abc")
    assert ws.recv(PATIENCE) == b"cba"
    assert ws.ping(b"are you there").wait(PATIENCE)
    ws.send(["in ", "pieces"])
    assert ws.recv(PATIENCE) == "echo in pieces"
    ws.close(4000, "enough")
    assert wait_for_end(server) == [["TEXT", "BINARY", "TEXT"], 4000, True, "NoneType"]
    assert "Traceback" not in server.log


def test_the_server_closes(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=say", subprotocols=["unknown", "chat"])
    assert ws.subprotocol == "chat"
    assert ws.recv(PATIENCE) == '{"peer": "127.0.0.1", "protocol": "chat"}'
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(PATIENCE)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "said all")


def test_a_message_that_is_too_big_ends_the_connection(server: Server, dial: Any) -> None:
    ws = dial(compression=None)
    ws.send("x" * 900)
    assert ws.recv(PATIENCE) == "echo " + "x" * 900
    ws.send("x" * 1100)
    with pytest.raises(ConnectionClosedError) as closed:
        ws.recv(PATIENCE)
    assert closed.value.rcvd.code == 1009
    kinds, _, is_closed, problem = wait_for_end(server)
    assert (kinds, is_closed) == (["TEXT", "ERROR"], True) and problem != "NoneType"


def test_a_client_that_vanishes_ends_the_handler(server: Server, dial: Any) -> None:
    ws = dial()
    ws.send("a")
    ws.recv(PATIENCE)
    ws.socket.shutdown(2)
    kinds, code, is_closed, _ = wait_for_end(server)
    assert (kinds, code, is_closed) == (["TEXT"], 1006, True)


def test_heartbeats_keep_a_connection_that_answers(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=beat")
    for _ in range(5):
        with pytest.raises(TimeoutError):
            ws.recv(0.4)
    ws.send("still here")
    assert ws.recv(PATIENCE) == "echo still here"


def test_a_handler_that_raises_ends_its_connection_only(server: Server, dial: Any) -> None:
    ws, other = dial("/echo?mode=raise"), dial()
    with pytest.raises(ConnectionClosedError):
        ws.recv(PATIENCE)
    server.wait_for_log("ValueError: on purpose")
    other.send("a")
    assert other.recv(PATIENCE) == "echo a"


def test_what_is_no_websocket_is_told_so(server: Server) -> None:
    assert server.get("/echo/maybe").json() == {"websocket": False}
    reply = server.get("/echo")
    assert reply.status == 400 and "UPGRADE" in reply.text
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    reply = server.request("GET", "/echo", headers={**headers, "Sec-WebSocket-Key": "short"})
    assert reply.status == 400 and "Handshake" in reply.text
    reply = server.request("GET", "/echo", headers={**headers, "Sec-WebSocket-Version": "5"})
    assert reply.status == 400 and "version" in reply.text


def test_an_upgrade_that_nobody_takes_is_a_usual_request(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for _ in range(2):
        connection.request("GET", "/echo/ends", headers={"Upgrade": "h2c", "Connection": "Upgrade"})
        assert connection.getresponse().read() == b"[]"
    connection.close()


def test_many_at_a_time(server: Server, dial: Any) -> None:
    all_of_them = [dial() for _ in range(50)]
    for number, ws in enumerate(all_of_them):
        ws.send(str(number))
    assert [ws.recv(PATIENCE) for ws in all_of_them] == [f"echo {number}" for number in range(50)]


def test_a_megabyte_through_one_connection(server: Server, dial: Any) -> None:
    ws = dial()
    for number in range(1100):
        ws.send("x" * 900 + str(number))
        assert ws.recv(PATIENCE) == "echo " + "x" * 900 + str(number)


def test_a_client_that_nobody_listens_to_is_made_to_wait(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=deaf", compression=None)
    ws.socket.settimeout(1)
    sent = 0
    frame = b"\x82\xfe\x03\xe8" + b"\0" * 4 + b"x" * 1000
    with pytest.raises((TimeoutError, OSError)):
        while sent < 50_000_000:
            ws.socket.sendall(frame * 50)
            sent += 50_000
    assert sent < 20_000_000
    assert server.get("/echo/listen").text == "ok"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="aiohttp before 3.14 hears answers in receive() only")
def test_a_handler_that_only_pushes_keeps_its_heartbeat(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=push")
    assert [ws.recv(PATIENCE) for _ in range(50)] == [str(number) for number in range(50)]


def test_another_task_may_close(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=other")
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(PATIENCE)
    assert closed.value.rcvd.code == 1000
    assert wait_for_end(server)[:3] == [[], 1000, True]


def raw(server: Server, *frames: bytes) -> bytes:
    """What the server sends after its handshake for these frames, until it closes."""
    head = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(head + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(4096)
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in data, "the example of RFC 6455, 1.3"
        connection.sendall(b"".join(frames))
        return data.partition(b"\r\n\r\n")[2] + connection.makefile("rb").read()


def masked(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


def test_what_came_before_a_close_is_answered_first(server: Server) -> None:
    answer = raw(server, masked(1, b"hello"), masked(8, b"\x03\xe8"))
    assert answer == b"\x81\x0aecho hello" + b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("frame", "code"), [(masked(1, b"\xff\xfe"), 1007), (b"\xf1\x80\0\0\0\0", 1002), (masked(3, b""), 1002)]
)
def test_wrong_frames_close_at_once(server: Server, frame: bytes, code: int) -> None:
    answer = raw(server, frame)
    assert answer[:1] == b"\x88" and int.from_bytes(answer[2:4], "big") == code


def test_a_stop_waits_for_open_connections_and_says_goodbye(request: pytest.FixtureRequest, start: Start) -> None:
    server = start({"echo.py": ECHO}, ini="[limits]\ndrain_timeout=3\n")
    ws = connect(f"ws://127.0.0.1:{server.port}/echo")
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log("SIGTERM")
    ws.send("still here")
    assert ws.recv(PATIENCE) == "echo still here"
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(PATIENCE)
    assert closed.value.rcvd.code == 1001
    assert server.stop() == 0
    assert "Traceback" not in server.log, server.log


def test_a_handler_that_does_not_see_the_end_stops_nobody_else(server: Server, dial: Any) -> None:
    dial("/echo?mode=deaf+to+the+end").close()
    server.wait_for_log("RuntimeError: WebSocket connection is closed")
    assert server.get("/echo/ends").json() == []


def test_several_tasks_may_send_to_a_slow_client(server: Server, dial: Any) -> None:
    ws = dial("/echo?mode=three", max_size=None, compression=None)
    time.sleep(0.3)
    received = [ws.recv(PATIENCE) for _ in range(301)]
    assert received.pop() == "all sent"
    assert sorted(message[:1] for message in received) == [b"a"] * 100 + [b"b"] * 100 + [b"c"] * 100
