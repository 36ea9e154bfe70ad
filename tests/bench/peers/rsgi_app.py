"""The work for granian's own interface, RSGI."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import parse_qs

from data import KEY, ROWS, echo, small, spin


def field(scope, name: str, default: str) -> str:
    return parse_qs(scope.query_string).get(name, [default])[0]


async def answer(scope, protocol):
    path = scope.path
    if path == "/small":
        return 200, small(field(scope, "name", "world"))
    if path == "/rows":
        return 200, {"rows": ROWS}
    if path == "/echo":
        return 200, echo(json.loads(await protocol()))
    if path == "/keyed":
        if scope.headers.get("authorization") != KEY:
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


async def app(scope, protocol) -> None:
    status, content = await answer(scope, protocol)
    protocol.response_str(status, [("content-type", "application/json")], json.dumps(content))
