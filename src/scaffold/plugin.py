"""Says hello.

curl 'http://127.0.0.1:9192/example?name=Ada'
curl -d '{"name": "Ada"}' http://127.0.0.1:9192/example
"""

from plugincore.baseplugin import BasePlugin


class Example(BasePlugin):
    """Says hello to whoever is named."""

    # Tells callers what they may send, as JSON Schema. Without it the names and hints of the handler do.
    # parameters = {"name": {"type": "string", "description": "who is said hello to", "default": "world"}}

    async def request_handler(self, name: str = "world", **data):
        # `data` holds the other fields of query and body, and `request`. A dict becomes JSON.
        self.log.info(f"hello to {name}")
        return {"hello": name}
