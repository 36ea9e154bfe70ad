"""Unix sockets and several addresses at a time."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, PATIENCE, Start

WHO = """
from plugincore.baseplugin import BasePlugin
class Who(BasePlugin):
    async def request_handler(self, client_ip=None, request=None, **data):
        return [client_ip, request.remote, request.host, request.scheme, request.transport.get_extra_info('peername')[0]]
"""


def ask(path: Path, target: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("in.example")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(str(path))
    connection.request("GET", target, headers=headers or {})
    reply = connection.getresponse()
    try:
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_a_unix_socket_with_its_mode(start: Start) -> None:
    server = start({"who.py": WHO}, ini="[network]\nbindto=unix:here.sock\nsocket_mode=600\n")
    path = server.folder / "here.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ask(path, "/who") == (200, '["127.0.0.1","127.0.0.1","in.example","http","127.0.0.1"]')
    forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "out.example"}
    assert ask(path, "/who", forwarded)[1] == '["192.0.2.7","192.0.2.7","out.example","https","127.0.0.1"]'
    assert [entry.name for entry in server.folder.iterdir()].count("here.sock") == 1
    assert server.stop() == 0
    assert not path.exists()


def test_several_addresses_and_a_move(start: Start) -> None:
    server = start({"who.py": WHO}, ini="[network]\nport=0\nbindto=list:127.0.0.1 unix:a.sock\n")
    assert server.get("/who").status == 200
    old, new = server.folder / "a.sock", server.folder / "b.sock"
    assert stat.S_IMODE(old.stat().st_mode) == 0o660
    ini = server.folder / "pserve.ini"
    ini.write_text(ini.read_text().replace("unix:a.sock", "unix:a.sock unix:b.sock\nsocket_mode=0o666"))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log(r"serves unix:.*b\.sock")
    assert ask(old, "/who")[0] == ask(new, "/who")[0] == server.get("/who").status == 200
    assert stat.S_IMODE(old.stat().st_mode) == stat.S_IMODE(new.stat().st_mode) == 0o666
    ini.write_text(ini.read_text().replace("unix:a.sock ", ""))
    before = server.log.count("serves unix:")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log(rf"(?s)(serves unix:.*){{{before + 1}}}")
    assert ask(new, "/who")[0] == 200
    while old.exists():
        pass


def test_a_socket_left_behind_is_replaced_and_a_live_one_is_not(start: Start) -> None:
    server = start({"who.py": WHO}, ini="[network]\nbindto=unix:x.sock\n")
    second = subprocess.run([str(BINARY)], cwd=server.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode == 1 and "another program listens there" in second.stderr
    server.process.kill()
    server.process.wait(PATIENCE)
    path = server.folder / "x.sock"
    assert path.exists()
    again = start({"who.py": WHO}, ini=f"[network]\nbindto=unix:{path}\n")
    assert ask(path, "/who")[0] == 200
    again.stop()
    path.write_text("precious")
    third = subprocess.run([str(BINARY)], cwd=server.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert third.returncode == 1 and "no socket" in third.stderr and path.read_text() == "precious"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("bindto=unix:/no/such/folder/x.sock", "lies in no folder"),
        ("bindto=unix:", "lies in no folder"),
        ("socket_mode=rw", "octal"),
        ("socket_mode=1777", "octal"),
    ],
)
def test_what_cannot_work_is_told(tmp_path: Path, lines: str, message: str) -> None:
    os.mkdir(tmp_path / "plugins")
    (tmp_path / "pserve.ini").write_text(f"[network]\n{lines}\n[paths]\nplugins=plugins\n")
    ended = subprocess.run([str(BINARY)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2 and message in ended.stderr
