"""Lets the interpreter import the modules that are built into the binary. Executed once, at the start."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Mapping, Sequence


class EmbeddedImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads them; `linecache` gets their source from here for tracebacks."""

    def __init__(self, sources: Mapping[str, tuple[str, str]]) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._sources:
            return None
        file = "<pserve>/" + self._sources[name][0]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=self.is_package(name))
        spec.has_location = True
        return spec

    def is_package(self, name: str) -> bool:
        return self._sources[name][0].endswith("/__init__.py")

    def get_source(self, name: str) -> str:
        return self._sources[name][1]

    def get_code(self, name: str) -> types.CodeType:
        file, source = self._sources[name]
        return compile(source, "<pserve>/" + file, "exec", dont_inherit=True)


class StandInImporter(EmbeddedImporter):
    """For packages that may be installed: asked only when nobody else knows them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = name.partition(".")[0]
        spec = super().find_spec(name, path, target)
        if spec is None and package in self._sources and isinstance(sys.modules[package].__loader__, StandInImporter):
            raise sys.modules[package].missing(name)
        return spec


def install(sources: Mapping[str, tuple[str, str]], stand_ins: Mapping[str, tuple[str, str]]) -> None:
    """Puts one importer before all others: an installed package of the same name is not looked at. And one behind."""
    # How the supervisor started this process concerns no plugin, and no program that a plugin starts.
    os.environ.pop("PSERVE_WORKER", None)
    sys.meta_path.insert(0, EmbeddedImporter(sources))
    sys.meta_path.append(StandInImporter(stand_ins))
