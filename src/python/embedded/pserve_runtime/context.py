"""What is known of the code that runs: which plugin it belongs to."""

from __future__ import annotations

import contextvars
from typing import Protocol


class Named(Protocol):
    """Whoever has a name."""

    name: str


OWNER: contextvars.ContextVar[Named | None] = contextvars.ContextVar("pserve_owner", default=None)


def current_owner_name() -> str | None:
    """The plugin whose code runs, where that is known: the plugin's id, or its file while that is imported."""
    owner = OWNER.get()
    return None if owner is None else owner.name
