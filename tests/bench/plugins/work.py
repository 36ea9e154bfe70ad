"""The work as plugins, for this server and for the Python program: one file for both."""

import asyncio
import time

from plugincore.baseplugin import BasePlugin

ROWS = [
    {"id": n, "name": f"row number {n} of a thousand rows", "value": n * 1.5, "tags": ["a", "b"], "ok": True}
    for n in range(1000)
]


def small(name):
    return {"hello": name, "n": 1}


class Small(BasePlugin):
    async def request_handler(self, **data):
        return 200, small(data.get("name", "world"))


class Plain(BasePlugin):
    def request_handler(self, **data):
        return 200, small(data.get("name", "world"))


class Rows(BasePlugin):
    async def request_handler(self, **data):
        return 200, {"rows": ROWS}


class Echo(BasePlugin):
    async def request_handler(self, **data):
        lines = data["lines"]
        return 200, {"order": data["order"], "lines": len(lines), "first": lines[0]}


class Pause(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0)
        return 200, small("pause")


class Await10(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0.01)
        return 200, small("await10")


class Spin(BasePlugin):
    """Takes the processor for some seconds: what a plugin does that computes."""

    def request_handler(self, **data):
        end = time.perf_counter() + float(data.get("seconds", 1))
        turns = 0
        while time.perf_counter() < end:
            turns += 1
        return 200, {"turns": turns}
