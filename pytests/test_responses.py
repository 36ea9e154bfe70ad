"""Every kind of aiohttp answer, with the real package and with the server's stand-in: the same bytes from both."""

from __future__ import annotations

import gzip
import http.client
import socket
import time
import zlib
from typing import Any

import pytest
from conftest import PATIENCE, Server, Start

RESPONSES = """
import asyncio, datetime, io, os
from aiohttp import web
from plugincore.baseplugin import BasePlugin

class Responses(BasePlugin):
    async def request_handler(self, kind=None, request=None, **data):
        return await getattr(self, kind)(request)

    async def text(self, request):
        return web.Response(text='grüß', status=201, reason='Made Up', headers={'X-A': '1'}, charset='latin-1')
    async def body(self, request):
        return web.Response(body=b'raw', content_type='application/x-raw')
    async def string_body(self, request):
        return web.Response(body='as payload')
    async def file_body(self, request):
        return web.Response(body=io.BytesIO(b'from a file'))
    async def generated(self, request):
        async def pieces():
            for i in range(3):
                yield b'piece %d;' % i
        return web.Response(body=pieces())
    async def empty(self, request):
        return web.Response(status=204)
    async def nothing(self, request):
        return web.Response()
    async def json(self, request):
        return web.json_response({'a': [1, None]}, status=203)
    async def cookies(self, request):
        response = web.Response(text='c')
        response.set_cookie('a', 'b c', max_age=5, httponly=True, samesite='Lax')
        response.set_cookie('d', 'e', path='/x', secure=True)
        response.del_cookie('old')
        return response
    async def fields(self, request):
        response = web.Response(text='x')
        response.content_type = 'text/css'
        response.charset = 'utf-8'
        response.last_modified = 1700000000
        response.etag = 'tag'
        response.headers.add('X-Twice', '1')
        response.headers.add('X-Twice', '2')
        return response
    async def closing(self, request):
        response = web.Response(text='bye')
        response.force_close()
        return response
    async def compressed(self, request):
        response = web.Response(text='compress me ' * 100)
        response.enable_compression()
        return response
    async def forced(self, request):
        response = web.Response(text='compress me ' * 100)
        response.enable_compression(web.ContentCoding.gzip)
        return response
    async def prepared(self, request):
        response = web.Response(text='prepared by hand')
        await response.prepare(request)
        return response
    async def stream(self, request):
        response = web.StreamResponse(headers={'X-S': '1'})
        response.content_type = 'text/plain'
        await response.prepare(request)
        for i in range(3):
            await response.write(b'%d\\n' % i)
        await response.write_eof(b'end')
        return response
    async def sized(self, request):
        response = web.StreamResponse()
        response.content_length = 6
        await response.prepare(request)
        await response.write(b'abc')
        await response.write(b'defghi')
        return response
    async def unprepared(self, request):
        return web.StreamResponse(status=202, reason='Later')
    async def squeezed(self, request):
        response = web.StreamResponse()
        response.enable_compression(web.ContentCoding.deflate)
        await response.prepare(request)
        await response.write(b'abc' * 1000)
        await response.write_eof()
        return response
    async def missing(self, request):
        raise web.HTTPNotFound(text='no such thing')
    async def default_text(self, request):
        raise web.HTTPTeapot() if hasattr(web, 'HTTPTeapot') else web.HTTPConflict()
    async def moved(self, request):
        raise web.HTTPFound('/elsewhere?a=b')
    async def not_allowed(self, request):
        return web.HTTPMethodNotAllowed('GET', ['POST', 'DELETE'])
    async def legal(self, request):
        raise web.HTTPUnavailableForLegalReasons('https://example.org/why')
    async def in_tuple(self, request):
        return 418, web.Response(text='own status', status=299)
    async def stream_exception(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'begun')
        raise ValueError('in the middle')
    async def file(self, request):
        return web.FileResponse(os.path.join(os.path.dirname(__file__), 'page.txt'), headers={'X-F': '1'})
    async def packed(self, request):
        return web.FileResponse(os.path.join(os.path.dirname(__file__), 'packed.txt'))
    async def file_by_hand(self, request):
        response = web.FileResponse(os.path.join(os.path.dirname(__file__), 'page.txt'))
        await response.prepare(request)
        return response
    async def no_file(self, request):
        return web.FileResponse('/no/such/file')
    async def folder(self, request):
        return web.FileResponse('/tmp')
    async def too_short(self, request):
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b'only')
        return response
    async def yields_ints(self, request):
        async def pieces():
            yield 300_000_000
        return web.Response(body=pieces())
    async def own_type(self, request):
        return web.Response(text='x', headers={'Content-Type': 'text/html; q=1'})
    async def umlauts(self, request):
        raise web.HTTPSeeOther('/süß?q=a b')
    async def odd_status(self, request):
        return web.Response(status=499)
    async def plain_odd_status(self, request):
        return 499, {'a': 1}
    async def archive(self, request):
        return web.FileResponse(os.path.join(os.path.dirname(__file__), 'packed.txt.gz'))
    async def is_instance(self, request):
        return [isinstance(request, web.Request), isinstance(request, web.BaseRequest)]
    async def too_early(self, request):
        response = web.StreamResponse()
        try:
            await response.write(b'x')
        except RuntimeError as error:
            return {'error': str(error)}
    async def too_late(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write_eof()
        try:
            await response.write(b'x')
        except RuntimeError as error:
            self.log.warning(f'too late: {error}')
        return response
"""


@pytest.fixture(params=["installed", "stand-in"])
def aiohttp(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "installed")


@pytest.fixture
def responses(start: Start, aiohttp: bool) -> Server:
    server = start({"responses.py": RESPONSES, "page.txt": "0123456789" * 10, "packed.txt": "plain"}, aiohttp=aiohttp)
    (server.folder / "plugins" / "packed.txt.gz").write_bytes(gzip.compress(b"packed"))
    return server


def ask(server: Server, kind: str, **headers: str) -> Any:
    return server.request(
        "GET", f"/responses?kind={kind}", headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


def test_whole_responses(responses: Server) -> None:
    reply = ask(responses, "text")
    assert (reply.status, reply.body, reply.headers["X-A"]) == (201, "grüß".encode("latin-1"), "1")
    assert reply.headers["Content-Type"] == "text/plain; charset=latin-1"
    assert ask(responses, "body").headers["Content-Type"] == "application/x-raw"
    reply = ask(responses, "string_body")
    assert (reply.text, reply.headers["Content-Type"]) == ("as payload", "text/plain; charset=utf-8")
    assert ask(responses, "file_body").text == "from a file"
    assert ask(responses, "generated").text == "piece 0;piece 1;piece 2;"
    assert (ask(responses, "empty").status, ask(responses, "empty").body) == (204, b"")
    assert (ask(responses, "nothing").status, ask(responses, "nothing").headers["Content-Length"]) == (200, "0")
    reply = ask(responses, "json")
    assert (reply.status, reply.json()) == (203, {"a": [1, None]})
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert ask(responses, "in_tuple").status == 299


def test_the_reason_is_the_plugins_own(responses: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", responses.port, timeout=PATIENCE)
    connection.request("GET", "/responses?kind=text")
    assert connection.getresponse().reason == "Made Up"
    connection.close()
    connection.request("GET", "/responses?kind=unprepared")
    reply = connection.getresponse()
    assert (reply.status, reply.reason, reply.read()) == (202, "Later", b"")
    connection.close()


def test_cookies_and_other_fields(responses: Server) -> None:
    cookies = sorted(ask(responses, "cookies").headers.get_all("Set-Cookie"))
    assert cookies[0] == 'a="b c"; HttpOnly; Max-Age=5; Path=/; SameSite=Lax'
    assert cookies[1] == "d=e; Path=/x; Secure"
    assert "Max-Age=0" in cookies[2] and "1970" in cookies[2]
    headers = ask(responses, "fields").headers
    assert headers["Content-Type"] == "text/css; charset=utf-8"
    assert headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert headers["ETag"] == '"tag"'
    assert headers.get_all("X-Twice") == ["1", "2"]
    assert ask(responses, "closing").headers["Connection"] == "close"


def test_compression_that_a_plugin_asks_for(responses: Server) -> None:
    text = "compress me " * 100
    plain = ask(responses, "compressed")
    assert (plain.text, plain.headers["Content-Encoding"]) == (text, None)
    reply = ask(responses, "compressed", Accept_Encoding="deflate")
    assert reply.headers["Content-Encoding"] == "deflate" and zlib.decompress(reply.body) == text.encode()
    assert int(reply.headers["Content-Length"]) == len(reply.body) < 200
    reply = ask(responses, "forced")
    assert reply.headers["Content-Encoding"] == "gzip" and gzip.decompress(reply.body) == text.encode()
    reply = ask(responses, "squeezed")
    assert zlib.decompress(reply.body) == b"abc" * 1000


def test_exceptions_are_answers(responses: Server) -> None:
    assert (ask(responses, "missing").status, ask(responses, "missing").text) == (404, "no such thing")
    assert (ask(responses, "default_text").status, ask(responses, "default_text").text) == (409, "409: Conflict")
    assert ask(responses, "moved").headers["Location"] == "/elsewhere?a=b"
    reply = ask(responses, "not_allowed")
    assert (reply.status, reply.headers["Allow"]) == (405, "DELETE,POST")
    assert ask(responses, "legal").headers["Link"] == '<https://example.org/why>; rel="blocked-by"'


def test_streams(responses: Server) -> None:
    reply = ask(responses, "stream")
    assert (reply.text, reply.headers["X-S"], reply.headers["Content-Type"]) == ("0\n1\n2\nend", "1", "text/plain")
    assert reply.headers["Transfer-Encoding"] == "chunked"
    reply = ask(responses, "sized")
    assert (reply.text, reply.headers["Content-Length"]) == ("abcdef", "6")
    assert ask(responses, "prepared").text == "prepared by hand"
    head = responses.request("HEAD", "/responses?kind=sized")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "6", b"")
    assert "prepare" in ask(responses, "too_early").json()["error"]
    assert ask(responses, "too_late").status == 200
    responses.wait_for_log("too late: Cannot call write")
    assert ask(responses, "is_instance").json() == [True, True]


def test_a_stream_that_fails_midway_is_cut_off(responses: Server) -> None:
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(responses, "stream_exception")
    assert cut.value.partial == b"begun"
    responses.wait_for_log("ValueError: in the middle")
    assert ask(responses, "stream").status == 200


def test_files_with_conditions_and_ranges(responses: Server) -> None:
    reply = ask(responses, "file")
    assert (reply.status, reply.text, reply.headers["X-F"]) == (200, "0123456789" * 10, "1")
    assert reply.headers["Content-Type"] == "text/plain" and reply.headers["Accept-Ranges"] == "bytes"
    tag, changed = reply.headers["ETag"], reply.headers["Last-Modified"]
    part = ask(responses, "file", Range="bytes=5-9")
    assert (part.status, part.text, part.headers["Content-Range"]) == (206, "56789", "bytes 5-9/100")
    assert ask(responses, "file", Range="bytes=-3").text == "789"
    assert ask(responses, "file", Range="bytes=98-").text == "89"
    beyond = ask(responses, "file", Range="bytes=100-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */100")
    assert ask(responses, "file", Range="lines=1").status == 416
    assert ask(responses, "file", If_None_Match=tag).status == 304
    assert ask(responses, "file", If_None_Match='"other", ' + tag).status == 304
    assert ask(responses, "file", If_None_Match='"other"').status == 200
    assert ask(responses, "file", If_Modified_Since=changed).status == 304
    assert ask(responses, "file", If_Match='"other"').status == 412
    assert ask(responses, "file", If_Unmodified_Since="Mon, 01 Jan 2001 00:00:00 GMT").status == 412
    assert ask(responses, "file", Range="bytes=0-1", If_Range="Mon, 01 Jan 2001 00:00:00 GMT").status == 200
    assert ask(responses, "file", Range="bytes=0-1", If_Range=changed).status == 206
    reply = ask(responses, "packed", Accept_Encoding="gzip")
    assert (gzip.decompress(reply.body), reply.headers["Content-Encoding"]) == (b"packed", "gzip")
    assert ask(responses, "packed").text == "plain"
    assert ask(responses, "file", Range="bytes=0-1", If_Range='"other"').status == 200
    assert ask(responses, "file", Range="Bytes=0-1").text == "01"
    assert ask(responses, "archive").headers["Content-Type"] == "application/gzip"
    assert ask(responses, "file_by_hand", Range="bytes=0-2").text == "012"
    assert "Traceback" not in responses.log, responses.log
    assert ask(responses, "no_file").status == 404
    assert ask(responses, "folder").status == 403


EVENTS = """
import asyncio
from aiohttp import web
from plugincore.baseplugin import BasePlugin

class Events(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.more = asyncio.Event()
        self.left = []
    async def request_handler(self, request=None, subpath=None, **data):
        if subpath == 'more':
            self.more.set()
            return 'ok'
        if subpath == 'left':
            return self.left
        response = web.StreamResponse(headers={'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache'})
        await response.prepare(request)
        try:
            await response.write(b'data: first\\n\\n')
            while subpath == 'endless':
                await response.write(b'data: tick\\n\\n')
                await asyncio.sleep(0.01)
        except ConnectionResetError as error:
            self.left.append([type(error).__name__, request.transport is None or request.transport.is_closing()])
            raise
        await self.more.wait()
        await response.write(b'data: second\\n\\n')
        return response

class Flood(BasePlugin):
    async def request_handler(self, request=None, **data):
        response = web.StreamResponse()
        await response.prepare(request)
        self.args['written'] = 0
        for _ in range(400):
            await response.write(b'x' * 100_000)
            self.args['written'] += 100_000
        return response

class Written(BasePlugin):
    async def request_handler(self, **data):
        import plugincore, gc
        return [o.args.get('written') for o in gc.get_objects() if type(o).__name__ == 'Flood']
"""


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(4096)
        assert piece, data
        data += piece
    return data


def test_events_reach_the_client_as_they_are_written(start: Start, aiohttp: bool) -> None:
    server = start({"events.py": EVENTS}, aiohttp=aiohttp)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        begun = read_until(connection, b"data: first\n\n\r\n")
        assert b"text/event-stream" in begun and b"gzip" not in begun
        assert server.get("/events/more").text == "ok"
        read_until(connection, b"data: second\n\n\r\n0\r\n\r\n")


def test_http_1_0_gets_a_stream_and_its_end(start: Start, aiohttp: bool) -> None:
    server = start({"responses.py": RESPONSES}, aiohttp=aiohttp)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /responses?kind=stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert body == b"0\n1\n2\nend"
    assert b"keep-alive" not in head.lower()


def test_a_handler_learns_that_its_client_left(start: Start, aiohttp: bool) -> None:
    server = start({"events.py": EVENTS}, aiohttp=aiohttp)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /events/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(connection, b"data: first\n\n\r\n")
    deadline = time.monotonic() + PATIENCE
    while not (left := server.get("/events/left").json()):
        assert time.monotonic() < deadline
    name = "ClientConnectionResetError" if aiohttp else "ConnectionResetError"
    assert left == [[name, True]]
    assert "Traceback" not in server.log, server.log


def test_head_ends_a_stream_without_end(start: Start, aiohttp: bool) -> None:
    server = start({"events.py": EVENTS}, aiohttp=aiohttp)
    reply = server.request("HEAD", "/events/endless")
    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "text/event-stream", b"")
    deadline = time.monotonic() + PATIENCE
    while not server.get("/events/left").json():
        assert time.monotonic() < deadline
    assert "Traceback" not in server.log, server.log


def test_a_slow_reader_slows_its_handler_down_and_nobody_else(start: Start, aiohttp: bool) -> None:
    server = start({"events.py": EVENTS}, aiohttp=aiohttp)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(PATIENCE)
        connection.sendall(b"GET /flood HTTP/1.0\r\nHost: x\r\n\r\n")
        assert connection.recv(10)
        written, before = 0, -1
        while written != before:
            before = written
            time.sleep(0.2)
            [written] = server.get("/written").json()
        assert written < 20_000_000
        size = 10
        while piece := connection.recv(1 << 16):
            size += len(piece)
        assert size > 40_000_000


def test_a_reload_and_a_stop_end_streams_that_have_no_end(start: Start, aiohttp: bool) -> None:
    server = start({"events.py": EVENTS}, ini="[limits]\ndrain_timeout=0.3\n", aiohttp=aiohttp)

    def open_stream() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        connection.sendall(b"GET /events/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(connection, b"data: tick")
        return connection

    def read_to_the_end(connection: socket.socket) -> bytes:
        with connection:
            last = b""
            while piece := connection.recv(65536):
                last = piece
            return last

    first = open_stream()
    assert server.get("/reload/events").status == 200
    second = open_stream()
    assert not read_to_the_end(first).endswith(b"0\r\n\r\n")
    server.wait_for_log("GET /events/endless: cut off")
    read_until(second, b"data: tick")
    assert server.stop() == 0
    read_to_the_end(second)
    assert "Traceback" not in server.log, server.log


def test_a_body_shorter_than_announced_is_cut_off(responses: Server) -> None:
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(responses, "too_short")
    assert cut.value.partial == b"only"
    with pytest.raises(http.client.HTTPException):
        ask(responses, "yields_ints")
    responses.wait_for_log("TypeError")


def test_small_things_that_clients_see(responses: Server) -> None:
    kind = ask(responses, "own_type").headers["Content-Type"]
    assert sorted(kind.split("; ")) == ["charset=utf-8", "q=1", "text/html"]
    assert ask(responses, "umlauts").headers["Location"] == "/s%C3%BC%C3%9F?q=a%20b".replace(
        "%20", responses_blank(responses)
    )
    for odd in ("odd_status", "plain_odd_status"):
        connection = http.client.HTTPConnection("127.0.0.1", responses.port, timeout=PATIENCE)
        connection.request("GET", f"/responses?kind={odd}")
        reply = connection.getresponse()
        assert (reply.status, reply.reason) == (499, "")
        connection.close()


def responses_blank(responses: Server) -> str:
    """yarl writes a blank in a query as a plus sign."""
    return "+" if "VIRTUAL_ENV" in responses.environment else "%20"
