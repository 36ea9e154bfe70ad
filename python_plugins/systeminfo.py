"""This machine's data at /systeminfo, and each group of it at /systeminfo/<group>.

    curl http://127.0.0.1:9192/systeminfo
    curl http://127.0.0.1:9192/systeminfo/cpu

Groups: net, cpu, uptime, disk, upgrades, ram, info. Sizes are in bytes, times in seconds, rates in bytes per second.
The data comes from the server itself (`plugincore.sysinfo`); nothing has to be installed.

Parameters, in [plugin_parms]: `systeminfo=interval=5` sets the seconds between two looks at the network counters.
"""

import asyncio
import shutil
import time

from plugincore import sysinfo
from plugincore.baseplugin import BasePlugin

UPGRADES_KEPT_SECONDS = 3600
UPGRADES_TIMEOUT_SECONDS = 60


class SystemInfo(BasePlugin):
    """What this machine is and how it does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.interval = max(0.2, float(kwargs.get("interval", 2)))
        self.groups = {
            "net": self.net,
            "cpu": self.cpu,
            "uptime": self.uptime,
            "disk": self.disk,
            "upgrades": self.upgrades,
            "ram": self.ram,
            "info": self.info,
        }
        self.rates = {}
        self.known_upgrades = None
        self.upgrades_lock = asyncio.Lock()

    async def initialize(self, **kwargs):
        sysinfo.cpu()  # The use of a processor is counted from the look before.
        self.network_task = asyncio.create_task(self.watch_network())

    async def request_handler(self, **data):
        wanted = (data.get("subpath") or "").strip("/")
        if not wanted:
            groups = {**self.groups, "upgrades": self.upgrades_without_waiting}
            return {name: await group() for name, group in groups.items()}
        if wanted in self.groups:
            return {wanted: await self.groups[wanted]()}
        return 404, {"error": f"no group {wanted!r}", "groups": list(self.groups)}

    async def watch_network(self):
        """Goes on for the plugin's life; the rates are those between the last two looks."""
        before, then = sysinfo.networks(), time.monotonic()
        while True:
            await asyncio.sleep(self.interval)
            now = time.monotonic()
            current = sysinfo.networks()
            rates = {}
            for name, counts in current.items():
                old = before.get(name, counts)
                rates[name] = {
                    "received_per_second": round((counts["bytes_received"] - old["bytes_received"]) / (now - then), 1),
                    "sent_per_second": round((counts["bytes_sent"] - old["bytes_sent"]) / (now - then), 1),
                }
            self.rates, before, then = rates, current, now

    async def net(self):
        unknown = {"received_per_second": None, "sent_per_second": None}
        return {name: {**counts, **self.rates.get(name, unknown)} for name, counts in sysinfo.networks().items()}

    async def cpu(self):
        return sysinfo.cpu()

    async def uptime(self):
        host = sysinfo.host()
        seconds = int(host["uptime_seconds"] or 0)
        days, rest = divmod(seconds, 86400)
        hours, minutes = rest // 3600, rest % 3600 // 60
        return {"seconds": seconds, "text": f"{days} days, {hours}:{minutes:02d}", "boot_time": host["boot_time"]}

    async def disk(self):
        return sysinfo.disks()

    async def ram(self):
        memory = sysinfo.memory()
        used = 100 * memory["used"] / memory["total"] if memory["total"] else 0
        return {**memory, "used_percent": round(used, 1)}

    async def info(self):
        return sysinfo.host()

    async def upgrades(self):
        """The packages that apt would upgrade; asked at most once an hour, since it takes seconds."""
        async with self.upgrades_lock:
            if self.upgrades_are_old():
                self.known_upgrades = {"checked": int(time.time()), **await self.ask_apt()}
            return self.known_upgrades

    async def upgrades_without_waiting(self):
        """For the page of all groups: what is known, while a new look goes on."""
        if self.upgrades_are_old() and not self.upgrades_lock.locked():
            self.upgrades_task = asyncio.create_task(self.upgrades())
        return self.known_upgrades or {"checked": None, "count": None, "packages": []}

    def upgrades_are_old(self):
        return self.known_upgrades is None or time.time() - self.known_upgrades["checked"] > UPGRADES_KEPT_SECONDS

    async def ask_apt(self):
        if shutil.which("apt-get") is None:
            return {"count": None, "packages": [], "error": "this machine has no apt-get"}
        process = await asyncio.create_subprocess_exec(
            "apt-get", "--simulate", "upgrade",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), UPGRADES_TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            return {"count": None, "packages": [], "error": "apt-get gave no answer in time"}
        lines = output.decode(errors="replace").splitlines()
        packages = [line.split()[1] for line in lines if line.startswith("Inst ")]
        return {"count": len(packages), "packages": packages}
