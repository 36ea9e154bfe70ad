"""The work that the programs are given, as data: which request, which programs can do it, why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass, field

from folder import KEY
from programs import Setup

SMALL = "/small?name=x"
ONE = Setup()
CONNECTIONS = 64


@dataclass(frozen=True)
class Entry:
    """One program in one setup: a line of the workload's table."""

    program: str
    path: str
    setup: Setup = ONE
    # Tells lines of one program apart: "100 plugins".
    what: str = ""
    # The request that keeps the program busy meanwhile.
    beside: str = ""

    @property
    def label(self) -> str:
        return f"{self.program}, {self.what}" if self.what else self.program

    @property
    def ours(self) -> str:
        """The line of this server that this one is compared with."""
        return f"pserve, {self.what}" if self.what else "pserve"


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    entries: tuple[Entry, ...]
    # A part of the right answer: the Python program says 200 to failures as well.
    expect: str
    # What bare warp is asked between the runs, and whether that is the same work.
    probe: str = SMALL
    probe_is_same: bool = False
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = CONNECTIONS
    # Before each request, as somebody asks who looks after the server.
    pause_ms: int = 0
    # Bound by waiting, not by the processor: then the speed of the machine is left out of the ratios.
    waits: bool = False
    # Many connections take a while to be made.
    times_seconds: int = 1
    # Part of the short form.
    quick: bool = False
    cannot: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


ASYNC = ("pserve", "pluginserver", "granian RSGI", "granian ASGI", "robyn", "uvicorn")
# The Python program as it comes: it formats every answer for its log.
LOGGING = "pluginserver -v DEBUG"
ALL = ("pserve", "pluginserver", "granian RSGI", "granian ASGI", "granian WSGI", "robyn", "uvicorn")
WSGI_IS_PLAIN = {"granian WSGI": "WSGI has no async handlers"}
PLAIN_FAILS = "plain handlers fail: TypeError in every answer"
ASYNC_ONLY = "an async interface; plain functions are the application's own business"


COUNTS = (1, 100, 1000)


def plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def each(programs: tuple[str, ...], path: str, **more: object) -> tuple[Entry, ...]:
    return tuple(Entry(program, path, **more) for program in programs)


def probed(name: str, how: str, pause_ms: int) -> Workload:
    return Workload(
        name,
        f"/healthz while a plain handler computes, {how}",
        (Entry("pserve", "/healthz", beside="/spin"),),
        "",
        connections=1,
        pause_ms=pause_ms,
        waits=True,
        quick=True,
        cannot={name: "has no such route" for name in ALL[1:]},
    )


def crowds() -> tuple[Entry, ...]:
    return tuple(
        Entry(program, f"/copy{count - 1}?name=x", Setup(copies=count), plural(count, "plugin"))
        for program in ("pserve", "pluginserver")
        for count in COUNTS
    )


def workers() -> tuple[Entry, ...]:
    programs = ("pserve", "granian RSGI", "robyn", "uvicorn")
    return tuple(
        Entry(program, SMALL, Setup(workers=count), plural(count, "worker")) for program in programs for count in (1, 2)
    )


WORKLOADS = [
    Workload(
        "small",
        "Small JSON answer, async handler",
        each((*ASYNC[:2], LOGGING, *ASYNC[2:]), SMALL),
        '"x"',
        probe_is_same=True,
        quick=True,
        cannot=WSGI_IS_PLAIN,
    ),
    Workload(
        "plain",
        "Small JSON answer, plain handler",
        (
            Entry("pserve", "/plain?name=x"),
            Entry("pluginserver", SMALL),
            Entry("granian WSGI", "/plain?name=x"),
            Entry("robyn", "/plain?name=x"),
        ),
        '"x"',
        probe_is_same=True,
        quick=True,
        cannot={"granian RSGI": ASYNC_ONLY, "granian ASGI": ASYNC_ONLY, "uvicorn": ASYNC_ONLY},
        notes=("pluginserver: its async handler, since plain ones fail.",),
    ),
    Workload(
        "rows",
        "1,000 rows: 100 KB of JSON",
        each((*ALL[:2], LOGGING, *ALL[2:]), "/rows"),
        "row number 999",
        probe="/rows",
        probe_is_same=True,
        quick=True,
    ),
    Workload(
        "post",
        "POST of 1 KB of JSON, partly sent back",
        each(ALL, "/echo"),
        "4711",
        method="POST",
        headers=(("Content-Type", "application/json"),),
    ),
    Workload(
        "key",
        "(code, dict) with a key check",
        each(ALL, "/keyed?name=x"),
        '"x"',
        headers=(("Authorization", f"Bearer {KEY}"),),
        notes=(
            "The key of pserve and pluginserver is checked by the server; the others compare the header themselves.",
        ),
    ),
    Workload(
        "pause",
        "Async handler with await asyncio.sleep(0)",
        each(ASYNC, "/pause"),
        "pause",
        cannot=WSGI_IS_PLAIN,
    ),
    Workload(
        "await10",
        "Async handler that awaits 10 ms",
        each(ASYNC, "/await10"),
        "await10",
        waits=True,
        cannot=WSGI_IS_PLAIN,
        notes=("64 connections allow at most 6,400 requests/s.",),
    ),
    Workload(
        "sleep10",
        "Plain handler that sleeps 10 ms, 8 threads",
        (Entry("pserve", "/sleep10"), *each(("granian WSGI", "robyn"), "/sleep10", setup=Setup(threads=8))),
        "sleep10",
        waits=True,
        cannot={
            "pluginserver": PLAIN_FAILS,
            "granian RSGI": ASYNC_ONLY,
            "granian ASGI": ASYNC_ONLY,
            "uvicorn": ASYNC_ONLY,
        },
        notes=(
            "8 threads allow at most 800 requests/s. They are threads=8 of [plugin_options] for pserve, "
            "--blocking-threads 8 for granian, --workers=8 for robyn.",
        ),
    ),
    Workload(
        "static",
        "Static file of 50 KB",
        each(("pserve", "pluginserver", "granian RSGI", "robyn", "bare warp"), "/static/page.html"),
        "fifty kilobytes",
        cannot={
            "granian ASGI": "the same server as granian RSGI",
            "granian WSGI": "the same server as granian RSGI",
            "uvicorn": "has no static files of its own",
        },
        notes=(
            "pluginserver has no static files: a plugin answers with aiohttp's FileResponse.",
            "bare warp leaves TCP_NODELAY off, so that the client's delayed acknowledgements hold it up (40 ms).",
        ),
    ),
    Workload(
        "tls",
        "Small JSON answer through TLS",
        tuple(Entry(name, SMALL, Setup(tls=True)) for name in ("pserve", "pluginserver", *ASYNC[2:4], "uvicorn")),
        '"x"',
        cannot={"robyn": "has no TLS", **WSGI_IS_PLAIN},
        notes=("Bare warp, which the probes ask, speaks plain HTTP here.",),
    ),
    *(
        Workload(
            f"c{count}",
            f"Small JSON answer, {plural(count, 'connection')}",
            each((*ASYNC, "bare warp"), SMALL),
            '"x"',
            connections=count,
            times_seconds=2 if count > 1000 else 1,
            quick=False,
            cannot=WSGI_IS_PLAIN,
            notes=(
                "The probes are at 64 connections, so that the ratios of all numbers of connections can be compared.",
            ),
        )
        for count in (1, 512, 5000)
    ),
    Workload(
        "many",
        "Small JSON answer, number of plugins loaded",
        crowds(),
        '"x"',
        cannot={name: "has no plugins" for name in ALL[2:]},
    ),
    Workload(
        "workers",
        "Small JSON answer, 1 and 2 workers",
        workers(),
        '"x"',
        cannot={
            "pluginserver": "one process only",
            "granian ASGI": "the same processes as granian RSGI",
            "granian WSGI": "the same processes as granian RSGI",
        },
    ),
    Workload(
        "beside",
        "Small async answer while a plain handler computes",
        (
            Entry("pserve", SMALL, beside="/spin"),
            Entry("pluginserver", SMALL, beside="/spininthread"),
            *each(("granian RSGI", "granian ASGI"), SMALL, beside="/spin"),
            *each(("granian WSGI", "robyn", "uvicorn"), SMALL, beside="/spin"),
        ),
        '"x"',
        connections=8,
        waits=True,
        quick=True,
        notes=(
            "What counts here is p99. The handler takes all that it can get of the one core, and of the interpreter.",
            "pluginserver, granian RSGI, ASGI and uvicorn have no plain handlers: they compute in asyncio.to_thread.",
        ),
    ),
    probed("healthz", "250 times a second at most", pause_ms=4),
    probed("healthz_full", "without a pause", pause_ms=0),
]
BY_NAME = {work.name: work for work in WORKLOADS}
