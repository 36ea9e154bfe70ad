"""python_plugins/fileserve.py: documents with Markdown, magic variables, and an access log of its own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, Start

SOURCE = (Path(__file__).resolve().parent.parent / "python_plugins" / "fileserve.py").read_text()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.md").write_text("# The *first* heading\n\ntext & more\n\n```python\nprint(1)\n```\n")
    (folder / "titled.md").write_text("@TITLE=My <own> title@\n# Heading\n")
    (folder / "plain.txt").write_text("0123456789")
    (folder / "page.html").write_text("<p>@INCLUDE=sub/part.md@ @TIME=+%Y@</p>")
    (folder / "sub" / "part.md").write_text("part @FILETIME=/plain.txt+%d.%m.%Y@ @FILETIME=part.md@")
    (folder / "sub" / "index.html").write_text("sub index")
    (folder / "loop.md").write_text("a @INCLUDE=loop.md@ b")
    (folder / "outside.md").write_text(
        "@INCLUDE=../secret.txt@ @INCLUDE=/../secret.txt@ @INCLUDE=link.txt@ @FILETIME=../secret.txt+%Y@"
    )
    (folder / ".hidden").write_text("hidden")
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", folder / "link.txt")
    os.utime(folder / "plain.txt", (86400 * 365, 86400 * 365))
    return folder


def serve(start: Start, docs: Path, ini: str = "", aiohttp: bool = True, documents: str = "docs:") -> Server:
    return start({"fileserve.py": SOURCE}, ini=f"[file_server]\ndocuments={documents}{docs}\n{ini}", aiohttp=aiohttp)


def test_it_is_off_until_configured(start: Start) -> None:
    server = start({"fileserve.py": SOURCE})
    assert server.get("/plugins").json() == {"loaded_plugins": []}
    assert "FileServe" in server.log and "is off: [file_server] documents is not set" in server.log
    assert "ERROR" not in server.log


def test_markdown_becomes_pages(start: Start, docs: Path) -> None:
    server = serve(start, docs, "markdown_css=/style.css other.css\nhighlight_css=monokai\n")
    reply = server.get("/docs/")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>The first heading</title>" in reply.text
    assert "<em>first</em>" in reply.text and "text &amp; more" in reply.text
    assert '<link rel="stylesheet" href="/style.css">\n<link rel="stylesheet" href="other.css">' in reply.text
    assert "codehilite" in reply.text and ".codehilite .hll" in reply.text
    titled = server.get("/docs/titled.md").text
    assert "<title>My &lt;own&gt; title</title>" in titled and "TITLE" not in titled
    known = server.request("GET", "/docs/", headers={"If-None-Match": reply.headers["ETag"]})
    assert (known.status, known.body) == (304, b"")


def test_without_the_packages_markdown_is_text(start: Start, docs: Path) -> None:
    server = serve(start, docs, aiohttp=False)
    reply = server.get("/docs/index.md")
    assert reply.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert reply.text.startswith("# The *first* heading")
    server.wait_for_log("pip install Markdown")


@pytest.mark.parametrize("aiohttp", [True, False])
def test_magic_variables(start: Start, docs: Path, aiohttp: bool) -> None:
    server = serve(start, docs, aiohttp=aiohttp)
    page = server.get("/docs/page.html")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.fullmatch(
        rf"<p>part 01\.01\.1971 \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {time.localtime().tm_year}</p>", page.text
    ), page.text
    assert "includes itself" in server.get("/docs/loop.md").text
    outside = server.get("/docs/outside.md").text
    assert outside.count("no such document") == 4 and "secret\n" not in outside.replace("secret.txt", "")


def test_files_and_folders(start: Start, docs: Path) -> None:
    server = serve(start, docs, documents="")
    part = server.request("GET", "/doc/plain.txt", headers={"Range": "bytes=2-4"})
    assert (part.status, part.text) == (206, "234")
    assert server.get("/doc/sub/").text == "sub index"
    for path, to in (("/doc", "/doc/"), ("/doc/sub", "/doc/sub/")):
        reply = server.get(path)
        assert (reply.status, reply.headers["Location"]) == (301, to)
    for path in (
        "none.md",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "link.txt",
        ".hidden",
        "sub/../.hidden",
        "plain.txt/",
        "%00",
        "a%5Cb",
    ):
        reply = server.get(f"/doc/{path}")
        assert reply.status == 404 and "no such document" in reply.json()["error"], path
    assert server.request("HEAD", "/doc/plain.txt").headers["Content-Length"] == "10"
    assert server.post("/doc/plain.txt", "x").status == 405


def test_the_access_log(start: Start, docs: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = serve(start, docs, f"common_log={log}\nlog_includes=true\n")
    server.get("/docs/plain.txt?apikey=secret")
    server.get("/docs/page.html")
    server.get("/docs/none%0a%22")
    stamp = r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    patterns = [
        r'"GET /docs/plain\.txt HTTP/1\.1" 200 10',
        r'"INCLUDE /sub/part\.md file" 200 \d+',
        r'"GET /docs/page\.html HTTP/1\.1" 200 \d+',
        r'"GET /docs/none%0[aA]%22 HTTP/1\.1" 404 \d+',
    ]
    # The line of a file is written once it has been sent: then its client goes on already.
    server.stop()
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    for pattern in patterns:
        assert any(re.fullmatch(stamp + pattern, line) for line in lines), (pattern, lines)


def test_an_envelope_of_ones_own(start: Start, docs: Path) -> None:
    (docs / "envelope.html").write_text("<h6>@TITLE@</h6>@CSS@<main>@BODY@</main>@INCLUDE=plain.txt@ @TIME=+%Y@")
    server = serve(start, docs, "markdown_envelope=envelope.html\n")
    text = server.get("/docs/titled.md").text
    assert text.startswith("<h6>My &lt;own&gt; title</h6>") and "<main>" in text
    assert text.endswith(f"</main>0123456789 {time.localtime().tm_year}")


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("markdown_envelope=none.html\n", "markdown_envelope: none.html is not there"),
        ("markdown_envelope=plain.txt\n", "has no @BODY@"),
    ],
)
def test_what_cannot_work_is_told(start: Start, docs: Path, ini: str, message: str) -> None:
    server = serve(start, docs, ini)
    assert message in server.log
    assert server.get("/docs/").status == 404


def test_a_missing_folder_is_told(start: Start) -> None:
    server: Any = start({"fileserve.py": SOURCE}, ini="[file_server]\ndocuments=docs:/no/such/folder\n")
    assert "/no/such/folder is no folder" in server.log
