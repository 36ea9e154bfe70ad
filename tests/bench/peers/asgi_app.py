"""The work as a plain ASGI application, for uvicorn and granian: no framework, so this is the fastest form of it."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import parse_qs

from data import KEY, ROWS, echo, small, spin


async def read(receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def field(scope, name: str, default: str) -> str:
    return parse_qs(scope["query_string"].decode()).get(name, [default])[0]


async def answer(scope, receive):
    path = scope["path"]
    if path == "/small":
        return 200, small(field(scope, "name", "world"))
    if path == "/rows":
        return 200, {"rows": ROWS}
    if path == "/echo":
        return 200, echo(json.loads(await read(receive)))
    if path == "/keyed":
        if dict(scope["headers"]).get(b"authorization", b"").decode() != KEY:
            return 403, {"error": "unauthorized"}
        return 200, small(field(scope, "name", "world"))
    if path == "/pause":
        await asyncio.sleep(0)
        return 200, small("pause")
    if path == "/await10":
        await asyncio.sleep(0.01)
        return 200, small("await10")
    if path == "/sleep10":
        await asyncio.to_thread(time.sleep, 0.01)
        return 200, small("sleep10")
    if path == "/spin":
        return 200, await asyncio.to_thread(spin, float(field(scope, "seconds", "1")))
    return 404, {"error": "not found"}


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        for done in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            await receive()
            await send({"type": done})
        return
    status, content = await answer(scope, receive)
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
