"""Type hints and hand-written schemas -> JSON Schema (2020-12, as OpenAPI 3.1 has it), as plain data.

A hint that says nothing to a client, or that cannot be evaluated, is the schema that admits everything.
"""

from __future__ import annotations

import collections.abc
import enum
import math
import types
import typing
from typing import Any

SIMPLE_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    tuple: "array",
    set: "array",
    frozenset: "array",
    dict: "object",
    type(None): "null",
    None: "null",
}

NAMES_OF_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in SIMPLE_TYPES if isinstance(kind, type) and kind is not type(None)},
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}

DATACLASS_FIELDS = "__dataclass_fields__"
"""What every dataclass has: those who use none need not wait for the import of `dataclasses`."""

DEEPEST = 8
"""How deep hints and schemas are followed; what lies deeper admits everything."""


class Unusable(ValueError):
    """A hand-written description that cannot be taken over."""


def schema_of(hint: Any, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema of a type hint; `names` are those that a hint given as text is evaluated among."""
    try:
        return _of_hint(hint, names or {}, 0)
    except Exception:
        return {}


def default_of(value: Any) -> dict[str, Any]:
    """`{"default": value}`, or nothing when it says nothing to a client."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float) and not math.isfinite(value):
        return {}
    if isinstance(value, (bool, int, float)):
        return {"default": value}
    return {"default": _text(value)} if isinstance(value, str) else {}


def _of_hint(hint: Any, names: dict[str, Any], depth: int) -> dict[str, Any]:
    if depth > DEEPEST:
        return {}
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        # The plugin's own code, which has been run already: this does no more than Python itself would.
        hint = eval(hint, dict(names))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _of_choices([member.value for member in hint])
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is None and isinstance(hint, collections.abc.Hashable) and hint in SIMPLE_TYPES:
        return {"type": SIMPLE_TYPES[hint]}
    if origin is typing.Annotated:
        texts = [note for note in inner[1:] if isinstance(note, str)]
        return {**_of_hint(inner[0], names, depth), **({"description": _text(texts[0])} if texts else {})}
    if origin is typing.Literal:
        return _of_choices(inner)
    if origin is typing.Union or origin is getattr(types, "UnionType", typing.Union):
        return _any_of([_of_hint(member, names, depth + 1) for member in inner])
    if hasattr(hint, DATACLASS_FIELDS) or hasattr(hint, "__required_keys__"):
        return _of_members(hint, depth)
    if hasattr(hint, "__supertype__"):
        return _of_hint(hint.__supertype__, names, depth + 1)
    return _of_container(origin or hint, inner, names, depth)


def _of_container(kind: Any, inner: tuple[Any, ...], names: dict[str, Any], depth: int) -> dict[str, Any]:
    if not isinstance(kind, type) or issubclass(kind, (str, bytes, bytearray)):
        return {"type": "string"} if isinstance(kind, type) and issubclass(kind, str) else {}
    if issubclass(kind, collections.abc.Mapping):
        values = _of_hint(inner[1], names, depth + 1) if len(inner) == 2 else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if issubclass(kind, tuple) and inner and inner[-1] is not Ellipsis:
        return {"type": "array", "minItems": len(inner), "maxItems": len(inner)}
    if issubclass(kind, (collections.abc.Sequence, collections.abc.Set)) or kind is collections.abc.Iterable:
        items = _of_hint(inner[0], names, depth + 1) if inner else {}
        return {"type": "array", **({"items": items} if items else {})}
    return {}


def _of_members(kind: Any, depth: int) -> dict[str, Any]:
    """A dataclass or a TypedDict."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:
        hints = dict.fromkeys(getattr(kind, "__annotations__", {}), Any)
    if hasattr(kind, DATACLASS_FIELDS):
        import dataclasses

        missing = dataclasses.MISSING
        fields = [field for field in dataclasses.fields(kind) if field.init]
        required = [field.name for field in fields if field.default is missing and field.default_factory is missing]
        hints = {field.name: hints.get(field.name, Any) for field in fields}
    else:
        required = [name for name in hints if name in kind.__required_keys__]
    properties = {name: _of_hint(hint, {}, depth + 1) for name, hint in hints.items()}
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _of_choices(values: Any) -> dict[str, Any]:
    values = [value.value if isinstance(value, enum.Enum) else value for value in values]
    if not values or not all(value is None or isinstance(value, (str, bool, int, float)) for value in values):
        return {}
    kinds = {SIMPLE_TYPES.get(type(value)) for value in values}
    choices = {"enum": [_plain(value, 0) for value in values]}
    only = kinds.pop() if len(kinds) == 1 else None
    return {"type": only, **choices} if only else choices


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if {} in schemas:
        return {}
    if all(list(schema) == ["type"] for schema in schemas):
        kinds = list(dict.fromkeys(schema["type"] for schema in schemas))
        return {"type": kinds if len(kinds) > 1 else kinds[0]}
    return {"anyOf": schemas}


KEYWORDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("title", "description", "format", "pattern", "$comment", "contentMediaType"), (str,)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (int, float)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), (int,)),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), (bool,)),
    **dict.fromkeys(("enum", "examples", "required", "anyOf", "oneOf", "allOf", "prefixItems"), (list, tuple)),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas"), (dict,)),
    **dict.fromkeys(
        ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"), (dict, bool)
    ),
}
"""What the value of a keyword must be for the schema to be one."""

SCHEMAS_BY_NAME = ("properties", "patternProperties", "dependentSchemas")
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def as_schema(given: Any, root: Any, depth: int = 0) -> Any:
    """A hand-written schema as plain data, with its references to `root` put in place.

    Errs with what is wrong: one bad schema would make the description of the whole server invalid.
    """
    if isinstance(given, bool) and depth:
        return given
    if not isinstance(given, dict):
        raise Unusable(f"{given!r} is no schema")
    if depth > DEEPEST:
        return {}
    if "$ref" in given:
        beside = {key: value for key, value in given.items() if key != "$ref"}
        return {**as_schema(_referred(given["$ref"], root), root, depth + 1), **as_schema(beside, root, depth + 1)}
    schema: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise Unusable(f"{key!r} is no keyword of a schema")
        if key in ("$defs", "definitions", "$schema", "$id"):
            continue
        wanted = KEYWORDS.get(key)
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise Unusable(f"`{key}` is {value!r}")
        if key == "type":
            schema[key] = _kind(value)
        elif key in SCHEMAS_BY_NAME:
            schema[key] = {_text(str(name)): as_schema(member, root, depth + 1) for name, member in value.items()}
        elif key in SCHEMA_LISTS:
            schema[key] = [as_schema(member, root, depth + 1) for member in value]
        elif key in SINGLE_SCHEMAS:
            schema[key] = as_schema(value, root, depth + 1)
        else:
            schema[_text(key)] = _plain(value, depth)
    return schema


def _referred(reference: Any, root: Any) -> Any:
    found = root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise Unusable(f"`$ref` is {reference!r}; it can point into the same `parameters` only (#/$defs/NAME)")
    for step in reference[2:].split("/"):
        if not isinstance(found, dict) or step not in found:
            raise Unusable(f"there is nothing at {reference}")
        found = found[step]
    return found


def _kind(value: Any) -> Any:
    """The `type` of a schema: a name, a Python type, or several of them."""
    if isinstance(value, (list, tuple)) and value:
        return list(dict.fromkeys(_kind(member) for member in value))
    if isinstance(value, str) and value in (*SIMPLE_TYPES.values(),):
        return value
    known = NAMES_OF_TYPES.get(value) if isinstance(value, str) else value
    if isinstance(known, type) and known in SIMPLE_TYPES:
        return SIMPLE_TYPES[known]
    raise Unusable(f"`type` is {value!r}; it can be {', '.join(dict.fromkeys(SIMPLE_TYPES.values()))}")


def _plain(value: Any, depth: int) -> Any:
    """A value as JSON has it. Errs when it has no such form."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth <= 2 * DEEPEST and isinstance(value, (list, tuple)):
        return [_plain(member, depth + 1) for member in value]
    if depth <= 2 * DEEPEST and isinstance(value, dict):
        return {_text(str(name)): _plain(member, depth + 1) for name, member in value.items()}
    raise Unusable(f"{value!r} has no form in JSON")


def _text(text: str) -> str:
    """A text that can be sent: what is no Unicode in it is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
