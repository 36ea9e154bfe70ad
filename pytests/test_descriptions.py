"""What plugins tell of themselves in `/plugins?verbose=1`: docstring, methods and fields."""

from __future__ import annotations

from typing import Any

HEAD = """
'''The file's own docstring.'''
from __future__ import annotations
import dataclasses
import enum
from typing import Annotated, Any, Dict, List, Literal, Optional, TypedDict, Union
from plugincore.baseplugin import BasePlugin
"""


def described(start: Any, source: str) -> tuple[dict[str, Any], Any]:
    """Each plugin's entry by its name, and the server."""
    server = start({"described.py": HEAD + source})
    files = server.get("/plugins?verbose=1").json()["files"]
    assert files[0]["error"] is None, files[0]["error"]
    return {plugin["name"]: plugin for plugin in files[0]["plugins"]}, server


def schemas(plugin: dict[str, Any]) -> dict[str, Any]:
    return {field["name"]: field["schema"] for field in plugin["parameters"]}


def test_the_description_is_the_docstring_of_the_class_else_of_the_handler_else_of_the_file(start):
    plugins, _ = described(
        start,
        '''
class ByClass(BasePlugin):
    """Says it itself.

        More, indented.
    """
    def request_handler(self, **data):
        """Not this."""
class ByHandler(BasePlugin):
    def request_handler(self, **data):
        return 1
    # Written as a docstring, Python 3.13 would not compile it.
    request_handler.__doc__ = "The handler says it. \\ud800"
class ByFile(BasePlugin):
    methods = ("PUT",)
    def request_handler(self, **data):
        return 1
class Odd(BasePlugin):
    __doc__ = 42
    def request_handler(self, **data):
        return 1
''',
    )
    assert plugins["byclass"]["description"] == "Says it itself.\n\nMore, indented."
    assert plugins["byhandler"]["description"] == "The handler says it. \\ud800"
    assert plugins["byfile"]["description"] == plugins["odd"]["description"] == "The file's own docstring."
    assert plugins["byclass"]["methods"] == ["GET", "HEAD", "POST", "OPTIONS"]
    assert plugins["byfile"]["methods"] == ["GET", "HEAD", "POST", "OPTIONS", "PUT"]
    assert plugins["byclass"]["parameters"] == []


def test_fields_come_from_the_hints_and_defaults_of_the_handler(start):
    plugins, _ = described(
        start,
        """
class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
class Named(TypedDict, total=False):
    name: str
class Hinted(BasePlugin):
    async def request_handler(self, request, log, who: str, count: int = 1, ratio: float = float("inf"),
                              flag: bool = False, names: List[str] = (), table: Dict[str, int] = None,
                              maybe: Optional[int] = None, unit: Literal["C", "F"] = "C", colour: Colour = Colour.RED,
                              point: Point = None, named: Named = None, either: Union[int, List[int]] = 0,
                              told: Annotated[int, "how many"] = 2, anything: Any = None, bare=3, nothing=None,
                              broken: NoSuchName = "kept", *, keyword: str, **data):
        return 1
""",
    )
    fields = {field["name"]: field for field in plugins["hinted"]["parameters"]}
    assert schemas(plugins["hinted"]) == {
        "who": {"type": "string"},
        "count": {"type": "integer", "default": 1},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean", "default": False},
        "names": {"type": "array", "items": {"type": "string"}},
        "table": {"type": "object", "additionalProperties": {"type": "integer"}},
        "maybe": {"type": ["integer", "null"]},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "point": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "number"}},
            "required": ["x"],
        },
        "named": {"type": "object", "properties": {"name": {"type": "string"}}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}], "default": 0},
        "told": {"type": "integer", "default": 2},
        "anything": {},
        "bare": {"type": "integer", "default": 3},
        "nothing": {},
        "broken": {"default": "kept"},
        "keyword": {"type": "string"},
    }
    assert [name for name, field in fields.items() if field["required"]] == ["who", "keyword"]
    assert [name for name, field in fields.items() if field["in"] == "body"] == ["names", "table", "point", "named"]
    assert fields["told"]["description"] == "how many"


def test_the_class_attribute_wins_over_the_hints(start):
    plugins, _ = described(
        start,
        """
class Mixed(BasePlugin):
    parameters = {
        "town": {"type": str, "description": "where", "required": True, "in": "query", "minLength": 1},
        "days": 3,
        "unit": Literal["C", "F"],
        "lang": "the language",
        "count": "int",
        "any": None,
        "tags": list,
    }
    def request_handler(self, other: int = 1, **data):
        return 1
class Listed(BasePlugin):
    parameters = ["a", "b"]
    def request_handler(self, **data):
        return 1
class Whole(BasePlugin):
    parameters = {
        "type": "object",
        "properties": {"size": {"$ref": "#/$defs/size", "description": "how big"}, "loop": {"$ref": "#/$defs/loop"}},
        "required": ["size"],
        "$defs": {
            "size": {"type": "integer", "minimum": 1},
            "loop": {"type": "object", "properties": {"loop": {"$ref": "#/$defs/loop"}}},
        },
    }
    def request_handler(self, **data):
        return 1
""",
    )
    assert plugins["mixed"]["parameters"][0] == {
        "name": "town",
        "in": "query",
        "required": True,
        "description": "where",
        "schema": {"type": "string", "minLength": 1},
    }
    assert schemas(plugins["mixed"]) == {
        "town": {"type": "string", "minLength": 1},
        "days": {"type": "integer", "default": 3},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "lang": {},
        "count": {"type": "integer"},
        "any": {},
        "tags": {"type": "array"},
    }
    assert plugins["mixed"]["parameters"][3]["description"] == "the language"
    assert [field["name"] for field in plugins["listed"]["parameters"]] == ["a", "b"]
    size, loop = plugins["whole"]["parameters"]
    assert size == {
        "name": "size",
        "in": "either",
        "required": True,
        "description": "how big",
        "schema": {"type": "integer", "minimum": 1},
    }
    assert loop["schema"]["properties"]["loop"]["type"] == "object"


def test_parameters_that_make_no_sense_are_a_warning_and_no_failure(start):
    plugins, server = described(
        start,
        """
class Broken(BasePlugin):
    parameters = {"good": int, "bad": {"type": "no such type"}, "worse": {"minimum": "low"}, "odd": [1, 2]}
    def request_handler(self, **data):
        return 1
class Nonsense(BasePlugin):
    parameters = [1, 2]
    def request_handler(self, fallback: int = 1, **data):
        return 1
class OfItsOwn(BasePlugin):
    @property
    def parameters(self):
        return 'mine'
    def request_handler(self, **data):
        return self.parameters
""",
    )
    assert schemas(plugins["broken"]) == {"good": {"type": "integer"}, "bad": {}, "worse": {}, "odd": {}}
    assert schemas(plugins["nonsense"]) == {"fallback": {"type": "integer", "default": 1}}
    assert server.get("/ofitsown").text == "mine"
    server.wait_for_log("the field 'bad' of `parameters` is not understood: `type` is 'no such type'")
    server.wait_for_log("the field 'worse' of `parameters` is not understood: `minimum` is 'low'")
    server.wait_for_log("nonsense: its class attribute `parameters` is not understood")
    assert "ofitsown: its" not in server.log


def test_a_plugin_says_itself_that_it_takes_what_follows_its_name(start):
    plugins, server = described(
        start,
        """
class Says(BasePlugin):
    parameters = {"subpath": "the file", "request": str, "town": str}
    def request_handler(self, **data):
        return 1
class Lists(BasePlugin):
    parameters = ["subpath"]
    def request_handler(self, **data):
        return 1
class Guessed(BasePlugin):
    def request_handler(self, **data):
        return data["subpath"]
class Neither(BasePlugin):
    def request_handler(self, **data):
        return 1
""",
    )
    assert list(schemas(plugins["says"])) == ["town"] and plugins["lists"]["parameters"] == []
    paths = server.get("/-/openapi.json").json()["paths"]
    with_subpath = {path.split("/")[1] for path in paths if path.endswith("/{subpath}")}
    assert with_subpath == {"says", "lists", "guessed"}
