"""Sessions for web pages and other clients: JSON data behind a cookie. Off until the INI file configures it:

    [plugin_parms]
    sessman = session_ttl=3600&database=/var/lib/pserve/sessions.db

    curl -c jar -d '{"user": "ada"}' http://127.0.0.1:9192/sessman/new
    curl -b jar -d '{"theme": "dark"}' http://127.0.0.1:9192/sessman/update
    curl -b jar http://127.0.0.1:9192/sessman/get

docs/sessions.md describes the parameters and the answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from aiohttp import web
from plugincore.baseplugin import BasePlugin, PluginOff

COOKIES = ("PS_SESSID", "session_id")
DEFAULT_TTL = 3600.0
MOST_DATA_BYTES = 64 << 10
PARAMETERS = ("backend", "session_ttl", "database", "url", "collection")
KEY_PARAMETERS = ("auth_type", "auth", "apikey")

T = TypeVar("T")


class Store(Protocol):
    """Where sessions live. Called on one thread only. Times are seconds since 1970."""

    def create(self, key: str, client: str, data: str, expires: float) -> None: ...

    def change(self, key: str, client: str, now: float, expires: float, change: Callable[[str], str]) -> str | None: ...

    def delete(self, key: str, client: str) -> bool: ...

    def sweep(self, now: float) -> int: ...

    def close(self) -> None: ...


class SqliteStore:
    """A file, written ahead (WAL): what has been answered is there after the process was killed."""

    def __init__(self, path: str) -> None:
        # Autocommit: transactions begin where they are written.
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS sessions"
            " (key TEXT PRIMARY KEY, client TEXT NOT NULL, data TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID"
        )
        self.db.execute("CREATE INDEX IF NOT EXISTS sessions_expire ON sessions (expires)")

    def create(self, key: str, client: str, data: str, expires: float) -> None:
        self.db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (key, client, data, expires))

    def change(self, key: str, client: str, now: float, expires: float, change: Callable[[str], str]) -> str | None:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            query = "SELECT data FROM sessions WHERE key = ? AND client = ? AND expires > ?"
            found = self.db.execute(query, (key, client, now)).fetchone()
            data = None if found is None else change(found[0])
            if data is not None:
                self.db.execute("UPDATE sessions SET data = ?, expires = ? WHERE key = ?", (data, expires, key))
            self.db.execute("COMMIT")
            return data
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    def delete(self, key: str, client: str) -> bool:
        return self.db.execute("DELETE FROM sessions WHERE key = ? AND client = ?", (key, client)).rowcount > 0

    def sweep(self, now: float) -> int:
        return self.db.execute("DELETE FROM sessions WHERE expires <= ?", (now,)).rowcount

    def close(self) -> None:
        self.db.close()


class MongoStore:
    """A collection of MongoDB, through pymongo."""

    def __init__(self, url: str, database: str, collection: str) -> None:
        import pymongo

        self.client = pymongo.MongoClient(url, serverSelectionTimeoutMS=5000)
        self.sessions = self.client[database][collection]
        # Fails here, with a clear message, when there is no server.
        self.sessions.create_index("expires")

    def create(self, key: str, client: str, data: str, expires: float) -> None:
        self.sessions.insert_one({"_id": key, "client": client, "data": data, "expires": expires})

    def change(self, key: str, client: str, now: float, expires: float, change: Callable[[str], str]) -> str | None:
        while True:
            found = self.sessions.find_one({"_id": key, "client": client, "expires": {"$gt": now}})
            if found is None:
                return None
            data = change(found["data"])
            # Nobody else must have changed it meanwhile.
            same = {"_id": key, "client": client, "data": found["data"]}
            if self.sessions.update_one(same, {"$set": {"data": data, "expires": expires}}).matched_count:
                return data

    def delete(self, key: str, client: str) -> bool:
        return bool(self.sessions.delete_one({"_id": key, "client": client}).deleted_count)

    def sweep(self, now: float) -> int:
        return int(self.sessions.delete_many({"expires": {"$lte": now}}).deleted_count)

    def close(self) -> None:
        self.client.close()


class SessMan(BasePlugin):
    """`/sessman/new`, `/sessman/update`, `/sessman/get`, `/sessman/delete`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        settings = _settings(self.config, kwargs)
        if not settings:
            raise PluginOff("neither [plugin_parms] sessman nor a section [sessman] configures it")
        self.ttl = _seconds(settings.get("session_ttl", DEFAULT_TTL))
        self.backend = str(settings.get("backend") or "sqlite").lower()
        if self.backend not in ("sqlite", "mongodb"):
            raise ValueError(f"backend={self.backend} is unknown; give backend=sqlite or backend=mongodb")
        self.settings = settings
        # One thread, and so one writer.
        self.executor = ThreadPoolExecutor(1, "sessions")
        self.store: Store | None = None
        self.sweeper: asyncio.Task[None] | None = None

    def _open(self) -> Store:
        database = self.settings.get("database")
        if self.backend == "sqlite":
            return SqliteStore(str(database or "sessions.db"))
        url = str(self.settings.get("url") or "mongodb://127.0.0.1:27017")
        return MongoStore(url, str(database or "pserve"), str(self.settings.get("collection") or "sessions"))

    async def initialize(self, **kwargs: Any) -> None:
        try:
            self.store = await self._on_thread(self._open)
        except BaseException:
            self.executor.shutdown(wait=False)
            raise
        self.sweeper = asyncio.create_task(self._sweep())

    async def terminate_plugin(self) -> None:
        if self.sweeper is not None:
            self.sweeper.cancel()
        if self.store is not None:
            await self._on_thread(self.store.close)
        self.executor.shutdown(wait=False)

    async def _on_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *args)

    async def _sweep(self) -> None:
        """Removes what has expired, now and then. Expired sessions are not found in any case."""
        assert self.store is not None
        while True:
            try:
                count = await self._on_thread(self.store.sweep, time.time())
                if count:
                    self.log.debug(f"{count} sessions have expired")
            except Exception as error:
                self.log.warning(f"expired sessions cannot be removed: {error}")
            await asyncio.sleep(min(max(self.ttl / 2, 0.5), 60.0))

    async def request_handler(self, **data: Any) -> Any:
        action = data.get("subpath")
        handler = {"new": self._new, "update": self._update, "get": self._get, "delete": self._delete}.get(action or "")
        if handler is None:
            return 404, {"error": "give /sessman/new, /sessman/update, /sessman/get or /sessman/delete"}
        return await handler(data)

    async def _new(self, data: dict[str, Any]) -> Any:
        assert self.store is not None
        text = json.dumps(_own_fields(data))
        if len(text) > MOST_DATA_BYTES:
            return _too_much()
        session_id = secrets.token_urlsafe(32)
        expires = time.time() + self.ttl
        await self._on_thread(self.store.create, _key(session_id), data["client_ip"], text, expires)
        return self._reply(session_id, text, data["request"], status=201)

    async def _update(self, data: dict[str, Any]) -> Any:
        assert self.store is not None
        session_id = _given_id(data)
        fields = _own_fields(data)

        def merged(text: str) -> str:
            known = json.loads(text)
            known.update(fields)
            text = json.dumps({name: value for name, value in known.items() if value is not None})
            if len(text) > MOST_DATA_BYTES:
                raise OverflowError
            return text

        now = time.time()
        client = data["client_ip"]
        try:
            text = await self._on_thread(self.store.change, _key(session_id), client, now, now + self.ttl, merged)
        except OverflowError:
            return _too_much()
        return _unknown() if text is None else self._reply(session_id, text, data["request"])

    async def _get(self, data: dict[str, Any]) -> Any:
        assert self.store is not None
        session_id, client, now = _given_id(data), data["client_ip"], time.time()
        # In use: it lives on.
        text = await self._on_thread(
            self.store.change, _key(session_id), client, now, now + self.ttl, lambda same: same
        )
        return _unknown() if text is None else self._reply(session_id, text, data["request"])

    async def _delete(self, data: dict[str, Any]) -> Any:
        assert self.store is not None
        deleted = await self._on_thread(self.store.delete, _key(_given_id(data)), data["client_ip"])
        if not deleted:
            return _unknown()
        response = web.json_response({"deleted": True})
        for name in COOKIES:
            response.del_cookie(name)
        return response

    def _reply(self, session_id: str, text: str, request: Any, status: int = 200) -> Any:
        body = {"session_id": session_id, "expires_in": self.ttl, "data": json.loads(text)}
        response = web.json_response(body, status=status, headers={"Cache-Control": "no-store"})
        if status != 201 and session_id not in (request.cookies.get(name) for name in COOKIES):
            # Only who brought the id as a cookie gets one: nobody is made to use a session by an address.
            return response
        response.set_cookie(
            COOKIES[0],
            session_id,
            max_age=int(self.ttl),
            httponly=True,
            samesite="Strict",
            secure=True if request.scheme == "https" else None,
        )
        return response


def _settings(config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Parameters of `[plugin_parms]`, over those of a section `[sessman]`."""
    found: dict[str, Any] = {}
    for name, section in dict(config or {}).items():
        if str(name).lower() == "sessman":
            found.update((key, section[key]) for key in PARAMETERS if key in section)
    found.update((key, kwargs[key]) for key in PARAMETERS + KEY_PARAMETERS if key in kwargs)
    return found


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"session_ttl={value} is no time; give seconds, as in session_ttl=3600")
    return seconds


def _own_fields(data: dict[str, Any]) -> dict[str, Any]:
    """What the client wants to keep. Files of forms are no JSON."""
    ours = ("request", "request_headers", "log", "client_ip", "subpath", "apikey", "session_id")
    fields = {name: value for name, value in data.items() if name not in ours and not hasattr(value, "filename")}
    # NaN and infinities are no JSON, though Python reads and writes them.
    return json.loads(json.dumps(fields), parse_constant=lambda _: None)  # type: ignore[no-any-return]


def _given_id(data: dict[str, Any]) -> str:
    """The session that is meant: a cookie, or the field `session_id`."""
    cookies = data["request"].cookies
    given = next((cookies[name] for name in COOKIES if cookies.get(name)), None)
    return str(given or data.get("session_id") or "")


def _key(session_id: str) -> str:
    """What is stored of an id: who reads the database cannot take over sessions."""
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()


def _unknown() -> tuple[int, dict[str, str]]:
    # The same for an id that never was, has expired, or belongs to another address.
    return 404, {"error": "no such session"}


def _too_much() -> tuple[int, dict[str, str]]:
    return 413, {"error": f"a session holds {MOST_DATA_BYTES} bytes of JSON at the most"}
