#!/usr/bin/env python3
"""Lists the crates that the program is linked with, and the texts of their licences, as those ask for."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def linked_crates() -> list[dict[str, Any]]:
    """Those that end up in the binary: neither for tests nor for build scripts."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host()]
    found = json.loads(subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE).stdout)
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root, linked, rest = found["resolve"]["root"], set(), [found["resolve"]["root"]]
    while rest:
        for dependency in nodes[rest.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in linked:
                linked.add(dependency["pkg"])
                rest.append(dependency["pkg"])
    crates = [package for package in found["packages"] if package["id"] in linked and package["id"] != root]
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def host() -> str:
    said = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return next(line.split()[1] for line in said.splitlines() if line.startswith("host:"))


def licence_texts(crate: dict[str, Any]) -> list[str]:
    folder = Path(crate["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(NAMES))
    return [path.read_text(errors="replace").strip() for path in files]


def main() -> None:
    crates = linked_crates()
    texts: dict[str, tuple[str, list[str]]] = {}
    print("Crates in this program:\n")
    for crate in crates:
        licence = crate["license"] or "see below"
        print(f"{crate['name']} {crate['version']}: {licence}; {crate['repository'] or 'https://crates.io'}")
        for text in licence_texts(crate):
            # Many differ in nothing but their line breaks.
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            texts.setdefault(key, (text, []))[1].append(f"{crate['name']} {crate['version']}")
    for text, names in texts.values():
        print(f"\n{'=' * 100}\n{', '.join(dict.fromkeys(names))}\n\n{text}")


if __name__ == "__main__":
    main()
