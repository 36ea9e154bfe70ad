"""The INI dialect through `Config(file=...)`: the same cases that the Rust tests read."""

import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
CASES = json.loads((FIXTURES / "ini_cases.json").read_text())
READER = """
from plugincore.baseplugin import BasePlugin
from plugincore.configfile import Config
class Reader(BasePlugin):
    def request_handler(self, **data):
        try:
            return {'config': Config(file=data['file'])}
        except ValueError as error:
            return {'error': str(error)}
"""


@pytest.fixture(scope="module")
def environment():
    return {name: value for case in CASES for name, value in case.get("env", {}).items()}


def test_every_case(start, environment, tmp_path):
    server = start({"reader.py": READER}, env=environment)
    for case in CASES:
        file = tmp_path / "case.ini"
        file.write_bytes(case["text"].encode())
        answer = server.get("/reader", file=file).json()
        if "error" in case:
            assert case["error"]["says"] in answer["error"], case["name"]
            assert f"case.ini:{case['error']['line']}:" in answer["error"], case["name"]
        else:
            assert answer["config"] == case["expect"], case["name"]


def test_the_servers_own_configuration(start):
    source = """
from plugincore.baseplugin import BasePlugin
from plugincore.configfile import masterConfig
class Shown(BasePlugin):
    def request_handler(self, **data):
        config = self.config
        return {
            'port': config.web.port, 'index': config['web']['port'], 'missing': config.get('none'),
            'has': ['web' in config, 'PORT' in config.web, hasattr(config, 'none')],
            'keyword': config['class']['def'], 'items': config['items']['items'],
            'master': masterConfig is config, 'names': list(config.web), 'is_dict': isinstance(config.web, dict),
        }
"""
    server = start({"shown.py": source}, ini="[web]\nPort=int:81\nother=x\n[class]\ndef=1\n[items]\nitems=2\n")
    assert server.get("/shown").json() == {
        "port": 81,
        "index": 81,
        "missing": None,
        "has": [True, False, False],
        "keyword": "1",
        "items": "2",
        "master": True,
        "names": ["port", "other"],
        "is_dict": True,
    }


def test_config_from_items_merging_and_writing(evaluate):
    code = """
import copy, pickle
from plugincore.configfile import Config, value_bool
a = Config(items={'s': {'x': 1, 'y': 'int:3'}, 'n': 5})
b = Config(items={'s': {'x': 2, 'z': 3}, 't': {'q': 1}})
a.merge(b)
c = Config(items={'s': {'x': 1}})
c.merge({'s': {'x': 9, 'w': 4}}, overwrite=False)
c['new'] = 7
c.other = 8
del c['s']['w']
result = {
    'a': a, 'attr': [a.s.x, a.s.y, a.t.q], 'c': c, 'new': [c.new, c['other']],
    'copies': [copy.deepcopy(a) == a, pickle.loads(pickle.dumps(a)) == a, dict(**a.s)['z']],
    'missing': [Config(file='/nowhere.ini') == {}, value_bool('Yes'), value_bool('no')],
}
try:
    a.nothing
except AttributeError as error:
    result['error'] = 'nothing' in str(error)
"""
    assert evaluate(code) == {
        "a": {"s": {"x": 2, "y": "int:3", "z": 3}, "n": 5, "t": {"q": 1}},
        "attr": [2, "int:3", 1],
        "c": {"s": {"x": 1}, "new": 7, "other": 8},
        "new": [7, 8],
        "copies": [True, True, 3],
        "missing": [True, True, False],
        "error": True,
    }
