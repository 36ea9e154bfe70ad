"""JSON answers whose containers change while they are read: by code of the values themselves, by Python's collector of
cycles, by other threads. Whatever happens, the answer is JSON of what was there, or an error of that request."""

from __future__ import annotations

import json

import pytest

HOOKS = r'''
import codecs
import enum
import gc
import json
from plugincore.baseplugin import BasePlugin

CALLED = []


def called(name):
    def hook(self, *arguments):
        CALLED.append(name)
        raise AssertionError(f"{name} was called")
    return hook


def junk():
    """Takes the memory that has just been freed."""
    return [bytes(size) for size in range(16, 512, 8) for _ in range(50)]


class Act:
    """Does something to a container when the encoder of text asks for help, or when Python collects its cycles."""

    def __init__(self, act):
        self.act, self.me = act, self

    def __del__(self):
        self.act()


class Items(dict):
    act = None

    def items(self):
        self.act()
        return super().items()


class Pairs(dict):
    """Gives its members one by one, and does something in between."""

    act = None

    def items(self):
        for pair in list(super().items()):
            self.act()
            yield pair


class Whole(int):
    __repr__ = __str__ = __int__ = __index__ = __format__ = __trunc__ = called("of int")


class Broken(float):
    __repr__ = __str__ = __float__ = __int__ = __format__ = called("of float")


class Word(str):
    __repr__ = __str__ = encode = __format__ = __iter__ = __len__ = called("of str")


class Row(list):
    __len__ = __getitem__ = __repr__ = called("of list")

    def __iter__(self):
        return iter(["given", *range(list.__len__(self))])


class Pair(tuple):
    __len__ = __getitem__ = __repr__ = called("of tuple")

    def __iter__(self):
        yield from ("given", tuple.__len__(self))


class Number(enum.IntEnum):
    ONE = 1


class Endless(enum.Enum):
    ONE = 1
    value = property(lambda self: self)


class Level(enum.Enum):
    ONE = 1

    @property
    def value(self):
        LEVELS.clear()
        junk()
        return ["v" * 40]


LEVELS = []


class Deep(dict):
    def items(self):
        return [("deeper", Deep(a=1))]


class Changes(BasePlugin):
    async def request_handler(self, **data):
        return {"answer": getattr(self, data["subpath"])()}

    def on_surrogate(self, act):
        def handle(error):
            act()
            junk()
            return b"?\0", error.end
        codecs.register_error("surrogatepass", handle)

    def key_clears(self):
        members = {}
        self.on_surrogate(members.clear)
        members["\ud800"] = ["y" * 60]
        return members

    def key_frees_its_list(self):
        rows = [{"\udfff": ["y" * 60]}, ["z" * 60]]
        self.on_surrogate(rows.clear)
        return rows

    def text_clears_its_list(self):
        rows = ["\ud800" + "x" * 50, ["z" * 60]]
        self.on_surrogate(rows.clear)
        return rows

    def text_clears_its_dict(self):
        members = {}
        self.on_surrogate(members.clear)
        members.update(first="\ud800" + "x" * 50, second=["z" * 60])
        return members

    def collector_clears(self):
        members = {}
        members["\ud800"] = ["y" * 60]
        before = gc.get_threshold()
        gc.set_threshold(1)
        def act():
            gc.set_threshold(*before)
            members.clear()
            junk()
        Act(act)
        return members

    def pairs_clear_their_parent(self):
        outer, inner = {}, Pairs(a=["x" * 60], b=["y" * 60])
        def act():
            outer.clear()
            inner.clear()
            junk()
        inner.act = act
        outer.update(first=[inner], second=["z" * 60])
        return outer

    def replaces_its_members(self):
        """A dict that always has two members, and always another one to come."""
        members = {}
        def more():
            one = Items(a=1)
            def act():
                del members[next(iter(members))]
                members[len(CALLED)] = more()
                CALLED.append("items")
            one.act = act
            return one
        members.update(first=more(), second=more())
        return members

    def level_clears(self):
        LEVELS[:] = [[Level.ONE, ["u" * 90]], Level.ONE, ["w" * 90]]
        return LEVELS

    def own_value(self):
        return Endless.ONE

    def deep_by_items(self):
        return Deep(a=1)

    def unhooked(self):
        """Values whose own methods `json.dumps` does not ask either."""
        import _pserve
        value = [
            Whole(7), Whole(2**70), Broken(1.5), Broken(1e300), Word("a\"b"), Word("é"), Row([1, [2]]), Row(), Pair((1, 2)),
            Pair(), Number.ONE, {Whole(3): 1}, {Broken(2.5): 2}, {Word("key"): 3}, {Number.ONE: 4}, {True: 5}, {None: 6},
        ]
        wrong = []
        for one in value:
            expected = json.dumps(one, ensure_ascii=False, separators=(",", ":"))
            if _pserve.dumps(one) != expected:
                wrong.append([expected, _pserve.dumps(one)])
        return {"wrong": wrong, "called": CALLED}

    def limits(self):
        """Depths and lengths at which one or the other has to give up."""
        import _pserve
        def nested(levels, wrap):
            value = 1
            for _ in range(levels):
                value = wrap(value)
            return value
        def outcome(dumps, value):
            try:
                return len(dumps(value))
            except (ValueError, RecursionError) as error:
                return type(error).__name__
        found = {}
        for name, wrap in {"list": lambda v: [v], "dict": lambda v: {"a": v}, "tuple": lambda v: (v,)}.items():
            found[name] = [outcome(_pserve.dumps, nested(levels, wrap)) for levels in (999, 1000, 1001, 5000)]
        for name, number in {"long": 10**4000, "longer": -(10**4000), "too long": 10**6000}.items():
            plain = lambda value: json.dumps(value, separators=(",", ":"))
            found[name] = outcome(_pserve.dumps, [number]) == outcome(plain, [number])
        found["no numbers"] = json.loads(_pserve.dumps([float("nan"), float("inf"), {float("-inf"): 1, float("nan"): 2}]))
        return found
'''

# States that a container goes through, one atomic change after the other, and what `json.dumps` makes of each: a walk
# that holds the interpreter sees one of them, whole.
THREADS = r'''
import copy
import json
import random
import sys
import threading
from plugincore.baseplugin import BasePlugin

TEXTS = ["short", "a longer text without anything special", 'with "quotes"', "é\u20ac\U0001f600", ""]


class Word(str):
    pass


def leaf(chance):
    return chance.choice([None, True, 1.5, 2**80, (1, ("two",)), Word("word"), chance.choice(TEXTS), chance.randrange(10**6)])


def change(chance):
    """A change of one of the containers, in one step of the interpreter."""
    at, n = chance.choice(["rows", "members"]), chance.randrange(40)
    fresh = [leaf(chance) for _ in range(chance.randrange(50))]
    named = {chance.choice(TEXTS) + str(i): [one] for i, one in enumerate(fresh)}
    if at == "rows":
        return chance.choice([
            lambda root: root["rows"].append(fresh),
            lambda root: root["rows"].insert(0, named),
            lambda root: root["rows"].__setitem__(slice(None), fresh),
            lambda root: root["rows"].__delitem__(slice(n // 2, None)),
            lambda root: root["rows"].clear(),
            lambda root: root["rows"].reverse(),
        ])
    return chance.choice([
        lambda root: root["members"].__setitem__(f"key {n}", fresh),
        lambda root: root["members"].update(named),
        lambda root: root["members"].pop(f"key {n}", None),
        lambda root: root["members"].clear(),
        lambda root: root.__setitem__("members", dict(named)),
        lambda root: root.__setitem__("rows", list(fresh)),
    ])


def text_of(root):
    return json.dumps(root, ensure_ascii=False, separators=(",", ":"))


def walk(seed, walks):
    import _pserve
    # What is looked up once, at the first value of its kind, lets other threads run.
    _pserve.dumps([2**80, (1,), Word("word")])
    chance = random.Random(seed)
    changes = [change(chance) for _ in range(300)]
    root = {"rows": [], "members": {}}
    rehearsal = copy.deepcopy(root)
    expected = {text_of(rehearsal)}
    for _ in range(2):
        for one in changes:
            one(rehearsal)
            expected.add(text_of(rehearsal))
    # The second round began where the first had ended: from there on the states come again.
    for one in changes:
        one(root)
    ended = threading.Event()
    def mutate():
        while not ended.is_set():
            for one in changes:
                one(root)
    thread = threading.Thread(target=mutate)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        seen = [_pserve.dumps(root) for _ in range(walks)]
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
    return {"wrong": [text[:200] for text in seen if text not in expected][:3], "states": len(set(seen))}


class Walks(BasePlugin):
    async def request_handler(self, **data):
        return walk(int(data["seed"]), 2000)


class PlainWalks(BasePlugin):
    def request_handler(self, **data):
        return walk(int(data["seed"]), 2000)


SHARED = {"rows": [], "members": {}}
ENDED = threading.Event()


class Slow(dict):
    """Lets other threads run while it is read."""

    def items(self):
        for pair in list(super().items()):
            ENDED.wait(0)
            yield pair


class Shared(BasePlugin):
    """Gives what threads of its own never leave alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for seed in range(2):
            threading.Thread(target=self.mutate, args=(seed,), daemon=True).start()

    def mutate(self, seed):
        chance = random.Random(seed)
        while not ENDED.wait(0.0001):
            for _ in range(20):
                change(chance)(SHARED)
            SHARED["members"]["slow \ud800"] = Slow(a="x" * 50, b=["y" * 50])
            SHARED["rows"].append(Slow(a="x" * 50, b=["y" * 50]))

    def terminate_plugin(self):
        ENDED.set()

    async def request_handler(self, **data):
        return SHARED
'''


@pytest.fixture(params=["usual", "debug allocators"])
def env(request):
    return {"PYTHONMALLOC": "debug"} if request.param != "usual" else {}


def test_what_the_values_own_code_changes_does_no_harm(start, env):
    server = start({"changes.py": HOOKS}, env=env)
    paths = ["key_clears", "key_frees_its_list", "text_clears_its_list", "text_clears_its_dict", "collector_clears"]
    paths += ["pairs_clear_their_parent", "level_clears"]
    for path in paths * 5:
        reply = server.get(f"/changes/{path}")
        assert reply.status == 200 or "changed size during iteration" in reply.text, (path, reply.text)
        json.loads(reply.body)
    assert "ended" not in server.log, server.log


def test_a_key_that_clears_its_dict_has_its_value_all_the_same(start, env):
    server = start({"changes.py": HOOKS}, env=env)
    assert server.get("/changes/level_clears").json() == {"answer": [[["v" * 40], ["u" * 90]]]}
    assert "changed size during iteration" in server.get("/changes/key_clears").text


def test_what_has_no_end_is_an_error(start):
    server = start({"changes.py": HOOKS})
    for path, kind in [
        ("replaces_its_members", "RuntimeError"),
        ("own_value", "ValueError"),
        ("deep_by_items", "ValueError"),
    ]:
        reply = server.get(f"/changes/{path}")
        assert (reply.status, reply.json().get("type")) == (500, kind), (path, reply.text)


def test_methods_that_json_dumps_does_not_ask_are_not_asked(start):
    server = start({"changes.py": HOOKS})
    assert server.get("/changes/unhooked").json() == {"answer": {"wrong": [], "called": []}}


def test_depths_and_lengths_have_their_limits(start):
    server = start({"changes.py": HOOKS})
    found = server.get("/changes/limits").json()["answer"]
    assert found.pop("no numbers") == [None, None, {"-Infinity": 1, "NaN": 2}]
    assert found.pop("long") and found.pop("longer") and found.pop("too long")
    assert found == {
        "list": [2 * 999 + 1, 2 * 1000 + 1, "ValueError", "ValueError"],
        "dict": [6 * 999 + 1, 6 * 1000 + 1, "ValueError", "ValueError"],
        "tuple": [2 * 999 + 1, 2 * 1000 + 1, "ValueError", "ValueError"],
    }


def test_a_walk_sees_one_state_of_what_another_thread_changes(start, env):
    server = start({"walks.py": THREADS}, env=env)
    states = 0
    for plugin in ("walks", "plainwalks"):
        for seed in range(4):
            found = server.get(f"/{plugin}", seed=seed).json()
            assert found["wrong"] == [], (plugin, seed)
            states += found["states"]
    assert states > 50, "the other threads have changed nothing while it was read"


def test_a_shared_object_that_threads_change_is_answered(start, env):
    server = start({"walks.py": THREADS}, env=env)
    statuses = set()
    for _ in range(100):
        reply = server.get("/shared")
        assert reply.status == 200 or "changed size during iteration" in reply.text, reply.text
        assert set(reply.json()) >= {"rows", "members"} or reply.status == 500
        statuses.add(reply.status)
    assert 200 in statuses
    assert "ended" not in server.log, server.log
