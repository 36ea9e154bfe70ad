"""What a plugin tells of itself to those who call it: its docstring and its fields, as plain data.

The fields come from the class attribute `parameters`, else from the named parameters of the handler. Nothing here
may keep a plugin from being loaded: what cannot be understood is left out.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
from typing import Any

from plugincore.baseplugin import BasePlugin

from pserve_runtime.logs import report
from pserve_runtime.schemas import NAMES_OF_TYPES, Unusable, as_schema, default_of, schema_of

SERVER_NAMES = frozenset(("request", "request_headers", "log", "client_ip", "subpath"))
"""What the server gives every handler: no client sends it as a field."""

PLACES = ("query", "body", "either")


SUBPATH_NAMES = frozenset(("subpath", "match_info"))
"""What a plugin names that looks at the rest of its path."""


def describe_plugin(instance: BasePlugin, handler: Any, module_doc: Any, plugin_id: str) -> str:
    """The description as JSON text: `{"description": ..., "parameters": [...], "takes_subpath": ...}`."""
    described: dict[str, Any] = {"description": "", "parameters": [], "takes_subpath": False}
    try:
        described["takes_subpath"] = _takes_subpath(type(instance))
        described["description"] = _docstring(instance, handler, module_doc)
        fields = _from_attribute(instance, plugin_id)
        if fields is None:
            described["parameters"] = _from_handler(handler)
        else:
            described["parameters"] = [field for field in fields if field["name"] not in SERVER_NAMES]
            # Whoever names it among the fields says so: what the code looks at is but a guess.
            described["takes_subpath"] |= any(field["name"] == "subpath" for field in fields)
        return json.dumps(described, allow_nan=False)
    except Exception as error:
        report("WARNING", f"{plugin_id}: its description cannot be made: {type(error).__name__}: {error}")
        return json.dumps({"description": "", "parameters": [], "takes_subpath": False})


def _takes_subpath(cls: type) -> bool:
    """Whether a class looks as if it made something of the rest of its path."""
    own = [base for base in cls.__mro__ if issubclass(base, BasePlugin) and base is not BasePlugin]
    codes = [getattr(inspect.unwrap(member), "__code__", None) for base in own for member in vars(base).values()]
    return any(_names_subpath(code) for code in codes if isinstance(code, types.CodeType))


def _names_subpath(code: types.CodeType) -> bool:
    names = {*code.co_names, *code.co_varnames, *(const for const in code.co_consts if isinstance(const, str))}
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return not SUBPATH_NAMES.isdisjoint(names) or any(map(_names_subpath, inner))


def _docstring(instance: BasePlugin, handler: Any, module_doc: Any) -> str:
    of_handler = getattr(handler, "__doc__", None)
    if getattr(handler, "__func__", None) in (BasePlugin.request_handler, BasePlugin.handle_request):
        of_handler = None
    for doc in (type(instance).__doc__, of_handler, module_doc):
        if isinstance(doc, str) and doc.strip():
            return inspect.cleandoc(doc).encode("utf-8", "backslashreplace").decode()
    return ""


def _field(name: str, schema: dict[str, Any], required: bool = False, place: str | None = None) -> dict[str, Any]:
    """One field. Its description stands beside its schema, not in it."""
    description = schema.pop("description", "")
    is_nested = schema.get("type") in ("array", "object")
    return {
        "name": name,
        "in": place or ("body" if is_nested else "either"),
        "required": required,
        "description": description if isinstance(description, str) else "",
        "schema": schema,
    }


def _from_attribute(instance: BasePlugin, plugin_id: str) -> list[dict[str, Any]] | None:
    """The fields of the class attribute `parameters`. None when there is none, or one that means something else."""
    given = getattr(type(instance), "parameters", None)
    if not isinstance(given, (dict, list, tuple)):
        return None
    try:
        if isinstance(given, dict):
            return _from_mapping(given, plugin_id)
        if not all(isinstance(name, str) for name in given):
            raise Unusable("a list of `parameters` holds the names of fields and nothing else")
        return [_field(_name(name), {}) for name in given]
    except Exception as error:
        report("WARNING", f"{plugin_id}: its class attribute `parameters` is not understood and left out: {error}")
        return None


def _from_mapping(given: dict[Any, Any], plugin_id: str) -> list[dict[str, Any]]:
    properties = given.get("properties")
    if given.get("type") == "object" and isinstance(properties, dict):
        required = given.get("required")
        needed = required if isinstance(required, (list, tuple)) else ()
        return [_declared(name, schema, given, name in needed, plugin_id) for name, schema in properties.items()]
    return [_declared(name, value, given, False, plugin_id) for name, value in given.items()]


def _declared(name: Any, value: Any, root: dict[Any, Any], required: bool, plugin_id: str) -> dict[str, Any]:
    """One member of `parameters`: a type, the name of a type, a description, a default, or a JSON schema."""
    if not isinstance(name, str):
        raise Unusable(f"{name!r} is no name of a field")
    try:
        if isinstance(value, dict):
            own = dict(value)
            # In a schema `required` is a list of an object's members; beside it, whether the field must be there.
            if isinstance(own.get("required"), bool):
                required = own.pop("required")
            place = own.pop("in", None)
            if place not in (None, *PLACES):
                raise Unusable(f"`in` is {place!r}; it can be {', '.join(PLACES)}")
            return _field(_name(name), as_schema(own, root), required, place)
        if isinstance(value, str) and value not in NAMES_OF_TYPES:
            return _field(_name(name), {"description": _name(value)}, required)
        if value is None:
            return _field(_name(name), {}, required)
        if isinstance(value, (bool, int, float)):
            return _field(_name(name), {**schema_of(type(value)), **default_of(value)}, required)
        if isinstance(value, (list, tuple, set, bytes)):
            raise Unusable(f"{value!r} is neither a type, a description, a default nor a schema")
        return _field(_name(name), schema_of(NAMES_OF_TYPES.get(value, value) if isinstance(value, str) else value))
    except Unusable as error:
        report("WARNING", f"{plugin_id}: the field {name!r} of `parameters` is not understood: {error}")
        return _field(_name(name), {}, required)


def _from_handler(handler: Any) -> list[dict[str, Any]]:
    """The fields that a handler names as its own parameters, with their hints and defaults."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError, NameError):
        return []
    names = _globals_of(handler)
    fields = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        if parameter.name in SERVER_NAMES:
            continue
        has_default = parameter.default is not parameter.empty
        if parameter.annotation is not parameter.empty:
            schema = schema_of(parameter.annotation, names)
        else:
            schema = schema_of(type(parameter.default)) if has_default and parameter.default is not None else {}
        if has_default:
            schema.update(default_of(parameter.default))
        fields.append(_field(_name(parameter.name), schema, not has_default))
    return fields


def _globals_of(handler: Any) -> dict[str, Any]:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(inspect.unwrap(handler), "__globals__", None) or {}


def _name(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
