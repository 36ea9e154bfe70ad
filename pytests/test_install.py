"""`make install`: every file in its folder, below DESTDIR; and what can be said of each without installing it for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, PATIENCE, ROOT

FILES = {
    "bin/pserve": 0o755,
    "share/man/man1/pserve.1": 0o644,
    "share/bash-completion/completions/pserve": 0o644,
    "share/zsh/site-functions/_pserve": 0o644,
    "share/fish/vendor_completions.d/pserve.fish": 0o644,
    "lib/systemd/system/pserve.service": 0o644,
    "lib/systemd/system/pserve.socket": 0o644,
    "share/doc/pserve/examples/pserve.ini": 0o644,
    "share/doc/pserve/examples/logrotate.conf": 0o644,
    "share/doc/pserve/examples/nginx.conf": 0o644,
}
MARKS = {
    "share/man/man1/pserve.1": ".TH PSERVE 1",
    "share/bash-completion/completions/pserve": "complete -F _pserve",
    "share/zsh/site-functions/_pserve": "#compdef pserve",
    "share/fish/vendor_completions.d/pserve.fish": "complete -c pserve",
}


def make(target: str, destination: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    names = {"BINARY": str(BINARY), "DESTDIR": str(destination), **variables}
    assignments = [f"{name}={value}" for name, value in names.items()]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PREFIX")
    }
    command = ["make", "--no-print-directory", "-C", str(ROOT), target, *assignments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)


def files_in(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in found}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    done = make("install", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(folder)) == len(FILES), done.stdout
    return folder / "usr/local"


def test_every_file_is_there_with_its_mode(root: Path) -> None:
    assert files_in(root.parent.parent) == {f"usr/local/{name}": mode for name, mode in FILES.items()}
    for name, mark in MARKS.items():
        assert mark in (root / name).read_text(), name
    version = subprocess.run([root / "bin/pserve", "--version"], capture_output=True, text=True, timeout=PATIENCE)
    assert version.stdout.startswith("pserve "), version.stderr


def test_the_prefix_is_kept_and_taken_away_again(tmp_path: Path) -> None:
    assert make("install", tmp_path, PREFIX="/usr", ZSHDIR="/usr/share/zsh/vendor-completions").returncode == 0
    unit = (tmp_path / "usr/lib/systemd/system/pserve.service").read_text()
    assert "ExecStart=/usr/bin/pserve -i /etc/pserve/pserve.ini" in unit and "/usr/local" not in unit
    assert (tmp_path / "usr/share/zsh/vendor-completions/_pserve").is_file()
    assert make("uninstall", tmp_path, PREFIX="/usr", ZSHDIR="/usr/share/zsh/vendor-completions").returncode == 0
    assert files_in(tmp_path) == {}


def test_a_binary_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "pserve"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert make("install", tmp_path / "root", BINARY=str(broken)).returncode != 0


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man here")
def test_man_shows_the_page_without_a_warning(root: Path) -> None:
    page = root / "share/man/man1/pserve.1"
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    command = ["man", "--warnings", "--local-file", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for part in ("EXIT STATUS", "trusted_proxies (list; default 127.0.0.0/8 ::1/128)", "pserve call [OPTIONS] <NAME>"):
        assert part in done.stdout, part


def test_the_sample_works_with_the_unit(root: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    environment = {
        **os.environ,
        "PSERVE_PATHS_PLUGINS": str(tmp_path / "plugins"),
        "PSERVE_NETWORK_BINDTO": "127.0.0.1",
    }
    command = [root / "bin/pserve", "-i", root / "share/doc/pserve/examples/pserve.ini", "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0 and "pidfile = /run/pserve/pserve.pid" in done.stdout, done.stderr
