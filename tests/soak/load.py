"""The bounded load: clients with pauses between their requests, some slow, each with a name of its own."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable

from counts import Counts
from http_client import GIVEN_UP, PATIENCE_SECONDS, Answer, Connection, RequestFailed, head_of

import plugins

KEEP_ALIVE_CLIENTS = 16
NEW_CONNECTION_CLIENTS = 8
SLOW_CLIENTS = 4
PAUSE_SECONDS = (0.02, 0.15)
# Within every limit of the server, so that none of it may fail.
BYTE_PAUSE_SECONDS = 0.03
SMALL_BUFFER_BYTES = 4096

MIX = {"hello": 30, "plain": 15, "large": 10, "stream": 10, "echo": 20, "raises": 5, "leaks": 4, "generation": 6}


def is_right(name: str, number: int, answer: Answer) -> bool:
    """Whether the answer is what that plugin must say."""
    if name == "raises":
        data = answer.json()
        return answer.status == 500 and isinstance(data, dict) and data.get("type") == "RuntimeError"
    if answer.status != 200:
        return False
    if name == "large":
        return answer.body == b"x" * plugins.LARGE_BYTES
    if name == "stream":
        return answer.body == b"".join(b"%05d\n" % line for line in range(plugins.STREAM_LINES))
    data = answer.json()
    if not isinstance(data, dict):
        return False
    if name == "hello":
        return data == {"hello": "soak"}
    if name == "echo":
        return data == {"number": number, "length": number % 5000}
    return bool(data.get({"plain": "plain", "leaks": "kept", "generation": "generation"}[name]))


class Load:
    def __init__(self, port: int, counts: Counts, seed: int) -> None:
        self.port = port
        self.counts = counts
        self.random = random.Random(seed)
        self._is_over = False
        self._clients: list[asyncio.Task[None]] = []
        self._slow_kinds = [self._slow_head, self._slow_body, self._slow_reader, self._leaver]

    def start(self) -> None:
        clients = [self._client(f"kept {number}", close=False) for number in range(KEEP_ALIVE_CLIENTS)]
        clients += [self._client(f"new {number}", close=True) for number in range(NEW_CONNECTION_CLIENTS)]
        clients += [self._slow_client(f"slow {number}", number) for number in range(SLOW_CLIENTS)]
        self._clients = [asyncio.ensure_future(client) for client in clients]

    async def stop(self) -> None:
        """Lets every client finish its request."""
        self._is_over = True
        await asyncio.gather(*self._clients)

    async def _client(self, client: str, close: bool) -> None:
        connection = Connection(self.port)
        names, weights = list(MIX), list(MIX.values())
        while not self._is_over:
            [name] = self.random.choices(names, weights)
            number = self.random.randrange(1_000_000)
            body = json.dumps({"number": number, "text": "t" * (number % 5000)}).encode() if name == "echo" else b""
            began = time.monotonic()
            self.counts.requests[name] += 1
            try:
                answer = await connection.request("POST" if body else "GET", f"/{name}", body, close)
            except RequestFailed as problem:
                if not self.counts.is_excused(client, problem.kind, began):
                    self.counts.note("failed", str(problem))
            else:
                if name == "hello":
                    self.counts.latency(time.monotonic() - began)
                if not is_right(name, number, answer):
                    self.counts.note("wrong", f"/{name}: {answer.status} {answer.body[:200]!r}")
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))
        connection.close()

    async def _slow_client(self, client: str, turn: int) -> None:
        while not self._is_over:
            kind = self._slow_kinds[turn % len(self._slow_kinds)]
            turn += 1
            began = time.monotonic()
            self.counts.requests["slow"] += 1
            try:
                await self._on_a_connection(kind)
            except RequestFailed as problem:
                if not self.counts.is_excused(client, problem.kind, began):
                    self.counts.note("slow clients", f"{kind.__name__.lstrip('_')}: {problem}")
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))

    async def _on_a_connection(self, kind: Callable[[socket.socket], Awaitable[None]]) -> None:
        with socket.socket() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
            stream.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(stream, ("127.0.0.1", self.port))
            except OSError as problem:
                raise RequestFailed("refused", str(problem)) from None
            try:
                await asyncio.wait_for(kind(stream), 2 * PATIENCE_SECONDS)
            except (asyncio.TimeoutError, TimeoutError):
                # Before OSError, of which it is a kind from Python 3.10 on.
                raise RequestFailed("timeout", "nothing more") from None
            except OSError as problem:
                raise RequestFailed("closed", type(problem).__name__) from None

    async def _slow_head(self, stream: socket.socket) -> None:
        await self._by_the_byte(stream, head_of("GET", "/hello", close=True))
        _expect(await self._to_the_end(stream), b'{"hello":"soak"}')

    async def _slow_body(self, stream: socket.socket) -> None:
        body = b'{"number": 7, "text": "slow"}'
        await asyncio.get_running_loop().sock_sendall(stream, head_of("POST", "/echo", body, close=True))
        await self._by_the_byte(stream, body)
        _expect(await self._to_the_end(stream), b'{"number":7,"length":4}')

    async def _slow_reader(self, stream: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(stream, head_of("GET", "/large", close=True))
        _expect(await self._to_the_end(stream, pause=BYTE_PAUSE_SECONDS), b"x" * plugins.LARGE_BYTES)

    async def _leaver(self, stream: socket.socket) -> None:
        """Leaves in the middle of an answer; nothing is asked of the server but to go on."""
        await asyncio.get_running_loop().sock_sendall(stream, head_of("GET", "/stream"))
        await asyncio.get_running_loop().sock_recv(stream, 10)

    async def _by_the_byte(self, stream: socket.socket, data: bytes) -> None:
        for place in range(len(data)):
            await asyncio.get_running_loop().sock_sendall(stream, data[place : place + 1])
            await asyncio.sleep(BYTE_PAUSE_SECONDS)

    async def _to_the_end(self, stream: socket.socket, pause: float = 0) -> bytes:
        received = b""
        while part := await asyncio.get_running_loop().sock_recv(stream, SMALL_BUFFER_BYTES):
            received += part
            await asyncio.sleep(pause)
        return received


def _expect(received: bytes, body: bytes) -> None:
    head, _, rest = received.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200") and rest == body:
        return
    if head.startswith(b"HTTP/1.1 503") and GIVEN_UP in rest:
        raise RequestFailed("given up", "503")
    is_beginning = not received or (head.startswith(b"HTTP/1.1 200") and body.startswith(rest))
    raise RequestFailed("cut off" if is_beginning else "wrong", f"{len(received)} bytes {received[:200]!r}")
