"""python_plugins/sessman.py: sessions in SQLite and MongoDB."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Reply, Server, Start

SOURCE = (Path(__file__).resolve().parent.parent / "python_plugins" / "sessman.py").read_text()
# mongomock stands in for a MongoDB server: the calls are those of pymongo.
PYMONGO = "from mongomock import MongoClient\n"


class Client:
    def __init__(self, server: Server, address: str = "192.0.2.1") -> None:
        self.server = server
        self.headers = {"X-Forwarded-For": address, "Content-Type": "application/json"}

    def ask(self, action: str, data: Any = None, **headers: str) -> Reply:
        body = None if data is None else json.dumps(data)
        return self.server.request("POST", f"/sessman/{action}", body, {**self.headers, **headers})

    def new(self, data: Any = None) -> str:
        reply = self.ask("new", data)
        assert reply.status == 201, reply.text
        return reply.json()["session_id"]  # type: ignore[no-any-return]


@pytest.fixture(params=["sqlite", "mongodb"])
def server(request: pytest.FixtureRequest, start: Start) -> Server:
    parameters = f"session_ttl=100&backend={request.param}&apikey=door&auth_type="
    plugins = {"sessman.py": SOURCE}
    if request.param == "mongodb":
        plugins["pymongo.py"] = PYMONGO
    return start(plugins, ini=f"[plugin_parms]\nsessman={parameters}\n", aiohttp=request.param == "mongodb")


def test_it_is_off_until_configured(start: Start) -> None:
    server = start({"sessman.py": SOURCE})
    assert server.get("/plugins").json() == {"loaded_plugins": []}
    assert "is off: neither [plugin_parms] sessman nor" in server.log and "ERROR" not in server.log


def test_new_update_get_delete(server: Server) -> None:
    client = Client(server)
    reply = client.ask("new", {"user": "ada", "n": {"a": [1, None]}})
    session = reply.json()["session_id"]
    assert reply.json() == {"session_id": session, "expires_in": 100.0, "data": {"user": "ada", "n": {"a": [1, None]}}}
    cookie = reply.headers["Set-Cookie"]
    assert cookie.startswith(f"PS_SESSID={session};")
    for part in ("HttpOnly", "Max-Age=100", "Path=/", "SameSite=Strict"):
        assert part in cookie
    assert "Secure" not in cookie and reply.headers["Cache-Control"] == "no-store"
    reply = client.ask("update", {"theme": "dark", "user": None}, Cookie=f"PS_SESSID={session}")
    assert reply.json()["data"] == {"n": {"a": [1, None]}, "theme": "dark"}
    for headers in ({"Cookie": f"PS_SESSID={session}"}, {"Cookie": f"a=b; session_id={session}"}):
        assert client.ask("get", **headers).json()["data"]["theme"] == "dark"
    assert client.ask("get", {"session_id": session}).json()["data"]["theme"] == "dark"
    https = {"X-Forwarded-Proto": "https", "Cookie": f"PS_SESSID={session}"}
    assert client.ask("get", **https).headers["Set-Cookie"].count("Secure") == 1
    assert client.ask("get", {"session_id": session}).headers["Set-Cookie"] is None
    assert client.ask("delete", {"session_id": session}).json() == {"deleted": True}
    assert client.ask("get", {"session_id": session}).status == 404
    assert client.ask("else").status == 404


def test_a_session_belongs_to_an_address(server: Server) -> None:
    session = Client(server).new({"a": 1})
    thief = Client(server, "192.0.2.2")
    for action in ("get", "update", "delete"):
        reply = thief.ask(action, {"session_id": session})
        assert (reply.status, reply.json()) == (404, {"error": "no such session"})
    assert Client(server).ask("get", {"session_id": session}).json()["data"] == {"a": 1}
    for wrong in ("", "x", "\ud800", session + "x"):
        assert Client(server).ask("get", {"session_id": wrong}).status == 404
    assert Client(server).ask("get").status == 404


def test_what_is_no_json_is_null(server: Server) -> None:
    client = Client(server)
    reply = server.request("POST", "/sessman/new", '{"a": NaN, "b": [Infinity]}', client.headers)
    assert '"a": null' in reply.text and reply.json()["data"] == {"a": None, "b": [None]}


def test_what_is_too_much_is_refused(server: Server) -> None:
    client = Client(server)
    assert client.ask("new", {"a": "x" * 70_000}).status == 413
    session = client.new({"a": "x" * 40_000})
    assert client.ask("update", {"b": "x" * 40_000, "session_id": session}).status == 413
    assert list(client.ask("get", {"session_id": session}).json()["data"]) == ["a"]


def test_updates_at_the_same_time_lose_nothing(server: Server) -> None:
    client = Client(server)
    session = client.new()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: client.ask("update", {f"k{n}": n, "session_id": session}).status, range(60)))
    assert set(done) == {200}
    assert len(client.ask("get", {"session_id": session}).json()["data"]) == 60


@pytest.mark.parametrize("backend", ["sqlite", "mongodb"])
def test_sessions_expire_and_are_swept(start: Start, backend: str) -> None:
    server = start(
        {"sessman.py": SOURCE, "pymongo.py": PYMONGO},
        ini=f"[sessman]\nbackend={backend}\nsession_ttl=float:3\n",
        aiohttp=True,
        arguments=["-v", "DEBUG"],
    )
    client = Client(server)
    session = client.new({"a": 1})
    start_time = time.monotonic()
    while time.monotonic() - start_time < 3.5:
        # In use, it lives on.
        assert client.ask("get", {"session_id": session}).status == 200
        time.sleep(0.05)
    server.wait_for_log("sessions have expired")
    assert client.ask("get", {"session_id": session}).status == 404


def test_nothing_is_lost_when_the_process_is_killed(start: Start, tmp_path: Path) -> None:
    ini = f"[plugin_parms]\nsessman=database={tmp_path}/s.db\n"
    server = start({"sessman.py": SOURCE}, ini=ini)
    client = Client(server)
    sessions = [client.new({"n": n}) for n in range(50)]
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(PATIENCE)
    client = Client(start({"sessman.py": SOURCE}, ini=ini))
    for n, session in enumerate(sessions):
        assert client.ask("get", {"session_id": session}).json()["data"] == {"n": n}
    database = sqlite3.connect(tmp_path / "s.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not any(session in repr(row) for row in database.execute("SELECT * FROM sessions") for session in sessions)
    database.close()


def test_a_reload_keeps_sessions(start: Start, tmp_path: Path) -> None:
    server = start({"sessman.py": SOURCE}, ini=f"[plugin_parms]\nsessman=database={tmp_path}/s.db\n")
    client = Client(server)
    session = client.new({"a": 1})
    for _ in range(3):
        assert server.get("/reload/sessman").status == 200
        assert client.ask("get", {"session_id": session}).json()["data"] == {"a": 1}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("backend=redis", "backend=redis is unknown"),
        ("session_ttl=soon", "session_ttl=soon is no time"),
        ("session_ttl=0", "is no time"),
        ("backend=mongodb", "pip install pymongo"),
        ("database=/no/such/folder/s.db", "unable to open database file"),
    ],
)
def test_what_cannot_work_is_told(start: Start, parameters: str, message: str) -> None:
    server = start({"sessman.py": SOURCE}, ini=f"[plugin_parms]\nsessman={parameters}\n")
    assert message in server.log and server.get("/sessman/get").status == 404
