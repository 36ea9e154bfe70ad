"""Where plugins are imported by a script, a test or a prompt: there is no server around them."""

from __future__ import annotations

import logging
import sys

import _pserve


def install(plugins_dir: str | None) -> None:
    """Lets the log of plugins go through `logging`, and their folder be imported from, after everything else."""
    _pserve.log = _log
    if plugins_dir is not None and plugins_dir not in sys.path:
        sys.path.append(plugins_dir)


def _log(number: int, name: str, message: str, traceback: str | None = None, plugin: str | None = None) -> None:
    text = message if traceback is None else f"{message}\n{traceback}"
    logging.getLogger(name).log(number, "%s", text)
