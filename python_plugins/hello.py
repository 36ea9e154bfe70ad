"""The smallest plugin, as a first lesson.

Drop a file like this one into the plugins folder: the class in it becomes an endpoint, named by the class in lower
case. Try it:

    curl http://127.0.0.1:9192/hello
    curl 'http://127.0.0.1:9192/hello?name=Ada'
    curl -d '{"name": "Ada"}' http://127.0.0.1:9192/hello
"""

from plugincore.baseplugin import BasePlugin


class Hello(BasePlugin):
    """Greets whoever calls."""

    async def request_handler(self, **data):
        # `data` has the fields of the query and of a JSON or form body, and beside them `request`,
        # `request_headers`, `client_ip`, `subpath` (what stands after /hello/) and `log`.
        name = data.get("name", "world")

        # A dict becomes JSON. A tuple `(code, body)` sets the status: `return 404, {"error": "nobody here"}`.
        return {"hello": name}
