"""What can be told of a plugin file by reading it: its classes, and the modules that it needs and that are missing."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from pserve_runtime.importer import STANDARD_NAMES
from pserve_runtime.packages import package_of


def inspect_file(path: str, folder: str) -> dict[str, Any]:
    """`classes`: name to line. `missing`: (module, package to install, line, whether the file can do without).

    `error`: (type, message, line) when it cannot be read as Python.
    """
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError) as error:
        return {"classes": {}, "missing": [], "error": (type(error).__name__, str(error), getattr(error, "lineno", 0))}
    classes = {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    missing: dict[str, tuple[str, str, int, bool]] = {}
    for name, line, is_optional in _imports(tree, False):
        if not _is_there(name, folder) and (name not in missing or missing[name][3]):
            missing[name] = (name, package_of(name), line, is_optional)
    return {"classes": classes, "missing": sorted(missing.values(), key=lambda found: found[2]), "error": None}


def _imports(node: ast.AST, is_optional: bool) -> Iterator[tuple[str, int, bool]]:
    """Top-level names of absolute imports. Those in a `try` that catches ImportError, in a function, or for type
    checkers only are ones that the file can do without."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name.partition(".")[0], child.lineno, is_optional
        elif isinstance(child, ast.ImportFrom):
            if child.level == 0 and child.module:
                yield child.module.partition(".")[0], child.lineno, is_optional
        elif isinstance(child, ast.Try):
            guarded = is_optional or any(_catches_import_error(handler) for handler in child.handlers)
            for part in child.body:
                yield from _imports_of(part, guarded)
            for part in [*child.handlers, *child.orelse, *child.finalbody]:
                yield from _imports_of(part, is_optional)
        else:
            yield from _imports(child, is_optional or _may_never_run(child))


def _may_never_run(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _imports_of(statement: ast.AST, is_optional: bool) -> Iterator[tuple[str, int, bool]]:
    return _imports(ast.Module(body=[statement], type_ignores=[]), is_optional)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(handler.type))


def _is_there(name: str, folder: str) -> bool:
    if name in STANDARD_NAMES or name in sys.modules:
        return True
    if os.path.exists(os.path.join(folder, name + ".py")) or os.path.isdir(os.path.join(folder, name)):
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
