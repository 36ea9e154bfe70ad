"""`make site`, and the links of its pages and of the plain Markdown that it is made from."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from conftest import ROOT
from pages import FENCE, pages

BUILD = [sys.executable, str(ROOT / "docs" / "site" / "build.py")]
BUILD_SECONDS = 300


class Links(html.parser.HTMLParser):
    """What a page names (`href`, `src`), what it loads, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)
                if tag != "a":
                    self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    done = subprocess.run([*BUILD, str(folder)], capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    read = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html")}
    for path, page in read.items():
        for link in page.links:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            aim = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path
            assert aim.exists(), f"{path.relative_to(site)}: {link}"
            if target.fragment and aim in read:
                assert target.fragment in read[aim].anchors, f"{path.relative_to(site)}: {link}"


def test_the_site_has_all_pages_and_a_way_to_each(site: Path) -> None:
    assert "docs/index.html" in (site / "index.html").read_text()
    start = Links((site / "docs" / "index.html").read_text())
    listed = {(site / "docs" / link).resolve().relative_to(site.resolve()) for link in start.links if ":" not in link}
    for page in pages():
        built = Path(page).with_suffix(".html")
        assert (site / built).is_file()
        assert built in listed or page == "docs/index.md", f"docs/index.md has no link to {page}"
    for image in (ROOT / "docs" / "images").iterdir():
        assert (site / "_images" / image.name).is_file(), f"no page shows {image.name}"
    index = (site / "searchindex.js").read_text()
    assert '"docs/operate"' in index and '"quarantin' in index


def test_the_site_needs_no_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        far = [link for link in Links(path.read_text()).loaded if urllib.parse.urlsplit(link).netloc]
        assert far == [], path
    for path in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//|@import", path.read_text()) == [], path


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """With the real settings, for a copy with two pages."""
    for folder, names in (("docs/site", ("conf.py", "build.py", "index.html")), (".", ())):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (tmp_path / folder / name).write_bytes((ROOT / folder / name).read_bytes())
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## Part\n")
    command = [sys.executable, str(tmp_path / "docs" / "site" / "build.py"), str(tmp_path / "target" / "site")]
    for link, word in (("other.md#part", None), ("other.md#none", "none"), ("nowhere.md", "nowhere")):
        (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n## All\n\n* [other](other.md)\n* [it]({link})\n")
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert (done.returncode == 0) == (word is None), f"{link}\n{done.stderr}"
        assert word is None or word in done.stderr, done.stderr


def anchors_on_a_forge(page: Path) -> set[str]:
    """Headings as forges name them: in lower case, without signs, with a hyphen for each blank."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        count = 0
        while (anchor := f"{name}-{count}" if count else name) in anchors:
            count += 1
        anchors.add(anchor)
    return anchors


@pytest.mark.parametrize("page", pages())
def test_every_link_of_the_markdown_leads_somewhere(page: str) -> None:
    path = ROOT / page
    text = FENCE.sub("", path.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        target = urllib.parse.urlsplit(link)
        if target.scheme:
            assert target.scheme in ("http", "https"), link
            continue
        aim = path.parent / target.path if target.path else path
        assert aim.is_file(), link
        if target.fragment:
            assert target.fragment in anchors_on_a_forge(aim), link
    for description in re.findall(r"!\[([^]]*)\]\(", text) + re.findall(r"<img [^>]*alt=\"([^\"]*)\"", text):
        assert len(description) > 10, "a picture needs a text that stands for it"
    assert text.count("<img ") == len(re.findall(r"<img [^>]*alt=\"", text))
