"""Every generation of plugin, unchanged: what the contract's section 3 promises to each."""

import json

import pytest

GENERATIONS = """
import asyncio
from plugincore.baseplugin import BasePlugin

class Oldest(BasePlugin):
    async def handle_request(self, **data):
        return 'old text'

class OldestPlain(BasePlugin):
    def handle_request(self, **data):
        return [1, 2]

class ThroughBase(BasePlugin):
    async def handle_request(self, **data):
        return await super().handle_request(**data)
    async def request_handler(self, **data):
        return 201, {'through': 'base'}

class Plain(BasePlugin):
    def request_handler(self, **data):
        return 200, {'generation': 'plain'}

class Async(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0)
        return {'generation': 'async'}

class NoHandler(BasePlugin):
    pass
"""


def test_each_generation_answers(start):
    server = start({"generations.py": GENERATIONS})
    reply = server.get("/oldest")
    assert (reply.text, reply.headers["Content-Type"]) == ("old text", "text/plain; charset=utf-8")
    assert server.get("/oldestplain").json() == [1, 2]
    assert server.get("/plain").json() == {"generation": "plain"}
    assert server.get("/async").json() == {"generation": "async"}
    reply = server.get("/throughbase")
    assert (reply.status, reply.json()) == (201, {"through": "base"})
    reply = server.get("/nohandler")
    assert reply.status == 500
    assert "no request_handler" in reply.json()["message"]


LIFE = """
import asyncio
import os
from plugincore.baseplugin import BasePlugin

lock = asyncio.Lock()
events = []
loop_at_import = asyncio.get_running_loop()

class Life(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        events.append('constructed')
        self.ticks = {'constructor': 0, 'initialize': 0, 'handler': 0, 'callback': 0}
        asyncio.create_task(self.tick('constructor'))
        kwargs['task_callback'](asyncio.create_task(self.tick('callback')))

    async def initialize(self, **kwargs):
        await asyncio.sleep(0)
        events.append('initialized with ' + ','.join(sorted(kwargs)))
        asyncio.create_task(self.tick('initialize'))

    async def tick(self, where):
        try:
            while True:
                self.ticks[where] += 1
                await asyncio.sleep(0.005)
        finally:
            self.log.info(f'{where} task ends')

    async def request_handler(self, **data):
        async with lock:
            if not self.ticks['handler']:
                asyncio.create_task(self.tick('handler'))
                await asyncio.sleep(0)
            return {'events': events, 'ticks': self.ticks, 'loop': loop_at_import is asyncio.get_running_loop()}

    async def terminate_plugin(self):
        await asyncio.sleep(0)
        self.log.info('terminated with ' + str(self.ticks['constructor'] > 0))
"""


def test_life_of_a_plugin_and_its_tasks(start):
    server = start({"life.py": LIFE})
    first = server.get("/life").json()
    assert first["loop"] is True
    expected = "initialized with args,config,log,prog_args,task_callback"
    assert first["events"] == ["constructed", expected]
    while True:
        later = server.get("/life").json()["ticks"]
        if all(later[where] > first["ticks"][where] for where in later):
            break
    assert server.get("/reload/life").status == 200
    for where in ("constructor", "initialize", "handler", "callback"):
        server.wait_for_log(f"{where} task ends")
    server.wait_for_log("terminated with True")
    assert server.stop() == 0
    server.wait_for_log("(?s)terminated with True.*terminated with True")


BROKEN = {
    "a_syntax.py": "def",
    "b_import.py": "import surely_not_installed",
    "c_constructor.py": "from plugincore.baseplugin import BasePlugin\n"
    "class Broken(BasePlugin):\n    def __init__(self, **kwargs):\n        raise RuntimeError('in constructor')\n",
    "d_initialize.py": "from plugincore.baseplugin import BasePlugin\n"
    "class Broken(BasePlugin):\n    async def initialize(self, **kwargs):\n        raise RuntimeError('in initialize')\n",
    "e_exit.py": "import sys\nsys.exit(3)",
    "f_interrupt.py": "raise KeyboardInterrupt",
    "g_bytes.py": "x = '\\udcff'.encode('utf-8')",
    ".hidden.py": "raise RuntimeError('never read')",
    "notes.txt": "no plugin",
    "z_good.py": "from plugincore.baseplugin import BasePlugin\n"
    "class Good(BasePlugin):\n    def request_handler(self, **data):\n        return 'good'\n",
}


def test_broken_files_are_reported_and_stop_nothing(start):
    server = start(BROKEN)
    assert server.get("/good").text == "good"
    assert server.get("/plugins").json() == {"loaded_plugins": ["good"]}
    files = {file["file"].rsplit("/")[-1]: file["error"] for file in server.get("/plugins?verbose=1").json()["files"]}
    assert {name: error["type"] for name, error in files.items() if error} == {
        "a_syntax.py": "SyntaxError",
        "b_import.py": "ModuleNotFoundError",
        "c_constructor.py": "RuntimeError",
        "d_initialize.py": "RuntimeError",
        "e_exit.py": "SystemExit",
        "f_interrupt.py": "KeyboardInterrupt",
        "g_bytes.py": "UnicodeEncodeError",
    }
    assert "Traceback" in server.log and "in constructor" in server.log and "never read" not in server.log
    assert "pip install surely_not_installed" in server.log


HEAD = "from plugincore.baseplugin import BasePlugin\n"
AWKWARD = {
    "a.py": "class E(Exception):\n    def __str__(self): return None\nraise E\n",
    "b.py": "raise ModuleNotFoundError('x', name='__main__')",
    "c.py": "raise ModuleNotFoundError('x', name=5)",
    "d.py": HEAD + "class D(BasePlugin):\n    methods = ['\\ud800']\n    def request_handler(self, **d): return 1\n",
    "e.py": HEAD + "class E(BasePlugin):\n    methods = 5\n    def request_handler(self, **d): return 1\n",
    "f.py": HEAD + "class F(BasePlugin):\n    def _get_plugin_id(self): return '\\ud800'\n",
    "g.py": "raise ValueError('\\ud800')",
    "h.py": "raise SyntaxError('odd', ('<string>', 1, 1, 'x'))",
    "i.py": HEAD + "class I(BasePlugin):\n    initialize = 5\n",
    "j.py": "import sys\nclass Lazy:\n    def __getattr__(self, name): raise RuntimeError('unbound')\n"
    "sys.modules['lazy_thing'] = Lazy()\n__file__ = 5\nimport logging.config\n"
    "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True})\n",
    "z_good.py": BROKEN["z_good.py"],
}


def test_files_that_fail_in_awkward_ways_stop_nothing(start):
    server = start(AWKWARD)
    (server.folder / "plugins" / "caf\udce9.py").write_text(BROKEN["z_good.py"].replace("Good", "Cafe"))
    for _ in range(2):
        reply = server.get("/reload/all")
        assert reply.status == 200, reply.text
        assert set(reply.json()["failed"]) == set("abcdfgh")
        assert reply.json()["failed"]["g"]["message"] == "\\ud800"
        assert server.get("/good").text == "good" and server.get("/cafe").text == "good"
    reply = server.get("/reload/cafe")
    assert reply.status == 200, reply.text


def test_several_classes_and_where_they_come_from(start):
    base = """
from plugincore.baseplugin import BasePlugin
class Base(BasePlugin):
    word = 'base'
    async def request_handler(self, **data):
        return self.word
class Child(Base):
    word = 'child'
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._plugin_id = 'renamed'
"""
    other = "from base import Base\nclass Elsewhere(Base):\n    word = 'elsewhere'\nAlias = Elsewhere\n"
    server = start({"base.py": base, "other.py": other})
    assert server.get("/plugins").json() == {"loaded_plugins": ["base", "renamed", "elsewhere"]}
    assert [server.get(f"/{name}").text for name in ("base", "renamed", "elsewhere")] == ["base", "child", "elsewhere"]


STANDARD_NAME = """
from __future__ import annotations
import concurrent.futures
import dataclasses
import pickle
import queue
from typing import ClassVar
from plugincore.baseplugin import BasePlugin

AT_IMPORT = __name__

@dataclasses.dataclass
class Point:
    x: int
    kind: ClassVar[str] = 'point'

class Named(BasePlugin):
    def request_handler(self, **data):
        copy = pickle.loads(pickle.dumps(Point(3)))
        return {'x': copy.x, 'name': __name__, 'standard': hasattr(queue, 'Queue'), 'same': type(copy) is Point,
                'fields': [field.name for field in dataclasses.fields(Point)], 'at_import': AT_IMPORT}
"""


@pytest.mark.parametrize("stem", ["ordinary", "queue", "calendar"])
def test_files_named_like_standard_modules(start, stem):
    server = start({f"{stem}.py": STANDARD_NAME})
    expected = {"x": 3, "name": stem, "standard": True, "same": True, "fields": ["x"], "at_import": stem}
    assert server.get("/named").json() == expected
    assert server.get("/reload/named").status == 200
    assert server.get("/named").json()["same"] is True


def test_helpers_never_hide_the_standard_library(start):
    plugin = """
import json, os, helper, package.inner
from plugincore.baseplugin import BasePlugin
class Uses(BasePlugin):
    def request_handler(self, **data):
        import lazy
        return [json.__file__.startswith(os.path.dirname(os.__file__)), helper.WORD, package.inner.WORD, lazy.WORD]
"""
    server = start({"uses.py": plugin, "helper.py": "WORD = 'helper'", "json.py": "raise RuntimeError('hidden')"})
    assert "hidden" in server.log
    assert server.get("/load/uses").status == 500
    package = server.folder / "plugins" / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("WORD = 'inner'")
    server.write_plugin("lazy.py", "WORD = 'lazy'")
    assert server.get("/load/uses").status == 200
    assert server.get("/uses").json() == [True, "helper", "inner", "lazy"]
    (package / "inner.py").write_text("WORD = 'later'")
    server.write_plugin("lazy.py", "WORD = 'lazier'")
    assert server.get("/reload/uses").status == 200
    assert server.get("/uses").json() == [True, "helper", "later", "lazier"]


def test_the_interpreter_looks_as_plugins_expect(evaluate):
    code = """
import multiprocessing, signal, subprocess, sys, threading
out = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True)
with multiprocessing.get_context('spawn').Pool(1) as pool:
    power = pool.apply(pow, (2, 10))
result = {
    'subprocess': out.stdout.strip(), 'power': power, 'main': threading.current_thread() is threading.main_thread(),
    'plugincore': sys.modules['plugincore'].__file__.startswith('<pserve>'),
}
print('printed to standard output')
import logging
logging.getLogger('my.name').warning('logged %s', 'a\\nb')
self.log('called', 'with', 3)
self.log.info('formatted %s', 3)
"""
    assert evaluate(code) == {"subprocess": "42", "power": 1024, "main": True, "plugincore": True}
    server = evaluate.server
    server.wait_for_log(r"(?m)^printed to standard output$")
    server.wait_for_log(r"<4>WARNING - my.name - logged a \[request \S+\]\n<4>WARNING - my.name - b\n")
    server.wait_for_log(r"<6>INFO - evaluate - called with 3 \[request \S+\]\n")
    server.wait_for_log(r"<6>INFO - evaluate - formatted 3 \[request \S+\]\n")


def test_signals_of_the_server_stay_its_own(evaluate):
    code = """
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR2, lambda *_: None)
result = True
"""
    assert evaluate(code) is True
    evaluate.server.wait_for_log("asked for SIGTERM")
    assert evaluate.server.stop() == 0


def test_common_log(evaluate, tmp_path):
    code = """
from plugincore.logjam import LogJam
log = LogJam(name='web')
line = log.common_log(ip='1.2.3.4', path='/x', size=0, method='GET', protocol='HTTP/1.1', status=200, file=data['file'])
try:
    log.common_log(ip='1.2.3.4')
    result = 'no error'
except AttributeError as error:
    result = [line, 'path' in str(error)]
"""
    file = tmp_path / "common.log"
    line, named = evaluate(code, file=str(file))
    assert named is True
    assert file.read_text() == line + "\n"
    import re

    assert re.fullmatch(
        r'1\.2\.3\.4 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /x HTTP/1\.1" 200 0', line
    )


def test_a_plugin_manager_of_ones_own(evaluate, tmp_path):
    (tmp_path / "own.py").write_text(
        "from plugincore.baseplugin import BasePlugin\n"
        "class Own(BasePlugin):\n"
        "    def request_handler(self, **data):\n"
        "        return self.args['word']\n"
    )
    code = """
import asyncio
from plugincore.pluginmanager import PluginManager, parse_parameter_string
manager = PluginManager(data['folder'], config={'plugin_parms': {'own': 'word=hi'}}, args=self.args['prog_args'])
async def use():
    await manager.load_plugins()
    first = manager.get_plugin('own')
    await manager.reload_plugin('own')
    words = [first.request_handler(), manager.get_plugin('own').request_handler(), manager.get_plugin('own') is first]
    await manager.remove_plugin('own')
    self.words = words + [manager.all_plugins(), parse_parameter_string('a=1&a=2&b=')]
self.task = asyncio.create_task(use())
"""
    evaluate(code, folder=str(tmp_path))
    while (words := evaluate("result = getattr(self, 'words', None); self.task.done() and self.task.result()")) is None:
        pass
    assert words == ["hi", "hi", False, {}, {"a": "1"}]


def test_environment_of_another_python_is_told(tmp_path):
    import subprocess

    from conftest import BINARY

    environment = tmp_path / "venv"
    environment.mkdir()
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 2.7.18\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "pserve.ini").write_text("[network]\nport=0\n[paths]\nplugins=plugins\n[python]\nvenv=venv\n")
    ended = subprocess.run([BINARY], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "was made for Python 2.7.18" in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_packages_of_the_virtual_environment(start):
    source = """
import sys
import multidict
from plugincore.baseplugin import BasePlugin
class Env(BasePlugin):
    def request_handler(self, **data):
        return {'prefix': sys.prefix, 'executable': sys.executable, 'version': multidict.__version__}
"""
    import sys

    seen = start({"env.py": source}, aiohttp=True).get("/env").json()
    assert seen["prefix"] == sys.prefix
    assert seen["executable"].startswith(sys.prefix)
    server = start({"env.py": source})
    assert "pip install multidict" in server.log
    assert json.loads(server.get("/plugins").body) == {"loaded_plugins": []}


CARELESS = """
import asyncio
from plugincore.baseplugin import BasePlugin
class NoSuper(BasePlugin):
    def __init__(self, **kwargs):
        self.word = 'made'
    def request_handler(self, **data):
        data['log']('heard')
        return [self.word, data['subpath']]
class Guarded(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(config=kwargs['config'], log=kwargs['log'], prog_args=kwargs['prog_args'])
    def request_handler(self, **data):
        return 'in'
"""


def test_constructors_that_keep_things_from_the_base_class(start):
    server = start({"nosuper.py": CARELESS})
    assert server.get("/nosuper").json() == ["made", None]
    server.wait_for_log("nosuper - heard")
    server = start({"careless.py": CARELESS}, ini="[plugin_parms]\ncareless=auth_type=plugin&apikey=kept-key")
    assert server.get("/guarded").status == 403
    assert server.get("/guarded?apikey=kept-key").text == "in"


def test_an_initialize_that_hangs_fails_after_its_time(start):
    hanging = """
import asyncio
from plugincore.baseplugin import BasePlugin
class Hanging(BasePlugin):
    async def initialize(self, **kwargs):
        await asyncio.sleep(1000)
"""
    server = start({"a.py": hanging, "b.py": BROKEN["z_good.py"]}, ini="[limits]\nload_timeout=0.2")
    assert server.get("/good").text == "good"
    assert "initialize did not end within 0.2 seconds" in server.log


PLAIN_AND_LOOP = """
import asyncio, logging, multiprocessing, threading, time
from plugincore.baseplugin import BasePlugin
class Feeder(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.queue = asyncio.Queue()
        self.event = asyncio.Event()
        asyncio.create_task(self.consume())
    async def consume(self):
        while True:
            self.log.info(f'got {await self.queue.get()}')
            await self.event.wait()
            self.log.info('event seen')
    def request_handler(self, **data):
        self.queue.put_nowait(data['n'])
        self.event.set()
        return 'fed'
class Forker(BasePlugin):
    def request_handler(self, **data):
        logging.info('from %s', threading.current_thread().name)
        process = multiprocessing.get_context('fork').Process(target=int)
        process.start()
        process.join()
        return str(process.exitcode)
class Guarded(BasePlugin):
    inside = most = 0
    async def _check_auth(self, data):
        await asyncio.sleep(0)
        return True
    def request_handler(self, **data):
        asyncio.get_running_loop()
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        self.inside -= 1
        return self.after()
    async def after(self):
        return str(self.most)
class Through(BasePlugin):
    async def handle_request(self, **data):
        return await super().handle_request(**data)
    def request_handler(self, **data):
        self.log.info('blocking')
        asyncio.get_running_loop()
        time.sleep(float(data.get('seconds', 0)))
        return {'main': threading.current_thread() is threading.main_thread(), 'nan': float('nan')}
class Quick(BasePlugin):
    async def request_handler(self, **data):
        return 'quick'
class Changing(BasePlugin):
    async def request_handler(self, **data):
        outer = {}
        class Grower(dict):
            def items(self):
                outer['more' + str(len(outer))] = 1
                return []
        outer.update(a=Grower(), b=1)
        return outer
"""


def test_plain_handlers_and_the_event_loop(start):
    server = start({"both.py": PLAIN_AND_LOOP})
    assert server.get("/feeder?n=7").text == "fed"
    server.wait_for_log("got 7\n")
    server.wait_for_log("event seen")
    assert server.get("/forker").text == "0"
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: server.get("/guarded").text, range(4))) == ["1"] * 4
        slow = pool.submit(server.get, "/through?seconds=1.5")
        server.wait_for_log("blocking")
        assert server.get("/quick").text == "quick"
        assert not slow.done()
        assert slow.result().json() == {"main": False, "nan": None}
    reply = server.get("/changing")
    assert reply.status == 500 and "changed size" in reply.json()["message"]
    assert server.get("/quick").text == "quick"


OWN_WAYS = """
import copy, logging, logging.config, pickle, sqlite3
from plugincore.baseplugin import BasePlugin, asyncio, inspect, logjam
class Methods(BasePlugin):
    initialize = False
    def methods(self):
        return 'mine'
    async def request_handler(self, **data):
        return self.methods() + logjam.__name__
class Swapping(BasePlugin):
    async def request_handler(self, **data):
        self.request_handler = self.second
        return 'first'
    async def second(self, **data):
        return 'second'
class Direct(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.connection = sqlite3.Connection(':memory:')
        self.other = sqlite3.connect(':memory:')
    def request_handler(self, **data):
        kinds = [isinstance(self.connection, sqlite3.Connection), isinstance(self.other, sqlite3.Connection)]
        return [*kinds, self.connection.execute('select 1').fetchone(), self.other.execute('select 2').fetchone()]
class Logs(BasePlugin):
    async def request_handler(self, **data):
        if data['how'] == 'basic':
            logging.basicConfig(filename=data['file'], level=logging.DEBUG, force=True)
        else:
            logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True})
        logging.getLogger('my' + data['how']).warning('after %s', data['how'])
        return sorted(key for key in vars(self) if key.startswith('_pserve'))
    def terminate_plugin(self):
        raise ValueError('in terminate')
"""


def test_plugins_have_their_own_ways(start, tmp_path):
    server = start({"own.py": OWN_WAYS})
    assert server.get("/methods").text == "mineplugincore.logjam"
    assert [server.get("/swapping").text for _ in range(2)] == ["first", "second"]
    assert server.get("/direct").json() == [True, True, [1], [2]]
    file = tmp_path / "own.log"
    assert server.get("/logs", how="basic", file=file).json() == []
    assert "after basic" in file.read_text()
    server.wait_for_log("<4>WARNING - mybasic - after basic")
    server.get("/logs", how="dict")
    server.wait_for_log("<4>WARNING - mydict - after dict")
    assert server.get("/reload/logs").status == 200
    server.wait_for_log("ValueError: in terminate")


def test_a_reload_disturbs_no_other_plugin_while_it_lasts(start, tmp_path):
    uses = """
import helper, pickle, sys
from plugincore.baseplugin import BasePlugin
class Own: pass
class Uses(BasePlugin):
    async def request_handler(self, **data):
        import helper as again
        for value in (helper.Thing(), Own()):
            assert type(pickle.loads(pickle.dumps(value))) is type(value)
        return str(again is helper)
"""
    slow = """
import asyncio, os
from plugincore.baseplugin import BasePlugin
class Slow(BasePlugin):
    async def initialize(self, **kwargs):
        self.log.info('starting')
        while not os.path.exists(self.config.test.go_on):
            await asyncio.sleep(0.005)
    async def request_handler(self, **data):
        return 'slow'
"""
    go_on = tmp_path / "go_on"
    go_on.touch()
    plugins = {"helper.py": "class Thing: pass", "slow.py": slow, "uses.py": uses}
    server = start(plugins, ini=f"[test]\ngo_on={go_on}")
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for number, path in enumerate(("/reload/slow", "/reload/all"), 2):
            go_on.unlink()
            reload = pool.submit(server.get, path)
            server.wait_for_log(f"(?s)(starting.*){{{number}}}")
            for _ in range(20):
                reply = server.get("/uses")
                assert (reply.status, reply.text) == (200, "True"), reply.text
            assert not reload.done()
            go_on.touch()
            assert reload.result().status == 200
            assert server.get("/uses").text == "True"


def test_nobody_reading_standard_output_is_no_error(evaluate):
    code = """
import os
os.close(1)
print('to nobody', flush=True)
self.log.info('the log goes on')
result = 'fine'
"""
    assert evaluate(code) == "fine"
    evaluate.server.wait_for_log("the log goes on")


def test_the_client_side_of_aiohttp_says_what_to_install(start):
    first_lines = {
        "a": "from aiohttp import ClientSession",
        "b": "import aiohttp; aiohttp.ClientTimeout(total=5)",
        "c": "import aiohttp.client",
        "d": "from aiohttp import web; app = web.Application()",
        "e": "import aiohttp; aiohttp.no_such_thing",
    }
    server = start({f"{name}.py": line for name, line in first_lines.items()})
    problems = {key[:1]: value["message"] for key, value in server.get("/reload/all").json()["failed"].items()}
    names = {
        "a": "aiohttp.ClientSession",
        "b": "aiohttp.ClientTimeout",
        "c": "aiohttp.client",
        "d": "aiohttp.web.Application",
    }
    for key, name in names.items():
        assert problems[key].startswith(f"{name} is part of the aiohttp package, which is not installed; install it: ")
        assert problems[key].endswith("-m pip install aiohttp")
    assert "no_such_thing" in problems["e"]
