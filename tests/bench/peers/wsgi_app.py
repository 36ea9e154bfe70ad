"""The work as a WSGI application, for granian: plain functions on threads."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs

from data import KEY, ROWS, echo, small, spin

STATUS = {200: "200 OK", 403: "403 Forbidden", 404: "404 Not Found"}


def field(environ, name: str, default: str) -> str:
    return parse_qs(environ["QUERY_STRING"]).get(name, [default])[0]


def answer(environ):
    path = environ["PATH_INFO"]
    if path in ("/small", "/plain"):
        return 200, small(field(environ, "name", "world"))
    if path == "/rows":
        return 200, {"rows": ROWS}
    if path == "/echo":
        return 200, echo(json.loads(environ["wsgi.input"].read()))
    if path == "/keyed":
        if environ.get("HTTP_AUTHORIZATION") != KEY:
            return 403, {"error": "unauthorized"}
        return 200, small(field(environ, "name", "world"))
    if path == "/sleep10":
        time.sleep(0.01)
        return 200, small("sleep10")
    if path == "/spin":
        return 200, spin(float(field(environ, "seconds", "1")))
    return 404, {"error": "not found"}


def app(environ, start_response):
    status, content = answer(environ)
    body = json.dumps(content).encode()
    start_response(STATUS[status], [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
