"""Static files: contract, section 9."""

import gzip
import os
import socket
import subprocess

import pytest
from conftest import BINARY, PATIENCE

PLUGIN = """
from plugincore.baseplugin import BasePlugin
class Plug(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(route_path='docs/plugin', **{k: v for k, v in kwargs.items() if k != 'route_path'})
    def request_handler(self, **data):
        return 'the plugin'
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / ".well-known").mkdir()
    for name, text in {
        "a.txt": "0123456789",
        "index.html": "<h1>top</h1>",
        "sub/index.html": "<h1>sub</h1>",
        "sub/style.css": "b {}",
        "with space é.json": "{}",
        ".secret": "hidden",
        ".well-known/x": "public",
        "unknown.zzz": "?",
    }.items():
        (folder / name).write_text(text)
    (folder / "sub" / "style.css.gz").write_bytes(gzip.compress(b"b {}"))
    (tmp_path / "outside.txt").write_text("not for you")
    (folder / "link").symlink_to(tmp_path / "outside.txt")
    (folder / "inner").symlink_to(folder / "a.txt")
    return folder


def test_types_index_and_folders(start, folder):
    server = start({"plug.py": PLUGIN}, ini=f"documents=docs:{folder}")
    cases = {
        "a.txt": ("text/plain", "0123456789"),
        "": ("text/html", "<h1>top</h1>"),
        "sub/": ("text/html", "<h1>sub</h1>"),
        "sub/style.css": ("text/css", "b {}"),
        "with%20space%20%C3%A9.json": ("application/json", "{}"),
        "unknown.zzz": ("application/octet-stream", "?"),
        "inner": ("text/plain", "0123456789"),
        ".well-known/x": ("application/octet-stream", "public"),
    }
    for path, (kind, text) in cases.items():
        reply = server.get(f"/docs/{path}")
        assert (reply.status, reply.text) == (200, text), path
        assert reply.headers["Content-Type"].split(";")[0] == kind, path
        assert reply.headers["Content-Length"] == str(len(text)) and reply.headers["ETag"], path
    for path in ("/docs", "/docs/sub"):
        reply = server.get(path)
        assert (reply.status, reply.headers["Location"]) == (308, path + "/")
    reply = server.request("HEAD", "/docs/a.txt")
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "10", b"")
    reply = server.request("POST", "/docs/a.txt")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert server.get("/docs/plugin").text == "the plugin"


def test_never_outside_the_folder(start, folder):
    server = start({}, ini=f"documents=docs:{folder}")
    paths = [
        "../outside.txt",
        "%2e%2e/outside.txt",
        "..%2foutside.txt",
        "sub/../../outside.txt",
        "link",
        ".secret",
        "a.txt/",
        "a.txt%00.html",
        "sub%5c..%5ca.txt",
        "/etc/passwd",
        "%2Fetc/passwd",
        "none",
        "empty/",
    ]
    for path in paths:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"GET /docs/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), (path, answer)
        assert b"not for you" not in answer


def test_ranges_and_conditions(start, folder):
    server = start({}, ini=f"documents=docs:{folder}")
    first = server.get("/docs/a.txt")
    tag, date = first.headers["ETag"], first.headers["Last-Modified"]

    def ask(**headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = server.request("GET", "/docs/a.txt", headers=named)
        return reply.status, reply.text

    assert ask(Range="bytes=2-4") == (206, "234")
    assert ask(Range="bytes=-3") == (206, "789")
    assert ask(Range="bytes=50-60")[0] == 416
    assert ask(Range="bytes=2-4", If_Range=tag) == (206, "234")
    assert ask(Range="bytes=2-4", If_Range='"other"') == (200, "0123456789")
    assert ask(If_None_Match=tag) == (304, "")
    assert ask(If_None_Match=f'"x", W/{tag}') == (304, "")
    assert ask(If_None_Match='"x"', If_Modified_Since=date) == (200, "0123456789")
    assert ask(If_Modified_Since=date) == (304, "")
    (folder / "a.txt").write_text("changed")
    assert ask(If_None_Match=tag) == (200, "changed")


def test_precompressed_neighbours(start, folder):
    server = start({}, ini=f"documents=docs:{folder}")
    reply = server.request("GET", "/docs/sub/style.css", headers={"Accept-Encoding": "gzip, br"})
    assert (reply.headers["Content-Encoding"], reply.headers["Content-Type"]) == ("gzip", "text/css")
    assert gzip.decompress(reply.body) == b"b {}" and "Accept-Encoding" in reply.headers["Vary"]
    reply = server.request("GET", "/docs/sub/style.css", headers={"Accept-Encoding": "gzip;q=0"})
    assert (reply.headers["Content-Encoding"], reply.text) == (None, "b {}")


def test_a_bare_folder_another_index_and_a_large_file(start, folder):
    (folder / "large").write_bytes(bytes(range(256)) * 40_000)
    server = start({}, ini=f"documents={folder}\nindexfile=a.txt")
    assert server.get("/doc/").text == "0123456789"
    assert server.get("/doc/large").body == (folder / "large").read_bytes()


def test_neighbours_and_odd_files_lead_nowhere(start, folder):
    (folder / "sub" / "style.css.br").symlink_to(folder.parent / "outside.txt")
    (folder / "shown.txt").symlink_to(folder / ".secret")
    os.mkfifo(folder / "pipe.txt")
    server = start({}, ini=f"documents=docs:{folder}")
    reply = server.request("GET", "/docs/sub/style.css", headers={"Accept-Encoding": "br"})
    assert (reply.text, reply.headers["Content-Encoding"]) == ("b {}", None)
    assert server.get("/docs/pipe.txt").status == 404
    options = server.request("OPTIONS", "/docs/a.txt")
    assert (options.status, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert server.get("/docs/shown.txt").status == 404


def test_each_encoding_has_a_tag_of_its_own(start, folder):
    server = start({}, ini=f"documents=docs:{folder}")
    plain = server.get("/docs/sub/style.css")
    packed = server.request("GET", "/docs/sub/style.css", headers={"Accept-Encoding": "gzip"})
    tag = packed.headers["ETag"]
    assert tag != plain.headers["ETag"]
    resumed = {"Range": "bytes=2-", "If-Range": tag, "Accept-Encoding": "gzip"}
    assert server.request("GET", "/docs/sub/style.css", headers=resumed).text == "b {}"
    resumed["If-Range"] = plain.headers["ETag"]
    assert server.request("GET", "/docs/sub/style.css", headers=resumed).status == 206
    for tags, status in [('"other"', 412), (plain.headers["ETag"], 200), ("*", 200)]:
        assert server.request("GET", "/docs/sub/style.css", headers={"If-Match": tags}).status == status


@pytest.mark.parametrize("value", ["docs:${ENV:NO_SUCH_VARIABLE}", "docs:", "plugins:/tmp", "reload/x:/tmp"])
def test_documents_that_cannot_be_meant_stop_the_start(tmp_path, value):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "pserve.ini").write_text(f"[paths]\nplugins=plugins\ndocuments={value}\n")
    ended = subprocess.run([str(BINARY)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2 and "[paths] documents" in ended.stderr
