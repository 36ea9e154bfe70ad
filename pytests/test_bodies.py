"""Request bodies beyond JSON and small forms: streamed, multipart piece by piece, compressed, too large."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import zlib
from typing import Any

import pytest
from conftest import PATIENCE, Server, Start

UPLOADS = """
import hashlib, re
from plugincore.baseplugin import BasePlugin

class Upload(BasePlugin):
    async def request_handler(self, request=None, how='content', **data):
        fields = sorted(k for k in data if k not in ('request_headers', 'log', 'client_ip', 'subpath'))
        digest, size = hashlib.sha256(), 0
        if how == 'content':
            async for chunk in request.content.iter_chunked(10_000):
                assert len(chunk) <= 10_000
                digest.update(chunk)
                size += len(chunk)
        elif how == 'parts':
            seen = []
            async for part in await request.multipart():
                digest, size = hashlib.sha256(), 0
                while chunk := await part.read_chunk(5000):
                    digest.update(chunk)
                    size += len(chunk)
                seen.append([part.name, part.filename, part.headers.get('Content-Type'), size, digest.hexdigest()])
            return {'parts': seen, 'fields': fields}
        elif how == 'nothing':
            return {'answered': True}
        elif how == 'lines':
            return [line.decode() async for line in request.content]
        else:
            return {'read': len(await getattr(request, how)())}
        return {'size': size, 'sha256': digest.hexdigest(), 'fields': fields, 'exists': request.body_exists,
                'memory_mb': int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]) / 1024}

class First(BasePlugin):
    async def request_handler(self, request=None, **data):
        first = await request.content.readany()
        self.first.set_result(first.decode())
        rest = await request.content.read()
        return {'first': first.decode(), 'rest': rest.decode()}

class Quiet(BasePlugin):
    async def request_handler(self, request=None, **data):
        return [request.body_exists, request.can_read_body, (await request.read()).decode()]

class Twice(BasePlugin):
    async def request_handler(self, request=None, **data):
        import asyncio
        reading = asyncio.ensure_future(request.content.read())
        await asyncio.sleep(0)
        looks = [request.can_read_body for _ in range(3)]
        First.first.set_result('waiting')
        return [looks, (await reading).decode()]

class Peek(BasePlugin):
    async def initialize(self, **kwargs):
        import asyncio
        First.first = asyncio.get_running_loop().create_future()
    async def request_handler(self, **data):
        return await First.first
"""

FORMS = """
from plugincore.baseplugin import BasePlugin
class Forms(BasePlugin):
    async def request_handler(self, request=None, **data):
        for name in ('request_headers', 'log', 'client_ip', 'subpath'):
            data.pop(name)
        return {k: v if isinstance(v, (str, int)) else repr(v) for k, v in data.items()}
"""


@pytest.fixture(params=["installed", "stand-in"])
def server(request: pytest.FixtureRequest, start: Start) -> Server:
    options = "[plugin_options]\nfirst=body=stream\nquiet=body=stream\ntwice=body=stream\n"
    return start({"upload.py": UPLOADS, "forms.py": FORMS}, ini=options, aiohttp=request.param == "installed")


def test_a_body_larger_than_the_limit_is_streamed_to_who_reads_it_so(server: Server) -> None:
    piece = bytes(range(256)) * 256
    count = 1600
    expected = hashlib.sha256(piece * count).hexdigest()

    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        length = len(piece) * count
        head = f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(count):
            connection.sendall(piece)
        reply = json.loads(connection.makefile("rb").read().partition(b"\r\n\r\n")[2])
    assert (reply["size"], reply["sha256"], reply["fields"]) == (length, expected, [])
    assert reply["memory_mb"] < 90, "100 MB went through, and none of it should stay"


def test_a_small_body_is_there_for_fields_and_for_the_stream(server: Server) -> None:
    reply = server.post("/upload", '{"a": 1}').json()
    assert (reply["size"], reply["fields"]) == (8, ["a"])
    assert server.post("/upload?how=lines", "a\nb\nc").json() == ["a\n", "b\n", "c"]
    assert server.post("/upload?how=read", b"x" * 1000, "image/png").json() == {"read": 1000}


def test_reading_a_streamed_body_whole_is_a_413(server: Server) -> None:
    body = b"x" * 2_000_000
    for how in ("read", "text", "json", "post"):
        kind = "multipart/form-data; boundary=x" if how == "post" else "image/png"
        reply = server.post(f"/upload?how={how}", body, kind)
        assert reply.status == 413 and reply.text.startswith("Maximum request body size 1048576 exceeded"), how
    assert server.post("/upload?how=nothing", body, "image/png").json() == {"answered": True}
    reply = server.post("/forms", body, "image/png")
    assert reply.status == 413 and "1048576" in reply.json()["error"]


def multipart(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    body = b"preamble\r\n"
    for head, content in parts:
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\nepilogue".encode()


def test_multipart_piece_by_piece(server: Server) -> None:
    # Content that looks like the delimiter, at every place where a chunk may end.
    big = b"\r\n--bound\r\n-bounda" * 200_000
    parts = [
        ('Content-Disposition: form-data; name="note"', b"hello"),
        ('Content-Disposition: form-data; name="f"; filename="big.bin"\r\nContent-Type: application/x-big', big),
        ("Content-Disposition: form-data; name=\"g\"; filename*=utf-8''gr%C3%BC%C3%9F.txt", b""),
    ]
    body = multipart("boundary", *parts)
    reply = server.post("/upload?how=parts", body, "multipart/form-data; boundary=boundary")
    assert reply.status == 200, reply.text
    digests = [hashlib.sha256(content).hexdigest() for _, content in parts]
    assert reply.json()["parts"] == [
        ["note", None, None, 5, digests[0]],
        ["f", "big.bin", "application/x-big", len(big), digests[1]],
        ["g", "grüß.txt", None, 0, digests[2]],
    ]
    small = server.post("/upload?how=parts", multipart("b", parts[0]), "multipart/form-data; boundary=b").json()
    assert (small["parts"][0][:4], small["fields"]) == (["note", None, None, 5], ["note"])


def test_parts_that_were_encoded_for_mail(server: Server) -> None:
    body = multipart(
        "b",
        ('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64', b"Z3LDvMOf\r\nIQ=="),
        ('Content-Disposition: form-data; name="q"\r\nContent-Transfer-Encoding: Quoted-Printable', b"gr=C3=BC=\r\nn"),
        ('Content-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: base64', b"?!"),
    )
    reply = server.post("/forms", body, "multipart/form-data; boundary=b").json()
    assert reply == {"a": "grüß!", "q": "grün", "x": "?!"}


def test_a_file_name_in_its_extended_form(server: Server) -> None:
    head = "Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''gr%C3%BC%C3%9F.txt"
    reply = server.post("/forms", multipart("b", (head, b"x")), "multipart/form-data; boundary=b").json()
    assert "filename='grüß.txt'" in reply["f"]


def test_multipart_that_breaks_off_is_an_error(server: Server) -> None:
    reply = server.post(
        "/upload?how=parts",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nnever ends',
        "multipart/form-data; boundary=b",
    )
    assert reply.status in (200, 500)
    assert server.get("/forms").status == 200


def test_a_handler_may_begin_before_the_body_has_come(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(
            b"POST /first HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n"
        )
        assert server.get("/peek").text == "hello"
        connection.sendall(b"6\r\n world\r\n0\r\n\r\n")
        assert b'{"first":"hello","rest":" world"}' in connection.makefile("rb").read()


def test_looking_at_a_body_does_not_disturb_who_reads_it(server: Server) -> None:
    head = b"POST /twice HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(head)
        assert server.get("/peek").text == "waiting"
        connection.sendall(b"5\r\nhello\r\n0\r\n\r\n")
        assert b'[[true,true,true],"hello"]' in connection.makefile("rb").read()


def test_no_body_is_no_body_for_streams_too(server: Server) -> None:
    assert server.get("/quiet").json() == [False, False, ""]
    assert server.post("/quiet", b"", "image/png").json() == [False, False, ""]
    assert server.post("/quiet", b"x", "image/png").json() == [True, True, "x"]


def test_a_client_that_stalls_amid_an_upload_that_nobody_reads_holds_nothing(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"POST /upload?how=nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\nabc")
        assert b'{"answered":true}' in connection.recv(4096)
        assert connection.recv(4096) == b"", "closed by the server, some seconds later"


def test_a_client_that_leaves_amid_its_upload_ends_the_reading(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\nabc")
    assert server.get("/forms").status == 200
    assert "Traceback" not in server.log


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate"])
def test_compressed_bodies(server: Server, encoding: str) -> None:
    def encode(data: bytes) -> bytes:
        if encoding == "deflate":
            return zlib.compress(data)
        if encoding == "raw deflate":
            compressor = zlib.compressobj(wbits=-15)
            return compressor.compress(data) + compressor.flush()
        return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])

    headers = {"Content-Encoding": encoding.split()[-1], "Content-Type": "application/json"}
    reply = server.request("POST", "/forms", encode(b'{"a": "text"}'), headers)
    assert reply.json() == {"a": "text"}
    bomb = encode(b'{"a": "' + b"x" * 50_000_000 + b'"}')
    assert len(bomb) < 200_000
    assert server.request("POST", "/forms", bomb, headers).status == 413
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    assert server.request("POST", "/forms", encode(b"a=1&b=2"), headers).json() == {"a": "1", "b": "2"}
    reply = server.request("POST", "/forms", b"\x1f\x8bthis is not gzip", headers)
    assert reply.status == 400 and "cannot be read" in reply.json()["error"]
    broken = encode(b"x" * 20_000_000)[:15_000] + b"?" * 2_000_000
    reply = server.request("POST", "/upload", broken, headers)
    assert reply.status == 400 and "cannot be read" in reply.json()["error"]
    assert "Traceback" not in server.log
    reply = server.request("POST", "/upload", bomb, {**headers, "Content-Type": "image/x"})
    assert reply.json()["size"] == 50_000_009


def exchange(server: Server, *pieces: bytes) -> tuple[bytes, Any]:
    """Sends a head, waits for the first answer, sends the rest; gives both answers."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(pieces[0])
        first = connection.recv(4096)
        for piece in pieces[1:]:
            connection.sendall(piece)
        return first, connection.makefile("rb").read()


def test_expect_100_continue(server: Server) -> None:
    head = b"POST /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    first, rest = exchange(server, head % (b"forms", 9), b'{"a": 12}')
    assert first.startswith(b"HTTP/1.1 100 Continue") and rest.endswith(b'{"a":12}')
    first, _ = exchange(server, head % (b"forms", 5_000_000))
    assert first.startswith(b"HTTP/1.1 413"), "told before it sends"
    first, rest = exchange(server, head % (b"upload", 2_000_000), b"x" * 2_000_000)
    assert first.startswith(b"HTTP/1.1 100 Continue") and b'"size":2000000' in rest


ANSWERS = """
from plugincore.baseplugin import BasePlugin
class Answer(BasePlugin):
    async def request_handler(self, size='10', kind='json', **data):
        size = int(size)
        if kind == 'json':
            return ['x' * size]
        if kind == 'bytes':
            return b'x' * size
        return 'y' * size
"""


def test_answers_are_compressed_when_it_is_worth_it(start: Start) -> None:
    server = start({"answer.py": ANSWERS}, ini="documents=docs:plugins\n")
    (server.folder / "plugins" / "long.css").write_text("a{}" * 200_000)
    (server.folder / "plugins" / "short.css").write_text("a{}" * 20_000)

    def ask(path: str, accepted: str = "gzip, deflate, br", **more: str) -> Any:
        return server.request("GET", path, headers={"Accept-Encoding": accepted, **more})

    for size in (2000, 1_000_000):
        reply = ask(f"/answer?size={size}")
        assert reply.headers["Content-Encoding"] == "gzip" and reply.headers["Vary"] == "Accept-Encoding"
        assert json.loads(gzip.decompress(reply.body)) == ["x" * size]
        assert int(reply.headers["Content-Length"]) == len(reply.body) < size / 10
    for path, accepted in [
        ("/answer?size=2000", "identity"),
        ("/answer?size=2000", "gzip;q=0"),
        ("/answer?size=2000", ""),
        ("/answer?size=500", "gzip"),
        ("/answer?size=5000&kind=bytes", "gzip"),
    ]:
        assert ask(path, accepted).headers["Content-Encoding"] is None, (path, accepted)
    reply = ask("/answer?size=2000", "br, *;q=0.1")
    assert reply.headers["Content-Encoding"] == "gzip"
    page = ask("/docs/long.css")
    assert gzip.decompress(page.body) == b"a{}" * 200_000 and page.headers["Content-Length"] is None
    assert page.headers["ETag"].startswith('W/"')
    assert ask("/docs/long.css", **{"If-None-Match": page.headers["ETag"]}).status == 304
    # One that is read whole is compressed whole.
    short = ask("/docs/short.css")
    assert gzip.decompress(short.body) == b"a{}" * 20_000 and int(short.headers["Content-Length"]) == len(short.body)
    part = ask("/docs/long.css", Range="bytes=0-1999")
    assert (part.status, part.headers["Content-Encoding"], len(part.body)) == (206, None, 2000)
    head = server.request("HEAD", "/answer?size=2000", headers={"Accept-Encoding": "gzip"})
    assert head.headers["Content-Encoding"] == "gzip" and head.headers["Content-Length"] is None and head.body == b""
    head = server.request("HEAD", "/answer?size=2000")
    assert head.headers["Content-Length"] == "2004" and head.headers["Vary"] == "Accept-Encoding"


def test_compression_can_be_switched_off(start: Start) -> None:
    server = start({"answer.py": ANSWERS}, ini="[server]\ncompression=false\n")
    reply = server.request("GET", "/answer?size=2000", headers={"Accept-Encoding": "gzip"})
    assert reply.headers["Content-Encoding"] is None and reply.headers["Vary"] is None
    assert re.fullmatch(r'\["x+"\]', reply.text)
