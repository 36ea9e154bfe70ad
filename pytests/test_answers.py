"""What a handler may return: contract, section 5. JSON is compared with `json.dumps` of the same Python."""

import json
import math
import random

import pytest

ANSWERS = """
import collections, enum
from plugincore.baseplugin import BasePlugin
Pair = collections.namedtuple('Pair', 'code body')
Point = collections.namedtuple('Point', 'x y')
class Color(enum.Enum):
    RED = 1
class Level(enum.IntEnum):
    HIGH = 3
class Word(str): pass
class Ordered(dict):
    def items(self):
        return sorted(super().items())
circular = []
circular.append({'inner': circular})
deep = []
for _ in range(900):
    deep = [deep]
too_deep = deep
for _ in range(200):
    too_deep = [too_deep]
ANSWERS = {
    'dict': {'a': 1}, 'list': [1, 'a'], 'two_strings': ['a', 'b'], 'str': '<b>\\u00e9</b>', 'bytes': b'\\x00\\xff',
    'bytearray': bytearray(b'ab'), 'none': None, 'code_dict': (201, {'a': 1}), 'code_str': (404, 'no'),
    'code_none': (200, None), 'code_list': (200, [1, 2]), 'code_bytes': (202, b'x'), 'pair': Pair(203, {'p': 1}),
    'int': 5, 'float': 1.5, 'bool': True, 'tuple3': (1, 2, 3), 'tuple_strings': ('a', 'b'), 'set': {1},
    'bool_code': (True, 'x'), 'bad_code': (1000, 'x'), 'low_code': (7, 'x'), 'no_content': (204, None),
    'object': Point(1, 2), 'unserialisable': {'a': {1, 2}}, 'bad_key': {(1, 2): 3}, 'circular': circular,
    'nested_object': {'o': object()}, 'too_deep': too_deep,
    'kinds': {
        'tuple': (1, (2,)), 'named': Point(1, 2), 'nan': float('nan'), 'inf': [float('inf'), -float('inf')],
        'big': 2 ** 100, 'enum': Color.RED, 'int_enum': Level.HIGH, 'word': Word('w'), 'order': Ordered(b=1, a=2),
        1: 'int', 1.5: 'float', True: 'bool', None: 'none', Level.HIGH: 'level', 'quote': 'a"b\\\\\\n\\u2028\\x7f\\x00',
        'surrogate': 'x\\ud800y\\U0001f600', 'default': collections.defaultdict(int, z=1), 'float1': 1.0, 'tiny': 5e-324,
    },
}
class Answers(BasePlugin):
    async def request_handler(self, **data):
        return ANSWERS[data['subpath']]
class PlainAnswers(BasePlugin):
    def request_handler(self, **data):
        return ANSWERS[data['subpath']]
class OldAnswers(BasePlugin):
    def handle_request(self, **data):
        return ANSWERS[data['subpath']]
"""
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
BYTES = "application/octet-stream"
EXPECTED = {
    "dict": (200, JSON, {"a": 1}),
    "list": (200, JSON, [1, "a"]),
    "two_strings": (200, JSON, ["a", "b"]),
    "str": (200, HTML, "<b>é</b>".encode()),
    "bytes": (200, BYTES, b"\x00\xff"),
    "bytearray": (200, BYTES, b"ab"),
    "none": (200, JSON, None),
    "code_dict": (201, JSON, {"a": 1}),
    "code_str": (404, HTML, b"no"),
    "code_none": (200, JSON, None),
    "code_list": (200, JSON, [1, 2]),
    "code_bytes": (202, BYTES, b"x"),
    "pair": (203, JSON, {"p": 1}),
    "int": (200, JSON, {"result": "5"}),
    "float": (200, JSON, {"result": "1.5"}),
    "bool": (200, JSON, {"result": "True"}),
    "tuple3": (200, JSON, {"result": "(1, 2, 3)"}),
    "tuple_strings": (200, JSON, {"result": "('a', 'b')"}),
    "set": (200, JSON, {"result": "{1}"}),
    "bool_code": (200, JSON, {"result": "(True, 'x')"}),
    "no_content": (204, None, b""),
    "object": (200, JSON, {"result": "Point(x=1, y=2)"}),
}
FAILING = {
    "bad_code": "1000",
    "low_code": "7",
    "unserialisable": "set",
    "bad_key": "tuple",
    "circular": "list",
    "nested_object": "object",
    "too_deep": "list",
}


@pytest.mark.parametrize("plugin", ["answers", "plainanswers", "oldanswers"])
def test_every_kind_of_answer(start, plugin):
    server = start({"answers.py": ANSWERS})
    for name, (status, content_type, body) in EXPECTED.items():
        reply = server.get(f"/{plugin}/{name}")
        if plugin == "oldanswers" and content_type == HTML:
            content_type = "text/plain; charset=utf-8"
        got = reply.json() if content_type == JSON else reply.body
        assert (reply.status, reply.headers["Content-Type"], got) == (status, content_type, body), name
        if status != 204:
            assert reply.headers["Content-Length"] == str(len(reply.body)), name
    for name, word in FAILING.items():
        reply = server.get(f"/{plugin}/{name}")
        assert reply.status == 500 and word in reply.json()["message"], (name, reply.text)
        assert reply.json()["status"] == "exception"


def test_json_by_the_rules_of_json_dumps(start):
    server = start({"answers.py": ANSWERS})
    body = server.get("/answers/kinds").body.decode()
    kinds = json.loads(body)
    assert kinds == {
        "tuple": [1, [2]],
        "named": [1, 2],
        "nan": None,
        "inf": [None, None],
        "big": 2**100,
        "enum": 1,
        "int_enum": 3,
        "word": "w",
        "order": {"a": 2, "b": 1},
        "1": "bool",
        "1.5": "float",
        "null": "none",
        "3": "level",
        "quote": 'a"b\\\n\u2028\x7f\x00',
        "surrogate": "x\ud800y\U0001f600",
        "default": {"z": 1},
        "float1": 1.0,
        "tiny": 5e-324,
    }
    assert list(kinds["order"]) == ["a", "b"] and list(kinds)[:2] == ["tuple", "named"]
    assert "\\ud800" in body and "1.0" in body


def random_value(chance, depth=0):
    kinds = ["int", "float", "str", "none", "bool"] + (["list", "dict"] * 3 if depth < 5 else [])
    kind = chance.choice(kinds)
    if kind == "int":
        return chance.choice([0, -1, 2**31, -(2**63), 2**64, chance.randrange(-(10**30), 10**30)])
    if kind == "float":
        return chance.choice(
            [0.0, -0.0, 1e16, 1e-7, 1.7976931348623157e308, chance.uniform(-1e6, 1e6), chance.random()]
        )
    if kind == "str":
        return "".join(chance.choice('aé"\\/\n\t\x01\u20ac\U0001f600\ud83d<>&') for _ in range(chance.randrange(8)))
    if kind == "list":
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(5))]
    if kind == "dict":
        keys = ["k", "é", 7, 1.25, None, True, "\ud800"]
        return {chance.choice(keys): random_value(chance, depth + 1) for _ in range(chance.randrange(5))}
    return {"none": None, "bool": chance.random() < 0.5}[kind]


def test_random_values_are_what_json_dumps_makes_of_them(start):
    source = """
import pickle, base64
from plugincore.baseplugin import BasePlugin
class Back(BasePlugin):
    async def request_handler(self, **data):
        return {'value': pickle.loads(base64.b64decode(data['pickle']))}
"""
    import base64
    import pickle

    server = start({"back.py": source})
    chance = random.Random(20261121)
    for _ in range(300):
        value = random_value(chance)
        reply = server.post("/back", json.dumps({"pickle": base64.b64encode(pickle.dumps(value)).decode()}))
        assert reply.status == 200, (value, reply.text)
        assert same(json.loads(reply.body), json.loads(json.dumps({"value": value}))), value


def same(left, right):
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return type(right) is float and left == right and math.copysign(1, left) == math.copysign(1, right)
    return type(left) is type(right) and left == right


RAISING = """
from plugincore.baseplugin import BasePlugin
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError('no text')
class Raising(BasePlugin):
    async def request_handler(self, **data):
        raise {'value': ValueError('boom'), 'key': KeyError('k'), 'unprintable': Unprintable(), 'exit': SystemExit(2)}[
            data['subpath']]
"""


def test_an_exception_is_a_500_with_its_traceback_in_the_log(start):
    server = start({"raising.py": RAISING})
    for name, kind, message in [
        ("value", "ValueError", "boom"),
        ("key", "KeyError", "'k'"),
        ("exit", "SystemExit", "2"),
    ]:
        reply = server.get(f"/raising/{name}")
        assert (reply.status, reply.json()) == (500, {"status": "exception", "type": kind, "message": message})
        assert "Traceback" not in reply.text
    assert server.get("/raising/unprintable").json()["type"] == "Unprintable"
    server.wait_for_log(r"<3>ERROR - raising - GET /raising/value raised ValueError")
    server.wait_for_log(r"raising.py\", line \d+, in request_handler")
    assert "pserve_runtime" not in server.log


AIOHTTP = """
import io
from aiohttp import web
from plugincore.baseplugin import BasePlugin
def answer(kind):
    if kind == 'response':
        response = web.Response(text='h\\u00e9', status=418, headers={'X-A': '1'}, content_type='text/plain')
        response.headers.add('X-Many', 'a')
        response.headers.add('X-Many', 'b')
        response.set_cookie('c', 'v', path='/p', httponly=True)
        response.del_cookie('gone')
        return response
    if kind == 'json':
        return web.json_response({'a': [1]}, status=202)
    if kind == 'bytes':
        return web.Response(body=b'\\x00\\x01')
    if kind == 'empty':
        return web.Response(status=204)
    if kind == 'payload':
        return web.Response(body=io.BytesIO(b'from a file'), content_type='text/css')
    if kind.startswith('file'):
        import pathlib
        return web.FileResponse(pathlib.Path(__file__).with_name(kind), headers={'X-F': '1'})
    if kind == 'found':
        return web.HTTPFound('/else')
    if kind == 'raise':
        raise web.HTTPNotFound(text='nobody', headers={'X-Why': 'gone'})
    if kind == 'tuple':
        return 200, web.Response(text='inside', status=299)
class Later(BasePlugin):
    async def request_handler(self, **data):
        return answer(data['subpath'])
class Now(BasePlugin):
    def request_handler(self, **data):
        return answer(data['subpath'])
class Oldest(BasePlugin):
    async def handle_request(self, **data):
        return answer(data['subpath'])
class Through(BasePlugin):
    async def handle_request(self, **data):
        response = await super().handle_request(**data)
        response.headers['X-Seen'] = str(response.status)
        return response
    async def request_handler(self, **data):
        return 203, {'x': 1}
"""


@pytest.mark.parametrize("plugin", ["later", "now", "oldest"])
def test_responses_of_aiohttp(start, plugin):
    server = start({"air.py": AIOHTTP}, aiohttp=True)
    reply = server.get(f"/{plugin}/response")
    assert (reply.status, reply.text, reply.headers["Content-Type"]) == (418, "hé", "text/plain; charset=utf-8")
    assert (reply.headers["X-A"], reply.headers.get_all("X-Many")) == ("1", ["a", "b"])
    cookies = reply.headers.get_all("Set-Cookie")
    assert any("c=v" in cookie and "HttpOnly" in cookie and "Path=/p" in cookie for cookie in cookies)
    assert any(cookie.startswith("gone=") for cookie in cookies)
    reply = server.get(f"/{plugin}/json")
    assert (reply.status, reply.headers["Content-Type"], reply.json()) == (202, JSON, {"a": [1]})
    reply = server.get(f"/{plugin}/bytes")
    assert (reply.body, reply.headers["Content-Type"]) == (b"\x00\x01", BYTES)
    assert server.get(f"/{plugin}/empty").status == 204
    reply = server.get(f"/{plugin}/payload")
    assert (reply.body, reply.headers["Content-Type"]) == (b"from a file", "text/css")
    (server.folder / "plugins" / "file.json").write_text("[1]")
    reply = server.get(f"/{plugin}/file.json")
    assert (reply.status, reply.text, reply.headers["Content-Type"]) == (200, "[1]", "application/json")
    assert reply.headers["X-F"] == "1"
    assert server.get(f"/{plugin}/file.none").status == 404
    reply = server.get(f"/{plugin}/found")
    assert (reply.status, reply.headers["Location"]) == (302, "/else")
    reply = server.get(f"/{plugin}/raise")
    assert (reply.status, reply.text, reply.headers["X-Why"]) == (404, "nobody", "gone")
    if plugin != "oldest":
        reply = server.get(f"/{plugin}/tuple")
        assert (reply.status, reply.text) == (299, "inside")


def test_the_base_class_makes_a_response_that_can_be_changed(start):
    reply = start({"air.py": AIOHTTP}, aiohttp=True).get("/through")
    assert (reply.status, reply.json(), reply.headers["X-Seen"]) == (203, {"x": 1}, "203")


def test_legacy_status_answers_200_but_for_response_objects(start):
    ini = "[server]\nlegacy_status=bool:true\n[plugin_parms]\nraising=auth_type=plugin&apikey=some-key"
    server = start({"answers.py": ANSWERS, "raising.py": RAISING, "air.py": AIOHTTP}, ini=ini, aiohttp=True)
    assert (server.get("/answers/code_dict").status, server.get("/answers/code_str").text) == (200, "no")
    reply = server.get("/raising/value?apikey=some-key")
    assert (reply.status, reply.json()["type"]) == (200, "ValueError")
    reply = server.get("/raising/value")
    assert (reply.status, reply.json()) == (200, {"error": "unauthorized"})
    assert server.get("/later/response").status == 418
    assert server.get("/later/raise").status == 404
    assert server.get("/nowhere").status == 404
