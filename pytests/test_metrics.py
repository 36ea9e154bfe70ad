"""`/metrics` as Prometheus' own reader understands it."""

from __future__ import annotations

import http.client
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

PLUGIN = """
import asyncio
from plugincore.baseplugin import BasePlugin
class Timed(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(float(data.get('seconds', 0)))
        return int(data.get('code', 200)), 'done'
class Streaming(BasePlugin):
    async def request_handler(self, request, **data):
        from aiohttp import web
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b'piece')
        if data.get('raise'):
            raise ValueError('in the middle')
        return response
"""

ODD_NAME = """
from plugincore.baseplugin import BasePlugin
class Odd(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._plugin_id = NAME
    async def request_handler(self, **data):
        return 'odd'
"""


def families(server: Any) -> dict[str, Any]:
    reply = server.get("/metrics")
    assert reply.status == 200
    return {family.name: family for family in text_string_to_metric_families(reply.text)}


def value(server: Any, sample_name: str, **labels: str) -> float:
    samples = [sample for family in families(server).values() for sample in family.samples]
    found = [sample.value for sample in samples if sample.name == sample_name and sample.labels == labels]
    assert len(found) == 1, f"{sample_name}{labels}: {found}"
    return found[0]


def test_every_family_has_a_help_a_type_and_samples(start):
    server = start({"timed.py": PLUGIN})
    server.get("/timed")
    found = families(server)
    for name, family in found.items():
        assert name.startswith("pserve_"), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.documentation.endswith("."), name
        assert family.samples, name
        is_total = all(sample.name.endswith("_total") for sample in family.samples)
        assert is_total == (family.type == "counter"), name
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for f in found.values() for sample in f.samples]
    assert len(series) == len(set(series))


def test_counters_are_the_requests_that_were_made(start):
    server = start({"timed.py": PLUGIN})
    for code in [200] * 5 + [201] * 3 + [404] * 2:
        assert server.get("/timed", code=code).status == code
    for code, count in (("200", 5), ("201", 3), ("404", 2)):
        assert value(server, "pserve_requests_total", plugin="timed", code=code) == count
    before = value(server, "pserve_worker_requests_total", worker="1")
    assert value(server, "pserve_worker_requests_total", worker="1") == before + 1


def test_the_histogram_rises_and_holds_the_times(start):
    server = start({"timed.py": PLUGIN})
    for seconds in (0, 0, 0.03, 0.3):
        server.get("/timed", seconds=seconds)
    samples = families(server)["pserve_request_duration_seconds"].samples
    samples = [sample for sample in samples if sample.labels["plugin"] == "timed"]
    buckets = [(float(sample.labels["le"]), sample.value) for sample in samples if "le" in sample.labels]
    assert [end for end, _ in buckets][:3] == [0.001, 0.0025, 0.005]
    assert buckets == sorted(buckets) and buckets[-1] == (float("inf"), 4)
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    up_to = dict(buckets)
    assert up_to[0.025] <= 2 and up_to[0.25] <= 3, "none ended before its time"
    parts = {sample.name.rsplit("_", 1)[1]: sample.value for sample in samples if "le" not in sample.labels}
    assert parts["count"] == 4 and parts["sum"] >= 0.33


def test_names_with_quotes_and_backslashes_are_read_back(start):
    name = 'o"d\\d é'
    server = start({"odd.py": ODD_NAME.replace("NAME", repr(name))})
    assert server.get("/o%22d%5Cd%20%C3%A9").text == "odd"
    assert value(server, "pserve_requests_total", plugin=name, code="200") == 1


def test_a_stream_counts_when_its_head_is_made_and_an_error_in_it_too(start):
    server = start({"timed.py": PLUGIN})
    assert server.get("/streaming").text == "piece" * 3
    assert value(server, "pserve_requests_total", plugin="streaming", code="200") == 1
    assert value(server, "pserve_request_errors_total", plugin="streaming") == 0
    with pytest.raises(http.client.IncompleteRead):
        server.get("/streaming", **{"raise": 1})
    assert value(server, "pserve_requests_total", plugin="streaming", code="200") == 2
    assert value(server, "pserve_request_errors_total", plugin="streaming") == 1


def test_a_busy_python_does_not_delay_it(start):
    source = """
import time
from plugincore.baseplugin import BasePlugin
class Busy(BasePlugin):
    async def request_handler(self, **data):
        time.sleep(1.5)
        return 'busy'
"""
    server = start({"busy.py": source})
    threads = [threading.Thread(target=server.get, args=("/busy",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while (running := value(server, "pserve_requests_in_flight", plugin="busy")) == 0:
        pass
    # Both may have been handed over together.
    assert running in (1, 2)
    for thread in threads:
        thread.join()
    assert value(server, "pserve_request_duration_seconds_count", plugin="busy") == 2
