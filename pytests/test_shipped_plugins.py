"""The plugins in python_plugins/, as `make run` serves them."""

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "python_plugins"


def start_shipped(start, ini=""):
    return start({file.name: file.read_text() for file in SHIPPED.glob("*.py")}, ini=ini)


def test_hello(start):
    server = start_shipped(start)
    assert server.get("/hello").json() == {"hello": "world"}
    assert server.get("/hello?name=Ada").json() == {"hello": "Ada"}
    assert server.post("/hello", '{"name": "Ada"}', "application/x-www-form-urlencoded").json() == {"hello": "Ada"}


def test_systeminfo_tells_of_this_machine(start):
    server = start_shipped(start, ini="[plugin_parms]\nsysteminfo=interval=0.2\n")
    groups = ["net", "cpu", "uptime", "disk", "upgrades", "ram", "info"]
    everything = server.get("/systeminfo").json()
    assert list(everything) == groups
    for group in groups:
        if group != "upgrades":
            assert list(server.get(f"/systeminfo/{group}").json()) == [group]
    with open("/proc/meminfo") as meminfo:
        total = int(meminfo.readline().split()[1]) * 1024
    assert everything["ram"]["total"] == total
    assert 0 < everything["ram"]["used_percent"] < 100
    with open("/proc/sys/kernel/hostname") as hostname:
        assert everything["info"]["hostname"] == hostname.read().strip()
    with open("/proc/uptime") as uptime:
        assert abs(everything["uptime"]["seconds"] - float(uptime.read().split()[0])) < 60
    assert everything["cpu"]["logical_cores"] >= 1
    assert any(disk["total"] > 0 for disk in everything["disk"])
    reply = server.get("/systeminfo/nonsense")
    assert reply.status == 404 and reply.json()["groups"] == groups


def test_systeminfo_measures_network_rates(start):
    server = start_shipped(start, ini="[plugin_parms]\nsysteminfo=interval=0.2\n")
    while True:
        loopback = server.get("/systeminfo/net").json()["net"]["lo"]
        if loopback["received_per_second"]:
            break
    assert loopback["received_per_second"] > 0


def test_systeminfo_asks_apt_once(start):
    upgrades = start_shipped(start).get("/systeminfo/upgrades").json()["upgrades"]
    assert upgrades["count"] is None or upgrades["count"] == len(upgrades["packages"])
