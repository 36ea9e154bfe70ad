"""From plugin files to live plugins and back: import, construct, initialise, terminate.

Everything here runs on the interpreter's main thread with the event loop running.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
import traceback
import types
from typing import Any

import _pserve
from plugincore.baseplugin import BasePlugin, PluginOff, unwatch_key
from plugincore.logjam import LogJam

from pserve_runtime.description import describe_plugin
from pserve_runtime.importer import STANDARD_NAMES, ImportTransaction, PluginFolder
from pserve_runtime.logs import levels, report
from pserve_runtime.owner import Owner, cancel_all
from pserve_runtime.packages import package_of

TERMINATE_SECONDS = 5.0


class Slot:
    """One live plugin, with what a call needs already looked up."""

    def __init__(self, instance: BasePlugin, owner: Owner, file: PluginFile, kwargs: dict[str, Any]) -> None:
        self.instance = instance
        self.owner = owner
        self.file = file
        self.class_name = type(instance).__name__
        self.plugin_id = str(instance._get_plugin_id()).strip("/")
        _insist_on_unicode("its name", self.plugin_id)
        self.overrides_handle_request = not _is_base_method(instance, "handle_request")
        self.handler_name = "handle_request" if self.overrides_handle_request else "request_handler"
        self.is_async = _is_async(self.handler)
        self.check = None if _is_base_method(instance, "_check_auth") else instance._check_auth
        self.self_name = _name_of_self(self.handler)
        # A constructor that does not call its parent's leaves these out.
        self.log = getattr(instance, "log", None) or kwargs["log"]
        self._insist_on_the_key(kwargs)
        self.methods = _methods(instance)
        self.reads_streams = _reads_streams(file.code)
        self.description = describe_plugin(instance, self.handler, file.docstring, self.plugin_id)

    @property
    def handler(self) -> Any:
        """The handler as it is now: a plugin may put another in its place."""
        return getattr(self.instance, self.handler_name)

    def _insist_on_the_key(self, kwargs: dict[str, Any]) -> None:
        """A key that the INI file asks for holds, even if the constructor kept it from `BasePlugin`."""
        wanted = kwargs.get("auth_type") or kwargs.get("auth")
        if wanted and not self.auth_type:
            usual = BasePlugin(**kwargs)
            self.instance._auth_type, self.instance._apikey = usual._auth_type, usual._apikey

    @property
    def auth_type(self) -> str | None:
        """The plugin's `_auth_type` as it is now."""
        kind = getattr(self.instance, "_auth_type", None)
        return str(kind) if kind else None

    @property
    def apikey(self) -> str | None:
        """The plugin's own key as it is now."""
        key = getattr(self.instance, "_apikey", None)
        return None if key is None else str(key)

    def check_key_setting(self, has_global_key: bool) -> None:
        """Errs when the plugin asks for a key that cannot be checked: it must not become an open door."""
        kind = self.auth_type
        if self.check is not None or not kind:
            return
        if kind not in ("global", "plugin"):
            raise ValueError(f"auth_type={kind} is unknown; give auth_type=global or auth_type=plugin")
        if kind == "global" and not has_global_key:
            raise ValueError("auth_type=global needs a key; set apikey in the [auth] section")
        if kind == "plugin" and not self.apikey:
            raise ValueError("auth_type=plugin needs a key; add apikey=KEY to the plugin's line in [plugin_parms]")


class PluginFile:
    """One imported file with its live plugins."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stem = os.path.splitext(os.path.basename(path))[0]
        self.owner = Owner(self.stem)
        self.module_name: str | None = None
        self.code: types.CodeType | None = None
        self.docstring: Any = None
        self.slots: list[Slot] = []


class LoadOutcome:
    """What became of one file: its slots, or the error."""

    def __init__(self, path: str, slots: list[Slot] | None, error: dict[str, Any] | None) -> None:
        self.path = path
        self.slots = slots
        self.error = error


class Loader:
    """The plugin files of this process."""

    def __init__(self, folder: str, prog_args: Any) -> None:
        self.folder = PluginFolder(folder)
        self.folder.install()
        self.prog_args = prog_args
        self._live: dict[PluginFile, None] = {}

    def move_to(self, folder: str) -> None:
        """Makes another folder the plugins folder."""
        if folder != self.folder.folder:
            self.folder.remove()
            self.folder = PluginFolder(folder)
            self.folder.install()

    async def load(
        self,
        files: list[tuple[str, dict[str, Any], str | None]],
        config: Any,
        has_global_key: bool,
        initialize_seconds: float,
    ) -> list[LoadOutcome]:
        """Loads files, each with its constructor arguments (inline, and a JSON file whose members win).

        One that fails stops none of the others. The files count as one change: a helper module that two of them
        import is imported once.
        """
        paths = {path for path, _, _ in files}
        keep = {file.module_name for file in self._live if file.path not in paths and file.module_name and file.slots}
        transaction = ImportTransaction(self.folder, keep)
        outcomes: list[LoadOutcome] = []
        for path, inline, json_file in files:
            file = PluginFile(path)
            try:
                params = {**inline, **_json_params(json_file)}
                with _pserve.loading(path):
                    await self._load_one(file, params, config, initialize_seconds, transaction)
                for slot in file.slots:
                    slot.check_key_setting(has_global_key)
                outcomes.append(LoadOutcome(path, file.slots, None))
            except BaseException as error:
                transaction.show_old()
                outcomes.append(LoadOutcome(path, None, describe(error, self.folder.folder, path)))
                await self.terminate(list(file.slots), file)
                transaction.forget(file.stem)
        transaction.show_old()
        if all(outcome.error is not None for outcome in outcomes):
            transaction.roll_back()
        else:
            transaction.settle()
        return outcomes

    async def _load_one(
        self, file: PluginFile, params: dict[str, Any], config: Any, seconds: float, transaction: ImportTransaction
    ) -> None:
        transaction.hide_old()
        module = file.owner.context.run(self.folder.execute, file.path)
        file.code = getattr(module.__loader__, "code", None)
        file.docstring = module.__doc__
        file.module_name = self.folder.name_of(module)
        for cls in _plugin_classes(module):
            owner = Owner(cls.__name__.lower())
            levels.belong_to(owner.name, (cls.__name__, file.stem))
            kwargs: dict[str, Any] = {
                "config": config,
                "log": LogJam(name=cls.__name__.lower()),
                "prog_args": self.prog_args,
                "args": self.prog_args,
                "task_callback": owner.task_callback,
                **params,
            }
            try:
                transaction.hide_old()
                instance = owner.context.run(functools.partial(cls, **kwargs))
                if callable(getattr(instance, "initialize", None)):
                    # It may wait.
                    transaction.show_old()
                    await _initialize(instance, owner, kwargs, seconds)
                # Only now: the constructor and `initialize` may set the id, the key or the handler.
                slot = Slot(instance, owner, file, kwargs)
            except PluginOff as off:
                transaction.show_old()
                await cancel_all([owner], TERMINATE_SECONDS)
                report("INFO", f"{cls.__name__} of {file.path} is off: {off}")
                continue
            except BaseException:
                transaction.show_old()
                await cancel_all([owner], TERMINATE_SECONDS)
                raise
            owner.name = slot.plugin_id
            levels.belong_to(slot.plugin_id, (slot.plugin_id, cls.__name__, file.stem))
            file.slots.append(slot)
        if file.slots:
            self._live[file] = None

    async def terminate_all(self) -> None:
        """Ends every live plugin, in the order in which they were loaded."""
        await self.terminate([slot for file in self._live for slot in file.slots])

    async def terminate(self, slots: list[Slot], file: PluginFile | None = None) -> None:
        """Ends plugins: `terminate_plugin`, then their tasks are cancelled and awaited, each for a bounded time."""
        owners = []
        for slot in slots:
            await _terminate_instance(slot)
            owners.append(slot.owner)
            # It refers back to the slot: left in place it would keep the plugin alive for ever.
            unwatch_key(slot.instance)
            if slot in slot.file.slots:
                slot.file.slots.remove(slot)
            if not slot.file.slots:
                owners.append(slot.file.owner)
                self._live.pop(slot.file, None)
        if file is not None:
            owners.append(file.owner)
        await cancel_all(owners, TERMINATE_SECONDS)


async def _initialize(instance: BasePlugin, owner: Owner, kwargs: dict[str, Any], seconds: float) -> None:
    started = owner.context.run(functools.partial(instance.initialize, **kwargs))
    if inspect.isawaitable(started):
        task = owner.context.run(asyncio.ensure_future, _in_task(started))
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            raise TimeoutError(f"initialize did not end within {seconds:g} seconds ([limits] load_timeout)")
        task.result()


async def _in_task(awaitable: Any) -> Any:
    return await awaitable


async def _terminate_instance(slot: Slot) -> None:
    terminate = getattr(slot.instance, "terminate_plugin", None)
    if not callable(terminate):
        return
    try:
        with _pserve.terminating(slot.plugin_id):
            ended = slot.owner.context.run(terminate)
            if inspect.isawaitable(ended):
                task = slot.owner.context.run(asyncio.ensure_future, _in_task(ended))
                await asyncio.wait_for(task, TERMINATE_SECONDS)
    except BaseException:
        report("ERROR", f"terminate_plugin of {slot.plugin_id} failed", traceback.format_exc())


def _json_params(path: str | None) -> dict[str, Any]:
    """The members of a parameter file. Errs with the file's name when it is not a JSON object."""
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8-sig") as file:
            params = json.load(file)
    except OSError as error:
        raise ValueError(f"the parameter file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"the parameter file {path} is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise ValueError(f"the parameter file {path} holds a {type(params).__name__}; it must be a JSON object")
    return params


def _plugin_classes(module: Any) -> list[type[BasePlugin]]:
    own_names = {module.__name__, getattr(module.__spec__, "name", None)}
    own_names.add("pserve_plugin_" + module.__name__)
    found: list[type[BasePlugin]] = []
    for value in vars(module).values():
        is_plugin = isinstance(value, type) and issubclass(value, BasePlugin) and value is not BasePlugin
        if is_plugin and value.__module__ in own_names and not inspect.isabstract(value) and value not in found:
            found.append(value)
    return found


def _is_base_method(instance: BasePlugin, name: str) -> bool:
    method = getattr(instance, name)
    return getattr(method, "__func__", None) is getattr(BasePlugin, name)


def _is_async(handler: Any) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _name_of_self(handler: Any) -> str:
    """The name of the handler's own first parameter: a client's field of that name would make the call fail."""
    code = getattr(getattr(handler, "__func__", None), "__code__", None)
    if code is not None and code.co_argcount > 0:
        return str(code.co_varnames[0])
    return "self"


def _methods(instance: BasePlugin) -> list[str]:
    """The HTTP methods that the class opens. A member of that name which is something else is the plugin's own."""
    given = getattr(type(instance), "methods", None)
    if isinstance(given, str):
        given = given.replace(",", " ").split()
    if not isinstance(given, (tuple, list, set, frozenset)) or not all(isinstance(method, str) for method in given):
        return []
    for method in given:
        _insist_on_unicode("one of its methods", method)
    return [method.upper() for method in given]


STREAM_NAMES = frozenset(("multipart", "content", "iter_any", "iter_chunked", "iter_chunks", "readany", "readchunk"))
"""What a plugin file names when it reads request bodies piece by piece."""


def _reads_streams(code: types.CodeType | None) -> bool:
    """Whether a file's code looks as if it read bodies as they come: it is then given those over the limit too."""
    if code is None:
        return False
    if not STREAM_NAMES.isdisjoint(code.co_names):
        return True
    return any(_reads_streams(part) for part in code.co_consts if isinstance(part, types.CodeType))


def _insist_on_unicode(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is no valid text: {text!a}") from None


def describe(error: BaseException, folder: str, path: str) -> dict[str, Any]:
    """An error as plain data: type, message, the place in the user's file, the traceback.

    Never raises, whatever the exception does when it is looked at: one bad file must stop no other.
    """
    file, line = path, None
    if (
        isinstance(error, SyntaxError)
        and isinstance(error.filename, str)
        and error.filename.startswith(folder + os.sep)
    ):
        file, line = error.filename, error.lineno
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.startswith(folder + os.sep):
                file, line = frame.filename, frame.lineno
    return {
        "type": type(error).__name__,
        "message": plain_text(_text_of(error) + _install_hint(error)),
        "file": plain_text(file),
        "line": line if isinstance(line, int) else None,
        "traceback": plain_text(format_error(error)),
    }


def plain_text(text: str) -> str:
    """A text that can be sent: what is no Unicode in it is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


def _install_hint(error: BaseException) -> str:
    """What to do about a package that is not there; nothing for a name that is no package's."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    missing = name.split(".")[0] if isinstance(name, str) else ""
    if not missing.isidentifier() or missing in sys.modules or missing in STANDARD_NAMES:
        return ""
    return f" (install it into the server's virtual environment: pip install {package_of(missing)})"


def format_error(error: BaseException) -> str:
    """The traceback of a handler's exception, from the handler's own frame on."""
    try:
        trace = _without_server_frames(error.__traceback__)
        # A file that cannot be compiled has no frame; its place is a part of the error.
        if trace is error.__traceback__ and isinstance(error, SyntaxError):
            trace = None
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        return f"{type(error).__name__}: {_text_of(error)}"


def _without_server_frames(trace: Any) -> Any:
    """A traceback from the first frame on that is not the server's own or the import system's."""
    start = trace
    while start is not None:
        name = start.tb_frame.f_code.co_filename
        if not name.startswith(("<pserve>", "<frozen importlib")):
            return start
        start = start.tb_next
    return trace
