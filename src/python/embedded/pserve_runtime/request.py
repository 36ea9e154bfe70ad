"""The `request` that handlers get: what plugins written for aiohttp use of its request, made when it is asked for.

`native` is the server's side of the request: bytes and plain strings.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from pserve_runtime.body import BodyReader, decoded
from pserve_runtime.connection import PayloadWriter, Protocol, Transport
from pserve_runtime.multimap import multi_map
from pserve_runtime.state import OwnState


class HttpVersion(NamedTuple):
    """As aiohttp's."""

    major: int
    minor: int


class FileField(NamedTuple):
    """A file of a multipart form, with the members that aiohttp gives it."""

    name: str
    filename: str
    file: io.BytesIO
    content_type: str
    headers: Any


class RawMessage(NamedTuple):
    """The head of the request with the members of aiohttp's `RawRequestMessage`."""

    method: str
    path: str
    version: HttpVersion
    headers: Any
    raw_headers: tuple[tuple[bytes, bytes], ...]
    should_close: bool
    compression: str | None
    upgrade: bool
    chunked: bool
    url: Any


class ETag(NamedTuple):
    """An entity tag of a condition, with the members that aiohttp gives it."""

    value: str
    is_weak: bool = False


class MatchInfo(dict):  # type: ignore[type-arg]
    """The parts of the route: `plugin` and `tail`."""

    route: Any = None
    handler: Any = None
    expect_handler: Any = None

    def get_info(self) -> dict[str, Any]:
        return dict(self)


_FORMS = ("", "application/x-www-form-urlencoded", "multipart/form-data")

_ETAG = re.compile(r'\s*(W/)?"([!#-~\x80-\xff]*)"\s*(?:,|$)')

_APP: dict[str, Any] = {}
"""What plugins find as `request.app`: one mapping for the whole process, theirs to use."""


def _url(text: str) -> Any:
    # Its module takes others along that few requests have a use for.
    from pserve_runtime.url import url

    return url(text)


class Request(OwnState):
    """One request. As a mapping it holds what the plugin puts into it."""

    # Set by the server, which makes these objects without a call of `__init__`.
    _native: Any

    # What the request line says.

    @property
    def method(self) -> str:
        return self._native.method  # type: ignore[no-any-return]

    @cached_property
    def path(self) -> str:
        return self._native.path  # type: ignore[no-any-return]

    @property
    def raw_path(self) -> str:
        query = self._native.query_string
        return self._native.raw_path + ("?" + query if query else "")  # type: ignore[no-any-return]

    @cached_property
    def rel_url(self) -> Any:
        return _url(self.raw_path)

    @cached_property
    def url(self) -> Any:
        return _url(f"{self.scheme}://{self.host}{self.raw_path}")

    @property
    def path_qs(self) -> str:
        return str(self.rel_url)

    @cached_property
    def query_string(self) -> str:
        return self.rel_url.query_string  # type: ignore[no-any-return]

    @cached_property
    def query(self) -> Any:
        return multi_map(self._native.query)

    @property
    def version(self) -> HttpVersion:
        return HttpVersion(*self._native.version)

    @property
    def scheme(self) -> str:
        return self._native.scheme  # type: ignore[no-any-return]

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def keep_alive(self) -> bool:
        connection = str(self.headers.get("Connection", "")).lower()
        return connection != "close" and (self.version >= (1, 1) or connection == "keep-alive")

    # What the header says.

    @cached_property
    def headers(self) -> Any:
        return multi_map(self._native.headers, ignore_case=True)

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(
            (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
            for name, value in self._native.headers
        )

    @cached_property
    def cookies(self) -> Any:
        from http.cookies import CookieError, SimpleCookie

        parsed: SimpleCookie = SimpleCookie()
        for part in self.headers.get("Cookie", "").split(";"):
            try:
                parsed.load(part.strip())
            except CookieError:
                continue
        return MappingProxyType({name: morsel.value for name, morsel in parsed.items()})

    @property
    def host(self) -> str:
        given = self._native.forwarded_host or self.headers.get("Host")
        if given:
            return given  # type: ignore[no-any-return]
        address, port = self._native.sockname[:2]
        return f"{address}:{port}"

    @property
    def request_id(self) -> str:
        """What this request is called in the answer's `X-Request-Id` and in the log."""
        return self._native.request_id  # type: ignore[no-any-return]

    @property
    def remote(self) -> str | None:
        return self._native.client_ip  # type: ignore[no-any-return]

    @property
    def content_type(self) -> str:
        given = self.headers.get("Content-Type")
        return given.split(";")[0].strip().lower() if given else "application/octet-stream"

    @property
    def charset(self) -> str | None:
        for parameter in self.headers.get("Content-Type", "").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip('"') or None
        return None

    @property
    def content_length(self) -> int | None:
        given = self.headers.get("Content-Length")
        return int(given) if given is not None and given.isdigit() else None

    @property
    def if_modified_since(self) -> Any:
        return self._date("If-Modified-Since")

    @property
    def if_unmodified_since(self) -> Any:
        return self._date("If-Unmodified-Since")

    @property
    def if_range(self) -> Any:
        """The date of `If-Range`. An entity tag there counts as a date long ago: the whole is sent, which is always
        right (RFC 9110, 13.1.5)."""
        if '"' in self.headers.get("If-Range", ""):
            from datetime import datetime, timezone

            return datetime.fromtimestamp(0, timezone.utc)
        return self._date("If-Range")

    @property
    def http_range(self) -> slice:
        """The one range of `Range: bytes=...`; ValueError when it is written otherwise."""
        given = self.headers.get("Range")
        if given is None:
            return slice(None, None, 1)
        match = re.fullmatch(r"(?i:bytes)=(\d*)-(\d*)", given)
        if match is None or not (match[1] or match[2]):
            raise ValueError("range not in acceptable format")
        start, end = (int(number) if number else None for number in match.groups())
        if start is None:
            return slice(-(end or 0), None, 1)
        if end is not None and start > end:
            raise ValueError("start cannot be after end")
        return slice(start, None if end is None else end + 1, 1)

    @cached_property
    def forwarded(self) -> tuple[Any, ...]:
        """The elements of `Forwarded` (RFC 7239), names in lower case. What is not well-formed is left out."""
        elements = []
        for field in self.headers.getall("Forwarded", []):
            for element in field.split(","):
                pairs = (pair.partition("=") for pair in element.split(";") if "=" in pair)
                found = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
                elements.append(MappingProxyType(found))
        return tuple(elements)

    @property
    def if_match(self) -> tuple[ETag, ...] | None:
        return self._etags("If-Match")

    @property
    def if_none_match(self) -> tuple[ETag, ...] | None:
        return self._etags("If-None-Match")

    def _etags(self, name: str) -> tuple[ETag, ...] | None:
        """RFC 9110, 13.1.1: `*`, or a list of quoted tags. What comes after something else does not count."""
        given = self.headers.get(name)
        if not given:
            return None
        if given.strip() == "*":
            return (ETag("*"),)
        found = []
        at = 0
        while match := _ETAG.match(given, at):
            found.append(ETag(match[2], bool(match[1])))
            at = match.end()
        return tuple(found)

    def _date(self, name: str) -> Any:
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(self.headers[name])
        except (KeyError, TypeError, ValueError):
            return None

    # The body.

    @property
    def body_exists(self) -> bool:
        return self._native.has_body  # type: ignore[no-any-return]

    @property
    def can_read_body(self) -> bool:
        return self.body_exists and not self.content.at_eof()

    has_body = can_read_body

    @cached_property
    def content(self) -> BodyReader:
        return BodyReader(self._native.body, self._native.body_source)

    @property
    def client_max_size(self) -> int:
        """How large a body may be that is read whole, in bytes."""
        return self._native.max_body_bytes  # type: ignore[no-any-return]

    async def read(self) -> bytes:
        """The whole body. One that is streamed to the plugin may be too large for that: then 413."""
        whole = self.__dict__.get("_whole_body")
        if whole is None:
            # Taken out of the stream, which is then at its end; asked again, the body is still there.
            if self.content.is_eof():
                whole = self.content.read_nowait()
            else:
                whole = await self._read_streamed()
            self.__dict__["_whole_body"] = whole
        return whole  # type: ignore[no-any-return]

    async def _read_streamed(self) -> bytes:
        chunks, size = [], 0
        while chunk := await self.content.readany():
            size += len(chunk)
            if size > self.client_max_size:
                from aiohttp import web

                raise web.HTTPRequestEntityTooLarge(max_size=self.client_max_size, actual_size=size)
            chunks.append(chunk)
        return b"".join(chunks)

    async def text(self) -> str:
        return decoded(await self.read(), self.charset or "utf-8")

    async def json(self, *, loads: Any = json.loads) -> Any:
        return loads(await self.text())

    async def multipart(self) -> Any:
        """A reader for the parts of a multipart body, one after the other as they come."""
        from aiohttp import MultipartReader

        return MultipartReader(self.headers, self.content)

    async def post(self) -> Any:
        if not self.content.is_eof() and self.content_type in _FORMS:
            # Streamed although it is a form: it is too large to be one.
            await self.read()
        return self._post

    @cached_property
    def _post(self) -> Any:
        items = [
            (name, value if filename is None else file_field(name, filename, value, content_type))
            for name, value, filename, content_type in self._native.form
        ]
        return multi_map(items)

    async def release(self) -> None:
        return None

    # What surrounds the request.

    @cached_property
    def match_info(self) -> MatchInfo:
        return MatchInfo(plugin=self._native.plugin_id, tail=self._native.subpath or "")

    @cached_property
    def protocol(self) -> Protocol:
        return Protocol(self._native)

    @property
    def transport(self) -> Transport | None:
        return self.protocol.transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self.transport
        return default if transport is None else transport.get_extra_info(name, default)

    @property
    def app(self) -> dict[str, Any]:
        return _APP

    config_dict = app

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_event_loop()

    @property
    def task(self) -> Any:
        return asyncio.current_task()

    # What aiohttp's own code asks of a request that one of its responses is prepared for.

    @property
    def _protocol(self) -> Protocol:
        return self.protocol

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @cached_property
    def _payload_writer(self) -> PayloadWriter:
        return PayloadWriter(self._native, self.protocol)

    @property
    def writer(self) -> PayloadWriter:
        return self._payload_writer

    async def _prepare_hook(self, _response: Any) -> None:
        """There are no signals of an application here."""

    @cached_property
    def _message(self) -> RawMessage:
        headers = self.headers
        connection = [word.strip().lower() for word in headers.get("Connection", "").split(",")]
        encoding = headers.get("Content-Encoding")
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        return RawMessage(
            self.method,
            self.raw_path,
            self.version,
            headers,
            self.raw_headers,
            not self.keep_alive,
            encoding,
            "upgrade" in connection,
            chunked,
            self.rel_url,
        )

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def file_field(name: str, filename: str, data: bytes, content_type: str | None) -> FileField:
    """A file of a multipart form as handlers get it."""
    kind = content_type or "application/octet-stream"
    return FileField(name, filename, io.BytesIO(data), kind, multi_map([("Content-Type", kind)], ignore_case=True))
