"""Responses: whole ones, JSON, and streams that the handler writes piece by piece."""

from __future__ import annotations

import asyncio
import datetime
import enum
import io
import json
import math
import mimetypes
import os
import re
import time
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import Any

from pserve_runtime.connection import compressor
from pserve_runtime.multimap import MutableHeaders, mutable_headers
from pserve_runtime.state import OwnState

OCTETS = "application/octet-stream"
FILE_PIECE = 64 << 10
_NOTHING: Any = object()
REASONS = {status.value: status.phrase for status in HTTPStatus}


class ContentCoding(enum.Enum):
    """Encodings that a response may ask for."""

    deflate = "deflate"
    gzip = "gzip"
    identity = "identity"


class StreamResponse(OwnState):
    """A response whose body is written after its head has been sent. As a mapping it is the handler's own."""

    def __init__(self, *, status: int = 200, reason: str | None = None, headers: Any = None) -> None:
        self._headers: MutableHeaders = mutable_headers(headers)
        self._cookies: SimpleCookie = SimpleCookie()
        self._keep_alive: bool | None = None
        self._chunked = False
        self._compression = False
        self._compression_force: ContentCoding | None = None
        self._compression_strategy: int | None = None
        self._request: Any = None
        self._writer: Any = None
        self._eof_sent = False
        self._body_length = 0
        self._set_status(status, reason)

    # The head.

    @property
    def status(self) -> int:
        return self._status

    @property
    def reason(self) -> str:
        return self._reason

    def set_status(self, status: int, reason: str | None = None) -> None:
        assert not self.prepared, "Cannot change the response status code after the headers have been sent"
        self._set_status(status, reason)

    def _set_status(self, status: int, reason: str | None) -> None:
        if reason is not None and ("\r" in reason or "\n" in reason):
            raise ValueError("Reason cannot contain line breaks")
        self._status = int(status)
        self._reason = REASONS.get(self._status, "") if reason is None else reason

    @property
    def headers(self) -> Any:
        return self._headers

    @property
    def prepared(self) -> bool:
        return self._eof_sent or self._writer is not None

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return None if self._request is None else asyncio.current_task()

    @property
    def body_length(self) -> int:
        return self._body_length

    @property
    def keep_alive(self) -> bool | None:
        return self._keep_alive

    def force_close(self) -> None:
        self._keep_alive = False

    @property
    def chunked(self) -> bool:
        return self._chunked

    def enable_chunked_encoding(self, chunk_size: int | None = None) -> None:
        if "Content-Length" in self._headers:
            raise RuntimeError("You can't enable chunked encoding when a content length is set")
        self._chunked = True

    @property
    def compression(self) -> bool:
        return self._compression

    def enable_compression(self, force: ContentCoding | bool | None = None, strategy: int | None = None) -> None:
        if isinstance(force, bool):
            force = ContentCoding.deflate if force else ContentCoding.identity
        elif force is not None:
            assert isinstance(force, ContentCoding), "force should one of None, bool or ContentEncoding"
        self._compression = True
        self._compression_force = force
        self._compression_strategy = strategy

    @property
    def cookies(self) -> SimpleCookie:
        return self._cookies

    def set_cookie(
        self,
        name: str,
        value: str,
        *,
        expires: str | None = None,
        domain: str | None = None,
        max_age: int | str | None = None,
        path: str = "/",
        secure: bool | None = None,
        httponly: bool | None = None,
        samesite: str | None = None,
        partitioned: bool | None = None,
        version: str | None = None,
    ) -> None:
        """Sets a cookie, or sets it anew."""
        known = self._cookies.get(name)
        if known is not None and known.coded_value == "":
            del self._cookies[name]
        self._cookies[name] = value
        cookie = self._cookies[name]
        if expires is None and cookie["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT":
            del cookie["expires"]
        wanted = {
            "expires": expires,
            "domain": domain,
            "max-age": None if max_age is None else str(max_age),
            "path": path,
            "secure": secure,
            "httponly": httponly,
            "samesite": samesite,
            "version": version,
            "partitioned": partitioned,
        }
        for key, member in wanted.items():
            if member is not None:
                cookie[key] = member
        if max_age is None and "max-age" in cookie:
            del cookie["max-age"]

    def del_cookie(
        self,
        name: str,
        *,
        path: str = "/",
        domain: str | None = None,
        secure: bool | None = None,
        httponly: bool | None = None,
        samesite: str | None = None,
    ) -> None:
        """Tells the client to forget a cookie."""
        self._cookies.pop(name, None)
        self.set_cookie(
            name,
            "",
            max_age=0,
            expires="Thu, 01 Jan 1970 00:00:00 GMT",
            domain=domain,
            path=path,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
        )

    @property
    def content_length(self) -> int | None:
        given = self._headers.get("Content-Length")
        return None if given is None else int(given)

    @content_length.setter
    def content_length(self, value: int | None) -> None:
        if value is None:
            self._headers.pop("Content-Length", None)
        elif self._chunked:
            raise RuntimeError("You can't set content length when chunked encoding is enabled")
        else:
            self._headers["Content-Length"] = str(int(value))

    @property
    def content_type(self) -> str:
        return str(self._headers.get("Content-Type", OCTETS)).split(";")[0].strip().lower()

    @content_type.setter
    def content_type(self, value: str) -> None:
        self._set_content_type(str(value), self.charset)

    @property
    def charset(self) -> str | None:
        for parameter in str(self._headers.get("Content-Type", "")).split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip('"')
        return None

    @charset.setter
    def charset(self, value: str | None) -> None:
        if self.content_type == OCTETS:
            raise RuntimeError("Setting charset for application/octet-stream doesn't make sense, setup content_type")
        self._set_content_type(self.content_type, None if value is None else str(value).lower())

    def _set_content_type(self, kind: str, charset: str | None) -> None:
        """Sets both, and leaves other parameters as they are."""
        given = [part.strip() for part in str(self._headers.get("Content-Type", "")).split(";")[1:]]
        kept = [part for part in given if part and part.partition("=")[0].strip().lower() != "charset"]
        charsets = [] if charset is None else [f"charset={charset}"]
        self._headers["Content-Type"] = "; ".join([kind, *kept, *charsets])

    @property
    def last_modified(self) -> datetime.datetime | None:
        try:
            return parsedate_to_datetime(self._headers["Last-Modified"])
        except (KeyError, TypeError, ValueError):
            return None

    @last_modified.setter
    def last_modified(self, value: Any) -> None:
        if value is None:
            self._headers.pop("Last-Modified", None)
        elif isinstance(value, (int, float)):
            self._headers["Last-Modified"] = formatdate(math.ceil(value), usegmt=True)
        elif isinstance(value, datetime.datetime):
            self._headers["Last-Modified"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", value.utctimetuple())
        elif isinstance(value, str):
            self._headers["Last-Modified"] = value
        else:
            raise TypeError(f"Unsupported type for last_modified: {type(value).__name__}")

    @property
    def etag(self) -> Any:
        from pserve_runtime.request import ETag

        given = self._headers.get("ETag")
        if not given:
            return None
        is_weak = given.startswith("W/")
        return ETag(given[2:].strip('"') if is_weak else given.strip('"'), is_weak)

    @etag.setter
    def etag(self, value: Any) -> None:
        if value is None:
            self._headers.pop("ETag", None)
        elif value == "*" or getattr(value, "value", None) == "*":
            self._headers["ETag"] = "*"
        elif isinstance(value, str):
            if not re.fullmatch(r"[!#-~\x80-\xff]+", value):
                raise ValueError("Value is not a valid etag. Maybe it contains '\"'?")
            self._headers["ETag"] = f'"{value}"'
        elif hasattr(value, "is_weak"):
            self._headers["ETag"] = f'W/"{value.value}"' if value.is_weak else f'"{value.value}"'
        else:
            raise ValueError(f"Unsupported etag type: {type(value)}. etag must be str, ETag or None")

    # The body.

    async def prepare(self, request: Any) -> Any:
        """Sends the head. Once is enough."""
        if self._eof_sent:
            return None
        if self._writer is None:
            self._request = request
            self._writer = request._payload_writer
            if self._keep_alive is None:
                self._keep_alive = request.keep_alive
            self._prepare_head(request)
            await self._writer.write_headers(f"HTTP/1.1 {self._status} {self._reason}", self._headers)
        return self._writer

    def _prepare_head(self, request: Any) -> None:
        for cookie in self._cookies.values():
            self._headers.add("Set-Cookie", cookie.OutputString())
        if self._compression:
            self._start_compression(request)
        if self._chunked and tuple(request.version) != (1, 1):
            version = ".".join(map(str, request.version))
            raise RuntimeError(f"Using chunked encoding is forbidden for HTTP/{version}")
        if not self._chunked and self._status not in (204, 304) and self._status >= 200:
            self._writer.length = self.content_length
        if self._status not in (204, 304) and self._status >= 200:
            self._headers.setdefault("Content-Type", OCTETS)
        if self._keep_alive is False:
            self._headers.setdefault("Connection", "close")

    def _start_compression(self, request: Any) -> None:
        coding = self._compression_force
        if coding is None:
            accepted = request.headers.get("Accept-Encoding", "").lower()
            coding = next((known for known in ContentCoding if known.value in accepted), None)
        if coding is not None and coding is not ContentCoding.identity:
            self._compress_with(coding)

    def _compress_with(self, coding: ContentCoding) -> None:
        self._headers["Content-Encoding"] = coding.value
        self._writer.enable_compression(coding.value, self._compression_strategy)
        # The length is that of what is compressed, which nobody knows yet.
        self._headers.pop("Content-Length", None)

    async def write(self, data: Any) -> None:
        """Sends a piece of the body; waits while the client is slow."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise AssertionError(f"data argument must be byte-ish ({type(data)!r})")
        if self._eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._writer is None:
            raise RuntimeError("Cannot call write() before prepare()")
        await self._writer.write(data)

    async def drain(self) -> None:
        assert not self._eof_sent, "EOF has already been sent"
        assert self._writer is not None, "Response has not been started"
        await self._writer.drain()

    async def write_eof(self, data: Any = b"") -> None:
        """Ends the body."""
        if self._eof_sent:
            return
        assert self._writer is not None, "Response has not been started"
        await self._writer.write_eof(data)
        self._eof_sent = True
        self._request = None
        self._body_length = self._writer.output_size
        self._writer = None

    def __repr__(self) -> str:
        if self._eof_sent:
            state = "eof"
        elif self.prepared and self._request is not None:
            state = f"{self._request.method} {self._request.path} "
        else:
            state = "not prepared"
        return f"<{type(self).__name__} {self.reason} {state}>"


class Response(StreamResponse):
    """A response whose body is known when it is made: bytes, text, a file, or what an async iterator gives."""

    def __init__(
        self,
        *,
        body: Any = None,
        status: int = 200,
        reason: str | None = None,
        text: str | None = None,
        headers: Any = None,
        content_type: str | None = None,
        charset: str | None = None,
        zlib_executor_size: int | None = None,
        zlib_executor: Any = None,
    ) -> None:
        if body is not None and text is not None:
            raise ValueError("body and text are not allowed together")
        if content_type is not None and "charset" in content_type:
            raise ValueError("charset must not be in content_type argument")
        super().__init__(status=status, reason=reason, headers=headers)
        has_own_type = "Content-Type" in self._headers
        if has_own_type and (content_type or charset):
            raise ValueError("passing both Content-Type header and content_type or charset params is forbidden")
        self._compressed: bytes | None = None
        if text is not None:
            if not isinstance(text, str):
                raise TypeError(f"text argument must be str ({type(text)!r})")
            if not has_own_type:
                self._set_content_type(content_type or "text/plain", charset or "utf-8")
            elif self.charset is None and self.content_type != OCTETS:
                self.charset = "utf-8"
            body = text.encode(self.charset or "utf-8")
        elif content_type is not None:
            self._set_content_type(content_type, charset)
        elif charset is not None:
            self._set_content_type(OCTETS, charset)
        self.body = body

    @property
    def body(self) -> Any:
        return self._body

    @body.setter
    def body(self, body: Any) -> None:
        if isinstance(body, str):
            self._default_type("text/plain; charset=utf-8")
            body = body.encode(self.charset or "utf-8")
        elif isinstance(body, memoryview):
            body = bytes(body)
        elif isinstance(body, io.TextIOBase):
            self._default_type("text/plain; charset=utf-8")
        elif isinstance(body, io.IOBase):
            name = getattr(body, "name", None)
            if isinstance(name, str):
                name = os.path.basename(name)
                self._default_type(mimetypes.guess_type(name)[0] or OCTETS)
                self._headers.setdefault("Content-Disposition", f'attachment; filename="{name}"')
        elif body is not None and not isinstance(body, (bytes, bytearray)) and not hasattr(body, "__aiter__"):
            raise ValueError(f"Unsupported body type {type(body)!r}")
        self._body = body
        self._compressed = None

    def _default_type(self, kind: str) -> None:
        self._headers.setdefault("Content-Type", kind)

    @property
    def text(self) -> str | None:
        return None if self._body is None else self._body.decode(self.charset or "utf-8")

    @text.setter
    def text(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"text argument must be str ({type(text)!r})")
        if self.content_type == OCTETS:
            self.content_type = "text/plain"
        if self.charset is None:
            self.charset = "utf-8"
        self._body = text.encode(self.charset)
        self._compressed = None

    @property
    def content_length(self) -> int | None:
        if self._chunked:
            return None
        given = self._headers.get("Content-Length")
        if given is not None:
            return int(given)
        if self._compressed is not None:
            return len(self._compressed)
        if self._body is None:
            return 0
        if isinstance(self._body, (bytes, bytearray)):
            return len(self._body)
        if isinstance(self._body, io.BytesIO):
            return len(self._body.getbuffer()) - self._body.tell()
        return None

    @content_length.setter
    def content_length(self, value: int | None) -> None:
        raise RuntimeError("Content length is set automatically")

    def _prepare_head(self, request: Any) -> None:
        if self._body is None:
            self._compression = False
        super()._prepare_head(request)

    def _compress_with(self, coding: ContentCoding) -> None:
        if not isinstance(self._body, (bytes, bytearray)):
            super()._compress_with(coding)
            return
        whole = compressor(coding.value, self._compression_strategy)
        self._compressed = whole.compress(self._body) + whole.flush()
        self._headers["Content-Encoding"] = coding.value
        self._headers["Content-Length"] = str(len(self._compressed))

    async def write_eof(self, data: Any = b"") -> None:
        if self._eof_sent:
            return
        body = self._compressed if self._compressed is not None else self._body
        if isinstance(body, io.IOBase):
            await self._write_file(body)
            body = b""
        elif body is not None and not isinstance(body, (bytes, bytearray)):
            async for piece in body:
                await self._writer.write(piece.encode() if isinstance(piece, str) else piece)
            body = b""
        await super().write_eof(bytes(body or b""))

    async def _write_file(self, file: Any) -> None:
        """In pieces, read on a thread: it may be large, and its disk slow."""
        loop = asyncio.get_running_loop()
        try:
            while piece := await loop.run_in_executor(None, file.read, FILE_PIECE):
                await self._writer.write(piece.encode(self.charset or "utf-8") if isinstance(piece, str) else piece)
        finally:
            await loop.run_in_executor(None, file.close)


def json_response(
    data: Any = _NOTHING,
    *,
    text: str | None = None,
    body: bytes | None = None,
    status: int = 200,
    reason: str | None = None,
    headers: Any = None,
    content_type: str = "application/json",
    dumps: Callable[[Any], str] = json.dumps,
) -> Response:
    """A response with a value as JSON."""
    if data is not _NOTHING:
        if text or body:
            raise ValueError("only one of data, text, or body should be specified")
        text = dumps(data)
    return Response(text=text, body=body, status=status, reason=reason, headers=headers, content_type=content_type)
