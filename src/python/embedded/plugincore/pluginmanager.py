"""Plugins loaded by a program of one's own: the server itself does not need this module, tests of plugins may."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from plugincore.baseplugin import BasePlugin

INITIALIZE_SECONDS = 60.0


def parse_parameter_string(text: str) -> dict[str, str]:
    """`key=value&key=value` in URL query syntax: the first value of a repeated key, blank ones dropped."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(text):
        parameters.setdefault(name, value)
    return parameters


class PluginManager:
    """The plugins of a folder. Its methods that load need a running event loop."""

    def __init__(
        self,
        plugin_dir: str,
        *,
        config: Any = None,
        task_callback: Callable[[Any], None] | None = None,
        log: Any = None,
        args: Any = None,
        **kwargs: Any,
    ) -> None:
        from pserve_runtime.loader import Loader

        self.plugin_dir = os.path.abspath(plugin_dir)
        self.config = config
        self.task_callback = task_callback
        self.log = log
        self.prog_args = args
        self.kwargs = kwargs
        self.plugins: dict[str, BasePlugin] = {}
        self._slots: dict[str, Any] = {}
        self._loader = Loader(self.plugin_dir, args)

    def reset_config(self, config: Any) -> None:
        """Takes a configuration for the plugins that are loaded from now on."""
        self.config = config

    async def load_plugins(self) -> None:
        """Loads every `*.py` of the folder in sorted order; the first that fails raises."""
        for name in sorted(os.listdir(self.plugin_dir)):
            if name.endswith(".py") and not name.startswith("."):
                await self.load_plugin(os.path.join(self.plugin_dir, name))

    async def load_plugin(self, path: str) -> None:
        """Loads one file; ImportError says why it fails."""
        stem = os.path.splitext(os.path.basename(path))[0]
        sections = self.config if isinstance(self.config, dict) else {}
        parameters = sections.get("plugin_parms", {}).get(stem.lower(), "")
        file = (os.path.abspath(path), {**self.kwargs, **parse_parameter_string(str(parameters))}, None)
        [outcome] = await self._loader.load([file], self.config, True, INITIALIZE_SECONDS)
        if outcome.error is not None:
            raise ImportError(f"{path}: {outcome.error['type']}: {outcome.error['message']}", path=path)
        for slot in outcome.slots or []:
            self._slots[slot.plugin_id] = slot
            self.plugins[slot.plugin_id] = slot.instance

    async def remove_plugin(self, plugin_id: str) -> None:
        """Terminates a plugin and forgets it."""
        slot = self._slots.pop(plugin_id, None)
        self.plugins.pop(plugin_id, None)
        if slot is not None:
            await self._loader.terminate([slot])

    async def reload_plugin(self, plugin_id: str) -> None:
        """Loads the plugin's file again, then terminates the old one."""
        slot = self._slots[plugin_id]
        await self.load_plugin(slot.file.path)
        await self._loader.terminate([slot])

    def get_plugin(self, plugin_id: str) -> BasePlugin | None:
        """The plugin of that name."""
        return self.plugins.get(plugin_id)

    def all_plugins(self) -> dict[str, BasePlugin]:
        """Every plugin by its name."""
        return self.plugins
