"""The class that every plugin derives from."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import _pserve
from pserve_runtime.thread_loop import ThreadLoop

from plugincore import logjam
from plugincore.logjam import LogJam

__all__ = ["BasePlugin", "PluginOff", "asyncio", "inspect", "logjam"]


class PluginOff(Exception):
    """Raised by a constructor or `initialize`: this configuration does not want the plugin. It is not served, and
    that is no error."""


class BasePlugin:
    """A plugin: an endpoint of the server, named by `route_path` or else by its class name in lower case.

    A subclass implements `request_handler(self, **data)`, plain or async, and returns a body or `(code, body)`.
    It may have `async def initialize(self, **kwargs)`, awaited once, and `terminate_plugin(self)`, called at the end.

    `config` is the INI file (`self.config.section.key`), `log` writes to the server's log (`self.log("text")` or by
    level, `self.log.warning("text")`), `args` are the constructor's keyword arguments: those of the server and those
    of the file's line in `[plugin_parms]`. A class attribute `methods = ("PUT", "DELETE")` opens other HTTP methods
    than GET, HEAD and POST.
    """

    config: Any
    log: LogJam
    args: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        self.config = kwargs.get("config")
        self.args = kwargs
        self._plugin_id: str = kwargs.get("route_path") or type(self).__name__.lower()
        self.log = kwargs.get("log") or LogJam(name=self._plugin_id)
        auth_type = kwargs.get("auth_type") or kwargs.get("auth")
        self._auth_type: str | None = str(auth_type).lower() if auth_type else None
        key = kwargs.get("apikey")
        if self._auth_type == "global":
            key = _global_key(self.config)
        self._apikey: str | None = None if key is None or self._auth_type is None else str(key)

    def _get_plugin_id(self) -> str:
        """The name of the endpoint."""
        return getattr(self, "_plugin_id", None) or type(self).__name__.lower()

    def _get_client_ip(self, request: Any) -> str:
        """The address of whoever asks, behind a trusted proxy too."""
        known = getattr(getattr(request, "_native", None), "client_ip", None)
        if known is not None:
            return str(known)
        peer = request.transport.get_extra_info("peername") if getattr(request, "transport", None) else None
        return str(peer[0]) if peer else "unknown"

    def _check_auth(self, data: dict[str, Any]) -> bool:
        """Whether the request may pass. A subclass that overrides it decides for itself."""
        if not self._auth_type:
            return True
        given = _given_key(data)
        return bool(self._apikey) and _pserve.keys_match(str(self._apikey), given)

    async def handle_request(self, **data: Any) -> Any:
        """Answers one request: the key is checked, then `request_handler` is called.

        The server does both itself; this is for subclasses that call `super().handle_request(**data)`.
        """
        try:
            if not self._check_auth(data):
                return _response(403, {"error": "unauthorized"})
            if inspect.iscoroutinefunction(self.request_handler):
                result = await self.request_handler(**data)
            else:
                result = await self._on_own_thread(functools.partial(self.request_handler, **data))
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            if _is_aiohttp_response(error):
                return error
            self.log.exception(f"{self._get_plugin_id()}: {error}")
            return _response(500, {"status": "exception", "type": type(error).__name__, "message": str(error)})
        code = 200
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int):
            code, result = result
        return _response(code, result)

    async def _on_own_thread(self, function: Callable[[], Any]) -> Any:
        """Runs a plain handler where it delays nobody else, one call at a time."""
        executor = self.__dict__.get("_pserve_executor")
        if executor is None:
            see_the_loop = ThreadLoop(types.SimpleNamespace(loop=asyncio.get_running_loop())).install
            executor = concurrent.futures.ThreadPoolExecutor(1, "handler", see_the_loop)
            self.__dict__["_pserve_executor"] = executor
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            executor, context.run, _without_stop_iteration, function
        )

    def request_handler(self, **data: Any) -> Any:
        """Answers one request. Subclasses implement it, plain or async.

        `data` holds the members of a JSON or form body and the fields of the query, and always: `request` (method,
        headers, query, cookies, `await request.json()`, ...), `request_headers` (a dict, look-ups do not care about
        case), `client_ip`, `subpath` (what follows the endpoint's name in the path, or None) and `log`.

        Returns a body or `(code, body)`: dict, list and None become JSON, str becomes HTML, bytes stay bytes, a
        response of `aiohttp.web` is sent as it is.
        """
        raise NotImplementedError(f"the plugin {type(self).__name__} has no request_handler")

    def terminate_plugin(self) -> Any:
        """Called when the plugin is unloaded, reloaded or the server stops. May be `async def` in a subclass."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        # The server checks keys without asking Python; it is told when a plugin changes its own.
        if name in ("_apikey", "_auth_type"):
            changed = _key_watchers.get(id(self))
            if changed is not None:
                changed()


_key_watchers: dict[int, Callable[[], None]] = {}


def watch_key(plugin: BasePlugin, changed: Callable[[], None]) -> None:
    """For the server: `changed` is called whenever the plugin sets its key or its `_auth_type`."""
    _key_watchers[id(plugin)] = changed


def unwatch_key(plugin: BasePlugin) -> None:
    """For the server: the plugin has come to its end."""
    _key_watchers.pop(id(plugin), None)


def __getattr__(name: str) -> Any:
    # Plugins take `web` from here as they may from the Python program's module; aiohttp is imported only then.
    if name == "web":
        from aiohttp import web

        return web
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _global_key(config: Any) -> Any:
    for name, section in dict(config or {}).items():
        if isinstance(name, str) and name.lower() == "auth" and hasattr(section, "get"):
            return section.get("apikey")
    return None


def _given_key(data: dict[str, Any]) -> str:
    """The key in a request: Bearer, then X-Custom-Auth, then the field; an empty one does not count."""
    headers = data.get("request_headers") or {}
    folded = {str(name).lower(): value for name, value in headers.items()}
    scheme, _, rest = str(folded.get("authorization", "")).strip().partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    custom = str(folded.get("x-custom-auth", "")).strip()
    return custom or str(data.get("apikey") or "")


def _without_stop_iteration(function: Callable[[], Any]) -> Any:
    """A future cannot carry StopIteration."""
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


def _is_aiohttp_response(value: Any) -> bool:
    module = sys.modules.get("aiohttp.web_response")
    return module is not None and isinstance(value, module.StreamResponse)


def _response(code: int, body: Any) -> Any:
    """An aiohttp response, as callers of `handle_request` expect one."""
    from aiohttp import web

    if isinstance(body, web.StreamResponse):
        return body
    if isinstance(body, (dict, list)):
        return web.json_response(body, status=code, dumps=_pserve.dumps)
    if isinstance(body, str):
        return web.Response(text=body, status=code, content_type="text/html")
    if isinstance(body, (bytes, bytearray)):
        return web.Response(body=bytes(body), status=code)
    return web.json_response(None if body is None else {"result": str(body)}, status=code, dumps=_pserve.dumps)
