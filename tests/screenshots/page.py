"""Takes the pictures of the live page for docs/images: `make screenshots`. Two minutes of calls fill its plots."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 200_000
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]

PLUGINS = {
    "weather.py": '''
import asyncio
import random
from typing import Literal
from plugincore.baseplugin import BasePlugin

class Weather(BasePlugin):
    """The weather of a town.

    Asks the stations that are nearest to it, and waits for the first two.
    """

    parameters = {
        "town": {"type": "string", "description": "where", "required": True},
        "days": 3,
        "unit": Literal["C", "F"],
    }

    async def request_handler(self, **data):
        await asyncio.sleep(random.expovariate(60))
        if data.get("town") == "Atlantis":
            raise LookupError("no station near Atlantis")
        return {"town": data.get("town"), "sky": "clear", "degrees": 18.5, "unit": data.get("unit", "C")}
''',
    "orders.py": '''
import time
from plugincore.baseplugin import BasePlugin

class Orders(BasePlugin):
    """Orders of the day, from the shop's own database."""

    def request_handler(self, **data):
        time.sleep(0.012)
        return {"orders": [{"number": number, "state": "sent"} for number in range(20)]}
''',
    "invoices.py": '''
from plugincore.baseplugin import BasePlugin

class Invoices(BasePlugin):
    """Invoices as PDF."""

    async def request_handler(self, **data)
        return {"invoices": []}
''',
}


class Demo:
    """A server with something to show, called until it is stopped."""

    def __init__(self, binary: Path, folder: Path) -> None:
        (folder / "plugins").mkdir()
        for name, source in PLUGINS.items():
            (folder / "plugins" / name).write_text(source.lstrip())
        ini = "[network]\nport=0\n[paths]\nplugins=plugins\n[server]\npage=bool:true\nworkers=2\n"
        (folder / "pserve.ini").write_text(ini)
        self.process = subprocess.Popen([binary], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"serves (http://\S+)", line):
                self.address = found[1]
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.stopped = threading.Event()
        self.callers = [threading.Thread(target=self.call, args=(seed,)) for seed in range(3)]
        for caller in self.callers:
            caller.start()

    def call(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.stopped.is_set():
            town = "Atlantis" if chance.random() < 0.02 else chance.choice(["Oslo", "Turin", "Gdansk"])
            path = chance.choice([f"/weather?town={town}", "/orders"])
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(self.address + path).read()
            self.stopped.wait(chance.expovariate(14 + 8 * math.sin(time.monotonic() / 11)))

    def stop(self) -> None:
        self.stopped.set()
        for caller in self.callers:
            caller.join()
        self.process.terminate()
        self.process.wait()


def opened(browser: Browser, address: str, scheme: str, width: int, height: int) -> Page:
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.goto(f"{address}/-/")
    page.locator("#link.live").wait_for()
    return page


def take_pictures(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        page.screenshot(path=IMAGES / f"page-{name}.png")
    page = pages["light"]
    page.get_by_role("button", name="Try weather").click()
    page.get_by_label("town").fill("Oslo")
    page.get_by_role("button", name="Call", exact=True).click()
    page.locator("#answer-body:visible").wait_for()
    page.screenshot(path=IMAGES / "page-try.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "pserve")
    parser.add_argument("--seconds", type=float, default=125)
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        demo = Demo(options.binary.resolve(), Path(folder))
        try:
            shots = {"light": ("light", 1280, 960), "dark": ("dark", 1280, 960), "phone": ("dark", 390, 844)}
            pages = {name: opened(browser, demo.address, *shot) for name, shot in shots.items()}
            time.sleep(options.seconds)
            take_pictures(pages)
        finally:
            demo.stop()
            browser.close()
    for image in sorted(IMAGES.glob("page-*.png")):
        size = image.stat().st_size
        print(f"{image.relative_to(ROOT)}: {size} bytes")
        assert size < MOST_BYTES, f"{image} is larger than {MOST_BYTES} bytes"


if __name__ == "__main__":
    main()
