"""Answers that cannot be sent: each is a JSON 500 of its own request, and nothing gets through to other headers."""

import socket

import pytest
from conftest import PATIENCE, Server, Start

PLUGIN = """
from aiohttp import web
from plugincore.baseplugin import BasePlugin

def deep(levels, wrap):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return value
def own_loop():
    value = {}
    value['me'] = value
    return value
def with_cookie(*arguments, **more):
    response = web.Response(text='x')
    response.set_cookie(*arguments, **more)
    return response
def with_status(response, status):
    response._status = status
    return response
def raised(problem):
    raise problem
class NoText:
    def __str__(self):
        raise ValueError('no text')
class BadItems(dict):
    def items(self):
        return [1, 2]
class NoMessage(Exception):
    def __str__(self):
        raise ValueError('no message')
R = web.Response
BAD = {
    'deep_list': lambda: deep(100_000, lambda value: [value]),
    'deep_dict': lambda: deep(100_000, lambda value: {'a': value}),
    'deep_tuple': lambda: [deep(100_000, lambda value: (value,))],
    'loop': own_loop,
    'code_0': lambda: (0, 'x'), 'code_99': lambda: (99, 'x'), 'code_101': lambda: (101, 'x'),
    'code_1000': lambda: (1000, 'x'), 'code_minus': lambda: (-1, 'x'), 'code_huge': lambda: (10 ** 10_000, 'x'),
    'no_text': NoText, 'bad_items': lambda: BadItems(a=1),
    'no_message': lambda: raised(NoMessage()), 'break': lambda: raised(ValueError('a\\r\\nInjected: 1')),
    'recursion': lambda: (lambda f: f(f))(lambda f: f(f)), 'memory': lambda: 'x' * (1 << 60),
    'exit': lambda: raised(SystemExit(3)), 'leave': lambda: raised(GeneratorExit()),
    'value_crlf': lambda: R(text='x', headers={'X': 'a\\r\\nInjected: 1'}),
    'value_lf': lambda: R(text='x', headers={'X': 'a\\nInjected: 1'}),
    'value_nul': lambda: R(text='x', headers={'X': 'a\\0'}),
    'name_crlf': lambda: R(text='x', headers={'X\\r\\nInjected': '1'}),
    'name_space': lambda: R(text='x', headers={'X Y': '1'}), 'name_empty': lambda: R(text='x', headers={'': '1'}),
    'type_crlf': lambda: R(text='x', content_type='a/b\\r\\nInjected: 1'),
    'reason_crlf': lambda: R(text='x', reason='a\\r\\nInjected: 1'), 'reason_nul': lambda: R(text='x', reason='\\0'),
    'cookie_path': lambda: with_cookie('a', 'b', path='/\\r\\nInjected: 1'),
    'status_0': lambda: with_status(R(text='x'), 0), 'status_99': lambda: with_status(R(text='x'), 99),
    'status_1000': lambda: with_status(R(text='x'), 1000), 'status_101': lambda: R(text='x', status=101),
    'json_deep': lambda: web.json_response(deep(100_000, lambda value: [value])),
    'stream_crlf': lambda: web.StreamResponse(headers={'X': 'a\\r\\nInjected: 1'}),
    'stream_status': lambda: with_status(web.StreamResponse(), 99),
    'stream_length': lambda: web.StreamResponse(headers={'Content-Length': '-5'}),
}
FINE = {
    '204': lambda: (204, 'body'), '304': lambda: (304, 'body'),
    'response_204': lambda: R(text='body', status=204), 'response_304': lambda: R(text='body', status=304),
    'length': lambda: R(text='x', headers={'Content-Length': '500'}),
    'coding': lambda: R(text='x', headers={'Transfer-Encoding': 'gzip, chunked'}),
    'many': lambda: R(text='x', headers={f'X-{number}': 'y' for number in range(2000)}),
    'large': lambda: R(text='x', headers={'X-Large': 'y' * 60_000}),
    'cookie': lambda: with_cookie('a', 'b\\r\\nInjected: 1'),
    'redirect': lambda: raised(web.HTTPFound('/%0d%0aInjected:1')),
}
class Bad(BasePlugin):
    async def request_handler(self, **data):
        return {**BAD, **FINE}[data['subpath']]()
class PlainBad(BasePlugin):
    def request_handler(self, **data):
        return {**BAD, **FINE}[data['subpath']]()
class Names(BasePlugin):
    async def request_handler(self, **data):
        return {'bad': list(BAD), 'fine': list(FINE)}
"""


@pytest.fixture(params=["installed", "stand-in"])
def bad(request: pytest.FixtureRequest, start: Start) -> Server:
    return start({"bad.py": PLUGIN}, aiohttp=request.param == "installed")


@pytest.mark.parametrize("plugin", ["bad", "plainbad"])
def test_what_cannot_be_sent_is_a_500_of_that_request(bad: Server, plugin: str) -> None:
    for name in bad.get("/names").json()["bad"]:
        reply = bad.get(f"/{plugin}/{name}")
        assert (reply.status, reply.json()["status"]) == (500, "exception"), name
        assert "Injected" not in reply.headers, name
    assert bad.get("/names").status == 200


def test_framing_is_the_servers_own(bad: Server) -> None:
    for name in bad.get("/names").json()["fine"]:
        request = (
            f"GET /bad/{name} HTTP/1.1\r\nHost: x\r\n\r\nGET /names HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", bad.port), PATIENCE) as connection:
            connection.sendall(request.encode())
            answer = connection.makefile("rb").read()
        # What follows on the connection is the next answer: nothing was longer or shorter than it said.
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 2 and b'"fine":' in rest, name
        assert b"\nInjected" not in first and b"gzip" not in first, name
        assert not first.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")) or rest.startswith(b"HTTP/1.1 200"), name
