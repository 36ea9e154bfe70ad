"""The samples in docs/deploy: they parse, name what is there, and their numbers fit together."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BINARY, PATIENCE, ROOT, Start

DEPLOY = ROOT / "docs" / "deploy"
# After the drain: terminating the plugins, and ending Python.
END_SECONDS = 8 + 5


def read_ini(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def pserve(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([str(BINARY), *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment)


def _in_a_folder(plugins: Path) -> dict[str, str]:
    """What takes the place of paths that a test machine does not have."""
    return {
        "PSERVE_PATHS_PLUGINS": str(plugins),
        "PSERVE_PATHS_PIDFILE": str(plugins.parent / "pid"),
        "PSERVE_SERVER_ACCESS_LOG": str(plugins.parent / "access.log"),
        "PSERVE_NETWORK_BINDTO": f"unix:{plugins.parent / 'socket'}",
    }


def settings_of(ini: Path, plugins: Path) -> configparser.ConfigParser:
    """The settings in force, after a look that the server knows every key and finds nothing wrong."""
    variables = _in_a_folder(plugins)
    report = json.loads(pserve("-i", str(ini), "check", "--json", "--no-run", **variables).stdout)
    assert report["errors"] == report["warnings"] == 0, report["findings"]
    shown = pserve("-i", str(ini), "--print-config", **variables)
    assert shown.returncode == 0, shown.stderr
    return read_ini(shown.stdout)


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    shutil.copy(ROOT / "python_plugins" / "hello.py", folder)
    return folder


@pytest.fixture
def unit() -> configparser.SectionProxy:
    return read_ini((DEPLOY / "pserve.service").read_text())["Service"]


@pytest.fixture
def manifests() -> dict[str, Any]:
    """`Kind/name` -> object."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in documents}


def dockerfile() -> str:
    """Without comments and continuations."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")


def test_the_unit_fits_the_configuration(unit: configparser.SectionProxy, plugins: Path) -> None:
    limits = settings_of(DEPLOY / "pserve.ini", plugins)["limits"]
    assert unit["Type"] == "notify-reload" and unit["KillMode"] == "mixed" and unit["OOMPolicy"] == "continue"
    assert float(unit["TimeoutStopSec"]) > float(limits["drain_timeout"]) + END_SECONDS
    assert float(unit["WatchdogSec"]) > 2 * float(limits["loop_stall"])
    assert float(unit["TimeoutStartSec"]) > float(limits["load_timeout"])
    assert unit["RestartPreventExitStatus"] == "2"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    version = int(subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True).stdout.split()[1])
    text = (DEPLOY / "pserve.service").read_text()
    if version < 253:
        # As the sample itself says.
        text = text.replace("\nType=notify-reload\n", "\nType=notify\nExecReload=/bin/kill -HUP $MAINPID\n")
    text = text.replace("/usr/local/bin/pserve", str(BINARY))
    (tmp_path / "pserve.service").write_text(text)
    shutil.copy(DEPLOY / "pserve.socket", tmp_path)
    units = [str(tmp_path / name) for name in ("pserve.service", "pserve.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "pserve" in line]
    assert said == [], done.stderr


def test_the_manifest_fits_the_program(manifests: dict[str, Any], plugins: Path, tmp_path: Path, start: Start) -> None:
    ini = manifests["ConfigMap/pserve-config"]["data"]["pserve.ini"]
    (tmp_path / "pserve.ini").write_text(ini)
    settings = settings_of(tmp_path / "pserve.ini", plugins)
    pod = manifests["Deployment/pserve"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [port] = container["ports"]
    assert port["containerPort"] == int(read_ini(ini)["network"]["port"])
    assert manifests["Service/pserve"]["spec"]["ports"][0]["targetPort"] == port["name"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(settings["limits"]["drain_timeout"])
    assert pod["terminationGracePeriodSeconds"] > pause + drain + END_SECONDS
    # A reload has two sets of workers for a while.
    limit_mb = int(container["resources"]["limits"]["memory"].replace("Gi", "")) * 1024
    assert 2 * int(settings["server"]["workers"]) * int(settings["limits"]["max_memory_mb"]) < limit_mb

    # The server itself, with the plugins and the environment of the manifest.
    [variable] = container["env"]
    key = manifests["Secret/pserve-key"]["stringData"]["apikey"]
    files = manifests["ConfigMap/pserve-plugins"]["data"]
    server = start(files, ini="[server]\nrequired_plugins=hello\n", env={variable["name"]: key})
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    for name, probe in probes.items():
        assert server.get(probe["path"]).status == 200 and probe["port"] == port["name"], name
    assert probes["readinessProbe"]["path"] == "/readyz" and probes["livenessProbe"]["path"] == "/livez"
    assert server.get("/plugins").status == 403
    assert server.request("GET", "/plugins", headers={"Authorization": f"Bearer {key}"}).status == 200
    assert server.get("/hello", name="Ada").json() == {"hello": "Ada"}


def test_plugins_are_found_as_a_config_map_mounts_them(start: Start, manifests: dict[str, Any]) -> None:
    server = start({})
    folder = server.folder / "plugins"
    for version, stamp in (("one", "..2026_01"), ("two", "..2026_02")):
        (folder / stamp).mkdir()
        text = manifests["ConfigMap/pserve-plugins"]["data"]["hello.py"].replace('"world"', f'"{version}"')
        (folder / stamp / "hello.py").write_text(text)
        (folder / "..new").symlink_to(stamp)
        (folder / "..new").replace(folder / "..data")
        if version == "one":
            (folder / "hello.py").symlink_to("..data/hello.py")
        assert server.get("/reload/all").status == 200
        assert server.get("/hello").json() == {"hello": version}
    assert server.get("/plugins").json() == {"loaded_plugins": ["hello"]}


def test_the_image_is_built_from_what_is_there(start: Start) -> None:
    text = dockerfile()
    rust = re.search(r"^ARG RUST=(.*)$", text, re.MULTILINE)
    wanted = re.search(r'^rust-version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert rust is not None and wanted is not None and rust[1] == wanted[1]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists() and f"!{source}" in ignored, source
    assert "STOPSIGNAL SIGTERM" in text and "USER 10001:10001" in text

    # The health check, against a server that is there and one that is not.
    command = re.search(r"HEALTHCHECK.*CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    server = start({})
    for port, expected in ((server.port, 0), (1, 1)):
        environment = {**os.environ, "PSERVE_NETWORK_PORT": str(port)}
        done = subprocess.run(json.loads(command[1]), env=environment, capture_output=True, timeout=PATIENCE)
        assert done.returncode == expected, done.stderr


def test_variables_of_the_image_are_settings(plugins: Path) -> None:
    environment = re.search(r"^ENV (PSERVE_.*)$", dockerfile(), re.MULTILINE)
    assert environment is not None
    variables = dict(pair.split("=", 1) for pair in environment[1].split())
    variables["PSERVE_PATHS_PLUGINS"] = str(plugins)
    (plugins.parent / "empty.ini").write_text("")
    shown = read_ini(pserve("-i", str(plugins.parent / "empty.ini"), "--print-config", **variables).stdout)
    assert shown["network"]["bindto"] == "0.0.0.0" and shown["network"]["port"] == "9192"
    assert shown["paths"]["plugins"] == str(plugins) and set(variables) == {
        "PSERVE_NETWORK_BINDTO",
        "PSERVE_NETWORK_PORT",
        "PSERVE_PATHS_PLUGINS",
    }


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="there is no logrotate here")
def test_logrotate_takes_its_sample(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("one line\n")
    # It wants a file that nobody else may write, and folders likewise.
    config = tmp_path / "logrotate.conf"
    config.write_text((DEPLOY / "logrotate.conf").read_text().replace("/var/log/pserve/*.log", str(log)))
    config.chmod(0o600)
    tmp_path.chmod(0o700)
    command = ["logrotate", "--debug", "--state", str(tmp_path / "state"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and "error" not in done.stderr.lower(), done.stderr
    assert str(log) in done.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx here")
def test_nginx_takes_its_sample(tmp_path: Path) -> None:
    sample = (DEPLOY / "nginx.conf").read_text()
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path / 'pid'};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{sample}\n}}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-q", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_the_pages_name_every_sample_and_only_settings_that_exist(plugins: Path) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    for sample in DEPLOY.iterdir():
        assert (f"`{sample.name}/`" if sample.is_dir() else f"(deploy/{sample.name})") in page, sample.name
    page += (ROOT / "docs" / "operate.md").read_text()
    shown = pserve("-i", str(DEPLOY / "pserve.ini"), "--print-config", **_in_a_folder(plugins)).stdout
    for section, key in re.findall(r"`\[(server|limits|network|paths|auth)\] (\w+)", page):
        assert re.search(rf"^;?{key} =", shown, re.MULTILINE), f"[{section}] {key}"
