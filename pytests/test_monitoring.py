"""What operators get for Prometheus and Grafana: the metrics, the alert rules and the dashboard fit each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families

FOLDER = ROOT / "docs" / "operate"
PROMTOOL = shutil.which("promtool") or str(ROOT / ".venv" / "bin" / "promtool")

PLUGIN = """
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        return 'hello'
"""


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "grafana-dashboard.json").read_text())


def dashboard_queries() -> list[str]:
    found = dashboard()
    queries = [target["expr"] for panel in found["panels"] for target in panel.get("targets", [])]
    queries += [entry["expr"] for entry in found["annotations"]["list"]]
    return queries + [entry["definition"] for entry in found["templating"]["list"] if "definition" in entry]


def test_the_metrics_are_as_prometheus_wants_them(start):
    server = start({"hello.py": PLUGIN})
    server.get("/hello")
    assert promtool("check", "metrics", text=server.get("/metrics").text).strip() == ""


def test_the_alert_rules_do_what_their_tests_say():
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_rule_is_tried_where_it_fires_and_where_it_does_not():
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    tried = {(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]}
    assert tried == {(rule["alert"], fires) for rule in rules() for fires in (True, False)}


@pytest.fixture
def served(start) -> dict[str, set[str]]:
    """The samples of a server that has just answered its first requests, each with the labels that it has."""
    server = start({"hello.py": PLUGIN})
    server.get("/hello")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("of", ["rules", "dashboard"])
def test_every_metric_and_label_that_is_named_is_served(served, of):
    queries = [rule["expr"] for rule in rules()] if of == "rules" else dashboard_queries()
    # What Prometheus itself adds.
    labels = set().union(*served.values()) | {"instance", "job"}
    named = set()
    for query in queries:
        names = set(re.findall(r"\bpserve_\w+", query))
        assert names or query.startswith("up{"), query
        named |= names
        for grouping in re.findall(r"\bby \(([^)]*)\)", query):
            assert {label.strip() for label in grouping.split(",")} <= labels, query
        for name, matchers in re.findall(r"\b(pserve_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=", matchers)) <= served[name] | {"instance", "job"}, query
    assert named and named <= set(served), named - set(served)


def test_the_dashboard_shows_every_metric_of_the_documentation():
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(pserve_\w+)`", text, re.MULTILINE))
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bpserve_\w+", " ".join(dashboard_queries()))
    }
    # How many plugins a worker serves is no plot.
    assert documented - shown == {"pserve_worker_start_time_seconds", "pserve_worker_plugins"}


def test_the_dashboard_can_be_imported():
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & cells, panel["title"]
        places |= cells
        assert panel["type"] in {"row", "stat", "timeseries"}
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}", "no data source of one machine's own"


def test_the_queries_of_the_dashboard_are_promql(tmp_path: Path):
    # Grafana fills these in.
    filled = [
        re.sub(r"\$__rate_interval|\$(instance|plugin)\b", lambda found: ".*" if found[1] else "5m", query)
        for query in dashboard_queries()
        if not query.startswith("label_values(")
    ]
    groups = [{"name": "dashboard", "rules": [{"record": f"q{at}", "expr": query} for at, query in enumerate(filled)]}]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", str(tmp_path / "queries.yml"))
