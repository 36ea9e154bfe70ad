"""Reads multipart bodies part by part as they come (RFC 2046, 5.1; RFC 7578)."""

from __future__ import annotations

import base64
import binascii
import json
import quopri
import zlib
from collections.abc import AsyncIterator
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any

from pserve_runtime.body import decoded
from pserve_runtime.multimap import multi_map

MOST_HEADER_LINES = 128


class BodyPartReader:
    """One part: its headers, and its content as it comes."""

    chunk_size = 8192

    def __init__(self, boundary: bytes, headers: Any, content: Any) -> None:
        self.headers = headers
        self._boundary = boundary
        self._content = content
        self._at_end = False
        self._window = b""

    @property
    def name(self) -> str | None:
        return _parameter(self.headers.get("Content-Disposition", ""), "name")

    @property
    def filename(self) -> str | None:
        return _parameter(self.headers.get("Content-Disposition", ""), "filename")

    def get_charset(self, default: str) -> str:
        return _parameter(self.headers.get("Content-Type", ""), "charset") or default

    def at_eof(self) -> bool:
        return self._at_end

    async def read_chunk(self, size: int = chunk_size) -> bytes:
        """Some bytes of the content, as they were sent; none at its end."""
        delimiter = b"\r\n" + self._boundary
        while not self._at_end:
            found = self._window.find(delimiter)
            if found >= 0 and found <= size:
                chunk = self._window[:found]
                self._content.unread_data(self._window[found:])
                self._window = b""
                self._at_end = True
                return chunk
            # What could be the beginning of a delimiter stays.
            safe = len(self._window) - len(delimiter) + 1 if found < 0 else found
            if safe >= size or (safe > 0 and found >= 0):
                chunk, self._window = self._window[: min(safe, size)], self._window[min(safe, size) :]
                return chunk
            more = await self._content.read(max(size, len(delimiter)))
            if not more:
                raise ValueError("Could not find the end of the part")
            self._window += more
        return b""

    async def read(self, *, decode: bool = False) -> bytes:
        """The whole content."""
        chunks = []
        while chunk := await self.read_chunk():
            chunks.append(chunk)
        data = b"".join(chunks)
        return self.decode(data) if decode else data

    async def readline(self) -> bytes:
        """The content up to the next line's end."""
        line = b""
        while not line.endswith(b"\n"):
            chunk = await self.read_chunk(1)
            if not chunk:
                break
            line += chunk
        return line

    async def release(self) -> None:
        """Reads what is left and forgets it."""
        while await self.read_chunk():
            pass

    async def text(self, *, encoding: str | None = None) -> str:
        data = await self.read(decode=True)
        return decoded(data, encoding or self.get_charset("utf-8"))

    async def json(self, *, encoding: str | None = None) -> Any:
        text = await self.text(encoding=encoding)
        return json.loads(text) if text else None

    async def form(self, *, encoding: str | None = None) -> list[tuple[str, str]]:
        from urllib.parse import parse_qsl

        text = await self.text(encoding=encoding)
        return parse_qsl(text.rstrip(), keep_blank_values=True, encoding=encoding or "utf-8")

    def decode(self, data: bytes) -> bytes:
        """Undoes `Content-Transfer-Encoding` and `Content-Encoding`."""
        transfer = self.headers.get("Content-Transfer-Encoding", "").lower()
        if transfer == "base64":
            try:
                data = base64.b64decode(data)
            except binascii.Error as error:
                raise ValueError(f"the part is not base64: {error}") from None
        elif transfer == "quoted-printable":
            data = quopri.decodestring(data)
        encoding = self.headers.get("Content-Encoding", "").lower()
        if encoding == "gzip":
            data = zlib.decompress(data, 16 + zlib.MAX_WBITS)
        elif encoding == "deflate":
            data = zlib.decompress(data)
        return data

    async def __aiter__(self) -> AsyncIterator[BodyPartReader]:
        return
        yield self


class MultipartReader:
    """The parts of a body, one after the other."""

    def __init__(self, headers: Any, content: Any) -> None:
        self.headers = headers
        boundary = _parameter(headers.get("Content-Type", ""), "boundary")
        kind = headers.get("Content-Type", "")
        if not kind.lower().startswith("multipart/"):
            raise AssertionError(f"multipart/* content type expected, got {kind!r}")
        if not boundary:
            raise ValueError(f"boundary missed for Content-Type: {kind}")
        self._boundary = b"--" + boundary.encode()
        self._content = content
        self._last: Any = None
        self._at_end = False

    def at_eof(self) -> bool:
        return self._at_end

    async def next(self) -> Any:
        """The next part (a reader of its own when that is multipart again), or None at the end."""
        if self._at_end:
            return None
        if self._last is None:
            found = await self._skip_preamble()
        else:
            await self._last.release()
            found = await self._boundary_line()
        if not found:
            self._at_end = True
            return None
        headers = await self._headers()
        if headers.get("Content-Type", "").lower().startswith("multipart/"):
            self._last = MultipartReader(headers, self._content)
        else:
            self._last = BodyPartReader(self._boundary, headers, self._content)
        return self._last

    async def _skip_preamble(self) -> bool:
        while True:
            line = await self._content.readline()
            if not line:
                raise ValueError(f"Could not find starting boundary {self._boundary!r}")
            stripped = line.rstrip()
            if stripped == self._boundary:
                return True
            if stripped == self._boundary + b"--":
                return False

    async def _boundary_line(self) -> bool:
        """The line after a part. False when it is the last one."""
        line = await self._content.readline()
        while line in (b"\r\n", b"\n"):
            line = await self._content.readline()
        stripped = line.rstrip()
        if stripped == self._boundary:
            return True
        if stripped == self._boundary + b"--" or not stripped:
            return False
        raise ValueError(f"Invalid boundary {stripped!r}, expected {self._boundary!r}")

    async def _headers(self) -> Any:
        pairs: list[tuple[str, str]] = []
        for _ in range(MOST_HEADER_LINES):
            line = (await self._content.readline()).rstrip(b"\r\n")
            if not line:
                return multi_map(pairs, ignore_case=True)
            if line[:1] in b" \t" and pairs:
                name, value = pairs[-1]
                pairs[-1] = (name, f"{value} {line.decode('utf-8', 'surrogateescape').strip()}")
                continue
            name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
            pairs.append((name.strip(), value.strip()))
        raise ValueError("a part has too many header lines")

    async def release(self) -> None:
        """Reads what is left and forgets it."""
        while await self.next() is not None:
            pass

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (part := await self.next()) is not None:
            yield part


def _parameter(field: str, name: str) -> str | None:
    """A parameter of a header field, its extended form (RFC 8187) included."""
    message = Message()
    message["Content-Type"] = "x/x;" + field.partition(";")[2]
    value = message.get_param(name)
    return None if value is None else collapse_rfc2231_value(value)
