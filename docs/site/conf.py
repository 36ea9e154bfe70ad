"""The pages of docs/ as a site: `make site`. What stands where in its navigation is read from docs/index.md."""

import re

project = "pserve"
html_title = "pserve"
extensions = ["myst_parser"]
root_doc = "docs/index"
# The source folder is the whole repository, so that links between its pages are the same as on a forge.
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md"]
exclude_patterns = ["target", "src", "tests", "pytests", "python_plugins", ".*"]

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4

html_theme = "furo"
html_extra_path = ["index.html"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def add_navigation(app, docname, source):
    """Each section of docs/index.md becomes a section of the navigation, with the pages that it links to."""
    if docname != root_doc:
        return
    known = set()

    def with_toctree(section):
        links = re.findall(r"\[([^]]+)\]\(([\w./-]+)\.md\)", section[0])
        pages = [f"{text} <{page}>" for text, page in links if page not in known]
        known.update(page for _, page in links)
        toctree = f":hidden:\n:caption: {section[1]}\n\n" + "\n".join(pages)
        return f"{section[0].rstrip()}\n\n```{{toctree}}\n{toctree}\n```\n\n" if pages else section[0]

    source[0] = re.sub(r"^## (.*)\n(?:(?!## ).*\n?)*", with_toctree, source[0], flags=re.MULTILINE)


def setup(app):
    app.connect("source-read", add_navigation)
