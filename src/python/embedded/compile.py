"""Compiles the embedded modules when the server is built: `compile.py SOURCES INTO`."""

from __future__ import annotations

import importlib.util
import marshal
import sys
from pathlib import Path


def compile_all(sources: Path, into: Path) -> None:
    """Leaves the code of each file under its own name, and the magic number of what this Python's code is."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "magic").write_bytes(importlib.util.MAGIC_NUMBER)
    for path in sources.rglob("*.py"):
        name = path.relative_to(sources)
        code = compile(path.read_bytes(), f"<pserve>/{name.as_posix()}", "exec", dont_inherit=True, optimize=0)
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(marshal.dumps(code))


compile_all(Path(sys.argv[1]), Path(sys.argv[2]))
