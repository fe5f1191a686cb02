"""Alert rules and dashboard: promtool checks and tests the rules, and what both ask for is what docs/metrics.md lists and a log service
shows."""

import contextlib
import http.client
import json
import pathlib
import re
import shutil
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

import yaml
from child_process import ChildProcess, wait_for
from log_services import LogServices
from ports import HOST, free_port
from server_node import ServerNode

from built import DEPLOY, ROOT, run, scratch

PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "durability.json"
# Series that Prometheus itself makes.
OWN = {"up", "ALERTS"}
SHARD = "s"
# Times of Grafana's own variables, as it would fill them in.
VARIABLES = {"$__rate_interval": "20s", "$shard": ".*"}
# What there is nothing of while all is well: no failed snapshot, no limit, no audit.
EMPTY_IF_WELL = {"logservice_shard_log_limit_bytes"}


def rules() -> list[dict]:
    groups = yaml.safe_load((PROMETHEUS / "durability.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> dict[str, str]:
    """Each query of the dashboard, by the panel that makes it."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = {"annotation": dashboard["annotations"]["list"][0]["expr"]}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            queries[f"{panel['title']} {target['refId']}"] = target["expr"]
    return queries


def metrics(expression: str) -> set[str]:
    """The names of metrics in an expression."""
    return set(re.findall(r"\b(?:logservice|valkey_durability)_\w+|\bup\b|\bALERTS\b", expression))


def documented() -> dict[str, set[str]]:
    """The labels of each metric that docs/metrics.md lists. A histogram has three names."""
    table = (ROOT / "docs" / "metrics.md").read_text().partition("<!-- metrics -->")[2].partition("<!-- end of metrics -->")[0]
    found = {}
    for name, kind, labels in re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) \|", table):
        names = [name + end for end in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]
        found |= {name: set(re.findall(r"`(\w+)`", labels)) | {"le", "instance", "job"} for name in names}
    return found


class Alerts(unittest.TestCase):
    def test_promtool_takes_rules_and_configuration(self):
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            configuration = (PROMETHEUS / "prometheus.yml").read_text()
            for secret in ("logservice-ca.crt", "logservice.token"):
                pathlib.Path(directory, secret).touch()
                configuration = configuration.replace(f"/etc/prometheus/{secret}", f"{directory}/{secret}")
            pathlib.Path(directory, "prometheus.yml").write_text(configuration)
            shutil.copy(PROMETHEUS / "durability.rules.yml", directory)
            self.assertIn("SUCCESS", run("promtool", "check", "config", pathlib.Path(directory, "prometheus.yml")))
        run("promtool", "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "durability.rules.yml")

    def test_scenarios_fire_what_they_should(self):
        run("promtool", "test", "rules", PROMETHEUS / "durability.rules.test.yml")

    def test_scenarios_cover_each_alert(self):
        scenarios = (PROMETHEUS / "durability.rules.test.yml").read_text()
        tested = set(re.findall(r'alertname="(\w+)"', scenarios)) | set(re.findall(r"alertname: (\w+)", scenarios))
        self.assertEqual({rule["alert"] for rule in rules()}, tested)

    def test_a_wrong_threshold_is_found(self):
        # The scenarios can fail.
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            text = (PROMETHEUS / "durability.rules.yml").read_text()
            pathlib.Path(directory, "durability.rules.yml").write_text(text.replace(") > 0.5", ") > 0.9"))
            shutil.copy(PROMETHEUS / "durability.rules.test.yml", directory)
            with self.assertRaisesRegex(AssertionError, "LagNearLimit"):
                run("promtool", "test", "rules", pathlib.Path(directory, "durability.rules.test.yml"))

    def test_each_alert_is_explained(self):
        page = (ROOT / "docs" / "alerts.md").read_text()
        rows = dict(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", page))
        self.assertEqual(rows, {rule["alert"]: rule["labels"]["severity"] for rule in rules()})

    def test_names_are_those_that_the_log_service_shows(self):
        expressions = {rule["alert"]: rule["expr"] for rule in rules()} | dashboard_queries()
        known = documented()
        for where, expression in expressions.items():
            self.assertLessEqual(metrics(expression) - OWN, set(known), where)
            for name, selector in re.findall(r"\b((?:logservice|valkey_durability)_\w+)\{([^}]*)\}", expression):
                self.assertLessEqual(set(re.findall(r"(\w+)[=!]~?\"", selector)), known[name], where)

    def test_the_dashboard_is_one(self):
        dashboard = json.loads(DASHBOARD.read_text())
        identities = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(identities), len(set(identities)))
        places = set()
        for panel in dashboard["panels"]:
            position = panel["gridPos"]
            self.assertLessEqual(position["x"] + position["w"], 24, panel["title"])
            for x in range(position["x"], position["x"] + position["w"]):
                for y in range(position["y"], position["y"] + position["h"]):
                    self.assertNotIn((x, y), places, panel["title"])
                    places.add((x, y))


class AgainstARealScrape(unittest.TestCase):
    """A Prometheus scrapes three log services with a leader and a follower."""

    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(dir=scratch()))
        cls.logs = LogServices(cls.directory, 3, SHARD, [])
        cls.addClassCleanup(cls.logs.kill)
        cls.logs.start()
        cls.logs.form()
        cls.nodes = [ServerNode(cls.directory, name, cls.logs.addresses, SHARD, 1500) for name in ("n1", "n2")]
        for node in cls.nodes:
            cls.addClassCleanup(node.kill)
            node.start()
        wait_for("a node leads", lambda: "leader" in [node.role() for node in cls.nodes], 30)
        cls.leader = next(node for node in cls.nodes if node.role() == "leader")
        wait_for("the other follows", lambda: "follower" in [node.role() for node in cls.nodes], 30)
        cls.port = free_port()
        cls.prometheus = cls.start_prometheus()
        cls.addClassCleanup(cls.prometheus.kill)
        with cls.leader.connect() as client:
            for number in range(200):
                client.set(f"key{number}", number)
        wait_for("some scrapes", lambda: cls.query("sum(up) == 3 and min(count_over_time(logservice_ready[1m])) > 2"), 60)

    @classmethod
    def start_prometheus(cls) -> ChildProcess:
        configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        job = configuration["scrape_configs"][0]
        for name in ("tls_config", "authorization"):
            del job[name]
        job["scheme"] = "http"
        job["static_configs"] = [{"targets": [f"{HOST}:{service.http_port}" for service in cls.logs.list]}]
        file = cls.directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        shutil.copy(PROMETHEUS / "durability.rules.yml", cls.directory)
        prometheus = ChildProcess(["prometheus", f"--config.file={file}", f"--storage.tsdb.path={cls.directory / 'tsdb'}",
                                   f"--web.listen-address={HOST}:{cls.port}"], cls.directory / "prometheus.output")
        prometheus.start()
        wait_for("Prometheus answers", lambda: cls.query("vector(1)"), 60)
        return prometheus

    @classmethod
    def query(cls, expression: str) -> list[dict]:
        """What Prometheus answers now; nothing as long as it does not."""
        url = f"http://{HOST}:{cls.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with contextlib.suppress(OSError, http.client.HTTPException):
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        return []

    def firing(self) -> set[str]:
        return {sample["metric"]["alertname"] for sample in self.query('ALERTS{alertstate="firing"}')}

    def test_1_each_query_has_an_answer(self):
        with self.leader.connect() as client:
            for number in range(200):
                client.set(f"key{number}", number)
        for where, expression in dashboard_queries().items():
            for variable, stands_for in VARIABLES.items():
                expression = expression.replace(variable, stands_for)
            if where != "annotation" and not metrics(expression) & (EMPTY_IF_WELL | {"logservice_snapshot_timestamp_seconds"}):
                wait_for(f"{where}: {expression}", lambda: self.query(expression), 20)
        self.assertEqual(self.firing(), set())

    def test_2_a_log_that_stops_is_told(self):
        self.logs.list[2].freeze()
        self.addCleanup(self.logs.list[2].thaw)
        # At once as pending: that it fires after its time is what the scenarios show.
        pending = lambda: {sample["metric"]["alertname"] for sample in self.query("ALERTS")}
        wait_for("it is told", lambda: "LogServiceDown" in pending(), 30)
        self.logs.list[2].thaw()
        wait_for("all is well", lambda: not pending(), 60)

    def test_3_a_leader_that_is_killed_is_no_alert(self):
        self.leader.kill()
        started = time.monotonic()
        other = next(node for node in self.nodes if node is not self.leader)
        wait_for("another node leads", lambda: other.role() == "leader", 30)
        wait_for("Prometheus sees it", lambda: self.query(f'max by (node) (valkey_durability_leads{{node="{other.name}"}}) == 1'), 30)
        if time.monotonic() - started < 15:
            self.assertEqual(self.firing(), set())
