"""The work as a robyn application: robyn_app.py PORT FOLDER [robyn's own options]. Dicts become JSON by its orjson."""

from __future__ import annotations

import asyncio
import sys
import time

from data import KEY, ROWS, echo, small, spin
from robyn import Request, Robyn

app = Robyn(__file__)


@app.get("/small")
async def small_answer(request: Request):
    return small(request.query_params.get("name", "world"))


@app.get("/plain")
def plain_answer(request: Request):
    return small(request.query_params.get("name", "world"))


@app.get("/rows")
async def rows_answer(request: Request):
    return {"rows": ROWS}


@app.post("/echo")
async def echo_answer(request: Request):
    return echo(request.json())


@app.get("/keyed")
async def keyed_answer(request: Request):
    if request.headers.get("authorization") != KEY:
        return {"error": "unauthorized"}, {}, 403
    return small(request.query_params.get("name", "world"))


@app.get("/pause")
async def pause_answer(request: Request):
    await asyncio.sleep(0)
    return small("pause")


@app.get("/await10")
async def await10_answer(request: Request):
    await asyncio.sleep(0.01)
    return small("await10")


@app.get("/sleep10")
def sleep10_answer(request: Request):
    time.sleep(0.01)
    return small("sleep10")


@app.get("/spin")
def spin_answer(request: Request):
    return spin(float(request.query_params.get("seconds", "1")))


if __name__ == "__main__":
    app.serve_directory(route="/static", directory_path=sys.argv[2])
    app.start(host="127.0.0.1", port=int(sys.argv[1]))
