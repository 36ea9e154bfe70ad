"""What plugins take from `aiohttp.web`."""

from __future__ import annotations

from typing import Any

from pserve_runtime.request import ETag, FileField, HttpVersion, Request

import aiohttp
from aiohttp import web_exceptions
from aiohttp.web_exceptions import *  # noqa: F403
from aiohttp.web_fileresponse import FileResponse
from aiohttp.web_response import ContentCoding, Response, StreamResponse, json_response
from aiohttp.web_ws import WebSocketReady, WebSocketResponse, WSCloseCode, WSMsgType

BaseRequest = Request
HttpVersion10 = HttpVersion(1, 0)
HttpVersion11 = HttpVersion(1, 1)


class RequestPayloadError(Exception):
    """A body that cannot be read."""


class NotAppKeyWarning(UserWarning):
    """Known to plugins that filter it."""


__all__ = [
    *web_exceptions.__all__,
    "BaseRequest",
    "ContentCoding",
    "ETag",
    "FileField",
    "FileResponse",
    "HttpVersion",
    "HttpVersion10",
    "HttpVersion11",
    "NotAppKeyWarning",
    "Request",
    "RequestPayloadError",
    "Response",
    "StreamResponse",
    "WSCloseCode",
    "WSMsgType",
    "WebSocketReady",
    "WebSocketResponse",
    "json_response",
]

_OF_A_SERVER = frozenset(
    """Application AppKey AppRunner RouteTableDef TCPSite UnixSite delete get head middleware normalize_path_middleware
    options patch post put route run_app static view View""".split()
)


def __getattr__(name: str) -> Any:
    if name in _OF_A_SERVER:
        raise aiohttp.missing(f"aiohttp.web.{name}")
    raise AttributeError(f"module 'aiohttp.web' has no attribute {name!r} (this is the server's stand-in for it)")
