"""What users of the Python program write for work that it has no other way for."""

import asyncio
import time
from pathlib import Path

from aiohttp import web
from plugincore.baseplugin import BasePlugin


class Static(BasePlugin):
    """It has no static files: a plugin sends them."""

    async def handle_request(self, **data):
        return web.FileResponse(Path(self.args["folder"]) / data["subpath"])


def spin(seconds):
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end:
        turns += 1
    return {"turns": turns}


class SpinInThread(BasePlugin):
    """Its plain handlers fail, and an async one that computes stops everything: so a thread."""

    async def request_handler(self, **data):
        return 200, await asyncio.to_thread(spin, float(data.get("seconds", 1)))
