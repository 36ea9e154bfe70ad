"""JSON answers against `json.dumps`: every place that a character can have in a word, containers that change while they
are read, and all of it once more under the debug allocators of Python, which overwrite what is freed."""

from __future__ import annotations

import json

import pytest

PLUGIN = r'''
import enum
import json
import random
from plugincore.baseplugin import BasePlugin

SPECIAL = ['"', "\\", "\n", "\x00", "\x1f", "\x7f", "/", "é", "\u20ac", "\U0001f600", "\ud800", " ", "!", "#", "[", "]"]


def expected(value):
    """What json.dumps makes of it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def random_value(chance, depth=0):
    kind = chance.choice(["int", "float", "str", "none", "bool"] + (["list", "dict", "tuple"] * 3 if depth < 6 else []))
    if kind == "int":
        return chance.choice([0, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, chance.randrange(-(10**40), 10**40)])
    if kind == "float":
        return chance.choice([0.0, -0.0, 1e16, 1e-7, 5e-324, chance.uniform(-1e6, 1e6), chance.random()])
    if kind == "str":
        return "".join(chance.choice(["a", "bc", *SPECIAL]) for _ in range(chance.randrange(20)))
    if kind == "list":
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(6))]
    if kind == "tuple":
        return tuple(random_value(chance, depth + 1) for _ in range(chance.randrange(4)))
    if kind == "dict":
        keys = ["k", "é", 'q"', 7, None, True, "long key without anything special", 2**70]
        return {chance.choice(keys): random_value(chance, depth + 1) for _ in range(chance.randrange(6))}
    return {"none": None, "bool": chance.random() < 0.5}[kind]


class Rules(BasePlugin):
    """Compares in the server itself, where lone surrogates are still what they are."""

    async def request_handler(self, **data):
        import _pserve
        return getattr(self, data["subpath"])(_pserve.dumps)

    def places(self, dumps):
        wrong = []
        for length in range(0, 40):
            for at in range(length):
                for special in SPECIAL:
                    text = "x" * at + special + "x" * (length - at - 1)
                    for value in (text, {text: text}, [text]):
                        if json.loads(dumps(value)) != value or (special not in "\ud800\x7f" and dumps(value) != expected(value)):
                            wrong.append(repr(value))
        return {"wrong": wrong[:5]}

    def values(self, dumps):
        chance = random.Random(20261125)
        wrong = []
        for _ in range(4000):
            value = random_value(chance)
            if json.dumps(json.loads(dumps(value))) != json.dumps(json.loads(json.dumps(value))):
                wrong.append(repr(value))
        return {"wrong": wrong[:5]}


class Items(dict):
    """Changes what contains it when it is asked for its items."""

    act = None

    def items(self):
        self.act()
        return super().items()


class Word(str):
    pass


class Kind(enum.Enum):
    ONE = 1

    @property
    def value(self):
        KINDS.clear()
        return "v" * 5


KINDS = []


class Changing(BasePlugin):
    async def request_handler(self, **data):
        return {"answer": getattr(self, data["subpath"])()}

    def list_clears(self):
        items, inner = [], Items(a=1)
        inner.act = items.clear
        items += [inner] + [["x" * 50] for _ in range(100)]
        return items

    def list_grows(self):
        items, inner = [], Items(a=1)
        inner.act = lambda: items.extend(["late"] * 1000)
        items.append(inner)
        return items

    def dict_clears(self):
        members, inner = {}, Items(a=1)
        inner.act = members.clear
        members.update(first=inner, second=["y" * 60])
        return members

    def dict_replaces(self):
        members, inner = {}, Items(a=1)
        def act():
            del members["second"]
            members["third"] = "z" * 70
        inner.act = act
        members.update(first=inner, second=["y" * 60])
        return members

    def own_parent(self):
        outer, inner = {}, Items(a=["w" * 80])
        def act():
            outer["list"] = None
            inner.clear()
        inner.act = act
        outer["list"] = [[[inner, "after" * 20]]]
        return outer

    def enum_clears(self):
        KINDS[:] = [Kind.ONE, ["u" * 90]]
        return KINDS

    def words(self):
        return {Word("key"): [Word("a\"b")], 1.5: Word("c")}
'''


@pytest.fixture(params=["usual", "debug allocators"])
def server(request, start):
    env = {"PYTHONMALLOC": "debug"} if request.param != "usual" else {}
    return start({"rules.py": PLUGIN}, env=env)


def test_texts_and_values_are_what_json_dumps_makes_of_them(server):
    assert server.get("/rules/places").json() == {"wrong": []}
    assert server.get("/rules/values").json() == {"wrong": []}


def test_containers_that_change_while_they_are_read_do_no_harm(server):
    for _ in range(20):
        assert server.get("/changing/list_clears").json() == {"answer": [{"a": 1}]}
        grown = server.get("/changing/list_grows").json()["answer"]
        assert grown[0] == {"a": 1} and set(grown[1:]) <= {"late"}
        for path in ("dict_clears", "dict_replaces", "own_parent", "enum_clears"):
            reply = server.get(f"/changing/{path}")
            assert reply.status in (200, 500), reply.text
            json.loads(reply.body)
        assert server.get("/changing/words").json() == {"answer": {"key": ['a"b'], "1.5": "c"}}
    assert "pserve" in server.log and "ended" not in server.log
