"""Mappings with repeated names, for requests in an environment without the `multidict` package.

Where that package is installed, requests carry its types, because plugins may test for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MISSING: Any = object()


class Headers(dict):  # type: ignore[type-arg]
    """A dict of header fields whose look-ups do not care about case."""

    __slots__ = ()

    def _spelling(self, name: object) -> object:
        if dict.__contains__(self, name) or not isinstance(name, str):
            return name
        folded = name.lower()
        return next((known for known in self if known.lower() == folded), name)

    def __missing__(self, name: object) -> Any:
        known = self._spelling(name)
        if known is name or known == name:
            raise KeyError(name)
        return dict.__getitem__(self, known)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, self._spelling(name))

    def get(self, name: Any, default: Any = None) -> Any:
        return dict.get(self, self._spelling(name), default)

    def pop(self, name: Any, *default: Any) -> Any:
        return dict.pop(self, self._spelling(name), *default)

    def setdefault(self, name: Any, default: Any = None) -> Any:
        return dict.setdefault(self, self._spelling(name), default)

    def copy(self) -> Headers:
        return Headers(self)


class MultiMap(Mapping[str, Any]):
    """A read-only mapping that keeps repeated names; plain look-ups give the first."""

    def __init__(self, items: Sequence[tuple[str, Any]]) -> None:
        self._items = list(items)

    @staticmethod
    def _fold(name: str) -> str:
        return name

    def getall(self, name: str, default: Any = _MISSING) -> list[Any]:
        """Every value of a name; KeyError when there is none and no default."""
        folded = self._fold(name)
        found = [value for key, value in self._items if self._fold(key) == folded]
        if not found:
            if default is _MISSING:
                raise KeyError(name)
            return default  # type: ignore[no-any-return]
        return found

    def getone(self, name: str, default: Any = _MISSING) -> Any:
        """The first value of a name; KeyError when there is none and no default."""
        folded = self._fold(name)
        for key, value in self._items:
            if self._fold(key) == folded:
                return value
        if default is _MISSING:
            raise KeyError(name)
        return default

    def __getitem__(self, name: str) -> Any:
        return self.getone(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self.getone(name, default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.getone(name, None) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> Any:
        return [key for key, _ in self._items]

    def values(self) -> Any:
        return [value for _, value in self._items]

    def items(self) -> Any:
        return list(self._items)

    def copy(self) -> MultiMap:
        return type(self)(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MultiMap):
            return self._items == other._items
        return isinstance(other, Mapping) and dict(self._items) == dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        inside = ", ".join(f"'{key}': {value!r}" for key, value in self._items)
        return f"<{type(self).__name__}({inside})>"


class CaseFoldedMultiMap(MultiMap):
    """As `MultiMap`, with names that do not care about case."""

    @staticmethod
    def _fold(name: str) -> str:
        return name.lower()


def multi_map(items: Sequence[tuple[str, Any]], ignore_case: bool = False) -> Any:
    """The installed `multidict` type for these items, else ours."""
    try:
        import multidict
    except ImportError:
        return CaseFoldedMultiMap(items) if ignore_case else MultiMap(items)
    if ignore_case:
        return multidict.CIMultiDictProxy(multidict.CIMultiDict(items))
    return multidict.MultiDictProxy(multidict.MultiDict(items))


class MutableHeaders(CaseFoldedMultiMap):
    """Header fields that can be set: what responses carry where `multidict` is not installed."""

    def add(self, name: str, value: Any) -> None:
        """Adds a field beside those of the same name."""
        self._items.append((str(name), str(value)))

    def __setitem__(self, name: str, value: Any) -> None:
        folded = self._fold(str(name))
        places = [at for at, (key, _) in enumerate(self._items) if self._fold(key) == folded]
        if not places:
            self.add(name, value)
            return
        self._items[places[0]] = (str(name), str(value))
        for at in reversed(places[1:]):
            del self._items[at]

    def __delitem__(self, name: str) -> None:
        self.popall(name)

    def setdefault(self, name: str, default: Any = "") -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def popall(self, name: str, default: Any = _MISSING) -> list[Any]:
        values = self.getall(name, default)
        folded = self._fold(name)
        self._items = [(key, value) for key, value in self._items if self._fold(key) != folded]
        return values

    def popone(self, name: str, default: Any = _MISSING) -> Any:
        folded = self._fold(name)
        for at, (key, value) in enumerate(self._items):
            if self._fold(key) == folded:
                del self._items[at]
                return value
        if default is _MISSING:
            raise KeyError(name)
        return default

    pop = popone

    def extend(self, *others: Any, **fields: Any) -> None:
        """Adds fields of mappings or pairs."""
        for name, value in _pairs(*others, **fields):
            self.add(name, value)

    def update(self, *others: Any, **fields: Any) -> None:
        """Sets fields: those of the same names go."""
        pairs = _pairs(*others, **fields)
        for name, _ in pairs:
            self.popall(name, [])
        for name, value in pairs:
            self.add(name, value)

    def clear(self) -> None:
        self._items.clear()


def _pairs(*others: Any, **fields: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for other in others:
        found.extend(other.items() if hasattr(other, "items") else other)
    found.extend(fields.items())
    return found


def mutable_headers(given: Any = None) -> Any:
    """Header fields that can be set: the installed `multidict` type, else ours."""
    try:
        import multidict
    except ImportError:
        return MutableHeaders(_pairs(given or {}))
    return multidict.CIMultiDict(given or {})
