"""Writes the table of the last whole runs of Valkey's suite: table.py none.json sync.json async.json > RESULTS.md, and of the cluster suite
> RESULTS-CLUSTER.md"""

import json
import pathlib
import subprocess
import sys


def cell(report, name):
    unit = report["units"].get(name)
    if unit is None:
        return "not run" if name in report.get("not_run", []) else "-"
    failed = len(unit["failed"]) + len(unit["failed_without_as_well"])
    return f"{unit['passed'] + len(unit['passed_when_repeated'])}" + (f", {failed} failed" if failed else "")


ALL = """# Valkey's own test suite with the module loaded

Valkey {version}; all of `unit/` and `integration/` but `unit/cluster` and `unit/moduleapi`, unmodified; tests that
passed. `scripts/valkey-suite.sh` repeats it. What is not run is in `skip`, each test with its reason; it is not
counted here. Nodes of a cluster load the module in mode off: they are in [the cluster suite](RESULTS-CLUSTER.md). One line of
integration/replication is adapted (see `run.py`).
"""
CLUSTER = """# Valkey's own cluster suite with the module loaded

Valkey {version}; all of `unit/cluster`, unmodified but for one option of `valkey-cli` in `resharding` (see `run.py`); tests that passed.
Every node has the module, a log and `durability.failover yes`. `scripts/valkey-suite.sh --cluster` repeats it. What is not run is in
`skip-cluster`, each test with its reason; it is not counted here.

Nodes that the suite makes replicas name the shards of their primaries from the start (see `cluster.py`). Where a node closes the suite's
connection, as when it ceases to lead, the suite connects and asks again. Units with 0 without the module as well need TLS, or another version
of the server.
"""


def total(report):
    units = report["units"].values()
    passed = sum(unit["passed"] + len(unit["passed_when_repeated"]) for unit in units)
    return f"**{passed}**, {sum(len(unit['failed']) + len(unit['failed_without_as_well']) for unit in units)} failed"


def main():
    reports = {}
    for path in sys.argv[1:]:
        report = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        reports[report["mode"]] = report
    version = subprocess.run(["valkey-server", "--version"], capture_output=True, text=True, check=True).stdout
    version = next(word[2:] for word in version.split() if word.startswith("v="))
    names = {"none": "without the module", "sync": "sync", "async": "async"}
    is_cluster = any(report.get("cluster") for report in reports.values())
    print((CLUSTER if is_cluster else ALL).format(version=version))
    print("| |" + "".join(f" {names[mode]} ({report['date']}) |" for mode, report in reports.items()))
    print("|---|" + "---|" * len(reports))
    for unit in sorted(set().union(*(report["units"] for report in reports.values()))):
        print(f"| {unit} |" + "".join(f" {cell(report, unit)} |" for report in reports.values()))
    print("| all |" + "".join(f" {total(report)} |" for report in reports.values()))
    for kind, words in [
        ("failed", "Failed only with the module"),
        ("failed_without_as_well", "Failed without the module as well"),
        ("passed_when_repeated", "Failed once and passed when the unit was repeated"),
    ]:
        tests = [(mode, unit, test) for mode, report in reports.items() if mode != "none"
                 for unit, result in report["units"].items() for test in result[kind]]
        print(f"\n{words}: " + ("none." if not tests else ""))
        if tests:
            print()
            for mode, unit, test in tests:
                print(f"- {mode}, {unit}: {test}")


if __name__ == "__main__":
    main()
