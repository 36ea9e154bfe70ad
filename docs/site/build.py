"""Builds the site into the folder that is named: `make site`. A link that leads nowhere is an error."""

import sys
from pathlib import Path

from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parent.parent.parent


def build(folder: str) -> int:
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--builder", "html", "--fresh-env"]
    folders = ["--conf-dir", str(ROOT / "docs" / "site"), "--doctree-dir", f"{folder}-doctrees", str(ROOT), folder]
    return main(options + folders)


if __name__ == "__main__":
    sys.exit(build(sys.argv[1]))
