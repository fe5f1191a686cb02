"""A short report has everything that a long one has: each system with each load, figures that can be, tables and pictures."""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import counted_tests
import loads

BENCH = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts" / "bench.sh"
DURABLE = {"async", "sync", "zones"}
SYSTEMS = DURABLE | {"plain", "replicated", "always", "everysec"}


class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._directory = tempfile.TemporaryDirectory(prefix="bench.")
        cls.out = pathlib.Path(cls._directory.name, "out")
        # As people type it; what it needs was built.
        command = [BENCH, "--report", "--short", "--out", str(cls.out), "--dir", cls._directory.name]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"SKIP_BUILD": "1"}, timeout=300)
        if done.returncode:
            raise AssertionError(done.stderr)
        with (cls.out / "measurements.csv").open(newline="") as file:
            cls.rows = list(csv.DictReader(file))

    @classmethod
    def tearDownClass(cls):
        cls._directory.cleanup()

    def test_each_system_has_each_load(self):
        for load in loads.SHORT_LOADS:
            measured = {row["system"] for row in self.rows if row["load"] == load.name}
            self.assertEqual(measured, DURABLE if load.delay_ms else SYSTEMS, load.name)

    def test_figures_are_those_of_what_was_asked(self):
        # On a machine that is very busy, a measurement of a second may see no answer.
        answered = [row for row in self.rows if float(row["requests_per_second"]) > 0]
        self.assertGreater(len(answered), 0.75 * len(self.rows), self.rows)
        for row in answered:
            with self.subTest(system=row["system"], load=row["load"]):
                self.assertGreater(float(row["cpu_us_per_request"]), 0)
                self.assertGreater(float(row["writes_p50_us"]), 0)
                self.assertEqual(row["reads_p50_us"] != "", row["load"].startswith("seed"))
                self.assertGreaterEqual(float(row["writes_p99_us"]), float(row["writes_p50_us"]))

    def test_a_late_acknowledgement_is_waited_for(self):
        late = {row["system"]: row["writes_p50_us"] for row in self.rows if row["load"] == "set-50-100B-1ms" and row["writes_p50_us"]}
        for system in {"sync", "zones"} & set(late):
            self.assertGreater(float(late[system]), 1000, system)

    def test_processor_time_is_that_of_each_process(self):
        with (self.out / "cpu.csv").open(newline="") as file:
            seen = {(row["system"], row["process"]) for row in csv.DictReader(file)}
        self.assertLessEqual({("plain", "server"), ("replicated", "replica"), ("sync", "log service"), ("zones", "log service 2")}, seen)

    def test_the_page_shows_all_tables_and_pictures(self):
        text = (self.out / "report.md").read_text()
        for load in loads.SHORT_LOADS:
            self.assertIn(f"## {load.title}\n", text)
        self.assertEqual(text.count("\n| sync, three zones"), len(loads.SHORT_LOADS))
        for fact in ("machine", "disk", "date", "commit", "keys"):
            self.assertIn(f"| {fact} | ", text)
        for picture in ("latency.svg", "throughput.svg", "cpu.svg"):
            self.assertIn(f"]({picture})", text)
            root = xml.etree.ElementTree.parse(self.out / picture).getroot()
            self.assertTrue(root.tag.endswith("svg"))


if __name__ == "__main__":
    sys.exit(counted_tests.run(Report))
