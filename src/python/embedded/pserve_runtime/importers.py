"""Who imports a module of the plugins folder, told by reading the files there."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator

from pserve_runtime.importer import SourceOnlyLoader

SKIPPED_FOLDERS = frozenset(("__pycache__", "node_modules"))
"""Folders that hold no modules of the user's own."""


def importers_of(folder: str, modules: list[str]) -> list[str]:
    """The plugin files that import one of these modules, directly or by way of other modules of the folder.

    A module of a package that no file names, but that is loaded, was imported in a way that cannot be read: then they
    are all meant.
    """
    saved = {_module_name(folder, path) for path in modules}
    changed = set(saved)
    left = {path: _imported_names(folder, path) for path in _sources(folder)}
    found = True
    while found:
        importers = [path for path, names in left.items() if not changed.isdisjoint(names)]
        for path in importers:
            del left[path]
            changed.add(_module_name(folder, path))
        found = bool(importers)
    plugin_files = list(_sources(folder, is_deep=False))
    importing = [path for path in plugin_files if path not in left]
    # Plugin files are loaded whether anybody imports them or not.
    is_hidden = any(_is_loaded_helper(name, set(modules)) for name in saved if "." in name)
    return importing if importing or not is_hidden else plugin_files


def _is_loaded_helper(name: str, paths: set[str]) -> bool:
    module = sys.modules.get(name)
    loader = getattr(module, "__loader__", None)
    return isinstance(loader, SourceOnlyLoader) and loader.path in paths


def _sources(folder: str, is_deep: bool = True) -> Iterator[str]:
    """Python files of the folder, and of the packages in it."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.name.endswith(".py") and entry.is_file():
            yield entry.path
        elif is_deep and entry.name.isidentifier() and entry.is_dir(follow_symlinks=False):
            is_own = entry.name not in SKIPPED_FOLDERS and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
            if is_own:
                yield from _sources(entry.path)


def _module_name(folder: str, path: str) -> str:
    parts = os.path.splitext(os.path.relpath(path, folder))[0].split(os.sep)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imported_names(folder: str, path: str) -> set[str]:
    """Every module that a file may import, with the packages around it. One that cannot be read imports nothing."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    package = _module_name(folder, path).split(".")
    if os.path.basename(path) != "__init__.py":
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.update(_with_parents(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            base = [*around, *(node.module.split(".") if node.module else [])]
            names.update(_with_parents(base))
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def _with_parents(parts: list[str]) -> Iterator[str]:
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
