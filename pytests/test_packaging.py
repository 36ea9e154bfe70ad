"""How pserve gets to people: the Debian package's files, and the scripts that build with every Python."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from test_deploy_samples import settings_of

CI = ROOT / ".ci"
DEBIAN = ROOT / "docs" / "deploy" / "debian"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return load("test_pythons")


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_packages_configuration_works_and_is_open_to_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "hello.py").write_text((ROOT / "python_plugins" / "hello.py").read_text())
    settings_of(DEBIAN / "pserve.ini", tmp_path / "plugins")
    ini = (DEBIAN / "pserve.ini").read_text()
    assert re.search("^bindto = 127.0.0.1$", ini, re.MULTILINE)
    # What the maintainer scripts make and take away, the configuration and the unit name.
    unit = (ROOT / "docs" / "deploy" / "pserve.service").read_text()
    scripts = (DEBIAN / "pserve.postinst").read_text(), (DEBIAN / "pserve.postrm").read_text()
    for folder in ("/var/lib/pserve/plugins", "/var/log/pserve"):
        assert folder in ini and all(folder in script for script in scripts)
    for line in ("User=pserve", "StateDirectory=pserve", "LogsDirectory=pserve", "WorkingDirectory=/var/lib/pserve"):
        assert f"\n{line}\n" in unit


def test_maintainer_scripts_and_build_scripts_are_shell() -> None:
    scripts = [DEBIAN / "pserve.postinst", DEBIAN / "pserve.postrm"]
    for script in [*scripts, CI / "deb", CI / "test-deb", CI / "test-deb-inside", CI / "prepare"]:
        shell = script.read_text().splitlines()[0].removeprefix("#!").split()
        subprocess.run([*shell, "-n", str(script)], check=True)


def test_every_crate_in_the_program_is_listed_with_its_licence() -> None:
    listed = subprocess.run([str(CI / "crates.py")], check=True, capture_output=True, text=True).stdout
    for crate in ("pyo3", "warp", "tokio", "openssl"):
        assert re.search(rf"^{crate} [\d.]+: \S.*; https://", listed, re.MULTILINE), crate
    # Those of tests and build scripts are not in it.
    assert not re.search(r"^(tempfile|pyo3-build-config) ", listed, re.MULTILINE)
    assert "Permission is hereby granted, free of charge" in listed


def test_the_fuzz_targets_are_built_with_the_versions_that_the_program_has() -> None:
    def locked(file: Path) -> dict[tuple[str, str], set[str]]:
        found = re.findall(
            r'^name = "(.+)"\nversion = "(.+)"\n(?:source = .*\n)?(?:checksum = .*\n)?(?:dependencies = \[\n((?: .*\n)*)\])?',
            file.read_text(),
            re.MULTILINE,
        )
        return {(name, version): set(re.findall(r'"([^ "]+)', needed)) for name, version, needed in found}

    program, targets = locked(ROOT / "Cargo.lock"), locked(ROOT / "tests" / "fuzz" / "Cargo.lock")
    ours = {name for name, _ in program}
    differ = {crate for crate in targets if crate[0] in ours and crate not in program}
    assert not differ, "copy Cargo.lock to tests/fuzz/ and let `cargo metadata` there mend it"

    command = ["cargo", "metadata", "--offline", "--no-deps", "--format-version", "1"]
    about = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    wanted = {need["name"] for need in about["packages"][0]["dependencies"] if need["kind"] != "dev"}
    [has] = [needed for (name, _), needed in targets.items() if name == "pserve"]
    assert wanted <= has, "tests/fuzz/Cargo.lock is older than Cargo.toml"


def test_a_python_says_what_it_lacks(pythons: ModuleType, tmp_path: Path) -> None:
    answer = "#!/bin/sh\nprintf '%s\\n' /x/python3.13 '3.13.0 {kind}' True {lock} {library}\n"
    pypy = executable(tmp_path / "pypy", answer.format(kind="pypy", lock=True, library=True))
    static = executable(tmp_path / "static", answer.format(kind="cpython", lock=True, library=False))
    free = executable(tmp_path / "free", answer.format(kind="cpython", lock=False, library=True))
    shim = executable(tmp_path / "shim", "#!/bin/sh\necho 'not chosen' >&2\nexit 127\n")
    assert pythons.ask(pypy) is None and pythons.ask(shim) is None and pythons.ask(tmp_path / "gone") is None
    assert pythons.ask(static).lacks == ["shared libpython"]
    assert pythons.ask(free).lacks == ["lock (it is free-threaded)"]
    assert pythons.ask(free).minor == "3.13"


def test_the_python_that_runs_this_is_found(pythons: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(sys.base_prefix) / "bin"
    monkeypatch.setenv("PATH", str(base))
    versions = [python.version for python in pythons.find_pythons()]
    assert "{}.{}.{}".format(*sys.version_info) in versions
    assert versions == sorted(versions, key=lambda text: [int(number) for number in text.split(".")])


def test_what_the_tests_say_is_counted(pythons: ModuleType) -> None:
    said = "...\n2 failed, 262 passed, 2 skipped in 248.60s (0:04:08)\n"
    assert pythons.pytest_summary(said) == "2 failed, 262 passed, 2 skipped"
    assert pythons.pytest_summary("Traceback") is None
    line = "test result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n"
    assert pythons.rust_summary(line.format("ok", 7, 0) + line.format("ok", 10, 0)) == "17 passed"
    assert pythons.rust_summary(line.format("ok", 7, 0) + line.format("FAILED", 10, 2)) == "2 failed, 17 passed"


def test_the_table_keeps_the_rows_of_other_versions(
    pythons: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "pythons.md"
    page.write_text(re.sub(r"(?m)^\| \d.*\n", "", (ROOT / "docs" / "pythons.md").read_text()))
    empty = page.read_text()
    monkeypatch.setattr(pythons, "PAGE", page)
    pythons.note({"3.13.0": "| 3.13.0 | works |"})
    pythons.note({"3.9.18": "| 3.9.18 | **1 failed** |"})
    pythons.note({"3.9.18": "| 3.9.18 | works |"})
    rows = [line for line in page.read_text().splitlines() if re.match(r"\| \d", line)]
    assert rows == ["| 3.9.18 | works |", "| 3.13.0 | works |"]
    assert re.sub(r"(?m)^\| \d.*\n", "", page.read_text()) == empty
