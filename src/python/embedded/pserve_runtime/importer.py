"""Imports plugin files and the helper modules beside them, always from their source as it is now."""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

ALIAS_PREFIX = "pserve_plugin_"


def _standard_names() -> frozenset[str]:
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return frozenset(names)
    folder = os.path.dirname(os.__file__)
    found = {os.path.splitext(entry)[0].split(".")[0] for entry in os.listdir(folder)}
    return frozenset(found | set(sys.builtin_module_names))


STANDARD_NAMES = _standard_names()


class SourceOnlyLoader(importlib.machinery.SourceFileLoader):
    """Reads the source every time, and compiles it when it is another one than that of the module in use: byte-code
    caches go by whole seconds and would serve stale code."""

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError("byte-code caches are not used here")

    def source_to_code(self, data: bytes, path: str, **options: object) -> types.CodeType:  # type: ignore[override]
        self.source = data
        known = _compiled.get(path)
        if known is not None and known.source == data:
            self.code: types.CodeType = known.code
        else:
            self.code = super().source_to_code(data, path, **options)
        _compiled[path] = self
        return self.code

    def is_stale(self) -> bool:
        """Whether the file has changed, or gone, since it was compiled."""
        try:
            with open(self.path, "rb") as file:
                return file.read() != getattr(self, "source", None)
        except OSError:
            return True


_compiled: weakref.WeakValueDictionary[str, SourceOnlyLoader] = weakref.WeakValueDictionary()
"""Who compiled each file last, as long as the module is in use."""


def _file_of(module: object) -> object:
    """A module's file. What stands in `sys.modules` may be anything, lazy proxies that raise included."""
    try:
        return getattr(module, "__file__", None)
    except Exception:
        return None


class PluginFolder:
    """The plugins folder as a place to import from: after the standard library, before installed packages."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._not_helpers: set[str] = set()

    def install(self) -> None:
        """Puts the folder into the interpreter's import system."""
        finders = sys.meta_path
        path_finder = next(
            (i for i, finder in enumerate(finders) if finder is importlib.machinery.PathFinder), len(finders)
        )
        finders.insert(path_finder, self)
        sys.path.append(self.folder)

    def remove(self) -> None:
        """Takes the folder out again."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self.folder in sys.path:
            sys.path.remove(self.folder)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None:
            if name in STANDARD_NAMES or name in self._not_helpers:
                return None
            places = [self.folder]
        else:
            places = [place for place in path if self.is_inside(place)]
        for place in places:
            # A new finder each time: a kept one would go by the folder's modification time.
            finder = importlib.machinery.FileFinder(
                place,
                (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
                (SourceOnlyLoader, importlib.machinery.SOURCE_SUFFIXES),
            )
            spec = finder.find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None

    def modules(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Every imported module whose file lies in the folder."""
        for name, module in list(sys.modules.items()):
            if self.is_inside(_file_of(module)):
                yield name, module

    def name_of(self, module: types.ModuleType) -> str | None:
        """The name under which a module of the folder is imported."""
        usual = (module.__name__, ALIAS_PREFIX + module.__name__)
        known = next((name for name in usual if sys.modules.get(name) is module), None)
        return known or next((name for name, other in self.modules() if other is module), None)

    def execute(self, path: str) -> types.ModuleType:
        """Runs one plugin file as a module named by its stem, or gives the one that another file just imported."""
        stem = os.path.splitext(os.path.basename(path))[0]
        known = sys.modules.get(stem)
        if known is not None and _file_of(known) == path:
            return known
        taken = self._is_taken(stem)
        loader = SourceOnlyLoader(stem, path)
        spec = importlib.util.spec_from_file_location(stem, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        if taken:
            self._execute_under_alias(stem, module, loader)
            return module
        sys.modules[stem] = module
        try:
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(stem, None)
            raise
        return sys.modules.get(stem, module)

    def _execute_under_alias(self, stem: str, module: types.ModuleType, loader: SourceOnlyLoader) -> None:
        """For a file that shares its name with another module: the name stays with that one.

        What the file defines is tagged with the alias, under which `pickle` finds it again.
        """
        alias = ALIAS_PREFIX + stem
        self._not_helpers.add(stem)
        sys.modules[alias] = module
        vars(module)["__builtins__"] = {**vars(builtins), "__build_class__": _class_builder(module, alias)}
        try:
            # `dataclasses` looks the module of a class up by name and fails where nothing has that name.
            importlib.import_module(stem)
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(alias, None)
            raise
        for value in list(vars(module).values()):
            if isinstance(value, types.FunctionType) and value.__module__ == stem:
                value.__module__ = alias

    def _is_taken(self, stem: str) -> bool:
        if stem in STANDARD_NAMES:
            return True
        known = sys.modules.get(stem)
        if known is not None and not self.is_inside(_file_of(known)):
            return True
        elsewhere = [place for place in sys.path if place != self.folder]
        try:
            spec = importlib.machinery.PathFinder.find_spec(stem, elsewhere)
        except (ImportError, OSError, ValueError):
            return False
        return spec is not None and spec.loader is not None

    def is_inside(self, path: object) -> bool:
        return isinstance(path, str) and (path == self.folder or path.startswith(self.folder + os.sep))


def _class_builder(module: types.ModuleType, alias: str) -> Any:
    """Makes classes whose `__module__` is the alias from the start: decorators such as `dataclass` look at it."""

    def build_class(*args: Any, **kwargs: Any) -> Any:
        # A class takes its `__module__` from this name, first thing in its body.
        names = vars(module)
        name = names["__name__"]
        names["__name__"] = alias
        try:
            return builtins.__build_class__(*args, **kwargs)
        finally:
            names["__name__"] = name

    return build_class


class ImportTransaction:
    """Imports files afresh, and leaves everybody else the modules they have until it is settled.

    Plugin code runs while the new plugins initialise: it goes on seeing the old modules. `keep` names the modules of
    plugins that are not part of it.
    """

    def __init__(self, folder: PluginFolder, keep: set[str]) -> None:
        self._folder = folder
        self._keep = keep
        self._before = {name: module for name, module in folder.modules() if name not in keep}
        self._fresh: dict[str, types.ModuleType] = {}
        # Names that were in sight before anything was imported afresh, while the old modules are hidden.
        self._others: set[str] | None = None
        importlib.invalidate_caches()

    def hide_old(self) -> None:
        """From now on the old modules are out of sight: what is imported is imported afresh. Nobody may wait for
        anything before `show_old`. It may be called again meanwhile."""
        if self._others is not None:
            return
        for name in self._before:
            sys.modules.pop(name, None)
        self._others = set(sys.modules)
        sys.modules.update(self._fresh)

    def show_old(self) -> None:
        """Everybody sees the old modules again. It may be called when they have been in sight all the time."""
        if self._others is None:
            return
        # Only what is new: to look at every module for every file would take longer than all the rest.
        added = sys.modules.keys() - self._others - self._fresh.keys()
        self._others = None
        self._fresh = {name: sys.modules[name] for name in self._fresh if name in sys.modules}
        self._fresh.update({name: sys.modules[name] for name in added if self._is_of_folder(name)})
        # A module that is new altogether takes nobody's place and stays in sight.
        sys.modules.update(self._before)

    def _is_of_folder(self, name: str) -> bool:
        return name not in self._keep and self._folder.is_inside(_file_of(sys.modules[name]))

    def forget(self, stem: str) -> None:
        """Drops the module of one file that failed."""
        for name in (stem, ALIAS_PREFIX + stem):
            if self._fresh.pop(name, None) is not None and name not in self._before:
                sys.modules.pop(name, None)

    def settle(self) -> None:
        """Ends a success. Old helpers that nobody imported again stay, unless a source has changed meanwhile."""
        left = [name for name in self._before if name not in self._fresh]
        loaders = [getattr(self._before[name], "__loader__", None) for name in left]
        if any(isinstance(loader, SourceOnlyLoader) and loader.is_stale() for loader in loaders):
            for name in left:
                sys.modules.pop(name, None)
        sys.modules.update(self._fresh)

    def roll_back(self) -> None:
        """Ends a failure: every module is again the one from before."""
        for name, _ in self._folder.modules():
            if name not in self._keep:
                sys.modules.pop(name, None)
        sys.modules.update(self._before)
