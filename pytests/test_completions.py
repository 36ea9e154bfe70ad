"""Completions in the shells that people have: what is offered when TAB is pressed behind `pserve `."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import BINARY, PATIENCE
from test_install import make

# Offers what may follow a line that has been begun, as the shell shows it.
Offers = Callable[[str], str]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell} here")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    done = make("install", root)
    assert done.returncode == 0, done.stderr
    return root / "usr/local"


@pytest.fixture
def environment(prefix: Path, tmp_path: Path) -> dict[str, str]:
    """With the program on the PATH and nobody's own configuration."""
    path = f"{prefix / 'bin'}:{os.environ['PATH']}"
    # A short prompt, and lines that are long enough for one offer each.
    terminal = {"TERM": "xterm", "LINES": "60", "COLUMNS": "250", "PS1": "%"}
    data = f"{prefix / 'share'}:/usr/local/share:/usr/share"
    return {"HOME": str(tmp_path), "PATH": path, "XDG_DATA_DIRS": data, "LC_ALL": "C.UTF-8", **terminal}


@pytest.fixture(scope="module")
def subcommands() -> list[str]:
    help_text = subprocess.run([BINARY, "--help"], check=True, capture_output=True, text=True).stdout
    listed = help_text.split("Commands:\n")[1].split("\n\n")[0]
    found = re.findall(r"^  (\w+)  ", listed, re.MULTILINE)
    assert {"check", "call", "dev"} <= set(found), help_text
    return found


@pytest.fixture
def bash(prefix: Path, environment: dict[str, str], tmp_path: Path) -> Offers:
    def offers(line: str) -> str:
        # What bash does at TAB: the words so far, the function that is registered for the first one, and its answer.
        script = """
            source "$1"; shift
            [[ $(complete -p pserve) =~ -F\\ ([^ ]+) ]]
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            "${BASH_REMATCH[1]}" pserve "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        file = prefix / "share/bash-completion/completions/pserve"
        return run(["bash", "--norc", "-c", script, "bash", str(file), *line.split(" ")], environment, tmp_path)

    return offers


@pytest.fixture
def fish(environment: dict[str, str], tmp_path: Path) -> Offers:
    # It finds the file by XDG_DATA_DIRS, and only for a command that is there.
    return lambda line: run(["fish", "-c", "complete -C $argv[1]", line], environment, tmp_path)


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.fixture
def zsh(prefix: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Offers]:
    """On a terminal, since its completions run nowhere else."""
    shell = shutil.which("zsh")
    assert shell is not None
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(shell, ["zsh", "-f", "-i"], environment)

    def read_until(mark: str) -> str:
        shown = ""
        deadline = time.monotonic() + PATIENCE
        while mark not in shown:
            ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {mark!r} in {shown!r}"
            shown += os.read(terminal, 65536).decode(errors="replace")
        return shown

    def offers(line: str) -> str:
        # ^U empties the line, ^D lists at its end, and ^T says when that is done.
        os.write(terminal, f"\x15{line}\x04\x14".encode())
        # Without what moves the cursor.
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\x1b[=>]|\r", "", read_until("<done>"))

    functions = prefix / "share/zsh/site-functions"
    # The line editor says when it has taken the terminal over: what is typed before that is not for it.
    setup = f"""
        stty rows 60 cols 250; fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D
        listed() {{ print -n '<done>' }}; zle -N listed; bindkey '^T' listed
        zle-line-init() {{ print -n '<ready>' }}; zle -N zle-line-init
    """
    (tmp_path / "setup").write_text(setup)
    os.write(terminal, b"source ./setup\n")
    read_until("<ready>")
    yield offers
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(process, 0)


SHELLS = [pytest.param(shell, marks=needs(shell)) for shell in ("bash", "fish", "zsh")]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_subcommand_is_offered(shell: str, subcommands: list[str], request: pytest.FixtureRequest) -> None:
    offers: Offers = request.getfixturevalue(shell)
    offered = offers("pserve ")
    for name in subcommands:
        assert re.search(rf"^{name}\b", offered, re.MULTILINE), f"no {name} in:\n{offered}"
    # Those that begin so, and no others.
    begun = offers("pserve ch")
    assert "check" in begun and "plugins" not in begun, begun


@pytest.mark.parametrize("shell", SHELLS)
def test_options_of_a_subcommand_are_offered(shell: str, request: pytest.FixtureRequest) -> None:
    offers: Offers = request.getfixturevalue(shell)
    offered = offers("pserve call --he")
    assert "--header" in offered and "--help" in offered and "--method" not in offered, offered
    # Its value is anything, which must be no error either.
    assert "not found" not in offers("pserve call --header ")
