"""A file as a response: conditions and one range of RFC 9110, a compressed neighbour when the client takes it."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import pathlib
import stat
from typing import Any

from aiohttp.web_response import OCTETS, StreamResponse

TYPES = mimetypes.MimeTypes()
# A compressed file is sent as what it is.
TYPES.encodings_map.clear()
for _ending, _type in {
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",
    ".xz": "application/x-xz",
    ".Z": "application/x-compress",
}.items():
    TYPES.add_type(_type, _ending)

NEIGHBOURS = {".br": "br", ".gz": "gzip"}


class FileResponse(StreamResponse):
    """Sends a file, read piece by piece while it goes out."""

    def __init__(
        self,
        path: Any,
        chunk_size: int = 256 * 1024,
        status: int = 200,
        reason: str | None = None,
        headers: Any = None,
    ) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._path = pathlib.Path(path)
        self._chunk_size = max(chunk_size, 4096)

    async def prepare(self, request: Any) -> Any:
        if self.prepared:
            return await super().prepare(request)
        loop = asyncio.get_running_loop()
        file = None
        try:
            accepted = request.headers.get("Accept-Encoding", "").lower()
            file, encoding = await loop.run_in_executor(None, self._open, accepted)
        except PermissionError:
            self.set_status(403)
        except OSError:
            self.set_status(404)
        if file is None:
            return await super().prepare(request)
        try:
            start, count = self._choose(request, os.fstat(file.fileno()), encoding)
            writer = await super().prepare(request)
            if count and request.method != "HEAD":
                await self._send(file, start, count)
            return writer
        finally:
            loop.run_in_executor(None, file.close)

    def _open(self, accepted: str) -> tuple[Any, str | None]:
        """The file, or a compressed neighbour of it. PermissionError for what is no regular file."""
        if not self._path.name:
            raise PermissionError(f"{self._path} is no regular file")
        for ending, encoding in NEIGHBOURS.items():
            neighbour = self._path.with_name(self._path.name + ending)
            if encoding in accepted and neighbour.is_file() and not neighbour.is_symlink():
                return neighbour.open("rb"), encoding
        if not stat.S_ISREG(self._path.stat().st_mode):
            raise PermissionError(f"{self._path} is no regular file")
        return self._path.open("rb"), None

    def _choose(self, request: Any, status: os.stat_result, encoding: str | None) -> tuple[int, int]:
        """Sets status and headers; the answer is where to begin and how many bytes to send."""
        tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        failed = self._failed_condition(request, tag, status.st_mtime)
        if failed is not None:
            self.set_status(failed)
            if failed == 304:
                self.etag, self.last_modified = tag, status.st_mtime
            self.content_length = 0 if failed == 412 else None
            return 0, 0
        self.etag, self.last_modified = tag, status.st_mtime
        try:
            start, stop = self._range(request, status)
        except ValueError:
            self.set_status(416)
            self._headers["Content-Range"] = f"bytes */{status.st_size}"
            return 0, 0
        if "Content-Type" not in self._headers:
            self.content_type = TYPES.guess_type(self._path.name)[0] or OCTETS
        if encoding:
            self._headers["Content-Encoding"] = encoding
            self._headers["Vary"] = "Accept-Encoding"
            self._compression = False
        self.content_length = stop - start
        self._headers["Accept-Ranges"] = "bytes"
        if self.status == 206:
            self._headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        return start, stop - start

    @staticmethod
    def _failed_condition(request: Any, tag: str, changed: float) -> int | None:
        """RFC 9110, 13.2.2: the order in which conditions count. 412, 304, or None when all of them hold."""
        wanted, known = request.if_match, request.if_none_match
        if wanted is not None:
            if not any(one.value == "*" or (one.value == tag and not one.is_weak) for one in wanted):
                return 412
        elif request.if_unmodified_since is not None and changed > request.if_unmodified_since.timestamp():
            return 412
        if known is not None:
            if any(one.value in ("*", tag) for one in known):
                return 304
        elif request.if_modified_since is not None and changed <= request.if_modified_since.timestamp():
            return 304
        return None

    def _range(self, request: Any, status: os.stat_result) -> tuple[int, int]:
        """The bytes that were asked for; sets 206 for a part. ValueError when there are none."""
        size = status.st_size
        condition = request.if_range
        if request.headers.get("If-Range") == self.headers["ETag"]:
            condition = None
        if condition is not None and status.st_mtime > condition.timestamp():
            return 0, size
        wanted = request.http_range
        if wanted.start is None:
            return 0, size
        start = max(size + wanted.start, 0) if wanted.start < 0 else wanted.start
        if start >= size:
            raise ValueError("the range begins behind the end")
        self.set_status(206)
        return start, size if wanted.stop is None else min(wanted.stop, size)

    async def _send(self, file: Any, start: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, file.seek, start)
        while count:
            piece = await loop.run_in_executor(None, file.read, min(self._chunk_size, count))
            if not piece:
                raise OSError(f"{self._path} became shorter while it was sent")
            await self.write(piece)
            count -= len(piece)
