"""A plugin with a key. A file of its own, since [plugin_parms] gives the key by file."""

from plugincore.baseplugin import BasePlugin


class Keyed(BasePlugin):
    async def request_handler(self, **data):
        return 200, {"hello": data.get("name", "world"), "n": 1}
