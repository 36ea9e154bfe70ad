"""Lets the interpreter import the modules that are built into the binary. Executed once, at the start."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence


class EmbeddedImporter:
    """Finds and loads them; `linecache` gets their source from here for tracebacks. What it would inherit from
    `importlib.abc` is here as well: that module takes a dozen others with it."""

    def __init__(
        self, files: Mapping[str, str], code_of: Callable[[str], types.CodeType], source_of: Callable[[str], str]
    ) -> None:
        self._files = files
        self.get_code = code_of
        self.get_source = source_of

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._files:
            return None
        file = "<pserve>/" + self._files[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=self.is_package(name))
        spec.has_location = True
        return spec

    def is_package(self, name: str) -> bool:
        return self._files[name].endswith("/__init__.py")

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)


class StandInImporter(EmbeddedImporter):
    """For packages that may be installed: asked only when nobody else knows them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = name.partition(".")[0]
        spec = super().find_spec(name, path, target)
        if spec is None and package in self._files and isinstance(sys.modules[package].__loader__, StandInImporter):
            raise sys.modules[package].missing(name)
        return spec


def install(
    files: Mapping[str, str],
    stand_ins: Mapping[str, str],
    code_of: Callable[[str], types.CodeType],
    source_of: Callable[[str], str],
) -> None:
    """Puts one importer before all others: an installed package of the same name is not looked at. And one behind."""
    # How the supervisor started this process concerns no plugin, and no program that a plugin starts.
    os.environ.pop("PSERVE_WORKER", None)
    sys.meta_path.insert(0, EmbeddedImporter(files, code_of, source_of))
    sys.meta_path.append(StandInImporter(stand_ins, code_of, source_of))
