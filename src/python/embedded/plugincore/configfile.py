"""The configuration as plugins see it: a dict of sections whose members are attributes too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import _pserve

TRUE_WORDS = ("true", "enabled", "on", "1", "enable", "yes")

masterConfig: Any = {}
"""The configuration that was read last; the server's own is read before any plugin is imported."""


def value_bool(value: Any) -> bool:
    """Whether a value means true, by the words of `bool:`."""
    if isinstance(value, str):
        return value.strip().lower() in TRUE_WORDS
    return bool(value)


class Config(dict):  # type: ignore[type-arg]
    """A section, or a whole file of sections.

    `Config(file=PATH)` reads an INI file with typed values and references resolved; a list of files is read in
    order, later ones win; a file that is not there gives an empty configuration. `Config(items=MAPPING)` takes
    values as they are. A name that a dict has as a method is reached by index only.
    """

    def __init__(
        self,
        *,
        file: Any = None,
        items: Mapping[str, Any] | None = None,
        env_override: bool = False,
        env_prefix: str | None = None,
        section_name: str | None = None,
        top_config: Config | None = None,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "top_config", top_config if top_config is not None else self)
        if items is None:
            items = _read(file)
        for key, value in items.items():
            self[key] = self._wrapped(key, value, env_override, env_prefix)
        if env_override:
            self._take_environment(env_prefix, section_name)
        if top_config is None:
            global masterConfig
            masterConfig = self

    def _wrapped(self, key: str, value: Any, env_override: bool, env_prefix: str | None) -> Any:
        if isinstance(value, dict) and not isinstance(value, Config):
            return Config(
                items=value,
                env_override=env_override,
                env_prefix=env_prefix,
                section_name=key,
                top_config=self.top_config,
            )
        return value

    def _take_environment(self, prefix: str | None, section_name: str | None) -> None:
        for key, value in self.items():
            if not isinstance(value, Config):
                name = "_".join(part for part in (prefix, section_name, str(key)) if part).upper()
                if name in os.environ:
                    self[key] = os.environ[name]

    def merge(self, other: Mapping[str, Any], overwrite: bool = True) -> None:
        """Takes another configuration's members in, section by section; with `overwrite=False` only new ones."""
        for key, value in other.items():
            mine = self.get(key)
            if isinstance(mine, Config) and isinstance(value, Mapping):
                mine.merge(value, overwrite)
            elif key not in self or overwrite:
                self[key] = self._wrapped(key, value, False, None)

    def copy(self) -> Config:
        return Config(items=self, top_config=self.top_config)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(map(str, self)) or "nothing"
            raise AttributeError(f"no {name!r} in this configuration; it has {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *(str(key) for key in self)]

    def __reduce__(self) -> Any:
        return _rebuild, (dict(self),)


def _rebuild(items: dict[str, Any]) -> Config:
    config = Config.__new__(Config)
    dict.__init__(config, items)
    object.__setattr__(config, "top_config", config)
    return config


def _read(file: Any) -> dict[str, Any]:
    files = [file] if isinstance(file, (str, bytes, os.PathLike)) else list(file or [])
    if not files:
        raise TypeError("Config needs file= or items=")
    sections: dict[str, Any] = {}
    for path in files:
        if os.path.isfile(path):
            for name, keys in _pserve.parse_ini(os.fsdecode(path)).items():
                sections.setdefault(name, {}).update(keys)
    return sections
