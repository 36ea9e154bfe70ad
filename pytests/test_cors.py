"""Cross-origin requests: contract, section 6."""

HELLO = """
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        self.log.info('handler ran')
        return 'hello'
"""
GOOD, OTHER = "https://good.example", "https://other.example"


def preflight(server, origin, path="/hello"):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-custom-auth, content-type",
    }
    return server.request("OPTIONS", path, headers=headers)


def fetch(server, origin, path="/hello"):
    return server.request("GET", path, headers={"Origin": origin})


def test_listed_origins_get_the_headers_and_others_none(start):
    for value in (f"{GOOD}|https://b.example", f"list:{GOOD} https://b.example"):
        server = start({"hello.py": HELLO}, ini=f"[cors]\nenabled=true\norigin_url={value}\n")
        for origin in (GOOD, "https://b.example"):
            reply = fetch(server, origin)
            assert (reply.status, reply.text) == (200, "hello")
            assert reply.headers["Access-Control-Allow-Origin"] == origin
            assert reply.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Content-Length" in reply.headers["Access-Control-Expose-Headers"]
            assert "Origin" in reply.headers["Vary"]
        for reply in (fetch(server, OTHER), server.get("/hello"), fetch(server, "null")):
            assert (reply.status, reply.text) == (200, "hello")
            assert reply.headers["Access-Control-Allow-Origin"] is None
            assert "Origin" in reply.headers["Vary"]


def test_a_preflight_needs_no_key_and_no_python(start):
    ini = f"[cors]\nenabled=true\norigin_url={GOOD}\n[plugin_parms]\nhello=auth_type=plugin&apikey=secret-1\n"
    server = start({"hello.py": HELLO}, ini=ini)
    for path in ("/hello", "/plugins", "/nowhere"):
        reply = preflight(server, GOOD, path)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["Access-Control-Allow-Origin"] == GOOD
        assert reply.headers["Access-Control-Allow-Methods"] == "POST"
        assert reply.headers["Access-Control-Max-Age"] == "3600"
        allowed = reply.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert set(allowed) == {"authorization", "content-type", "x-requested-with", "x-custom-auth", "accept"}
    assert preflight(server, OTHER).headers["Access-Control-Allow-Origin"] is None
    assert "handler ran" not in server.log
    reply = fetch(server, GOOD)
    assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (403, GOOD)


def test_with_an_acl_hosts_under_a_domain_pass_and_others_are_refused(start):
    server = start({"hello.py": HELLO}, ini=f"[cors]\nenabled=1\norigin_url={GOOD}\nacl=list:example.org\n")
    for origin in (GOOD, "http://example.org:8080", "https://deep.down.example.org"):
        assert fetch(server, origin).headers["Access-Control-Allow-Origin"] == origin
    for origin in (OTHER, "https://notexample.org", "https://example.org.evil"):
        reply = fetch(server, origin)
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (403, None)
        assert reply.json()["error"]
        assert preflight(server, origin).status == 403
    assert server.get("/hello").status == 200


def test_disabled_means_disabled(start):
    for value in ("bool:false", "false", "no"):
        server = start({"hello.py": HELLO}, ini=f"[cors]\nenabled={value}\norigin_url={GOOD}\n")
        reply = fetch(server, GOOD)
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"], reply.headers["Vary"]) == (200, None, None)
        assert preflight(server, GOOD).status == 204
