"""A WebSocket as a response (RFC 6455): the handler sends and receives messages until one side closes.

The frames are made and read on the server's side; here is what handlers see.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import enum
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import _pserve
from pserve_runtime.connection import connection_reset

from aiohttp.web_response import StreamResponse

INBOX_BYTES = 128 << 10
"""What may wait for the handler before the client is made to wait."""

MOST_LOOKS_AFTER_CLOSE = 5

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WSMsgType(enum.IntEnum):
    """Kinds of messages: those of the protocol, and what `receive` says when there are no more."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    PING = 0x9
    PONG = 0xA
    CLOSE = 0x8
    CLOSING = 0x100
    CLOSED = 0x101
    ERROR = 0x102

    text = TEXT
    binary = BINARY
    ping = PING
    pong = PONG
    close = CLOSE
    closing = CLOSING
    closed = CLOSED
    error = ERROR


class WSCloseCode(enum.IntEnum):
    """RFC 6455, 7.4.1."""

    OK = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL_CLOSURE = 1006
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


class WSMessage(NamedTuple):
    """One message."""

    type: WSMsgType
    data: Any
    extra: Any

    def json(self, *, loads: Callable[[Any], Any] = json.loads) -> Any:
        return loads(self.data)


class WebSocketReady(NamedTuple):
    """Whether a request asks for a WebSocket, and for which of the known protocols."""

    ok: bool
    protocol: str | None

    def __bool__(self) -> bool:
        return self.ok


CLOSED_MESSAGE = WSMessage(WSMsgType.CLOSED, None, None)
CLOSING_MESSAGE = WSMessage(WSMsgType.CLOSING, None, None)


class _Inbox:
    """Takes bytes from the connection; the handler takes messages out, one at a time."""

    def __init__(self, max_message_bytes: int, protocol: Any) -> None:
        self.codec = _pserve.WebSocketCodec(max_message_bytes)
        self.is_over = False
        self.heard = asyncio.Event()
        self.waiter: asyncio.Future[None] | None = None
        self._put_in: list[WSMessage] = []
        self._has_failed = False
        self._protocol = protocol

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.heard.set()
        self.codec.feed(data)
        if self.codec.waiting_bytes > INBOX_BYTES and not self._protocol._reading_paused:
            self._protocol.pause_reading()
        self._wake()
        return False, b""

    def feed_eof(self) -> None:
        self.is_over = True
        self._wake()

    def put_in(self, message: WSMessage) -> None:
        """A message of the server's own, for a handler that waits."""
        self._put_in.append(message)
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def next(self) -> WSMessage | None:
        """The next message; None when the connection is over."""
        if self.waiter is not None:
            raise RuntimeError("Concurrent call to receive() is not allowed")
        while True:
            message = self._take()
            if message is not None or self.is_over or self._has_failed:
                return message
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None

    def _take(self) -> WSMessage | None:
        if self._put_in:
            return self._put_in.pop(0)
        if self._has_failed:
            return None
        try:
            found = self.codec.next()
        except ValueError as error:
            self._has_failed = True
            return WSMessage(WSMsgType.ERROR, error, error.args[-1])
        if self._protocol._reading_paused and self.codec.waiting_bytes <= INBOX_BYTES:
            self._protocol.resume_reading()
        return None if found is None else _message(*found)


def _message(opcode: int, payload: bytes, code: int | None) -> WSMessage:
    if opcode == WSMsgType.TEXT:
        return WSMessage(WSMsgType.TEXT, payload.decode(), "")
    if opcode == WSMsgType.CLOSE:
        return WSMessage(WSMsgType.CLOSE, code or 0, payload.decode("utf-8", "replace"))
    return WSMessage(WSMsgType(opcode), payload, "")


class WebSocketResponse(StreamResponse):
    """The server's end of a WebSocket."""

    def __init__(
        self,
        *,
        timeout: float = 10.0,
        receive_timeout: float | None = None,
        autoclose: bool = True,
        autoping: bool = True,
        heartbeat: float | None = None,
        protocols: Iterable[str] = (),
        compress: bool = True,
        max_msg_size: int = 4 * 1024 * 1024,
        writer_limit: int = 64 * 1024,
        decode_text: bool = True,
    ) -> None:
        super().__init__(status=101)
        self._protocols = tuple(protocols)
        self._close_seconds = timeout
        self._receive_seconds = receive_timeout
        self._autoclose = autoclose
        self._autoping = autoping
        self._heartbeat = heartbeat
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._max_msg_size = max_msg_size
        self._ws_protocol: str | None = None
        self._inbox: _Inbox | None = None
        self._protocol: Any = None
        self._closed = False
        self._looks_after_close = 0
        self._close_code: int | None = None
        self._exception: BaseException | None = None

    # The handshake.

    def can_prepare(self, request: Any) -> WebSocketReady:
        from aiohttp.web_exceptions import HTTPException

        if self._inbox is not None:
            raise RuntimeError("Already started")
        try:
            return WebSocketReady(True, self._handshake(request)[1])
        except HTTPException:
            return WebSocketReady(False, None)

    def _handshake(self, request: Any) -> tuple[str, str | None]:
        """RFC 6455, 4.2: the answer to the client's key, and the protocol. HTTPBadRequest for anything else."""
        from aiohttp.web_exceptions import HTTPBadRequest

        headers = request.headers
        upgrade = headers.get("Upgrade")
        if (upgrade or "").lower().strip() != "websocket":
            raise HTTPBadRequest(text=f'No WebSocket UPGRADE hdr: {upgrade}\n Can "Upgrade" only to "WebSocket".')
        if not request._message.upgrade:
            raise HTTPBadRequest(text=f"No CONNECTION upgrade hdr: {headers.get('Connection')}")
        version = headers.get("Sec-WebSocket-Version", "")
        if version not in ("13", "8", "7"):
            raise HTTPBadRequest(text=f"Unsupported version: {version}")
        key = headers.get("Sec-WebSocket-Key")
        try:
            is_key = bool(key) and len(base64.b64decode(key)) == 16
        except binascii.Error:
            is_key = False
        if not is_key:
            raise HTTPBadRequest(text=f"Handshake error: {key!r}")
        offered = [name.strip() for name in headers.get("Sec-WebSocket-Protocol", "").split(",")]
        chosen = next((name for name in offered if name in self._protocols), None)
        return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode(), chosen

    async def prepare(self, request: Any) -> Any:
        if self._writer is not None:
            return self._writer
        answer, self._ws_protocol = self._handshake(request)
        self._headers.update({"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Accept": answer})
        if self._ws_protocol:
            self._headers["Sec-WebSocket-Protocol"] = self._ws_protocol
        self._protocol = request._protocol
        writer = await super().prepare(request)
        self._inbox = _Inbox(self._max_msg_size, self._protocol)
        self._protocol.set_parser(self._inbox)
        if self._heartbeat:
            self._heartbeat_task = asyncio.ensure_future(self._beat(self._heartbeat))
        return writer

    async def _beat(self, seconds: float) -> None:
        """Asks now and then whether the client is still there; half of that time is for its answer."""
        while not self._closed:
            await asyncio.sleep(seconds)
            assert self._inbox is not None
            self._inbox.heard.clear()
            try:
                # Not drained: a client that does not read is what this looks for.
                self._write(self._inbox.codec.send(WSMsgType.PING, b""))
                await asyncio.wait_for(self._inbox.heard.wait(), seconds / 2)
            except (ConnectionError, asyncio.TimeoutError, RuntimeError):
                if not self._closed:
                    self._exception = asyncio.TimeoutError("No PONG received")
                    self._end(WSCloseCode.ABNORMAL_CLOSURE)
                return

    # What handlers look at.

    @property
    def prepared(self) -> bool:
        return self._inbox is not None

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def close_code(self) -> int | None:
        return self._close_code

    @property
    def ws_protocol(self) -> str | None:
        return self._ws_protocol

    @property
    def compress(self) -> int | bool:
        return 0

    def exception(self) -> BaseException | None:
        return self._exception

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = None if self._protocol is None else self._protocol.transport
        return default if transport is None else transport.get_extra_info(name, default)

    # Sending.

    def _write(self, data: bytes) -> None:
        if self._protocol is None or self._protocol.transport is None or self._protocol.transport.is_closing():
            raise connection_reset("Cannot write to closing transport")
        self._protocol.transport.write(data)

    async def _send(self, kind: int, payload: bytes) -> None:
        if self._inbox is None:
            raise RuntimeError("Call .prepare() first")
        if self._closed:
            raise connection_reset("Cannot write to closing transport")
        self._write(self._inbox.codec.send(kind, payload))
        await self._protocol._drain_helper()

    async def send_str(self, data: str, compress: int | None = None) -> None:
        if not isinstance(data, str):
            raise TypeError(f"data argument must be str ({type(data)!r})")
        await self._send(WSMsgType.TEXT, data.encode())

    async def send_bytes(self, data: Any, compress: int | None = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be byte-ish ({type(data)!r})")
        await self._send(WSMsgType.BINARY, bytes(data))

    async def send_json(
        self, data: Any, compress: int | None = None, *, dumps: Callable[[Any], str] = json.dumps
    ) -> None:
        await self.send_str(dumps(data))

    async def ping(self, message: Any = b"") -> None:
        await self._send(WSMsgType.PING, message.encode() if isinstance(message, str) else bytes(message))

    async def pong(self, message: Any = b"") -> None:
        await self._send(WSMsgType.PONG, message.encode() if isinstance(message, str) else bytes(message))

    # Receiving.

    async def receive(self, timeout: float | None = None) -> WSMessage:
        """The next message. CLOSE, CLOSING, CLOSED and ERROR say that there will be no other."""
        if self._inbox is None:
            raise RuntimeError("Call .prepare() first")
        seconds = timeout or self._receive_seconds
        while True:
            if self._closed:
                self._looks_after_close += 1
                if self._looks_after_close > MOST_LOOKS_AFTER_CLOSE:
                    # A handler that does not look at the kind of message would never give the loop back.
                    raise RuntimeError("WebSocket connection is closed.")
                return CLOSED_MESSAGE
            message = await asyncio.wait_for(self._inbox.next(), seconds)
            if message is None:
                self._end(WSCloseCode.ABNORMAL_CLOSURE)
                return CLOSED_MESSAGE
            if message.type is WSMsgType.CLOSING:
                return message
            if message.type is WSMsgType.PING and self._autoping:
                self._flush()
            elif message.type is WSMsgType.PONG and self._autoping:
                continue
            elif message.type is WSMsgType.CLOSE:
                if self._autoclose:
                    self._flush()
                    self._end(message.data)
                else:
                    self._close_code = message.data
                return message
            elif message.type is WSMsgType.ERROR:
                # RFC 6455, 7.1.7: the reason, and no more.
                code = message.extra if isinstance(message.extra, int) else WSCloseCode.PROTOCOL_ERROR
                self._exception = message.data
                with contextlib.suppress(ConnectionError):
                    self._write(self._inbox.codec.send(WSMsgType.CLOSE, b"", code))
                self._end(code)
                return message
            else:
                return message

    def _flush(self) -> None:
        """Sends what the protocol wants sent: answers to pings and to a close."""
        assert self._inbox is not None
        try:
            self._write(self._inbox.codec.pending())
        except ConnectionError:
            self._end(WSCloseCode.ABNORMAL_CLOSURE)

    async def _receive_only(self, kind: WSMsgType, timeout: float | None) -> Any:
        message = await self.receive(timeout)
        if message.type is not kind:
            raise TypeError(f"Received message {message.type}:{message.data!r} is not WSMsgType.{kind.name}")
        return message.data

    async def receive_str(self, *, timeout: float | None = None) -> str:
        return await self._receive_only(WSMsgType.TEXT, timeout)  # type: ignore[no-any-return]

    async def receive_bytes(self, *, timeout: float | None = None) -> bytes:
        return await self._receive_only(WSMsgType.BINARY, timeout)  # type: ignore[no-any-return]

    async def receive_json(self, *, loads: Callable[[str], Any] = json.loads, timeout: float | None = None) -> Any:
        return loads(await self.receive_str(timeout=timeout))

    def __aiter__(self) -> WebSocketResponse:
        return self

    async def __anext__(self) -> WSMessage:
        message = await self.receive()
        if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
            raise StopAsyncIteration
        return message

    # The end.

    async def close(self, *, code: int = WSCloseCode.OK, message: Any = b"", drain: bool = True) -> bool:
        """Says goodbye and waits for the client's. False when it was closed already."""
        if self._inbox is None:
            raise RuntimeError("Call .prepare() first")
        if self._closed:
            return False
        reason = message.encode() if isinstance(message, str) else bytes(message)
        self._closed, self._close_code = True, int(code)
        try:
            self._write(self._inbox.codec.send(WSMsgType.CLOSE, reason, int(code)))
            if self._inbox.waiter is not None:
                # Another task receives: it learns of it, and then the client's goodbye is this one's to read.
                self._inbox.put_in(CLOSING_MESSAGE)
                await asyncio.sleep(0)
            answered = await asyncio.wait_for(self._await_close(), self._close_seconds)
            self._end(answered)
        except (ConnectionError, asyncio.TimeoutError) as error:
            self._exception = error
            self._end(WSCloseCode.ABNORMAL_CLOSURE)
        return True

    async def _await_close(self) -> int:
        assert self._inbox is not None
        while True:
            message = await self._inbox.next()
            if message is None:
                return WSCloseCode.ABNORMAL_CLOSURE
            if message.type is WSMsgType.CLOSE:
                return message.data or WSCloseCode.OK
            if message.type is WSMsgType.ERROR:
                return WSCloseCode.PROTOCOL_ERROR

    def _end(self, code: int) -> None:
        self._closed = True
        self._close_code = int(code)
        if self._heartbeat_task is not None and self._heartbeat_task is not asyncio.current_task():
            self._heartbeat_task.cancel()
        transport = None if self._protocol is None else self._protocol.transport
        if transport is not None:
            if code == WSCloseCode.ABNORMAL_CLOSURE:
                transport.abort()
            else:
                transport.close()
        if self._inbox is not None:
            self._inbox.feed_eof()

    async def write(self, data: Any) -> None:
        raise RuntimeError("Cannot call .write() for websocket")

    async def write_eof(self, data: Any = b"") -> None:
        if self._eof_sent:
            return
        await self.close()
        self._eof_sent = True
