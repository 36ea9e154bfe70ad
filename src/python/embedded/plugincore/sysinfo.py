"""This machine's data, read by the server itself: nothing has to be installed for it. Sizes are in bytes."""

from __future__ import annotations

from typing import Any

import _pserve


def cpu() -> dict[str, Any]:
    """The processor: brand, cores, frequency in MHz, load averages, use in per cent since the last call."""
    return _pserve.sysinfo_cpu()  # type: ignore[no-any-return]


def memory() -> dict[str, Any]:
    """RAM and swap."""
    return _pserve.sysinfo_memory()  # type: ignore[no-any-return]


def disks() -> list[dict[str, Any]]:
    """The mounted disks with their sizes."""
    return _pserve.sysinfo_disks()  # type: ignore[no-any-return]


def networks() -> dict[str, dict[str, Any]]:
    """The network interfaces with their addresses and total counts since the machine started."""
    return _pserve.sysinfo_networks()  # type: ignore[no-any-return]


def host() -> dict[str, Any]:
    """Host name, operating system, kernel, architecture, start time and uptime in seconds."""
    return _pserve.sysinfo_host()  # type: ignore[no-any-return]
