"""The alert rules over what was recorded of a real shard (record_scenarios.py): what should fire does, and nothing else."""

import json
import pathlib
import re
import tempfile
import unittest

import yaml

from built import DEPLOY, run, scratch

RULES = DEPLOY / "prometheus" / "durability.rules.yml"
RECORDED = pathlib.Path(__file__).parent / "recorded"
EVERY_S = 1
# What fires at some time, by the scenario.
FIRES = {
    "healthy": set(),
    # 45 s without two of three services.
    "log_stopped": {"LogServiceDown", "LogServiceNotReady", "ShardWithoutDecider", "LagNearLimit", "WritesRefused"},
    "leader_killed": set(),
    "snapshot_fails": {"SnapshotsFail"},
}


def recorded(scenario: str) -> dict:
    return json.loads((RECORDED / f"{scenario}.json").read_text())


def unpacked(values: str) -> list[float | None]:
    """The values in promtool's notation, `_` and `stale` as none."""
    found = []
    for word in values.split():
        value, _, more = re.fullmatch(r"(_|stale|[^x_]+)(x(\d+))?", word).groups()
        times = int(more or 0) + (0 if word.startswith("_x") else 1)
        found += [None if value in ("_", "stale") else float(value)] * times
    return found


class Recorded(unittest.TestCase):
    def check(self, scenario: str, fires: set[str], rules: str) -> None:
        """Fails if other alerts fire within the scenario."""
        recording = recorded(scenario)
        seconds = recording["scrapes"] * recording["interval_s"]
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fires)]
        case = {
            "name": scenario,
            "interval": f"{recording['interval_s']}s",
            "input_series": [{"series": series, "values": values} for series, values in recording["series"].items()],
            "promql_expr_test": [{
                "expr": f'group by (alertname) (last_over_time(ALERTS{{alertstate="firing"}}[{seconds}s]))',
                "eval_time": f"{seconds}s",
                "exp_samples": expected,
            }],
        }
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            pathlib.Path(directory, "rules.yml").write_text(rules)
            file = pathlib.Path(directory, "test.yml")
            file.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": f"{EVERY_S}s", "tests": [case]}))
            run("promtool", "test", "rules", file)

    def test_what_should_fire_does_and_nothing_else(self):
        self.assertEqual(set(FIRES), {path.stem for path in RECORDED.glob("*.json")})
        for scenario, fires in FIRES.items():
            with self.subTest(scenario):
                self.check(scenario, fires, RULES.read_text())

    def test_a_rule_that_misses_it_is_found(self):
        rules = RULES.read_text().replace("valkey_durability_refusing_writes", "valkey_durability_throttling")
        with self.assertRaisesRegex(AssertionError, "WritesRefused"):
            self.check("log_stopped", FIRES["log_stopped"], rules)

    def test_a_log_that_stops_is_behind_by_a_second_each_second_until_writes_are_refused(self):
        series = recorded("log_stopped")["series"]
        leader = next(re.search(r'node="(\w+)"', name)[1] for name, values in series.items()
                      if name.startswith("valkey_durability_refusals_total") and max(filter(None, unpacked(values)), default=0) > 0)

        def of_leader(metric: str) -> list[float]:
            """Its values at the service that goes on."""
            name = next(name for name in series if name.startswith(metric + "{") and f'node="{leader}"' in name and 'instance="log2"' in name)
            return [value or 0 for value in unpacked(series[name])]

        lag, refusing, refusals = map(of_leader, ("valkey_durability_lag_seconds", "valkey_durability_refusing_writes",
                                                  "valkey_durability_refusals_total"))
        refused_at = refusing.index(1)
        limit = of_leader("valkey_durability_lag_limit_seconds")[0]
        rising = lag[refused_at - 8:refused_at]
        for before, after in zip(rising, rising[1:]):
            self.assertAlmostEqual(after - before, 1, delta=1.1)
            self.assertGreaterEqual(after, before)
        self.assertGreaterEqual(lag[refused_at], limit)
        self.assertEqual(refusals[-1] - refusals[0], 1)
        self.assertEqual((refusing[-1], lag[-1] < 1), (0, True), "it has caught up")
        seconds = of_leader("valkey_durability_refused_seconds_total")
        self.assertAlmostEqual(seconds[-1] - seconds[0], sum(refusing), delta=3)
