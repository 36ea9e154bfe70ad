"""A small URL for requests in an environment without the `yarl` package; where that is installed, its type is used."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pserve_runtime.multimap import MultiMap


class URL:
    """An immutable URL: its parts, its query, and `str()` for the whole."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts = urlsplit(text)

    @property
    def scheme(self) -> str:
        return self._parts.scheme

    @property
    def host(self) -> str | None:
        return self._parts.hostname

    @property
    def port(self) -> int | None:
        return self._parts.port or {"http": 80, "https": 443}.get(self._parts.scheme)

    @property
    def authority(self) -> str:
        return self._parts.netloc

    @property
    def raw_path(self) -> str:
        return self._parts.path

    @property
    def path(self) -> str:
        return unquote(self._parts.path)

    @property
    def raw_query_string(self) -> str:
        return self._parts.query

    @property
    def query_string(self) -> str:
        return _decoded_query(self._parts.query)

    @property
    def query(self) -> MultiMap:
        return MultiMap(parse_qsl(self._parts.query, keep_blank_values=True))

    @property
    def path_qs(self) -> str:
        return self.path + ("?" + self.query_string if self._parts.query else "")

    @property
    def raw_path_qs(self) -> str:
        return self._parts.path + ("?" + self._parts.query if self._parts.query else "")

    @property
    def fragment(self) -> str:
        return unquote(self._parts.fragment)

    @property
    def parts(self) -> tuple[str, ...]:
        path = self.path
        pieces = path.lstrip("/").split("/") if path.strip("/") or path == "" else [""]
        return ("/", *pieces) if path.startswith("/") else tuple(pieces)

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def parent(self) -> URL:
        return self._with(path=self._parts.path.rsplit("/", 1)[0] or "/", query="", fragment="")

    def is_absolute(self) -> bool:
        return bool(self._parts.netloc)

    def origin(self) -> URL:
        return self._with(path="", query="", fragment="")

    def relative(self) -> URL:
        return self._with(scheme="", netloc="")

    def with_query(self, query: Any) -> URL:
        text = query if isinstance(query, str) else urlencode(query or {}, doseq=True)
        return self._with(query=text)

    def with_path(self, path: str) -> URL:
        return self._with(path=quote(path), query="", fragment="")

    def joinpath(self, *pieces: str) -> URL:
        joined = "/".join([self._parts.path.rstrip("/"), *(quote(piece) for piece in pieces)])
        return self._with(path=joined, query="", fragment="")

    def __truediv__(self, piece: str) -> URL:
        return self.joinpath(piece)

    def human_repr(self) -> str:
        return unquote(self._text)

    def _with(self, **changes: str) -> URL:
        return URL(urlunsplit(self._parts._replace(**changes)))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"URL('{self._text}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, URL) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def _decoded_query(query: str) -> str:
    """Decoded but for what divides fields, which would no longer be told apart from what is inside them."""
    kept = re.sub("%(2[bB6]|3[bBdD])", lambda match: "%25" + match[1].upper(), query.replace("+", " "))
    return re.sub("(?:%[0-9a-fA-F]{2})+", _decoded_run, kept)


def _decoded_run(match: re.Match[str]) -> str:
    try:
        return unquote(match[0], errors="strict")
    except UnicodeDecodeError:
        return match[0]


def url(text: str) -> Any:
    """The installed `yarl.URL` for an encoded URL, else ours."""
    try:
        import yarl
    except ImportError:
        return URL(text)
    return yarl.URL(text, encoded=True)
