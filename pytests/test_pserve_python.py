"""`pserve python` and `pserve stubs`: plugins outside the server, for tests, prompts and editors."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BINARY, PATIENCE

GREET = """
from plugincore.baseplugin import BasePlugin

class Greet(BasePlugin):
    async def request_handler(self, **data):
        self.log.warning('asked')
        return 200, {'hello': data.get('name', 'world')}
"""

TEST = """
import asyncio
import greet
from plugincore.configfile import Config
from plugincore.pluginmanager import PluginManager

def test_greet(caplog):
    plugin = greet.Greet(start='1')
    assert plugin.args['start'] == '1' and plugin._get_plugin_id() == 'greet'
    assert asyncio.run(plugin.request_handler(name='Ada')) == (200, {'hello': 'Ada'})
    assert [(record.levelname, record.message) for record in caplog.records] == [('WARNING', 'asked')]

def test_that_fails():
    assert greet.Greet() is None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(GREET)
    (tmp_path / "pserve.ini").write_text("[paths]\nplugins=plugins\n")
    (tmp_path / "test_greet.py").write_text(TEST)
    return tmp_path


def run(folder: Path, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        [str(BINARY), *arguments],
        cwd=folder,
        input=stdin,
        env={**environment, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_pytest_on_ones_own_plugin(folder: Path) -> None:
    done = run(folder, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr


def test_it_is_an_ordinary_python(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import sys, plugincore\nprint(sys.argv, __name__)\nsys.exit(int(sys.argv[-1]))\n"
    )
    done = run(folder, "python", "script.py", "-i", "--help", "7")
    assert (done.returncode, done.stdout) == (7, "['script.py', '-i', '--help', '7'] __main__\n")
    assert run(folder, "python", "-c", "print(1 + 1)").stdout == "2\n"
    assert run(folder, "python", "-", stdin="import greet\nprint(greet.Greet().args)").stdout == "{}\n"
    assert run(folder, "python", "--version").stdout.startswith("Python 3.")
    assert run(folder, "python", "-m", "json.tool", stdin='{"a":1}').stdout == '{\n    "a": 1\n}\n'
    raised = run(folder, "python", "-c", "raise ValueError('x')")
    assert raised.returncode == 1 and raised.stderr.endswith("ValueError: x\n")
    assert "usage" in run(folder, "python", "--help").stdout
    assert run(folder, "python", "no_such_file.py").returncode == 2


def test_the_configuration_need_not_be_there_but_must_be_right(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert run(elsewhere, "python", "-c", "import plugincore.baseplugin; print('fine')").stdout == "fine\n"
    assert run(elsewhere, "-i", "none.ini", "python", "-c", "1").returncode == 2
    given = run(elsewhere, "-i", str(folder / "pserve.ini"), "python", "-c", "import greet; print('found')")
    assert given.stdout == "found\n", given.stderr


def test_editors_find_types_and_descriptions(folder: Path) -> None:
    done = run(folder, "stubs")
    assert done.returncode == 0 and "typings/plugincore/baseplugin.pyi" in done.stdout.splitlines()
    for path in (folder / "typings" / "plugincore").iterdir():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for function in functions:
            assert function.returns is not None, f"{path.name}: {function.name} has no return type"
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            assert ast.get_docstring(cls), f"{path.name}: {cls.name}"
    (folder / "file").write_text("")
    assert run(folder, "stubs", "file/x").returncode == 1
