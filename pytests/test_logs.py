"""Log lines: their form on a terminal, on a pipe and in a file, and the levels."""

import os
import pty
import re
import signal
import subprocess

from conftest import BINARY, PATIENCE

TALKER = """
import logging
from plugincore.baseplugin import BasePlugin
class Talker(BasePlugin):
    async def request_handler(self, **data):
        for name in ('debug', 'info', 'warn', 'warning', 'error', 'critical'):
            getattr(self.log, name)(f'{name} line')
        logging.getLogger('lib').info('from a library')
        logging.getLogger('lib').debug('details of a library')
        return 'talked'
"""
DATED = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - "


def test_on_a_pipe_each_line_has_its_priority(start):
    server = start({"talker.py": TALKER}, arguments=["-v", "debug", "-l", "own.log"])
    server.request("GET", "/talker", headers={"X-Request-Id": "the-id"})
    server.wait_for_log("from a library")
    for line in (
        "<7>DEBUG - talker - debug line",
        "<6>INFO - talker - info line",
        "<4>WARNING - talker - warn line",
        "<4>WARNING - talker - warning line",
        "<3>ERROR - talker - error line",
        "<2>CRITICAL - talker - critical line",
        "<6>INFO - lib - from a library",
    ):
        assert f"{line} [request the-id]\n" in server.log
    file = (server.folder / "own.log").read_text()
    assert re.search(rf"(?m)^{DATED}talker - CRITICAL - critical line \[request the-id\]$", file)
    assert re.search(rf"(?m)^{DATED}lib - DEBUG - details of a library \[request the-id\]$", file)


def test_levels_keep_lesser_lines_out_but_for_what_every_start_tells(start):
    server = start({"talker.py": TALKER}, arguments=["-v", "ERROR"])
    server.get("/talker")
    server.wait_for_log("critical line")
    assert "error line" in server.log
    for lesser in ("debug line", "info line", "warn line", "from a library"):
        assert lesser not in server.log
    assert "route /talker" in server.log and f"PID {server.process.pid} serves" in server.log


def test_on_a_terminal_lines_are_dated(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "pserve.ini").write_text("[network]\nport=0\n[paths]\nplugins=plugins\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([BINARY], cwd=tmp_path, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    try:
        os.close(theirs)
        seen = b""
        while b"serves http://" not in seen:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    for line in seen.decode().splitlines():
        assert re.match(f"{DATED}pserve - INFO - ", line), line


def test_a_level_may_be_given_to_any_logger(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "talker.py").write_text(TALKER)
    options = "urllib3=log=ERROR\ntalkre=threads=2\n"
    (tmp_path / "pserve.ini").write_text(f"[paths]\nplugins=plugins\n[plugin_options]\n{options}")
    checked = subprocess.run([BINARY, "check"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert "talkre: there is no plugin of that name" in checked.stdout
    assert "urllib3" not in checked.stdout
