"""The `request` that handlers get: what plugins written for aiohttp use of its request, made when it is asked for.

`native` is the server's side of the request: bytes and plain strings.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator, MutableMapping
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from types import MappingProxyType
from typing import Any, NamedTuple

from pserve_runtime.multimap import multi_map
from pserve_runtime.url import url


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


class Transport:
    """The connection as far as plugins look at it."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._native.peername
        if name == "sockname":
            return self._native.sockname
        return default

    def is_closing(self) -> bool:
        return False


class BodyReader:
    """The body as a stream, with the methods of aiohttp's `StreamReader`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    async def read(self, n: int = -1) -> bytes:
        return self.read_nowait(n)

    async def readany(self) -> bytes:
        return await self.read()

    async def readexactly(self, n: int) -> bytes:
        chunk = await self.read(n)
        if len(chunk) < n:
            raise asyncio.IncompleteReadError(chunk, n)
        return chunk

    async def readline(self) -> bytes:
        end = self._data.find(b"\n", self._at)
        return await self.read(-1 if end < 0 else end + 1 - self._at)

    async def readchunk(self) -> tuple[bytes, bool]:
        return await self.read(), True

    def read_nowait(self, n: int = -1) -> bytes:
        end = len(self._data) if n < 0 else self._at + n
        chunk = self._data[self._at : end]
        self._at += len(chunk)
        return chunk

    def at_eof(self) -> bool:
        return self._at >= len(self._data)

    def is_eof(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    async def wait_eof(self) -> None:
        return None

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        while chunk := await self.read(n):
            yield chunk

    async def iter_any(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        while chunk := await self.read():
            yield chunk, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line


class MatchInfo(dict):  # type: ignore[type-arg]
    """The parts of the route: `plugin` and `tail`."""

    route: Any = None
    handler: Any = None
    expect_handler: Any = None

    def get_info(self) -> dict[str, Any]:
        return dict(self)


_APP: dict[str, Any] = {}
"""What plugins find as `request.app`: one mapping for the whole process, theirs to use."""


class Request(MutableMapping[str, Any]):
    """One request. As a mapping it holds what the plugin puts into it."""

    def __init__(self, native: Any) -> None:
        self._native = native

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
        return url(self.raw_path)

    @cached_property
    def url(self) -> Any:
        return url(f"{self.scheme}://{self.host}{self.raw_path}")

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
        return self._date("If-Range")

    @property
    def http_range(self) -> slice:
        """The one range of `Range: bytes=...`; ValueError when it is written otherwise."""
        given = self.headers.get("Range")
        if given is None:
            return slice(None, None, 1)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", given)
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
        return BodyReader(self._native.body)

    @cached_property
    def _whole_body(self) -> bytes:
        # Taken out of the stream, which is then at its end; asked again, the body is still there.
        return self.content.read_nowait()

    async def read(self) -> bytes:
        return self._whole_body

    async def text(self) -> str:
        return self._whole_body.decode(self.charset or "utf-8")

    async def json(self, *, loads: Any = json.loads) -> Any:
        return loads(await self.text())

    async def post(self) -> Any:
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
    def transport(self) -> Transport:
        return Transport(self._native)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

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

    @property
    def protocol(self) -> None:
        return None

    # A mapping for the plugin's own use.

    @cached_property
    def _state(self) -> dict[str, Any]:
        return {}

    def __getitem__(self, key: str) -> Any:
        return self._state[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._state[key] = value

    def __delitem__(self, key: str) -> None:
        del self._state[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def file_field(name: str, filename: str, data: bytes, content_type: str | None) -> FileField:
    """A file of a multipart form as handlers get it."""
    kind = content_type or "application/octet-stream"
    return FileField(name, filename, io.BytesIO(data), kind, multi_map([("Content-Type", kind)], ignore_case=True))
