"""Every command and example of the README and of docs/ is run, or stands in `NOT_RUN` with the reason why it is not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from page_stories import STORIES, help_of
from pages import Scene, is_shown, pages, parts_of

# page -> first words of a command or block -> why no test of this file runs it.
NOT_RUN = {
    "README.md": {
        "make run": "builds a release and serves until it is interrupted",
    },
    "docs/contributing.md": {
        "make check": "the same that .ci/run does with every change",
        "make test": "the same that .ci/run does with every change, and runs this file",
    },
    "docs/install.md": {
        "make run": "builds a release and serves until it is interrupted",
        "make build": "builds a release",
        'sudo env "PATH=$PATH"': "changes this machine; test_install.py installs into a folder",
        "cargo install": "builds a release into the home folder",
        "PYO3_PYTHON=/opt/python3.13/bin/python3 cargo install": "the same, with a Python that is not everywhere",
        "make deb": "builds a release; `make test-deb` tests the package",
        "sudo apt install": "changes this machine; `make test-deb` does it in a fresh Debian",
        "sudo cp greet.py": "needs the installed package; `make test-deb` does it in a fresh Debian",
        "sudo systemctl reload": "needs the installed package; `make test-deb` does it in a fresh Debian",
        "systemctl status": "needs the installed package",
        "/opt/plugins/venv/bin/pip install": "fetches a package from the network",
    },
    "docs/make-install.md": {
        "make install   ": "changes this machine; test_install.py installs into a folder",
        "make install PREFIX=$HOME/.local": "builds a release; test_install.py runs it with BINARY",
        "make install DESTDIR": "builds a release; test_install.py runs it with BINARY",
        "make install BINARY": "changes this machine; test_install.py runs it with DESTDIR",
    },
    "docs/deploy.md": {
        "curl --unix-socket": "needs the installed unit; the page on configuration does it with a socket of its own",
        "useradd": "changes this machine; the Debian package does the same, and `make test-deb` tests it",
        "install -D -m 644 docs/deploy/pserve.ini": "changes this machine; test_deploy_samples.py tests the files",
        "install -D -m 644 -t /srv": "changes this machine; test_deploy_samples.py tests the files",
        "systemctl daemon-reload": "changes this machine",
        "docker build": "needs a container engine and the network; test_deploy_samples.py reads the Dockerfile",
        "docker run": "needs a container engine and the network",
    },
    "docs/performance.md": {
        "make bench": "takes two minutes and more, and installs other programs; test_bench.py tests its parts",
    },
}


@pytest.fixture
def scene(page: str, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(page, tmp_path)
    yield scene
    scene.stop()


@pytest.mark.parametrize("page", pages())
def test_what_a_page_shows_is_so(page: str, scene: Scene) -> None:
    not_run = tuple(NOT_RUN.get(page, {}))
    for first in not_run:
        assert any(part.first.startswith(first) for part in scene.left), f"{first!r} is in NOT_RUN and not on the page"
    scene.left = [part for part in scene.left if not part.first.startswith(not_run)]
    if page in STORIES:
        STORIES[page](scene)
    assert [part.first for part in scene.left] == [], "neither run nor in NOT_RUN"


def test_an_output_is_held_against_what_is_shown() -> None:
    shown = "ROUTE   STATE\n/greet  1.4 ms  {...}\n...\n12:00:01  end"
    assert is_shown(shown, "ROUTE STATE\n/greet     20 ms  {1}\nmore\nand more\n09:10:11  end\n")
    for other in ("/greet  1.4 ms  {1}", "/greet  x  {1}\n12:00:01  end", "/great  1.4 ms  {1}\n12:00:01  end", ""):
        assert not is_shown(shown, f"ROUTE   STATE\n{other}"), other
    assert is_shown("first\n...", "first\nsecond\nthird") and not is_shown("first\nsecond", "first\nsecond\nthird")


def test_the_lists_name_pages_that_exist() -> None:
    assert set(NOT_RUN) | set(STORIES) <= set(pages())


# The changelog tells of commands as they were.
@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_every_command_in_a_sentence_exists(page: str) -> None:
    """`make TARGET` and `pserve COMMAND --option`, within sentences and in what is not run."""
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = re.findall(r"`((?:[A-Z0-9_]+=\S+ )*(?:make|pserve) [^`]+)`", text)
    commands += [part.text for part in parts_of(page) if part.language == "console" and "make " in part.text]
    for command in commands:
        if "make " in command:
            words = shlex.split(command, comments=True)
            arguments = ["make", "--dry-run", *words[words.index("make") + 1 :]]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            done = subprocess.run(arguments, cwd=ROOT, capture_output=True, env=environment)
            assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
        else:
            help_of(command)
