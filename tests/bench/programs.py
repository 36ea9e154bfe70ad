"""The programs: how each is started for a kind of setup, in the way its own documentation says. One process each, no
log of requests, otherwise as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import install
from folder import HERE, Folder


@dataclass(frozen=True)
class Setup:
    # That many small plugins and nothing else; 0 is the whole work.
    copies: int = 0
    tls: bool = False
    workers: int = 1
    # For plain handlers; 0 is as it comes. Ours has it by plugin, in its INI file.
    threads: int = 0


@dataclass(frozen=True)
class Start:
    """What a command line is made from."""

    setup: Setup
    port: int
    folder: Folder


@dataclass(frozen=True)
class Program:
    name: str
    command: Callable[[Start], list[str]]
    # The file in requirements/ that says what to install, if anything.
    peer: str | None = None
    # Prints so much that it would fill the disk.
    is_chatty: bool = False


def pserve(start: Start) -> list[str]:
    setup = start.setup
    lines = {
        "paths": [f"documents = static:{start.folder.static}"],
        "plugin_options": ["sleep10 = threads=8"],
        "server": [f"workers = {setup.workers}"],
        "python": [f"venv = {install.own_environment()}"],
    }
    plugins = start.folder.plugins(setup.copies, extra=False)
    ini = start.folder.ini("pserve", start.port, plugins, setup.tls, lines)
    return [str(install.OURS), "-i", str(ini), "-v", "ERROR"]


def pluginserver(level: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        plugins = start.folder.plugins(start.setup.copies, extra=True)
        ini = start.folder.ini("pluginserver", start.port, plugins, start.setup.tls, {"main": ["x = 1"]})
        programs = install.peer("pluginserver") / "bin"
        return [str(programs / "python"), str(programs / "pserve"), "-i", str(ini), "-v", level]

    return command


def granian(interface: str, application: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        program = str(install.peer("granian") / "bin" / "granian")
        options = ["--interface", interface, "--port", str(start.port), "--workers", str(start.setup.workers)]
        options += ["--no-log", "--working-dir", str(HERE / "peers")]
        if interface == "rsgi":
            options += ["--static-path-mount", str(start.folder.static)]
        if start.setup.threads:
            options += ["--blocking-threads", str(start.setup.threads)]
        if start.setup.tls:
            options += ["--ssl-certificate", str(start.folder.certificate), "--ssl-keyfile", str(start.folder.key)]
        return [program, *options, application]

    return command


def robyn(start: Start) -> list[str]:
    python = str(install.peer("robyn") / "bin" / "python")
    arguments = [str(start.port), str(start.folder.static), "--log-level=ERROR"]
    if start.setup.threads:
        arguments.append(f"--workers={start.setup.threads}")
    return [python, str(HERE / "peers" / "robyn_app.py"), *arguments, f"--processes={start.setup.workers}"]


def uvicorn(start: Start) -> list[str]:
    program = str(install.peer("uvicorn") / "bin" / "uvicorn")
    options = ["--port", str(start.port), "--workers", str(start.setup.workers), "--loop", "uvloop"]
    options += ["--http", "httptools", "--no-access-log", "--log-level", "error", "--app-dir", str(HERE / "peers")]
    if start.setup.tls:
        options += ["--ssl-certfile", str(start.folder.certificate), "--ssl-keyfile", str(start.folder.key)]
    return [program, *options, "asgi_app:app"]


def warp(start: Start) -> list[str]:
    return [str(install.WARP), str(start.port), str(start.folder.static)]


WARP = Program("bare warp", warp)
OURS = Program("pserve", pserve)
PROGRAMS = [
    OURS,
    Program("pluginserver", pluginserver("ERROR"), "pluginserver"),
    # Its default: every answer is formatted for the log.
    Program("pluginserver -v DEBUG", pluginserver("DEBUG"), "pluginserver", is_chatty=True),
    Program("granian RSGI", granian("rsgi", "rsgi_app:app"), "granian"),
    Program("granian ASGI", granian("asgi", "asgi_app:app"), "granian"),
    Program("granian WSGI", granian("wsgi", "wsgi_app:app"), "granian"),
    Program("robyn", robyn, "robyn"),
    Program("uvicorn", uvicorn, "uvicorn"),
    WARP,
]
BY_NAME = {program.name: program for program in PROGRAMS}
