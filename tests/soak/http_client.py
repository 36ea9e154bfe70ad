"""A small HTTP/1.1 client that tells apart how a request can fail, which ordinary ones hide."""

from __future__ import annotations

import asyncio
import json
from typing import Any

PATIENCE_SECONDS = 15.0


class RequestFailed(Exception):
    """A request without a whole answer. `kind` is `refused`, `closed`, `cut off`, `timeout`, `malformed`, `given up`
    (the server's word for a worker that hangs) or `wrong`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def head_of(method: str, target: str, body: bytes = b"", close: bool = False) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: soak"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


GIVEN_UP = b"has stopped responding"
"""What the server says in the place of a worker whose event loop stands still."""


class Connection:
    """One connection at a time, kept between requests as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, method: str, target: str, body: bytes = b"", close: bool = False, patience: float = PATIENCE_SECONDS
    ) -> Answer:
        # An answer came on this connection before: what fails now may be the server's idle time-out.
        is_reused = self._is_open()
        try:
            answer = await asyncio.wait_for(self._exchange(method, target, body, close), patience)
            if answer.status == 503 and GIVEN_UP in answer.body:
                raise RequestFailed("given up", "503")
            return answer
        except (asyncio.TimeoutError, TimeoutError):
            self.close()
            raise RequestFailed("timeout", f"{method} {target}: nothing for {patience} s") from None
        except RequestFailed as problem:
            self.close()
            where = "a connection used before" if is_reused else "a new connection"
            raise RequestFailed(problem.kind, f"{method} {target} on {where} ({problem})") from None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def _is_open(self) -> bool:
        # What every client looks at before it uses a connection again.
        return self._reader is not None and not self._reader.at_eof()

    async def _exchange(self, method: str, target: str, body: bytes, close: bool) -> Answer:
        if not self._is_open():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as problem:
                raise RequestFailed("refused", str(problem)) from None
        reader, writer = self._reader, self._writer
        assert reader is not None and writer is not None
        try:
            writer.write(head_of(method, target, body, close) + body)
            await writer.drain()
            first = await reader.readline()
        except OSError as problem:
            raise RequestFailed("closed", f"{type(problem).__name__} before the answer") from None
        if not first:
            raise RequestFailed("closed", "end of the connection before the answer")
        try:
            answer = await self._rest(reader, first)
        except (OSError, asyncio.IncompleteReadError) as problem:
            raise RequestFailed("cut off", f"{type(problem).__name__} within the answer") from None
        except (ValueError, IndexError) as problem:
            raise RequestFailed("malformed", f"{problem}") from None
        if close or answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    @staticmethod
    async def _rest(reader: asyncio.StreamReader, first: bytes) -> Answer:
        status = int(first.split()[1])
        headers: dict[str, str] = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if line == b"":
            raise asyncio.IncompleteReadError(b"", None)
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))
        body = b""
        while size := int(await reader.readuntil(b"\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return Answer(status, headers, body)


async def once(port: int, method: str, target: str, body: bytes = b"", patience: float = PATIENCE_SECONDS) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.request(method, target, body, close=True, patience=patience)
    finally:
        connection.close()
