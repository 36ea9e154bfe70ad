"""The connection as plugins and aiohttp's own code see it: transport, protocol, and the writer of a response's body."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from pserve_runtime.body import _wake

WRITE_LIMIT = 1 << 16
CHUNKS_IN_A_TURN = 16


def connection_reset(message: str) -> ConnectionResetError:
    """What aiohttp raises when a client has left; a ConnectionResetError in any case."""
    module = sys.modules.get("aiohttp.client_exceptions")
    kind = getattr(module, "ClientConnectionResetError", ConnectionResetError)
    return kind(message)  # type: ignore[no-any-return]


class Transport:
    """The client's connection. Its bytes are the server's affair until a handler takes it over (WebSocket)."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._sink: Any = None
        self._is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._native.peername
        if name == "sockname":
            return self._native.sockname
        return default

    def is_closing(self) -> bool:
        return self._is_closed or self._native.is_disconnected  # type: ignore[no-any-return]

    def take_over(self, sink: Any) -> None:
        self._sink = sink

    def write(self, data: Any) -> None:
        if self._sink is None:
            raise RuntimeError("only a connection that was taken over can be written to; use a StreamResponse")
        if not self._is_closed:
            self._sink.write(bytes(data))

    def writelines(self, chunks: Iterable[Any]) -> None:
        self.write(b"".join(bytes(chunk) for chunk in chunks))

    def close(self) -> None:
        self._is_closed = True
        if self._sink is not None:
            self._sink.finish()

    def abort(self) -> None:
        """Ends it without waiting for a client that does not read."""
        self._is_closed = True
        if self._sink is not None:
            self._sink.abort()

    def get_write_buffer_size(self) -> int:
        return WRITE_LIMIT + 1 if self._sink is not None and self._sink.is_full else 0

    def get_protocol(self) -> None:
        return None


class Protocol:
    """What aiohttp's WebSocket code asks of the connection: bytes for its parser, and when to write on."""

    _upgraded = True
    _timeout_ceil_threshold = 5

    def __init__(self, native: Any) -> None:
        self.transport: Transport | None = Transport(native)
        self._reading_paused = False
        self._source: Any = None
        self._sink: Any = None
        self._parser: Any = None
        self._on_data: Callable[[], None] | None = None

    @property
    def _paused(self) -> bool:
        """Whether more waits for the client than should."""
        return self._sink is not None and self._sink.is_full

    writing_paused = _paused

    @property
    def connected(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def take_over(self, source: Any, sink: Any) -> None:
        """The connection is the handler's own from here on."""
        self._source, self._sink = source, sink
        if self.transport is not None:
            self.transport.take_over(sink)

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        self._parser, self._on_data = parser, data_received_cb
        self._read_on()

    def keep_alive(self, _wanted: bool) -> None:
        """A connection that was taken over ends with its handler."""

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        self._read_on()

    def _read_on(self) -> None:
        """Gives the parser what has come; called again when there is more."""
        for _ in range(CHUNKS_IN_A_TURN):
            if self._parser is None or self._reading_paused:
                return
            try:
                chunk = self._source.next(self._read_on)
            except ConnectionResetError:
                chunk = b""
            if chunk is None:
                return
            if not chunk:
                self._lose()
                return
            if self._on_data is not None:
                self._on_data()
            has_failed, _ = self._parser.feed_data(chunk)
            if has_failed:
                # What follows cannot be read; the handler still has its last word to send.
                self._parser = None
                return
        asyncio.get_running_loop().call_soon(self._read_on)

    def _lose(self) -> None:
        parser, self._parser = self._parser, None
        parser.feed_eof()
        if self.transport is not None:
            self.transport.close()
        self.transport = None

    async def _drain_helper(self) -> None:
        if self.transport is None:
            raise connection_reset("Connection lost")
        if self._sink is not None:
            await wait_for_room(self._sink)


async def wait_for_room(sink: Any) -> None:
    """Waits while more lies before the client than should."""
    while True:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        if sink.has_room(functools.partial(_wake, loop, waiter)):
            return
        await waiter


class PayloadWriter:
    """Writes one response: head, then body, as aiohttp's `StreamWriter` does."""

    def __init__(self, native: Any, protocol: Protocol) -> None:
        self._native = native
        self._protocol = protocol
        self._sink: Any = None
        self._compressor: Any = None
        self._has_body = native.method != "HEAD"
        self._is_ended = False
        self.length: int | None = None
        self.chunked = False
        self.buffer_size = 0
        self.output_size = 0

    @property
    def transport(self) -> Transport | None:
        return self._protocol.transport

    @property
    def protocol(self) -> Protocol:
        return self._protocol

    def enable_chunking(self) -> None:
        self.chunked = True

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        self._compressor = compressor(encoding, strategy)

    async def write_headers(self, status_line: str, headers: Any) -> None:
        """Sends the head. `status_line` is as on the wire; the server keeps version and framing to itself."""
        _, code, *reason = status_line.split(" ", 2)
        pairs = [(str(name), str(value)) for name, value in headers.items() if not _is_aiohttp_name(name, value)]
        words = reason[0] if reason else ""
        if int(code) == 101:
            source, self._sink = self._native.upgrade(words, pairs)
            self._has_body = False
            self._protocol.take_over(source, self._sink)
            return
        given = headers.get("Content-Length")
        length = self.length if given is None else int(given)
        if self._compressor is not None:
            length = None
        self._sink = self._native.begin(int(code), words, pairs, length)

    def send_headers(self) -> None:
        """They have gone already."""

    async def write(self, chunk: Any, *, drain: bool = True, LIMIT: int = WRITE_LIMIT) -> None:
        data = _bytes_of(chunk)
        if self._compressor is not None:
            data = self._compressor.compress(data)
        self._write(data)
        if not self._has_body:
            await asyncio.sleep(0)
        elif drain and self._sink is not None and self._sink.is_full:
            await self.drain()

    def _write(self, data: bytes) -> None:
        if self._sink is None:
            raise RuntimeError("the head of the response has not been sent yet")
        if not self._has_body:
            if self._sink.is_closed:
                # HEAD: the head is out, and the body was never wanted.
                raise connection_reset("Cannot write to closing transport")
            return
        if not data:
            return
        if self.length is not None and self._compressor is None:
            data = data[: self.length]
            self.length -= len(data)
            if not data:
                return
        self.buffer_size += len(data)
        self.output_size += len(data)
        if not self._sink.write(data):
            raise connection_reset("Cannot write to closing transport")

    async def write_eof(self, chunk: Any = b"") -> None:
        if self._is_ended:
            return
        data = _bytes_of(chunk)
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush()
        self._write(data)
        self.set_eof()

    def set_eof(self) -> None:
        self._is_ended = True
        if self._sink is not None:
            self._sink.finish()

    async def drain(self) -> None:
        if self._sink is not None:
            await wait_for_room(self._sink)
            if self._sink.is_closed:
                raise connection_reset("Connection lost")


def compressor(encoding: str, strategy: int | None) -> Any:
    """A compressor for `gzip` or `deflate`, which is zlib's format (RFC 9110, 8.4.1)."""
    import zlib

    window = 16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS
    return zlib.compressobj(wbits=window, strategy=zlib.Z_DEFAULT_STRATEGY if strategy is None else strategy)


def _bytes_of(chunk: Any) -> bytes:
    """A piece of a body as bytes; `bytes(5)` would be five of them."""
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a piece of a body must be bytes-like, not {type(chunk).__name__}")


def _is_aiohttp_name(name: str, value: Any) -> bool:
    """Whether a header is aiohttp's word for itself: this is another server."""
    if name.lower() != "server":
        return False
    module = sys.modules.get("aiohttp.http")
    return value == getattr(module, "SERVER_SOFTWARE", None)
