"""A stand-in for the server side of aiohttp, found only where that package is not installed.

Plugins get the responses, exceptions and messages that they return and read. The client side is not here.
"""

from __future__ import annotations

import sys
from typing import Any

from pserve_runtime.request import ETag, HttpVersion

from aiohttp.multipart import BodyPartReader, MultipartReader
from aiohttp.web_ws import WSCloseCode, WSMessage, WSMsgType

__version__ = "3.0.0+pserve"

__all__ = [
    "BodyPartReader",
    "ETag",
    "HttpVersion",
    "HttpVersion10",
    "HttpVersion11",
    "MultipartReader",
    "WSCloseCode",
    "WSMessage",
    "WSMsgType",
]

HttpVersion10 = HttpVersion(1, 0)
HttpVersion11 = HttpVersion(1, 1)

_CLIENT_SIDE = frozenset(
    """BaseConnector BasicAuth ChainMapProxy ClientConnectionError ClientConnectorError ClientError ClientOSError
    ClientPayloadError ClientRequest ClientResponse ClientResponseError ClientSession ClientSSLError ClientTimeout
    ClientWebSocketResponse ContentTypeError CookieJar DummyCookieJar Fingerprint FormData InvalidURL MultipartWriter
    ServerDisconnectedError ServerTimeoutError TCPConnector TooManyRedirects TraceConfig UnixConnector
    WSServerHandshakeError request""".split()
)


def missing(what: str) -> ImportError:
    """Says what to install."""
    pip = f"{sys.executable} -m pip install aiohttp"
    return ImportError(f"{what} is part of the aiohttp package, which is not installed; install it: {pip}")


def __getattr__(name: str) -> Any:
    if name in _CLIENT_SIDE:
        raise missing(f"aiohttp.{name}")
    raise AttributeError(f"module 'aiohttp' has no attribute {name!r} (this is the server's stand-in for it)")
