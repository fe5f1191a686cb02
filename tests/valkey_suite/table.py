"""Writes the table of the last whole runs of Valkey's suite: table.py none.json sync.json async.json > RESULTS.md"""

import json
import pathlib
import subprocess
import sys


def cell(unit):
    if unit is None:
        return "-"
    failed = len(unit["failed"]) + len(unit["failed_without_as_well"])
    return f"{unit['passed'] + len(unit['passed_when_repeated'])}" + (f", {failed} failed" if failed else "")


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
    print("# Valkey's own test suite with the module loaded\n")
    print(f"Valkey {version}; all of `unit/` and `integration/` but `unit/cluster` and `unit/moduleapi`, unmodified; tests that")
    print("passed. `scripts/valkey-suite.sh` repeats it. What is not run is in `skip`, each test with its reason; it is not")
    print("counted here. Nodes of a cluster load the module in mode off. One line of integration/replication is adapted (see `run.py`).\n")
    print("| |" + "".join(f" {names[mode]} ({report['date']}) |" for mode, report in reports.items()))
    print("|---|" + "---|" * len(reports))
    for unit in sorted(set().union(*(report["units"] for report in reports.values()))):
        print(f"| {unit} |" + "".join(f" {cell(report['units'].get(unit))} |" for report in reports.values()))
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
