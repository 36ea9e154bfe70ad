"""`ssl` for those who use it. asyncio imports it for itself, which costs every start milliseconds and two megabytes
that most plugins have no use for; here it does without until the first import of `ssl`, or the first connection through
TLS."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any


def import_asyncio() -> None:
    """Imports asyncio without `ssl`, unless one of them is there already."""
    if "ssl" in sys.modules or "asyncio" in sys.modules:
        return
    # What the import system takes for a module that cannot be imported; asyncio is written for a Python without it.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        from asyncio import selector_events
    finally:
        del sys.modules["ssl"]
    events = selector_events.BaseSelectorEventLoop
    events._make_ssl_transport = _importing_first(events._make_ssl_transport)  # type: ignore[attr-defined]


def give_to_asyncio(module: Any) -> None:
    """Lets asyncio have `ssl`, as if it had imported it. While the import of `ssl` is under way, so that nobody has it
    earlier than asyncio."""
    users = [user for name, user in list(sys.modules.items()) if name.startswith("asyncio.")]
    without = [user for user in users if vars(user).get("ssl", module) is None]
    for user in without:
        user.ssl = module  # type: ignore[attr-defined]
    if without:
        # It takes classes of `ssl` over into names of its own.
        importlib.reload(sys.modules["asyncio.sslproto"])


def _importing_first(make: Any) -> Any:
    @functools.wraps(make)
    def make_ssl_transport(*args: Any, **options: Any) -> Any:
        import ssl  # noqa: F401

        return make(*args, **options)

    return make_ssl_transport
