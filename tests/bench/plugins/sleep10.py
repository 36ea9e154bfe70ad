"""A plain handler that blocks. A file of its own, since [plugin_options] lets it run on eight threads."""

import time

from plugincore.baseplugin import BasePlugin


class Sleep10(BasePlugin):
    def request_handler(self, **data):
        time.sleep(0.01)
        return 200, {"hello": "sleep10", "n": 1}
