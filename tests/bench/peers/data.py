"""What every peer answers with, the same as the plugins in ../plugins and bare_warp."""

from __future__ import annotations

import time

ROWS = [
    {"id": n, "name": f"row number {n} of a thousand rows", "value": n * 1.5, "tags": ["a", "b"], "ok": True}
    for n in range(1000)
]
KEY = "Bearer benchmark-key"


def small(name: str) -> dict:
    return {"hello": name, "n": 1}


def echo(order: dict) -> dict:
    return {"order": order["order"], "lines": len(order["lines"]), "first": order["lines"][0]}


def spin(seconds: float) -> dict:
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end:
        turns += 1
    return {"turns": turns}
