"""The body of a request as a stream, with the methods of aiohttp's `StreamReader`."""

from __future__ import annotations

import asyncio
import codecs
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

LONGEST_LINE = 1 << 20

_NO_CHARSETS = ("punycode", "idna")


def decoded(data: bytes, charset: str) -> str:
    """The text of a body. Codecs for names of hosts are none for text: a megabyte would keep them busy for a minute."""
    if codecs.lookup(charset).name in _NO_CHARSETS:
        raise LookupError(f"unknown encoding: {charset}")
    return data.decode(charset)


class BodyReader:
    """Reads a body that is there already, or one that comes in from the client.

    `source` is the server's side of a body that comes; without it `data` is all there is.
    """

    def __init__(self, data: bytes, source: Any = None) -> None:
        self._data: bytes | bytearray = data
        self._at = 0
        self._source = source
        self._error: BaseException | None = None
        self._at_end: list[Callable[[], None]] = []
        self.total_bytes = len(data)

    # What comes in.

    def _take(self, wake: Callable[[], None] | None) -> bool:
        """Takes over what has come, or notes the end. False when there is nothing yet: `wake` is told of more."""
        try:
            chunk = self._source.next(wake)
        except ConnectionResetError as error:
            self._source, self._error = None, error
            return True
        if chunk is None:
            return False
        if not chunk:
            self._source = None
            callbacks, self._at_end = self._at_end, []
            for callback in callbacks:
                callback()
        if self._at or not isinstance(self._data, bytearray):
            self._data = bytearray(self._data[self._at :])
            self._at = 0
        self._data += chunk
        self.total_bytes += len(chunk)
        return True

    async def _more(self) -> bool:
        """Waits for more; False at the end."""
        while self._source is not None:
            before = len(self._data) - self._at
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            if not self._take(functools.partial(_wake, loop, waiter)):
                await waiter
            elif len(self._data) - self._at > before:
                return True
        if self._error is not None:
            raise self._error
        return False

    def _poll(self) -> None:
        if self._source is not None:
            self._take(None)

    # What a handler asks for.

    async def read(self, n: int = -1) -> bytes:
        """`n` bytes at the most, as soon as there are any; all of them, to the end, when `n` is negative."""
        if n == 0:
            return b""
        if n < 0:
            chunks = []
            while chunk := await self.readany():
                chunks.append(chunk)
            return b"".join(chunks)
        if self._at >= len(self._data):
            await self._more()
        return self._cut(n)

    async def readany(self) -> bytes:
        """What is there now; waits when that is nothing. Empty at the end."""
        if self._at >= len(self._data):
            await self._more()
        return self._cut(-1)

    async def readexactly(self, n: int) -> bytes:
        while len(self._data) - self._at < n:
            if not await self._more():
                part = self._cut(-1)
                raise asyncio.IncompleteReadError(part, n)
        return self._cut(n)

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        return await self.readuntil(b"\n", max_size=max_line_length)

    async def readuntil(self, separator: bytes = b"\n", *, max_size: int | None = None) -> bytes:
        """Up to the separator and with it, or to the end. ValueError when that is too long."""
        limit = max_size or LONGEST_LINE
        looked = 0
        while True:
            start = max(self._at, self._at + looked - len(separator) + 1)
            found = self._data.find(separator, start)
            if found >= 0:
                return self._cut(found + len(separator) - self._at)
            looked = len(self._data) - self._at
            if looked > limit and self._source is not None:
                raise ValueError("Chunk too big")
            if not await self._more():
                return self._cut(-1)

    async def readchunk(self) -> tuple[bytes, bool]:
        return await self.readany(), True

    def read_nowait(self, n: int = -1) -> bytes:
        if self._at >= len(self._data):
            self._poll()
        return self._cut(n)

    def unread_data(self, data: bytes) -> None:
        """Puts bytes back to the front."""
        self._data = bytearray(data) + self._data[self._at :]
        self._at = 0

    def _cut(self, n: int) -> bytes:
        end = len(self._data) if n < 0 else min(self._at + n, len(self._data))
        chunk = bytes(self._data[self._at : end])
        self._at = end
        return chunk

    def at_eof(self) -> bool:
        if self._at >= len(self._data):
            self._poll()
        return self._at >= len(self._data) and self._source is None

    def is_eof(self) -> bool:
        return self._source is None

    def on_eof(self, callback: Callable[[], None]) -> None:
        if self._source is None:
            callback()
        else:
            self._at_end.append(callback)

    def exception(self) -> BaseException | None:
        return self._error

    async def wait_eof(self) -> None:
        while await self._more():
            pass

    def set_read_chunk_size(self, n: int) -> None:
        """The server decides how much it reads at once."""

    def get_read_buffer_limits(self) -> tuple[int, int]:
        return (1 << 16, 1 << 17)

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        while chunk := await self.read(n):
            yield chunk

    async def iter_any(self) -> AsyncIterator[bytes]:
        while chunk := await self.readany():
            yield chunk

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        while chunk := await self.readany():
            yield chunk, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    """Ends a wait, on the loop of whoever waits: a handler on a thread may run one of its own."""
    if asyncio._get_running_loop() is loop:
        _end_wait(waiter)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(_end_wait, waiter)


def _end_wait(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
