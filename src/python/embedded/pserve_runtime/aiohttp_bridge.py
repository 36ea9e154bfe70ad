"""What is needed from the real aiohttp when plugins return its responses. Imported only after a plugin did so."""

from __future__ import annotations

import asyncio
import mimetypes
import pathlib
from typing import Any


class _Collector:
    """Takes what a payload writes."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, chunk: bytes, **_options: Any) -> None:
        self.data += chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.data += chunk


class MaterialisedResponse:
    """Status, headers and cookies of an aiohttp response, with its body as bytes."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.cookies = response.cookies
        self.body = body


async def materialise(response: Any) -> MaterialisedResponse:
    """Reads the payload of a `Response`, or the file of a `FileResponse`.

    Errs for responses that write to the connection themselves.
    """
    path = getattr(response, "_path", None)
    if isinstance(path, pathlib.Path):
        return await _file(response, path)
    payload = getattr(response, "_payload", None) or getattr(response, "body", None)
    write = getattr(payload, "write", None)
    if write is None:
        raise TypeError(f"{type(response).__name__} is a kind of aiohttp response that this server does not send yet")
    collector = _Collector()
    await write(collector)
    headers = getattr(payload, "headers", None) or {}
    for name in ("Content-Type", "Content-Disposition"):
        if name in headers and name not in response.headers:
            response.headers[name] = headers[name]
    return MaterialisedResponse(response, bytes(collector.data))


async def _file(response: Any, path: pathlib.Path) -> MaterialisedResponse:
    """The whole file; a file that is not there is a 404, as aiohttp answers it."""
    try:
        data = await asyncio.get_running_loop().run_in_executor(None, path.read_bytes)
    except (FileNotFoundError, IsADirectoryError):
        response.set_status(404)
        return MaterialisedResponse(response, b"")
    if "Content-Type" not in response.headers:
        kind, encoding = mimetypes.guess_type(path.name)
        response.headers["Content-Type"] = kind or "application/octet-stream"
        if encoding:
            response.headers["Content-Encoding"] = encoding
    return MaterialisedResponse(response, data)
