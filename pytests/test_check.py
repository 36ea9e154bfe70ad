"""`pserve check` and `pserve --print-config`."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import BINARY, PATIENCE

GOOD = """
from plugincore.baseplugin import BasePlugin


class Good(BasePlugin):
    async def request_handler(self, **data):
        return {}


class Keyed(BasePlugin):
    def request_handler(self, **data):
        return {}
"""


class Installation:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugins").mkdir()

    def write(self, ini: str, **plugins: str) -> None:
        (self.folder / "pserve.ini").write_text(f"[paths]\nplugins=plugins\n{ini}")
        for name, source in plugins.items():
            (self.folder / "plugins" / f"{name}.py").write_text(source)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BINARY), *arguments], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )

    def check(self, *arguments: str) -> tuple[int, Any]:
        done = self.run("check", "--json", *arguments)
        assert done.stderr == ""
        report = json.loads(done.stdout)
        assert report["exit_status"] == done.returncode
        return done.returncode, report


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def messages(report: Any, level: str) -> str:
    return "\n".join(f"{found['line']}: {found['message']}" for found in report["findings"] if found["level"] == level)


def test_an_installation_that_works(installation: Installation) -> None:
    installation.write("[plugin_parms]\ngood=auth_type=plugin&apikey=sesame\n[network]\nport=0\n", good=GOOD)
    status, report = installation.check()
    assert status == 0 and report["errors"] == report["warnings"] == 0
    [file] = report["files"]
    expected = {"route": "/good", "class": "Good", "line": 5, "is_async": True, "key": "own"}
    expected |= {"methods": [], "description": "", "parameters": [], "takes_subpath": False}
    assert file["plugins"][0] == expected and file["plugins"][1]["route"] == "/keyed"
    text = installation.run("check")
    assert text.returncode == 0 and "this would work: 0 errors" in text.stdout
    assert "good.py:5" in text.stdout and "sesame" not in text.stdout
    assert installation.run("-i", "pserve.ini", "check").returncode == 0


def test_files_that_fail_cost_only_themselves(installation: Installation) -> None:
    installation.write(
        "[network]\nport=0\n[limits]\nload_timeout=0.2\n",
        a_crash="import ctypes\nctypes.string_at(0)\n",
        b_exit="import os\nos._exit(3)\n",
        c_syntax="x = 1\ndef f(:\n",
        d_raises="x = 1\nraise ValueError('no')\n",
        e_hangs="from plugincore.baseplugin import BasePlugin\nimport asyncio\nclass E(BasePlugin):\n    async def initialize(self, **k):\n        await asyncio.sleep(1000)\n",
        f_prints="print('noise')\n",
        good=GOOD,
        z_twin=GOOD.replace("Keyed", "Plugins"),
    )
    status, report = installation.check()
    assert status == 1
    files = {Path(file["file"]).stem: file for file in report["files"]}
    assert files["a_crash"]["error"]["message"] == "its process ended by SIGSEGV"
    assert files["b_exit"]["error"]["message"] == "its process ended with status 3"
    assert (files["c_syntax"]["error"]["type"], files["c_syntax"]["error"]["line"]) == ("SyntaxError", 2)
    assert (files["d_raises"]["error"]["message"], files["d_raises"]["error"]["line"]) == ("no", 2)
    assert "load_timeout" in files["e_hangs"]["error"]["message"]
    assert files["f_prints"]["error"] is None and files["f_prints"]["plugins"] == []
    assert len(files["good"]["plugins"]) == 2
    assert "/good is served by" in files["z_twin"]["error"]["message"]
    assert "/plugins is a control route" in files["z_twin"]["error"]["message"]


DYING = """
import ctypes, os, signal, sys, threading, time
from plugincore.baseplugin import BasePlugin


def die(how):
    if how == "sent":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(0)
    if how == "cexit":
        ctypes.CDLL(None).exit(0)
    if how == "sysexit":
        sys.exit(0)


class Dying(BasePlugin):
    def PLACE:
        die("HOW")

    async def request_handler(self, **data):
        return {}
"""


def dying(place: str, how: str) -> str:
    return DYING.replace("def PLACE", place).replace("HOW", how)


def test_every_death_has_a_file_and_an_ending(installation: Installation) -> None:
    init, begin, end = (
        "def __init__(self, **data)",
        "async def initialize(self, **data)",
        "async def terminate_plugin(self)",
    )
    forms = [
        ("sent", "by SIGSEGV"),
        ("abort", "by SIGABRT"),
        ("exit", "with status 0"),
        ("cexit", "with status 0"),
    ]
    places = {"init": init, "begin": begin, "end": end}
    sources = {
        f"{place}_{how}": dying(code, how) for place, code in places.items() if place != "end" for how, _ in forms
    }
    # A child process dies once at its end.
    sources |= {"sysexit": dying(init, "sysexit"), "last": dying(end, "exit").replace("Dying", "Last"), "good": GOOD}
    installation.write("[network]\nport=0\n", **sources)
    status, report = installation.check()
    assert status == 1
    errors = {Path(file["file"]).stem: file["error"] and file["error"]["message"] for file in report["files"]}
    for how, ending in forms:
        for place in ("init", "begin"):
            assert errors[f"{place}_{how}"] == f"its process ended {ending}", (place, how)
    assert errors["sysexit"] == "0" and errors["good"] is None
    assert errors["last"] == "its process ended with status 0 when its plugins were terminated"
    listed = installation.run("plugins", "--files")
    assert listed.returncode == 0 and listed.stderr == ""
    assert "init_sent.py: Crash: its process ended by SIGSEGV" in listed.stdout
    assert "last.py loads, with an error" in listed.stdout and "/good " in listed.stdout


def test_processes_of_plugins_hold_nothing_up(installation: Installation) -> None:
    installation.write(
        "[network]\nport=0\n",
        a_child="import subprocess\nsubprocess.Popen(['sleep', '300'], close_fds=False)\n",
        b_closes="import contextlib, os, time\nfor fd in range(100):\n    with contextlib.suppress(OSError):\n        os.close(fd)\ntime.sleep(300)\n",
        good=GOOD,
    )
    status, report = installation.check()
    assert status == 1
    errors = [file["error"] and file["error"]["message"] for file in report["files"]]
    assert errors[0] is None and errors[2] is None
    # Whichever comes first: the server's own code notices that its files are gone, or does not.
    assert errors[1] in ("closes the files of its process", "its process ended by SIGABRT")
    # Ended with the group of the child that started it.
    assert subprocess.run(["pgrep", "-f", "^sleep 300$"], capture_output=True).stdout == b""


def test_missing_modules_and_how_to_install_them(installation: Installation) -> None:
    source = "import serial\ntry:\n    import no_such_a\nexcept ImportError:\n    pass\ndef f():\n    import no_such_b.c\nimport helper, json, os.path\n"
    installation.write("[network]\nport=0\n", needs=source, helper="")
    status, report = installation.check("--no-run")
    assert status == 1
    [needs] = [file for file in report["files"] if file["file"].endswith("needs.py")]
    found = [(m["module"], m["package"], m["line"], m["is_optional"]) for m in needs["missing"]]
    assert found == [
        ("serial", "pyserial", 1, False),
        ("no_such_a", "no_such_a", 3, True),
        ("no_such_b", "no_such_b", 7, True),
    ]
    text = installation.run("check").stdout
    assert "needs.py:1" in text and "install pyserial" in text


def test_reading_without_running(installation: Installation) -> None:
    installation.write("", broken="def f(:\n", writes="open('was_run', 'w')\n")
    status, report = installation.check("--no-run")
    assert status == 1 and not (installation.folder / "was_run").exists()
    errors = [file["error"] for file in report["files"]]
    assert (errors[0]["type"], errors[0]["line"], errors[1]) == ("SyntaxError", 1, None)


def test_keys_are_not_shown(installation: Installation) -> None:
    installation.write(
        "[network]\nport=0\n[auth]\napikey=sesame\n[plugin_parms]\nleaks=apikey=sesame2&auth_type=plugin\n",
        leaks="raise ValueError('the keys are sesame and sesame2, \\x1b[31m\\nin two lines')\n",
    )
    for arguments in (["check"], ["check", "--json"]):
        shown = installation.run(*arguments).stdout
        assert "sesame" not in shown and "***" in shown and "\x1b" not in shown


def test_names_that_mean_nothing(installation: Installation) -> None:
    installation.write(
        "[plugin_params]\na=b\n[network]\nprot=1\nport=0\n[limits]\nbdy=4\n[plugin_parms]\ngod=a=b\n[plugin_options]\nkeyd=threads=2\n[main]\nmine=1\n",
        good=GOOD,
    )
    status, report = installation.check()
    assert status == 0
    warned = messages(report, "warning")
    for nearest in (
        "did you mean [plugin_parms]?",
        "did you mean `port`?",
        "did you mean `body`?",
        "did you mean `good`?",
        "did you mean `keyed`?",
    ):
        assert nearest in warned
    assert "mine" not in warned and "3: [plugin_params]" in warned and report["warnings"] == 5


def test_what_will_be_different(installation: Installation) -> None:
    installation.write(
        "[cors]\nenabled=bool:false\n[plugin_parms]\ngood=auth=plugin&apikey=x\n[main]\na=bool:yes\nb=bool:true\n[network]\nport=0\n",
        good=GOOD,
    )
    status, report = installation.check()
    noted = messages(report, "note")
    assert status == 0
    for part in ("4: [cors] enabled", "6: auth=", "8: [main] a: bool:yes", "legacy_status", "/keyed"):
        assert part in noted, noted
    assert "bool:true" not in noted.replace("legacy_status=bool:true", "")


def test_what_is_around_the_plugins(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        installation.write(
            f"pidfile=/no/such/folder/pid\n[network]\nport={port}\n[SSL]\nenabled=true\ncertfile=none.pem\nkeyfile=none.key\n[python]\nvenv=venv\n"
        )
        venv = installation.folder / "venv"
        venv.mkdir()
        (venv / "pyvenv.cfg").write_text("version = 2.7.18\n")
        status, report = installation.check()
    assert status == 1
    assert "is a server running there already?" in messages(report, "warning")
    errors = messages(report, "error")
    assert "none.pem" in errors and "made for Python 2.7.18" in errors and "/no/such/folder" in errors


@pytest.mark.parametrize(
    ("ini", "line", "message"),
    [
        ("[network]\nport=http\n", 4, "[network] port: `http`"),
        ("[auth]\napikey=\n", 4, "empty"),
        ("no delimiter\n", 3, ""),
    ],
)
def test_a_configuration_that_cannot_work(installation: Installation, ini: str, line: int, message: str) -> None:
    installation.write(ini)
    status, report = installation.check()
    assert status == 2 and report["findings"][0]["line"] == line and message in report["findings"][0]["message"]
    assert "would not start" in installation.run("check").stdout
    assert installation.run("--print-config").returncode == 2


def test_no_configuration_at_all(tmp_path: Path) -> None:
    done = subprocess.run([str(BINARY), "check"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and "pserve.ini" in done.stdout
    done = subprocess.run(
        [str(BINARY), "check", "--nonsense"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2 and "--nonsense" in done.stderr


def test_the_settings_in_force(installation: Installation) -> None:
    installation.write(
        "[auth]\napikey=${main:secret_part}1\n[main]\nsecret_part=sesame\nuser=ada\ncount=int:3\nflags=list:a bool:yes\n[limits]\nbody=5\n[plugin_parms]\ngood=apikey=sesame2&x=${main:user}\n"
    )
    done = installation.run("--print-config")
    assert done.returncode == 0 and "sesame" not in done.stdout
    lines = done.stdout.splitlines()
    assert "count = int:3" in lines and "flags = list:a bool:true" in lines
    for line in (
        "apikey = ***",
        "body = 5",
        "port = 9192",
        "user = ada",
        "good = apikey=***&x=ada",
        "secret_part = ***",
    ):
        assert line in lines, line
    (installation.folder / "again.ini").write_text(done.stdout)
    assert installation.run("-i", "again.ini", "--print-config").stdout.splitlines()[1:] == lines[1:]
