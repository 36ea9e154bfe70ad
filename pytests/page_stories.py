"""How a reader would try what each page of the documentation shows: one function for each page that shows something."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from conftest import BINARY, PATIENCE, ROOT, Server
from pages import ADDRESS, Scene, is_shown, parts_of

Story = Callable[[Scene], None]
STORIES: dict[str, Story] = {}


def story(page: str) -> Callable[[Story], Story]:
    """How a reader would try what this page shows."""

    def add(function: Story) -> Story:
        STORIES[page] = function
        return function

    return add


def with_samples(scene: Scene, *names: str) -> None:
    for name in names:
        scene.write(f"plugins/{name}", (ROOT / "python_plugins" / name).read_text())


@story("README.md")
def _(scene: Scene) -> None:
    shutil.copytree(ROOT / "python_plugins", scene.folder / "python_plugins")
    scene.variables["PSERVE_PATHS_PLUGINS"] = "python_plugins"
    scene.places["target/release/pserve"] = "pserve"
    teaser = scene.skip("curl 'http://127.0.0.1:9192/greet?name=Ada'")
    scene.serve((ROOT / "config.ini").read_text())
    for path in ("hello", "systeminfo/ram", "systeminfo", "plugins"):
        assert scene.run(f"curl {ADDRESS}/{path}").startswith("{")
    scene.write("python_plugins/greet.py", scene.take("python", "# python_plugins/greet.py"))
    assert json.loads(scene.run(f"curl {ADDRESS}/load/greet"))["success"]
    scene.left.insert(0, teaser)
    scene.run("curl 'http")
    scene.stop()

    (scene.folder / "python_plugins" / "greet.py").unlink()
    scene.run("target/release/pserve new greet")
    assert (scene.folder / "python_plugins" / "greet.py").is_file()
    scene.skip("target/release/pserve dev")
    del scene.variables["PSERVE_PATHS_PLUGINS"]
    scene.serve("", "dev", "--port", "0", ready="ready after")
    assert scene.run("curl 'http") == scene.run("curl -d") == '{"hello":"Ada"}'


@story("docs/development.md")
def _(scene: Scene) -> None:
    scene.run("pserve new greet")
    scene.places["/home/ada"] = str(scene.folder)
    good = readme_plugin().split("\n", 1)[1]
    plugin = scene.write("plugins/greet.py", good)
    shown = scene.skip("pserve dev").output
    server = scene.serve("", "dev", "--port", "0", ready="ready after")
    assert server.get("/greet?name=Ada").status == 200
    server.wait_for_log(r"/greet\?name=Ada")
    plugin.write_text(good + "\n")
    server.wait_for_log("reloaded greet.py")
    assert_shown(shown, scene.there(server.log))

    before = len(server.log)
    plugin.write_text(good.replace("}", ""))
    server.wait_for_log(r"\^\n")
    assert_shown(scene.skip("10:03:02  greet.py does not load").text, scene.there(server.log[before:]))
    shown, answer = json.loads(scene.skip('{"error"').text), json.loads(scene.there(server.get("/greet").text))
    assert list(answer) == list(shown)
    for name in shown.keys() - {"source", "traceback"}:
        assert answer[name] == shown[name], name
    assert answer["source"][0] == shown["source"][0] and answer["traceback"].strip().endswith(
        shown["message"].split(" (")[0]
    )

    plugin.write_text(good)
    server.wait_for_log("mended greet.py.*\n")
    [mended] = re.findall("^.*mended greet.py.*$", server.log, re.MULTILINE)
    assert_shown(scene.skip("10:03:40  mended greet.py").text, scene.there(mended))


def readme_plugin() -> str:
    return next(part.text for part in parts_of("README.md") if part.first == "# python_plugins/greet.py")


def assert_shown(shown: str, printed: str) -> None:
    assert is_shown(shown, printed), f"{shown}\nis shown, and this is so:\n{printed}"


@story("docs/page.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    server = scene.serve(scene.take("ini"))
    assert "<html" in server.get("/-/").text
    # The stream has no end of its own.
    command = scene.here(scene.skip("curl -sN").text)
    assert scene.shell(f"{command} | head -n 1").stdout == "event: hello\n"


@story("docs/commands.md")
def _(scene: Scene) -> None:
    shutil.copytree(ROOT / "python_plugins", scene.folder / "python_plugins")
    scene.variables["PSERVE_PATHS_PLUGINS"] = "python_plugins"
    scene.run("pserve call hello name=Ada")
    scene.run('echo \'{"name": "Ada"}\' | pserve call')
    crash = "    def request_handler(self, **data):\n        __import__('ctypes').string_at(0)\n"
    source = f"from plugincore.baseplugin import BasePlugin\n\n\nclass Greeter(BasePlugin):\n{crash}"
    scene.write("python_plugins/greeter.py", source)
    scene.run("pserve call greeter")
    (scene.folder / "python_plugins" / "greeter.py").unlink()
    scene.serve("[plugin_parms]\nsysteminfo=interval=3\n")
    scene.run("pserve plugins")


@story("docs/check.md")
def _(scene: Scene) -> None:
    handler = "    async def request_handler(self, **data):\n        return {}\n"
    source = f"from plugincore.baseplugin import BasePlugin\n\n\nclass Hello(BasePlugin):\n{handler}"
    scene.write("plugins/hello.py", source)
    scene.write("plugins/meter.py", "import serial\n")
    (scene.folder / "venv").symlink_to(sys.prefix)
    ini = "[paths]\nplugins = /srv/plugins\n[python]\nvenv = /srv/venv\n\n"
    ini += "[plugin_parms]\n\nhello = auth=plugin&apikey=a-long-secret\n[limits]\nbdy = 5\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scene.variables["PSERVE_NETWORK_PORT"] = str(port)
    scene.places.update({"/srv": str(scene.folder), "127.0.0.1:9192": f"127.0.0.1:{port}"})
    scene.write("pserve.ini", scene.here(ini))
    scene.run("pserve check", status=1)


@story("docs/calling.md")
def _(scene: Scene) -> None:
    scene.plugin("weather.py", "# python_plugins/weather.py")
    onward = scene.take("python", "headers = ").strip()
    source = "from plugincore.baseplugin import BasePlugin\nclass Onward(BasePlugin):\n"
    source += f"    async def request_handler(self, request, **data):\n        {onward}\n        return headers\n"
    scene.write("plugins/onward.py", source)
    server = scene.serve(scene.take("ini"))
    reply = server.get("/onward")
    assert reply.json() == {"X-Request-Id": reply.headers["X-Request-Id"]}
    scene.run_all()

    printed = program(scene, ["sh", "-c"], scene.take("sh"))
    assert printed == "day 0: 20 °C\nday 1: 21 °C\nday 2: 22 °C\nno weather: no town Atlantis\n"
    printed = program(scene, [sys.executable, "-c"], scene.take("python", "import json"))
    assert re.fullmatch(r"21\n404: no town Atlantis \(request [0-9a-z]{8}-\d+\)\n", printed), printed
    printed = program(scene, [sys.executable, "-c"], scene.take("python", "import requests"))
    assert printed == "Oslo [20, 21]\nRome [20, 21]\n"
    printed = from_a_page(scene, "https://app.example.org", scene.take("javascript"))
    assert re.fullmatch(r"\[ 20, 21 \]\n404: no town Atlantis \(request [0-9a-z]{8}-\d+\)\n", printed), printed


def program(scene: Scene, command: list[str], text: str) -> str:
    done = scene.shell(shlex.join([*command, text]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def from_a_page(scene: Scene, origin: str, script: str) -> str:
    """Node has no origin of its own: what a browser would ask and insist on is asked and insisted on here."""
    as_page = f"""
const realFetch = globalThis.fetch;
globalThis.fetch = async (address, options) => {{
  const names = Object.keys(options.headers).map((name) => name.toLowerCase()).sort();
  const asked = {{
    "Origin": "{origin}",
    "Access-Control-Request-Method": options.method ?? "GET",
    "Access-Control-Request-Headers": names.join(","),
  }};
  const preflight = await realFetch(address, {{method: "OPTIONS", headers: asked}});
  const allowed = preflight.headers.get("Access-Control-Allow-Headers").toLowerCase().split(/, */);
  const isAllowed = preflight.ok && names.every((name) => allowed.includes(name));
  if (!isAllowed || preflight.headers.get("Access-Control-Allow-Origin") !== "{origin}") throw new Error("preflight");
  const answer = await realFetch(address, {{...options, headers: {{...options.headers, "Origin": "{origin}"}}}});
  if (answer.headers.get("Access-Control-Allow-Origin") !== "{origin}") throw new Error("answer");
  const exposed = answer.headers.get("Access-Control-Expose-Headers").toLowerCase().split(/, */);
  if (!exposed.includes("x-request-id")) throw new Error("the id cannot be read");
  return answer;
}};
"""
    return program(scene, ["node", "--input-type=module", "--eval"], as_page + script)


@story("docs/cors.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    server = scene.serve(scene.take("ini"))
    origins = ("https://app.example.org", "https://admin.example.org", "https://example.net")
    assert [allowed(server, origin) for origin in origins] == [origins[0], origins[1], None]
    scene.places["https://pserve.example.org"] = scene.places[ADDRESS]
    script = 'const key = "none";\n' + scene.take("javascript")
    assert from_a_page(scene, origins[0], script) == "{ hello: 'world' }\n"
    scene.stop()
    server = scene.serve(scene.take("ini"))
    assert [allowed(server, origin) for origin in origins] == list(origins)
    assert server.request("GET", "/hello", headers={"Origin": "https://example.com"}).status == 403


def allowed(server: Server, origin: str) -> str | None:
    return server.request("GET", "/hello", headers={"Origin": origin}).headers["Access-Control-Allow-Origin"]


@story("docs/authentication.md")
def _(scene: Scene) -> None:
    scene.write("plugins/greet.py", readme_plugin())
    with_samples(scene, "systeminfo.py")
    scene.variables["PSERVE_KEY"] = "everywhere"
    server = scene.serve(scene.take("ini"))
    while any(part.language == "console" for part in scene.left):
        assert scene.run() == '{"hello":"world"}'
    assert server.get("/greet").status == server.get("/systeminfo/ram").status == server.get("/plugins").status == 403
    assert server.get("/systeminfo/ram?apikey=everywhere").status == 200


@story("docs/bodies.md")
def _(scene: Scene) -> None:
    scene.plugin("upload.py")
    server = scene.serve()
    assert server.post("/upload", b"x" * 3_000_000, "application/octet-stream").json() == {"size": 3_000_000}
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n%b\r\n--b--\r\n' % (b"x" * 2_000_000)
    assert server.post("/form", form, "multipart/form-data; boundary=b").text == "thanks"


@story("docs/configuration.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    scene.places["/run/pserve"] = str(scene.folder)
    scene.serve(scene.take("ini"))
    socket = scene.folder / "pserve.sock"
    assert socket.stat().st_mode & 0o777 == 0o660
    assert scene.shell(f"curl -s --unix-socket {socket} http://pserve/hello").stdout == '{"hello":"world"}'


@story("docs/contributing.md")
def _(scene: Scene) -> None:
    scene.run("make help", cwd=ROOT)


@story("docs/documents.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    scene.places["/srv"] = str(scene.folder)
    scene.write("documentation/index.html", "<p>start")
    assert scene.serve(scene.take("ini")).get("/docs/").text == "<p>start"


@story("docs/fileserve.md")
def _(scene: Scene) -> None:
    with_samples(scene, "fileserve.py")
    scene.places.update({"/srv": str(scene.folder), "/var/log": str(scene.folder / "log")})
    (scene.folder / "log" / "pserve").mkdir(parents=True)
    scene.write("documentation/envelope.html", "<title>@TITLE@</title>@CSS@@BODY@")
    scene.write("documentation/page.md", "# Here\n\n@INCLUDE=part.md@\n")
    scene.write("documentation/part.md", "*part*")
    scene.variables["VIRTUAL_ENV"] = sys.prefix
    server = scene.serve(scene.take("ini"))
    page = server.get("/docs/page.md").text
    assert "<title>Here</title>" in page and "/docs/style.css" in page and "<em>part</em>" in page
    assert "INCLUDE" in (scene.folder / "log" / "pserve" / "docs.log").read_text()


@story("docs/install.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    scene.places["/opt/plugins"] = str(scene.folder)
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    scene.variables["PATH"] = f"{scene.folder}/bin:{os.environ['PATH']}"
    (scene.folder / "bin" / "python3").symlink_to(base)
    scene.run("python3 -m venv")
    scene.serve(scene.take("ini", "[python]"))
    scene.run(f"curl {ADDRESS}/hello")
    scene.write(
        "plugins/greet.py", "from plugincore.baseplugin import BasePlugin\nclass Greet(BasePlugin):\n    pass\n"
    )
    assert json.loads(scene.run(f"curl {ADDRESS}/load/greet"))["success"]
    unit = (ROOT / "docs" / "deploy" / "pserve.service").read_text()
    verify(scene, unit, scene.take("ini", "[Service]"))


def verify(scene: Scene, unit: str, changes: str) -> None:
    """systemd, where it is, knows all that is changed in the unit."""
    if shutil.which("systemd-analyze") is None:
        assert all(re.match(r"\[Service\]|[A-Z]\w+=\S+", line) for line in changes.splitlines()), changes
        return
    unit = unit.replace("/usr/local/bin/pserve", str(scene.folder / "bin" / "pserve"))
    scene.write("pserve.service", unit)
    scene.write("pserve.service.d/override.conf", changes)
    done = scene.shell("systemd-analyze verify --man=no ./pserve.service")
    assert [line for line in done.stderr.splitlines() if "override.conf" in line] == [], done.stderr


@story("docs/make-install.md")
def _(scene: Scene) -> None:
    scene.run("pserve generate man")
    assert ".TH PSERVE 1" in (scene.folder / "pserve.1").read_text()
    scene.run("pserve generate completions bash")
    assert "complete -F _pserve" in (scene.folder / "pserve").read_text()


@story("docs/metrics.md")
def _(scene: Scene) -> None:
    promtool = shutil.which("promtool") or str(ROOT / ".venv" / "bin" / "promtool")
    scene.write("prometheus.yml", scene.take("yaml"))
    queries = [query for query in re.split(r"\n\n|^#.*\n|\n#.*\n", scene.take("promql")) if query.strip()]
    assert len(queries) == 4
    rules = [{"record": f"query{number}", "expr": query.strip()} for number, query in enumerate(queries)]
    scene.write("queries.yml", yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    for kind, file in (("config", "prometheus.yml"), ("rules", "queries.yml")):
        done = scene.shell(f"{promtool} check {kind} {file}")
        assert done.returncode == 0, done.stderr
    with_samples(scene, "hello.py")
    told = set(re.findall(r"^# TYPE (\w+)", scene.serve().get("/metrics").text, re.MULTILINE))
    for name in re.findall(r"pserve_\w+", " ".join(queries)):
        assert re.sub("_(bucket|count)$", "", name) in told, name


@story("docs/operate.md")
def _(scene: Scene) -> None:
    fail = "    async def request_handler(self, **data):\n        raise ValueError('oops')\n"
    for name in ("hello", "chatter"):
        source = f"from plugincore.baseplugin import BasePlugin\nclass {name.title()}(BasePlugin):\n{fail}"
        scene.write(f"plugins/{name}.py", source)
    options = scene.take("ini", "[plugin_options]")
    log = f"[server]\naccess_log={scene.folder}/access.log\naccess_log_format=json\n"
    server = scene.serve(options + log)
    assert server.get("/hello?name=x").status == 500
    scene.places["/etc/pserve"] = str(scene.folder)
    top = scene.skip("pserve top")
    printed = scene.shell(scene.here(top.text) + " --once --interval 0.2").stdout
    headings = [re.split(" +", line) for line in top.output.splitlines() if line.startswith(("PLUGIN", "WORKER"))]
    assert [line.split() for line in printed.splitlines() if line.startswith(("PLUGIN", "WORKER"))] == headings, printed
    words = [re.findall(r"[a-z/]{3,}?(?=s?\b)", text.splitlines()[1]) for text in (top.output, printed)]
    assert words[0] == words[1], printed
    server.stop()
    line = json.loads((scene.folder / "access.log").read_text().splitlines()[0])
    shown = json.loads(scene.take("json"))
    assert list(shown) == [*line, "user_agent"] and [type(shown[name]) for name in line] == [
        type(value) for value in line.values()
    ]
    scene.stop()

    # jq reads what the server has written until then: in the pipe it would go on for ever.
    command, reader = scene.skip("pserve --log-format json | jq").text.split("|", 1)
    server = Server(scene.folder, scene.variables, shlex.split(command)[1:], "serves http")
    scene.servers.append(server)
    assert server.get("/hello").status == server.get("/chatter").status == 500
    server.wait_for_log('"plugin":"hello".*"traceback"')
    printed = scene.shell(reader, stdin=None, input=server.log).stdout
    assert printed.startswith("Traceback") and "plugins/hello.py" in printed and "chatter" not in printed, printed


@story("docs/responses.md")
def _(scene: Scene) -> None:
    scene.places["/srv"] = str(scene.folder)
    scene.plugin("report.py", "from aiohttp import web")
    scene.plugin("ticks.py")
    scene.plugin("echo.py")
    scene.write("reports/latest.pdf", "%PDF")
    scene.serve()
    assert scene.shell(scene.here(f"curl -sL {ADDRESS}/report")).stdout == "%PDF"
    assert scene.shell(scene.here(f"curl -sN {ADDRESS}/ticks | head -n 1")).stdout == "data: 0\n"
    from websockets.sync.client import connect

    with connect(scene.here(f"{ADDRESS}/echo").replace("http", "ws")) as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "echo hello"


@story("docs/sessions.md")
def _(scene: Scene) -> None:
    with_samples(scene, "sessman.py")
    scene.places["/var/lib/pserve"] = str(scene.folder)
    scene.serve(scene.take("ini"))
    scene.run()
    assert json.loads(scene.run())["data"] == {"user": "ada", "theme": "dark"}
    assert json.loads(scene.run())["data"] == {"user": "ada", "theme": "dark"}


@story("docs/testing-plugins.md")
def _(scene: Scene) -> None:
    scene.write("plugins/greet.py", readme_plugin())
    scene.write("tests/test_greet.py", scene.take("python"))
    scene.write("script.py", "import sys\nfrom greet import Greet\nprint(sys.argv[1], Greet.__name__)\n")
    scene.variables["VIRTUAL_ENV"] = sys.prefix
    assert "1 passed" in scene.run("pserve python -m pytest")
    assert scene.run("pserve python script.py") == "argument Greet\n"
    assert "class BasePlugin" in scene.run("pserve python -c")
    scene.run("pserve python  ")
    scene.run("pserve stubs")
    assert (scene.folder / "typings/plugincore/baseplugin.pyi").is_file()


@story("docs/tls.md")
def _(scene: Scene) -> None:
    with_samples(scene, "hello.py")
    scene.places["/etc/pserve"] = str(scene.folder)
    made = "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.pem -days 90 -subj /CN=localhost"
    assert scene.shell(made + " -addext subjectAltName=DNS:localhost").returncode == 0
    server = scene.serve(scene.take("ini"))
    command = f"curl -sS --cacert server.pem --noproxy '*' https://localhost:{server.port}/hello"
    done = scene.shell(command)
    assert done.stdout == '{"hello":"world"}', done.stderr


@story("docs/usage.md")
def _(scene: Scene) -> None:
    for line in scene.take("").splitlines():
        command = re.split(r" {2,}", line)[0]
        help_of(command)


@story("docs/writing-plugins.md")
def _(scene: Scene) -> None:
    scene.plugin("counter.py", "from plugincore.baseplugin import BasePlugin")
    scene.plugin("weather.py", "from typing import")
    hints = (
        "from typing import Literal, Optional\nfrom plugincore.baseplugin import BasePlugin\nclass Hints(BasePlugin):\n"
    )
    scene.write("plugins/hints.py", hints + scene.take("python", "async def request_handler"))
    server = scene.serve("[plugin_parms]\ncounter=start=4\n")
    assert server.get("/counter").json() == {"count": 5}
    assert server.get("/weather?town=Oslo&days=2").json() == {"town": "Oslo", "days": 2}
    operations = server.get("/-/openapi.json").json()["paths"]
    for path in ("/weather", "/hints"):
        told = {field["name"]: field.get("required", False) for field in operations[path]["get"]["parameters"]}
        assert told["town"] and {"days", "unit"} <= set(told), told


@story("docs/architecture.md")
def _(scene: Scene) -> None:
    """The map names every folder of src, and no file that is not there."""
    told = scene.take("text")
    folders = {path.name for path in (ROOT / "src").rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert folders - set(re.findall(r"\w+(?=/)", told)) == set()
    files = {path.name for path in [ROOT / "build.rs", *(ROOT / "src").rglob("*.rs")]}
    assert set(re.findall(r"\w+\.rs", told)) - files == set()


def help_of(command: str) -> None:
    """The command line is read by the program, but for its last word."""
    values = {
        "FILE": str(ROOT / "config.ini"),
        "your.ini": str(ROOT / "config.ini"),
        "LEVEL": "INFO",
        "FORM": "text",
        "N": "0",
    }
    words = [re.sub(r"[][]|\.\.\.$", "", word) for word in command.split("pserve ")[1].split()]
    words = [values.get(word, word) for word in words if word]
    done = subprocess.run([BINARY, *words, "--help"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
