"""`/-/openapi.json` as the public validator and schemathesis see it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

PLUGINS = '''
"""Plugins of every kind."""
import enum
from typing import Dict, List, Literal, Optional
from plugincore.baseplugin import BasePlugin

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Greet(BasePlugin):
    """Greets whoever asks.

    In as many words as they like.
    """
    async def request_handler(self, name: str, times: int = 1, colour: Colour = Colour.RED, **data):
        return {"greeting": f"hello {name}", "times": times}

class Sums(BasePlugin):
    parameters = {
        "type": "object",
        "properties": {"numbers": {"type": "array", "items": {"type": "number"}}, "unit": {"enum": ["m", "km"]}},
        "required": ["numbers"],
    }
    methods = ("PUT", "DELETE", "PURGE")
    def request_handler(self, numbers=(), **data):
        return {"sum": sum(numbers)}

class Deep(BasePlugin):
    """Takes the rest of its path."""
    def request_handler(self, subpath, depth: Optional[int] = None, **data):
        return {"subpath": subpath}

class Anything(BasePlugin):
    async def request_handler(self, **data):
        return {"fields": sorted(name for name in data if name not in ("request", "request_headers", "log"))}

class Chosen(BasePlugin):
    async def request_handler(self, kind: Literal["good", "bad"] = "good", **data):
        return "chosen"

class Guarded(BasePlugin):
    def _check_auth(self, data):
        return data.get("secret") == "open sesame"
    async def request_handler(self, **data):
        return "in"
'''

ODD = """
from plugincore.baseplugin import BasePlugin
class Odd(BasePlugin):
    parameters = {"a b": str, "ü": {"type": "string", "pattern": "^[a-z]+$"}}
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._plugin_id = "odd/{braces} and ü"
    async def request_handler(self, **data):
        return "odd"
class Metrics(BasePlugin):
    async def request_handler(self, **data):
        return "in the probe's place"
"""


def described(server: Any, path: str = "/-/openapi.json") -> dict[str, Any]:
    reply = server.get(path)
    assert reply.status == 200, reply.text
    document = reply.json()
    OpenAPIV31SpecValidator(document).validate()
    return document


def test_the_description_is_valid_and_tells_what_plugins_take(start):
    server = start({"plugins.py": PLUGINS, "odd.py": ODD})
    document = described(server)
    paths = document["paths"]
    assert document["servers"] == [{"url": f"http://127.0.0.1:{server.port}"}]
    greet = paths["/greet"]
    assert greet["get"]["summary"] == "Greets whoever asks."
    assert greet["get"]["description"] == "Greets whoever asks.\n\nIn as many words as they like."
    query = {parameter["name"]: parameter for parameter in greet["get"]["parameters"]}
    assert query["name"]["required"] and query["name"]["schema"] == {"type": "string"}
    assert not query["times"]["required"] and query["times"]["schema"] == {"type": "integer", "default": 1}
    assert query["colour"]["schema"]["enum"] == ["red", "blue"]
    body = greet["post"]["requestBody"]
    assert body["required"] and set(body["content"]) == {"application/json", "application/x-www-form-urlencoded"}
    assert body["content"]["application/json"]["schema"]["required"] == ["name"]
    assert "parameters" not in greet["post"]
    assert set(paths["/sums"]) == {"get", "post", "put", "delete"}
    assert [field["name"] for field in paths["/sums"]["get"]["parameters"]] == ["unit"]
    assert set(paths["/sums"]["put"]["requestBody"]["content"]) == {"application/json"}
    assert "/deep/{subpath}" in paths and "/greet/{subpath}" not in paths
    assert "/odd/%7Bbraces%7D%20and%20%C3%BC" in paths
    assert paths["/metrics"]["get"]["tags"] == ["plugins"] and paths["/livez"]["get"]["tags"] == ["probes"]
    assert paths["/reload/{plugin}"]["get"]["tags"] == ["control"]
    assert "403" not in greet["get"]["responses"] and "403" in paths["/guarded"]["get"]["responses"]
    assert "504" not in greet["get"]["responses"]
    # A head that cannot be read is no matter of the route.
    assert all("400" in operation["responses"] for item in paths.values() for operation in operations(item))


def operations(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for method, operation in item.items() if method != "parameters"]


def test_each_plugin_names_the_key_that_it_asks_for(start):
    ini = "[auth]\napikey=global-key\n[limits]\nrequest_timeout=5\n"
    ini += "[plugin_parms]\nplugins=auth_type=plugin&apikey=own-key\n"
    server = start({"plugins.py": PLUGINS, "odd.py": ODD}, ini)
    assert server.get("/-/openapi.json").status == 403
    document = described(server, "/-/openapi.json?apikey=global-key")
    paths = document["paths"]
    assert paths["/greet"]["get"]["security"] == [{f"plugin_{way}": []} for way in ("bearer", "header", "query")]
    assert paths["/plugins"]["get"]["security"] == [{f"global_{way}": []} for way in ("bearer", "header", "query")]
    assert paths["/metrics"]["get"]["security"] == paths["/livez"]["get"]["security"] == []
    schemes = document["components"]["securitySchemes"]
    assert schemes["plugin_bearer"]["scheme"] == "bearer" and schemes["global_header"]["name"] == "X-Custom-Auth"
    assert "403" in paths["/greet"]["get"]["responses"] and "504" in paths["/greet"]["get"]["responses"]
    assert "global-key" not in str(document) and "own-key" not in str(document)


def test_the_address_is_the_one_that_a_trusted_proxy_names(start):
    server = start({"plugins.py": PLUGINS})
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "api.example"}
    document = server.request("GET", "/-/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": "https://api.example"}]
    server = start({"plugins.py": PLUGINS}, "[server]\ntrusted_proxies=10.0.0.0/8\n")
    document = server.request("GET", "/-/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": f"http://127.0.0.1:{server.port}"}]


def test_it_can_be_switched_off_and_gives_way_to_a_plugin(start):
    server = start({"plugins.py": PLUGINS}, "[server]\nopenapi=false\n")
    assert server.get("/-/openapi.json").status == 404
    server = start({"odd.py": ODD.replace("odd/{braces} and ü", "-")})
    assert server.get("/-/openapi.json").text == "odd"


def test_only_get_and_head_are_answered(start):
    server = start({"plugins.py": PLUGINS})
    reply = server.post("/-/openapi.json", "{}")
    assert reply.status == 405 and reply.headers["Allow"] == "GET, HEAD"
    assert server.request("HEAD", "/-/openapi.json").status == 200


@pytest.mark.parametrize("with_key", [False, True])
def test_schemathesis_finds_that_answers_are_as_described(start, with_key):
    ini = "[auth]\napikey=global-key\n" if with_key else ""
    server = start({"plugins.py": PLUGINS, "odd.py": ODD}, ini)
    headers = {"Authorization": "Bearer global-key"}
    address = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{address}/-/openapi.json", headers=headers)
    # A description that is driven does not take its own plugins away.
    schema = schema.exclude(path_regex="^/(un)?load/|^/reload/")
    driven = set()

    def drive(operation: Any) -> None:
        @settings(max_examples=6, database=None, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call(base_url=address, headers=headers, timeout=30)
            case.validate_response(response, checks=CHECKS)

        check()
        driven.add(operation.label)

    for result in schema.get_all_operations():
        drive(result.ok())
    assert {"GET /greet", "PUT /sums", "GET /deep/{subpath}", "GET /livez", "POST /plugins"} <= driven
