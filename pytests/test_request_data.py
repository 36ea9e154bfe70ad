"""What a handler is given: contract, section 4."""

import json
import socket

ECHO = """
from plugincore.baseplugin import BasePlugin
class Echo(BasePlugin):
    async def request_handler(self, **data):
        own = ('request', 'request_headers', 'log', 'client_ip', 'subpath')
        fields = {key: value for key, value in data.items() if key not in own}
        for key, value in fields.items():
            if hasattr(value, 'filename'):
                fields[key] = [value.filename, value.content_type, value.file.read().decode()]
        return fields
class Kinds(BasePlugin):
    def request_handler(self, **data):
        return {key: type(data[key]).__name__ for key in ('request', 'request_headers', 'log', 'client_ip')}
"""
FORM = "application/x-www-form-urlencoded"


def test_fields_of_query_and_body(start):
    server = start({"echo.py": ECHO})
    assert server.get("/echo?a=1&a=2&b=&c=x+y&d=%C3%A9").json() == {"a": "1", "b": "", "c": "x y", "d": "é"}
    assert server.post("/echo?a=query", json.dumps({"a": "body", "b": [1, None]})).json() == {
        "a": "query",
        "b": [1, None],
    }
    for content_type in ("text/javascript", FORM, "", "application/octet-stream"):
        assert server.post("/echo", '{"a": 1}', content_type).json() == {"a": 1}, content_type
    assert server.post("/echo", "a=1&a=2&b=%26", FORM).json() == {"a": "1", "b": "&"}
    assert server.post("/echo", b'\xef\xbb\xbf{"a": 1}').json() == {"a": 1}
    assert server.post("/echo", '{"a": "é"}'.encode("latin-1"), "application/json; charset=latin-1").json() == {
        "a": "é"
    }
    assert (
        server.post("/echo", '{"big": 123456789012345678901234567890}').text == '{"big":123456789012345678901234567890}'
    )


def test_bodies_that_have_no_fields_are_no_error(start):
    server = start({"echo.py": ECHO})
    for body in ("[1, 2]", "5", '"text"', "null", "{broken", "", "a=1", "\x00\x01", '{"a":' * 5000):
        reply = server.post("/echo", body)
        assert (reply.status, reply.json()) == (200, {}), body[:20]
    assert server.post("/echo", "{a=1", FORM).json() == {"{a": "1"}


def test_forms_in_other_encodings(start):
    server = start({"echo.py": ECHO})
    assert server.post("/echo", b"a=%E9+x&b=\xfc&c", FORM + "; charset=latin-1").json() == {
        "a": "é x",
        "b": "ü",
        "c": "",
    }
    assert server.post("/echo", "a=%C3%A9", FORM + "; charset=utf-8").json() == {"a": "é"}
    body = b'--X\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n\xe9\r\n--X--\r\n'
    assert server.post("/echo", body, "multipart/form-data; boundary=X").json() == {"f": "é"}


def test_multipart_forms(start):
    server = start({"echo.py": ECHO})
    body = (
        '--X\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
        '--X\r\nContent-Disposition: form-data; name="field"\r\n\r\nsecond\r\n'
        '--X\r\nContent-Disposition: form-data; name="up"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhello\r\n'
        "--X--\r\n"
    )
    assert server.post("/echo", body, "multipart/form-data; boundary=X").json() == {
        "field": "value",
        "up": ["a.txt", "text/plain", "hello"],
    }
    assert server.post("/echo", body[:40], "multipart/form-data; boundary=X").json() == {}
    assert server.post("/echo", body, "multipart/form-data").json() == {}


def test_a_client_can_never_replace_what_is_the_servers(start):
    server = start({"echo.py": ECHO})
    names = ("request", "request_headers", "log", "client_ip", "subpath", "self")
    expected = {"request": "Request", "request_headers": "Headers", "log": "LogJam", "client_ip": "str"}
    query = "&".join(f"{name}=x" for name in names)
    assert server.get(f"/kinds?{query}").json() == expected
    assert server.post("/kinds", json.dumps(dict.fromkeys(names, "x"))).json() == expected
    assert server.post("/kinds", query, FORM).json() == expected


HEADERS = """
import json
from plugincore.baseplugin import BasePlugin
class Heads(BasePlugin):
    async def request_handler(self, **data):
        heads = data['request_headers']
        return {
            'is_dict': isinstance(heads, dict), 'json': json.loads(json.dumps(heads)),
            'lower': heads['x-forwarded-for'], 'get': heads.get('X-FORWARDED-FOR'), 'in': 'x-Forwarded-for' in heads,
            'missing': heads.get('X-None', 5), 'ip': data['client_ip'], 'own_ip': self._get_client_ip(data['request']),
        }
"""


def test_headers_and_client_address(start):
    server = start({"heads.py": HEADERS})
    lines = b"x-forwarded-for: 10.0.0.9, 10.0.0.8\r\nX-Twice: one\r\nX-Twice: two\r\nETAG: e\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /heads HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + lines + b"\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    seen = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert seen["json"] == {
        "Host": "h",
        "Connection": "close",
        "X-Forwarded-For": "10.0.0.9, 10.0.0.8",
        "X-Twice": "one",
        "ETag": "e",
    }
    forwarded = "10.0.0.9, 10.0.0.8"
    assert (seen["is_dict"], seen["lower"], seen["get"], seen["in"]) == (True, forwarded, forwarded, True)
    assert (seen["missing"], seen["ip"], seen["own_ip"]) == (5, "10.0.0.9", "10.0.0.9")


def test_an_untrusted_peer_speaks_for_itself(start):
    server = start({"heads.py": HEADERS}, ini="[server]\ntrusted_proxies=list:10.0.0.0/8")
    assert server.request("GET", "/heads", headers={"X-Forwarded-For": "10.0.0.9"}).json()["ip"] == "127.0.0.1"


def test_what_a_trusted_proxy_says_of_its_client(start):
    source = """
from plugincore.baseplugin import BasePlugin
class Proxied(BasePlugin):
    async def request_handler(self, **data):
        request = data['request']
        return [data['client_ip'], request.remote, request.scheme, request.secure, request.host, str(request.url)]
"""
    headers = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "front.example"}
    server = start({"proxied.py": source})
    seen = ["9.9.9.9", "9.9.9.9", "https", True, "front.example", "https://front.example/proxied"]
    assert server.request("GET", "/proxied", headers=headers).json() == seen
    server = start({"proxied.py": source}, ini="[server]\ntrusted_proxies=list:10.0.0.0/8")
    host = f"127.0.0.1:{server.port}"
    seen = ["127.0.0.1", "127.0.0.1", "http", False, host, f"http://{host}/proxied"]
    assert server.request("GET", "/proxied", headers=headers).json() == seen


REQUEST = """
from plugincore.baseplugin import BasePlugin
class Req(BasePlugin):
    async def request_handler(self, **data):
        r = data['request']
        r['mine'] = 1
        names = ('method path raw_path path_qs query_string remote host scheme secure content_type charset '
                 'content_length can_read_body body_exists').split()
        seen = {name: getattr(r, name) for name in names}
        seen.update(
            query=list(r.query.items()), all=r.query.getall('a', []), header=r.headers['x-some'],
            cookies=dict(r.cookies), url=str(r.url), rel=str(r.rel_url), url_parts=[r.url.host, r.url.path, r.url.query['a']],
            version=list(r.version), tail=r.match_info['tail'], mine=[r['mine'], 'mine' in r, r.get('no'), len(r)],
            peer=r.transport.get_extra_info('peername')[0], peer2=r.get_extra_info('peername')[0],
            text=await r.text(), read=(await r.read()).decode(), json=await r.json(),
            chunks=[chunk.decode() async for chunk in r.content.iter_chunked(5)], eof=r.content.at_eof(),
            truth=bool(r), can_read_after=r.can_read_body,
        )
        r.app['shared'] = 1
        return seen
class Req2(BasePlugin):
    async def request_handler(self, **data):
        return data['request'].query_string
class Ranged(BasePlugin):
    async def request_handler(self, **data):
        r = data['request']
        part = r.http_range
        when = r.if_range and r.if_range.year
        return [part.start, part.stop, when, [dict(element) for element in r.forwarded]]
class Stream(BasePlugin):
    async def request_handler(self, **data):
        content = data['request'].content
        first = await content.readline()
        chunks = [chunk.decode() async for chunk in content.iter_chunked(4)]
        return [first.decode(), chunks, content.at_eof(), data['request'].can_read_body]
class Form(BasePlugin):
    async def request_handler(self, **data):
        form = await data['request'].post()
        return [[key, getattr(value, 'filename', value)] for key, value in form.items()]
"""


def check_request(server):
    headers = {
        "X-Some": "thing",
        "Cookie": 'a=1; b="two"',
        "Content-Type": "application/json; charset=utf-8",
        "Host": "h:1",
    }
    path = "/req/t%20x/y?a=1&a=2&b=%C3%A9"
    assert server.request("POST", path, '{"k": 1}', headers).json() == {
        "method": "POST",
        "path": "/req/t x/y",
        "raw_path": path,
        "path_qs": path,
        "query_string": "a=1&a=2&b=é",
        "remote": "127.0.0.1",
        "host": "h:1",
        "scheme": "http",
        "secure": False,
        "content_type": "application/json",
        "charset": "utf-8",
        "content_length": 8,
        "can_read_body": True,
        "body_exists": True,
        "query": [["a", "1"], ["a", "2"], ["b", "é"]],
        "all": ["1", "2"],
        "header": "thing",
        "cookies": {"a": "1", "b": "two"},
        "url": "http://h:1" + path,
        "rel": path,
        "url_parts": ["h", "/req/t x/y", "1"],
        "version": [1, 1],
        "tail": "t x/y",
        "mine": [1, True, None, 1],
        "peer": "127.0.0.1",
        "peer2": "127.0.0.1",
        "text": '{"k": 1}',
        "read": '{"k": 1}',
        "json": {"k": 1},
        "chunks": [],
        "eof": True,
        "can_read_after": False,
        "truth": True,
    }
    headers = {
        "Range": "bytes=2-4",
        "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Forwarded": 'For="1.2.3.4";proto=https, for=b',
    }
    forwarded = [{"for": "1.2.3.4", "proto": "https"}, {"for": "b"}]
    assert server.request("GET", "/ranged", headers=headers).json() == [2, 5, 2015, forwarded]
    assert server.request("GET", "/ranged", headers={"Range": "bytes=-3"}).json() == [-3, None, None, []]
    assert server.request("GET", "/ranged", headers={"Range": "lines=1"}).json()["type"] == "ValueError"
    assert server.post("/stream", "one\ntwothree", "text/plain").json() == ["one\n", ["twot", "hree"], True, False]
    assert server.get("/req2?x=a%2Bb%26c%20d+e&y=%C3%A9").text == "x=a%2Bb%26c d e&y=é"
    assert server.post("/form", "a=1&b=&a=2", FORM).json() == [["a", "1"], ["b", ""], ["a", "2"]]
    body = '--X\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\nz\r\n--X--\r\n'
    assert server.post("/form", body, "multipart/form-data; boundary=X").json() == [["f", "n"]]
    assert server.post("/form", "text", "text/plain").json() == []


def test_the_request_object_without_aiohttp(start):
    check_request(start({"req.py": REQUEST}))


def test_the_request_object_with_aiohttp(start):
    check_request(start({"req.py": REQUEST}, aiohttp=True))
