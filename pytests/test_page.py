"""The live page in a real browser: Debian's chromium, driven by Playwright, with nothing else to reach."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
PATIENCE_MS = 30_000

# Nothing that a browser does by itself may leave the machine.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
QUIET += ["--disable-quic", "--disable-gpu", "--no-sandbox"]

GREETER = '''
from plugincore.baseplugin import BasePlugin
class Greeter(BasePlugin):
    """Greets whoever calls."""
    async def request_handler(self, **data):
        if data.get('fail'):
            raise ValueError('asked to fail')
        self.log.info('greets %s', data.get('name'))
        return {'hello': data.get('name', 'world'), 'method': self.calls}
    calls = 'first version'
'''

ON = "[server]\npage=bool:true\n"

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "there is no chromium; .ci/prepare test installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


class Watched:
    """A page, with what it asked for and what its console said."""

    def __init__(self, page: Page, server: Any) -> None:
        self.page = page
        self.origin = f"http://127.0.0.1:{server.port}"
        self.requests: list[Request] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and self.said.append(message.text))

    def check(self) -> None:
        """Nothing came from elsewhere, nothing was forbidden by the policy, no key was in an address."""
        for request in self.requests:
            assert request.url.startswith(self.origin + "/"), request.url
            assert "opensesame" not in request.url, request.url
        # The browser notes each answer of 4xx or 5xx that a test asked for.
        assert [text for text in self.said if not text.startswith("Failed to load resource")] == []


Show = Callable[..., Watched]


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    shown: list[Watched] = []

    def show_page(server: Any, **options: Any) -> Watched:
        page = browser.new_page(**options)
        page.set_default_timeout(PATIENCE_MS)
        watched = Watched(page, server)
        shown.append(watched)
        page.goto(f"{watched.origin}/-/")
        return watched

    yield show_page
    for watched in shown:
        watched.check()
        watched.page.close()


def live(page: Page) -> None:
    expect(page.locator("#link")).to_have_text("Live")


def row(page: Page, name: str) -> Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=f"/{name}"))


def audit(page: Page) -> None:
    """No violation of WCAG 2.2 AA or of axe's best practices."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
    assert told == []
    assert len(found["passes"]) > 20


def test_a_plugin_is_tried(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    page.get_by_role("button", name="Try greeter").click()
    page.get_by_label("Name of the field").fill("name")
    page.get_by_label("Value of the field").fill("Ada's")
    expect(page.locator("#curl")).to_have_text(f"curl 'http://127.0.0.1:{server.port}/greeter?name=Ada%27s'")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text(re.compile(r"^200 OK · .*ms · \d+ B$"))
    expect(page.locator("#answer-body")).to_contain_text('"hello": "Ada\'s"')
    page.get_by_text("Headers", exact=True).click()
    expect(page.locator("#answer-headers")).to_contain_text("application/json")
    # As JSON, and as JSON of one's own.
    page.get_by_label("Method").select_option("POST")
    expect(page.locator("#curl")).to_contain_text("""--data-raw '{"name":"Ada'\\''s"}'""")
    page.get_by_label("Body", exact=True).select_option("text")
    page.get_by_label("JSON body").fill('{"name": [1')
    expect(page.locator("#try-text-error")).to_contain_text("This is not JSON")
    page.get_by_label("JSON body").fill('{"fail": true}')
    expect(page.locator("#try-text-error")).to_be_empty()
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text("500")
    expect(page.locator("#answer-body")).to_contain_text("asked to fail")
    # Both are in the list of requests, without the query, and in the log.
    rows = page.locator("#request-rows tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(re.compile("POST.*/greeter.*500"))
    expect(rows.nth(1)).to_contain_text(re.compile("GET.*/greeter.*200"))
    expect(page.locator("#log-lines")).to_contain_text("ValueError: asked to fail")
    expect(page.locator("#request-rows")).not_to_contain_text("Ada")
    page.get_by_label("Show").select_option("errors")
    expect(page.locator("#log-lines")).not_to_contain_text("greets")
    expect(row(page, "greeter").get_by_text("Errors so far").locator("xpath=following-sibling::dd")).to_have_text("1")


ODD = """
import asyncio
from aiohttp import web
from plugincore.baseplugin import BasePlugin
class Odd(BasePlugin):
    parameters = {'what': str}
    def __init__(self, **data):
        super().__init__(**data)
        self._plugin_id = 'odd one'
    async def request_handler(self, request=None, what='', **data):
        if what == 'huge': return [{'number': number, 'text': 'x' * 100} for number in range(40_000)]
        if what == 'bytes': return b'\\x00\\x01PNG' + bytes(300)
        if what == 'no json': return web.Response(text='{"a": 1,,}', content_type='application/json')
        if what == 'here': raise web.HTTPFound('/odd%20one?what=no+json')
        if what == 'elsewhere': raise web.HTTPFound('http://192.0.2.1/')
        if what == 'hangs': await asyncio.sleep(1000)
        if what == 'stream':
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b'one more')
                await asyncio.sleep(0.1)
"""


def test_odd_answers_are_told_from_each_other(start, show) -> None:
    server = start({"odd one.py": ODD}, ini=ON)
    watched = show(server)
    page = watched.page
    live(page)
    status, body = page.locator("#answer-status"), page.locator("#answer-body")

    def call(what: str) -> None:
        page.get_by_label("what", exact=True).fill(what)
        page.get_by_role("button", name="Call", exact=True).click()

    expect(page.locator("#curl")).to_contain_text("/odd%20one")
    call("huge")
    expect(status).to_contain_text(re.compile(r"^200 OK · .* · more than \d.\d MB$"))
    expect(body).to_contain_text("… and more")
    call("bytes")
    expect(body).to_contain_text("305 bytes of application/octet-stream, which are not text")
    expect(body).to_contain_text("0000  00 01 50 4e 47 00")
    call("no json")
    expect(body).to_have_text('{"a": 1,,}')
    call("here")
    expect(page.locator("#answer-from")).to_contain_text("/odd%20one?what=no+json, which answers this")
    call("elsewhere")
    expect(status).to_have_text("The answer sends on to another server, where this page does not go")
    assert any("Content Security Policy" in text for text in watched.said)
    watched.said.clear()
    refused = [request for request in watched.requests if request.url == "http://192.0.2.1/"]
    assert [request.failure for request in refused] == ["csp"]
    watched.requests.remove(refused[0])
    call("hangs")
    expect(status).to_have_text("Calling")
    page.get_by_role("button", name="Stop").click()
    expect(status).to_have_text("Stopped")
    call("stream")
    expect(status).to_have_text("200 OK · still coming")
    expect(body).to_contain_text("one more")
    page.get_by_role("button", name="Stop").click()
    expect(status).to_contain_text(re.compile(r"^200 OK · .* B stopped$"))
    expect(body).to_contain_text("one more")


def test_long_texts_break_and_are_cut(start, show) -> None:
    word = "m" * 1500
    source = GREETER.replace("Greets whoever calls.", f"Greets {word}").replace("asked to fail", word)
    server = start({"greeter.py": source, "broken.py": f"raise ValueError('{word}')\n"}, ini=ON)
    page = show(server, viewport={"width": 390, "height": 844}).page
    live(page)
    server.get("/greeter?fail=1")
    expect(page.locator("#log-lines")).to_contain_text(word)
    page.get_by_role("button", name="Details of greeter").click()
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text("200")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    said = page.locator(".trouble .said").text_content()
    assert len(said) < 500 and said.endswith(" …")
    expect(page.get_by_role("region", name="Traceback of broken.py")).to_contain_text(word)


def test_fields_that_a_plugin_tells_of_are_in_the_form(start, show) -> None:
    source = """
from typing import Literal
from plugincore.baseplugin import BasePlugin
class Weather(BasePlugin):
    'The weather of a town.'
    parameters = {
        'town': {'type': 'string', 'description': 'where it is asked for', 'required': True},
        'days': 3,
        'exact': bool,
        'unit': Literal['C', 'F'],
        'lang': {'type': 'string', 'in': 'query'},
    }
    async def request_handler(self, **data):
        return {name: data.get(name) for name in self.parameters}
"""
    server = start({"weather.py": source}, ini=ON)
    page = show(server).page
    live(page)
    expect(row(page, "weather")).to_contain_text("The weather of a town.")
    page.get_by_role("button", name="Details of weather").click()
    expect(page.locator(".parameters")).to_contain_text("where it is asked for")
    expect(page.locator(".parameters")).to_contain_text("integer, 3 if left out")
    page.get_by_label("Method").select_option("POST")
    page.get_by_label("town").fill("7")
    page.get_by_label("days").fill("5")
    page.get_by_label("exact").select_option("true")
    page.get_by_label("unit").select_option("F")
    page.get_by_label("lang").fill("en")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text("200 OK")
    answer = json.loads(page.locator("#answer-body").text_content())
    assert answer == {"town": "7", "days": 5, "exact": True, "unit": "F", "lang": "en"}
    expect(page.locator("#curl")).to_contain_text("/weather?lang=en")


def test_the_curl_line_does_what_the_form_did(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    page.get_by_label("Method").select_option("POST")
    for name, value in {"name": 'it\'s $HOME `id` \\ "x" é', "more": "1"}.items():
        page.get_by_label("Name of the field").last.fill(name)
        page.get_by_label("Value of the field").last.fill(value)
        page.get_by_role("button", name="Add a field").click()
    for body in ["json", "form", "none"]:
        page.get_by_label("Body", exact=True).select_option(body)
        line = page.locator("#curl").text_content()
        # curl itself is not needed: a shell says how it would be called.
        words = subprocess.run(["sh", "-c", f"curl() {{ printf '%s\\n' \"$@\"; }}; {line}"], capture_output=True)
        assert words.returncode == 0 and words.stderr == b"", line
        given = words.stdout.decode().splitlines()
        url = given[-1].removeprefix(f"http://127.0.0.1:{server.port}")
        data = given[given.index("--data-raw") + 1] if "--data-raw" in given else None
        kind = "application/json" if body == "json" else "application/x-www-form-urlencoded"
        headers = {"Content-Type": kind} if data else {}
        reply = server.request("POST", url, data.encode() if data else None, headers)
        assert reply.json()["hello"] == 'it\'s $HOME `id` \\ "x" é', (body, line)


def test_a_broken_file_shows_its_traceback_until_it_is_mended(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    server.write_plugin("greeter.py", GREETER + "\n    def broken(:\n")
    page.get_by_role("button", name="Reload greeter").click()
    expect(page.locator("#message")).to_contain_text("SyntaxError")
    trouble = page.get_by_role("group", name="greeter.py is broken")
    expect(trouble).to_contain_text("greeter.py does not load")
    expect(trouble.get_by_role("region", name="Traceback of greeter.py")).to_contain_text("def broken(:")
    expect(trouble.get_by_role("region", name="Traceback of greeter.py")).not_to_contain_text("<pserve>")
    expect(trouble).to_contain_text("/greeter answers as before")
    expect(row(page, "greeter")).to_contain_text("its file is broken")
    assert server.get("/greeter").json()["method"] == "first version"
    server.write_plugin("greeter.py", GREETER.replace("first", "second"))
    trouble.get_by_role("button", name="Load greeter again").click()
    expect(page.locator("#message")).to_contain_text("greeter.py serves /greeter")
    expect(trouble).to_have_count(0)
    expect(row(page, "greeter")).to_be_visible()
    assert server.get("/greeter").json()["method"] == "second version"


def test_plugins_are_unloaded_and_loaded(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    page.get_by_role("button", name="Unload greeter").click()
    expect(row(page, "greeter")).to_have_count(0)
    assert server.get("/greeter").status == 404
    page.get_by_role("button", name="Load greeter", exact=True).click()
    expect(row(page, "greeter")).to_be_visible()
    server.write_plugin("later.py", GREETER.replace("Greeter", "Later"))
    page.get_by_role("button", name="Load later", exact=True).click()
    expect(row(page, "later")).to_be_visible()
    page.get_by_role("button", name="Reload all").click()
    expect(page.locator("#message")).to_contain_text("Every plugin is reloaded")
    page.get_by_role("button", name="Details of later").click()
    expect(page.get_by_text("async, on the event loop")).to_be_visible()


def test_the_key_is_asked_for_and_sent_in_a_header(start, show) -> None:
    ini = f"{ON}[auth]\napikey=opensesame\n[plugin_parms]\ngreeter=auth_type=global\n"
    server = start({"greeter.py": GREETER}, ini=ini)
    watched = show(server)
    page = watched.page
    expect(page.get_by_role("heading", name="This server asks for its key")).to_be_visible()
    expect(page.locator("#board")).to_be_hidden()
    page.get_by_role("textbox", name="Key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the key.")
    page.get_by_role("textbox", name="Key").fill("opensesame")
    page.keyboard.press("Enter")
    live(page)
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text("200 OK")
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
    page.get_by_role("button", name="Reload greeter").click()
    expect(page.locator("#message")).to_contain_text("/greeter is reloaded")
    page.reload()
    live(page)
    assert "opensesame" not in page.content()
    called = [request for request in watched.requests if "/greeter" in request.url]
    assert called and all(request.headers["authorization"] == "Bearer opensesame" for request in called)
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("heading", name="This server asks for its key")).to_be_visible()


def test_two_workers_are_shown_together(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=f"{ON}workers=2\n")
    page = show(server).page
    live(page)
    expect(page.locator("#worker-rows tr")).to_have_count(2)
    # Connections of their own, so that both workers get some.
    for _ in range(30):
        assert server.get("/greeter").status == 200
    expect(page.locator("#facts")).to_contain_text("Calls answered30")
    expect(page.locator("#request-rows tr")).to_have_count(30)
    answered = set(page.locator("#request-rows td[data-label=Worker]").all_text_contents())
    assert answered <= {"1", "2"}, answered
    expect(page.locator("#log-lines").get_by_text("greets None")).to_have_count(30)
    # The connection goes on with another worker when the one that it was with goes.
    server.process.send_signal(1)
    server.wait_for_log("the new workers serve")
    expect(page.locator("#log-lines")).to_contain_text("the new workers serve")
    live(page)
    expect(page.locator("#worker-rows tr")).to_have_count(2)
    for state in page.locator("#worker-rows td[data-label=State]").all_text_contents():
        assert state == "serving"


def line_of(page: Page, plot: str) -> Any:
    return page.locator("#plots figure").filter(has_text=plot).locator(".curve").first


def test_plots_and_lists_go_on_with_other_workers(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=f"{ON}workers=2\n")
    page = show(server).page
    live(page)
    server.get("/greeter?name=before")
    expect(page.locator("#log-lines")).to_contain_text("greets before")
    expect(line_of(page, "Calls under way")).to_have_attribute("d", re.compile("(L[^L]+){4}"))
    server.process.send_signal(1)
    server.wait_for_log("the new workers serve")
    expect(page.locator("#log-lines")).to_contain_text("the new workers serve")
    live(page)
    # What the old workers have answered stays in the list, and whose it was.
    expect(page.locator("#request-rows tr")).to_have_count(1)
    expect(page.locator("#request-rows td[data-label=Worker]")).to_have_text(re.compile("[12]"))
    page.reload()
    live(page)
    expect(page.locator("#worker-rows tr")).to_have_count(2)
    # Alone the new worker would have one point or two.
    assert line_of(page, "Calls under way").get_attribute("d").count("L") >= 4


def test_the_log_of_one_request_is_shown(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    ids = [server.get(f"/greeter?name=n{number}").headers["X-Request-Id"] for number in range(3)]
    lines = page.locator("#log-lines li")
    expect(page.locator("#log-lines")).to_contain_text("greets n2")
    everything = lines.count()
    page.get_by_label("Show").select_option("errors")
    expect(lines).to_have_count(0)
    expect(page.locator("#no-lines")).to_have_text("No line that is so bad.")
    # By keyboard, and back to where one was.
    button = page.locator("#request-rows").get_by_role("button", name=f"Log lines of request {ids[1]}")
    button.focus()
    page.keyboard.press("Enter")
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("greets n1")
    expect(page.locator("#log-of")).to_have_text(f"Only lines of request {ids[1]}")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="All lines")).to_be_focused()
    page.keyboard.press("Enter")
    assert lines.count() >= everything
    times = page.locator("#log-lines time").evaluate_all("all => all.map(one => one.dateTime)")
    assert times == sorted(times, reverse=True), "the newest comes first, also of those that were hidden"
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-pressed", "false")
    # From a line of the log, and for a request without any.
    lines.filter(has_text="greets n0").get_by_role("button").click()
    expect(lines).to_have_count(1)
    page.get_by_role("button", name="All lines").click()
    missing = server.get("/nothing").headers["X-Request-Id"]
    page.get_by_role("button", name=f"Log lines of request {missing}").click()
    expect(page.locator("#no-lines")).to_have_text("The log has no line of this request.")
    # What was just tried.
    page.get_by_role("button", name="Call", exact=True).click()
    page.get_by_role("button", name="Its log lines").click()
    expect(lines).to_contain_text("greets None")


def test_pause_holds_still_and_goes_on(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    page.get_by_role("button", name="Pause").click()
    server.get("/greeter")
    # What comes is still taken in: the state has it, the screen does not.
    page.wait_for_timeout(1500)
    expect(page.locator("#request-rows tr")).to_have_count(0)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#request-rows tr")).to_have_count(1)


def test_it_is_used_by_keyboard(start, show) -> None:
    server = start({"greeter.py": GREETER}, ini=ON)
    page = show(server).page
    live(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", names
    assert names[:5] == ["Reload all", "Try greeter", "Reload greeter", "Unload greeter", "Details of greeter"]
    page.get_by_role("button", name="Details of greeter").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Details of greeter")).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("button", name="Details of greeter")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_an_audit_finds_nothing(start, show, scheme: str, width: int) -> None:
    server = start({"greeter.py": GREETER, "broken.py": "def broken(:\n", "empty.py": ""}, ini=ON)
    page = show(server, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce").page
    live(page)
    for query in ["", "?fail=1"]:
        server.get(f"/greeter{query}")
    server.get("/nothing")
    expect(page.locator("#request-rows tr")).to_have_count(3)
    page.get_by_role("button", name="Details of greeter").click()
    page.get_by_label("Method").select_option("POST")
    page.get_by_label("Body", exact=True).select_option("text")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer-status")).to_contain_text("200")
    page.get_by_text("Headers", exact=True).click()
    audit(page)
    page.get_by_role("button", name="Its log lines").click()
    audit(page)
    # Nothing is cut off at the side.
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_audit_of_the_door_finds_nothing(start, show, scheme: str) -> None:
    server = start({}, ini=f"{ON}[auth]\napikey=opensesame\n")
    page = show(server, color_scheme=scheme).page
    page.get_by_role("textbox", name="Key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the key.")
    audit(page)


def test_text_from_plugins_is_never_html(start, show) -> None:
    evil = "<img src=x onerror=\"document.title='run'\">"
    source = GREETER.replace("Greets whoever calls.", evil).replace("'asked to fail'", repr(evil))
    broken = f"raise ValueError({evil!r})\n"
    server = start({"greeter.py": source, "broken.py": broken}, ini=ON)
    page = show(server).page
    live(page)
    server.get("/greeter?fail=1")
    server.get("/%3Cimg%20src=x%3E")
    expect(page.locator("#request-rows tr")).to_have_count(2)
    expect(page.locator("#troubles")).to_contain_text(evil)
    expect(page.locator("#log-lines")).to_contain_text(evil)
    page.get_by_role("button", name="Details of greeter").click()
    assert page.locator("img").count() == 1, "the icon"
    assert page.title() != "run"
