"""The plugin files of the soak test: well-behaved ones under load, and ones that do harm when they are asked to."""

from __future__ import annotations

LARGE_BYTES = 100 * 1024
STREAM_LINES = 20

HELLO = """
from plugincore.baseplugin import BasePlugin

class Hello(BasePlugin):
    async def request_handler(self, **data):
        return {"hello": "soak"}
"""

PLAIN = """
import time
from plugincore.baseplugin import BasePlugin

class Plain(BasePlugin):
    def request_handler(self, **data):
        time.sleep(0.02)
        return {"plain": True}
"""

LARGE = f"""
from plugincore.baseplugin import BasePlugin

class Large(BasePlugin):
    async def request_handler(self, **data):
        return b"x" * {LARGE_BYTES}
"""

STREAM = f"""
import asyncio
from aiohttp import web
from plugincore.baseplugin import BasePlugin

class Stream(BasePlugin):
    async def request_handler(self, **data):
        response = web.StreamResponse()
        await response.prepare(data["request"])
        for number in range({STREAM_LINES}):
            await response.write(b"%05d\\n" % number)
            await asyncio.sleep(0.005)
        await response.write_eof()
        return response
"""

ECHO = """
from plugincore.baseplugin import BasePlugin

class Echo(BasePlugin):
    async def request_handler(self, **data):
        return {"number": data.get("number"), "length": len(data.get("text", ""))}
"""

RAISES = """
from plugincore.baseplugin import BasePlugin

class Raises(BasePlugin):
    async def request_handler(self, **data):
        raise RuntimeError("asked for")
"""

# What it keeps goes with the plugin: a reload of it frees the memory, an end of its worker too.
LEAKS = """
from plugincore.baseplugin import BasePlugin

class Leaks(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kept = []

    async def request_handler(self, **data):
        self.kept.append(b"x" * (int(data.get("kib", 16)) * 1024))
        return {"kept": len(self.kept)}
"""

SEGFAULTS = """
import ctypes
from plugincore.baseplugin import BasePlugin

class Segfaults(BasePlugin):
    async def request_handler(self, **data):
        if "now" in data:
            ctypes.string_at(0)
        return {"alive": True}
"""

EXITS = """
import os
from plugincore.baseplugin import BasePlugin

class Exits(BasePlugin):
    def request_handler(self, **data):
        if "now" in data:
            os._exit(3)
        return {"alive": True}
"""

# It blocks the event loop, and everything that needs it.
HANGS = """
import time
from plugincore.baseplugin import BasePlugin

class Hangs(BasePlugin):
    async def request_handler(self, **data):
        time.sleep(float(data.get("seconds", 0)))
        return {"alive": True}
"""

GENERATION = """
from plugincore.baseplugin import BasePlugin

class Generation(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generation = int(self.config.main.generation)

    async def request_handler(self, **data):
        return {"generation": self.generation}
"""

FILES = {
    "hello": HELLO,
    "plain": PLAIN,
    "large": LARGE,
    "stream": STREAM,
    "echo": ECHO,
    "raises": RAISES,
    "leaks": LEAKS,
    "segfaults": SEGFAULTS,
    "exits": EXITS,
    "hangs": HANGS,
    "generation": GENERATION,
}

WELL_BEHAVED = ("hello", "plain", "large", "stream", "echo", "generation")


def versioned(version: int) -> str:
    """A file that says which version of it serves."""
    return f"""
from plugincore.baseplugin import BasePlugin

class Versioned(BasePlugin):
    async def request_handler(self, **data):
        return {{"version": {version}}}
"""


def added() -> str:
    """A file that comes and goes."""
    return HELLO.replace("class Hello", "class Added")
