"""Runs Valkey's own test suite, unmodified, with the module loaded into every server that it starts.

Units run one by one, each in a process of its own, two at a time. What fails is run again without the module, so that
only what the module changed is counted against it.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from ports import free_port

import cluster
from skipped import Skipped

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "oracle"), str(HERE.parent / "python")]
import suite as oracle  # noqa: E402
PORTS_FROM, PORTS_PER_LANE = 21000, 2000
# A unit in which nothing happens for this long is ended. The longest tests that pass take about a minute; a cluster of fifteen nodes that
# seldom ping takes four on a busy machine.
STALL_SECONDS, CLUSTER_STALL_SECONDS = 240, 600
OUTCOME = re.compile(r"^\[(ok|skip)\]: (.*)$")
FAILURE = re.compile(r"^\*\*\* \[(?:err|exception|TIMEOUT)\]: (.*)$", re.MULTILINE)
# These take longest, so they start first.
SLOW = ["unit/memefficiency", "integration/replication-psync", "integration/replication", "unit/hashexpire"]
SLOW += ["integration/dual-channel-replication", "unit/maxmemory", "unit/hyperloglog", "unit/type/list-3"]

SERVER = """#!/bin/bash
# Gives every server that the suite starts a shard of its own. A cluster's nodes load the module in mode off here: they are what the cluster
# suite is for.
if [ -f "${{1:-}}" ] && grep -q '^loadmodule .*{module}' "$1"; then
    more=()
    # CONFIG REWRITE has kept it.
    if ! grep -q '^durability.shard ' "$1"; then more+=(--durability.shard "suite-$$-${{EPOCHREALTIME/./}}"); fi
    if grep -q '^cluster-enabled yes' "$1"; then more+=(--durability.mode off); fi
    if [ -n "${{ORACLE_PRELOAD:-}}" ]; then export LD_PRELOAD=$ORACLE_PRELOAD; fi
    exec -a "$0" {server} "$@" "${{more[@]}}"
fi
exec -a "$0" {server} "$@"
"""


# One line of a unit sets up several tests, outside of any, by taking slave0 to be its replica; with the module that is the log.
# Another has slots move by CLUSTER SETSLOT, which the module refuses, while it writes; with the module they move by CLUSTER MIGRATESLOTS.
ADAPTED = {
    "integration/replication": ('[string match "*wait_bgsave*" [s -2 slave0]]', '[string match "*wait_bgsave*" [s -2 slave1]]'),
    "unit/cluster/resharding": ("--cluster-yes \\", "--cluster-yes --cluster-use-atomic-slot-migration \\"),
}

RUNNING = set()
ORACLES = []


class Unit:
    """What one run of a unit gave."""

    def __init__(self, name, output, seconds, may_fail):
        self.name, self.seconds = name, round(seconds)
        outcomes = [match.groups() for match in map(OUTCOME.match, output.splitlines()) if match]
        self.passed = sum(outcome == "ok" for outcome, _ in outcomes)
        self.skipped = sum(outcome == "skip" for outcome, _ in outcomes)
        # The list at the end names what timed out as well.
        failed = {re.sub(r" in tests/\S+$", "", name).strip() for name in FAILURE.findall(output)}
        self.known = sorted(test for test in failed if any(re.search(pattern, test) for pattern in may_fail))
        self.failed = sorted(failed.difference(self.known))
        if "The End" not in output:
            self.failed.append("(the unit did not come to its end)")


class Suite:
    """A way to run units: with the module in a mode, or without it."""

    def __init__(self, arguments, work):
        self.source = pathlib.Path(os.environ["VALKEY_SOURCE"])
        self.binaries = pathlib.Path(os.environ["VALKEY_BIN_DIR"])
        self.module = pathlib.Path(os.environ["DURABILITY_SO"])
        self.log_address = None
        self.oracle = None
        self.arguments = arguments
        self.work = work
        self.lanes = queue.Queue()
        for lane in range(arguments.lanes):
            directory = work / f"lane{lane}"
            shutil.copytree(self.source / "tests", directory / "tests")
            (directory / "tests/tmp").mkdir(exist_ok=True)
            if arguments.oracle:
                add_to(directory / "tests/support/test.tcl", oracle.HOOK)
            if arguments.cluster:
                add_to(directory / "tests/support/cluster_util.tcl", cluster.HOOK)
            self.lanes.put((directory, arguments.base_port + lane * PORTS_PER_LANE))
        self.bin = work / "bin"
        self.bin.mkdir()
        for program in self.binaries.glob("valkey-*"):
            if program.is_file() and os.access(program, os.X_OK):
                (self.bin / program.name).symlink_to(program)
        server = self.bin / "valkey-server"
        server.unlink()
        wrapper = cluster.SERVER if arguments.cluster else SERVER
        server.write_text(wrapper.format(module=self.module.name, server=self.binaries / "valkey-server"))
        server.chmod(0o755)
        self.skipped = Skipped(HERE / ("skip-cluster" if arguments.cluster else "skip"))

    def units(self):
        listed = subprocess.run(
            ["tclsh", "tests/test_helper.tcl", "--list-tests"], cwd=self.source, capture_output=True, text=True, check=True
        )
        names = [name for name in listed.stdout.split() if name.startswith("unit/cluster/") == self.arguments.cluster]
        return sorted(names, key=lambda name: (SLOW.index(name) if name in SLOW else len(SLOW), name))

    def adapt(self, directory, name, mode):
        if name not in ADAPTED:
            return
        text = (self.source / f"tests/{name}.tcl").read_text(encoding="utf-8")
        if mode != "none":
            theirs, ours = ADAPTED[name]
            if theirs not in text:
                sys.exit(f"{name} has changed: look at ADAPTED")
            text = text.replace(theirs, ours)
        (directory / f"tests/{name}.tcl").write_text(text, encoding="utf-8")

    def run(self, name, mode):
        """Runs a unit, with the module in that mode, or without it (`none`)."""
        directory, port = self.lanes.get()
        try:
            return self.run_in(directory, port, name, mode)
        finally:
            self.lanes.put((directory, port))

    def run_in(self, directory, port, name, mode):
        self.adapt(directory, name, mode)
        command = ["tclsh", "tests/test_helper.tcl", "--clients", "1", "--durable", "--dump-logs", "--skip-leaks", "--single", name]
        stall = CLUSTER_STALL_SECONDS if self.arguments.cluster else STALL_SECONDS
        command += ["--timeout", str(stall), "--baseport", str(port), "--portcount", str(PORTS_PER_LANE - 50)]
        if mode != "none":
            lines = [str(self.module), f"durability.mode {mode}", f"durability.log {self.log_address}"]
            lines.append("durability.allow-replicaof yes")
            if self.arguments.failover:
                lines.append("durability.failover yes")
            command += ["--config", "loadmodule", "\n".join(lines)]
        not_run, may_fail = ([], []) if mode == "none" or self.arguments.no_skip else self.skipped.of(name)
        if not_run:
            skip_file = directory / "skip"
            skip_file.write_text("\n".join(not_run) + "\n", encoding="utf-8")
            command += ["--skipfile", str(skip_file)]
        if self.arguments.only:
            command += ["--only", self.arguments.only]
        environment = dict(os.environ, TERM="dumb", VALKEY_BIN_DIR=str(self.bin), SUITE_MODE=mode)
        if self.oracle:
            clock = self.oracle.clock_of(directory.name)
            environment |= {"ORACLE_SUITE_PORT": str(self.oracle.port), "ORACLE_PRELOAD": str(clock.library), "ORACLE_CLOCK": str(clock.path)}
        kept = self.arguments.output / f"{name.replace('/', '-')}.{mode}.txt"
        if kept.exists():
            kept = kept.with_suffix(".again.txt")
        started = time.monotonic()
        with open(kept, "w", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )
            RUNNING.add(process)
            try:
                process.wait(timeout=3600)
            except subprocess.TimeoutExpired:
                pass
            finally:
                end(process)
        if self.oracle:
            (self.arguments.output / "oracle.txt").write_text(self.oracle.report() + "\n", encoding="utf-8")
        text = kept.read_text(encoding="utf-8", errors="replace")
        return Unit(name, text, time.monotonic() - started, may_fail)


def end(process):
    """Ends a unit, and what it left running, stopped or not: that is in its process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    RUNNING.discard(process)


def terminated(*_):
    for compared in ORACLES:
        compared.stop()
    for process in list(RUNNING):
        end(process)
    os._exit(143)


def add_to(file, text):
    with open(file, "a", encoding="utf-8") as support:
        support.write(text)


class LogService:
    """The log service that all servers of a run share."""

    def __init__(self, directory):
        ports = [free_port(), free_port()]
        self.address = f"127.0.0.1:{ports[0]}"
        command = [os.environ["LOGSERVICE"], "--dir", str(directory / "log"), "--listen", self.address]
        command += ["--http", f"127.0.0.1:{ports[1]}", "--segment-mb", "2", "--max-shards", "1000000"]
        command += ["--snapshot-log-mb", "0"]
        with open(directory / "logservice.txt", "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        RUNNING.add(self.process)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", ports[0]), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
        sys.exit(f"the log service does not start: {(directory / 'logservice.txt').read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        RUNNING.discard(self.process)


def main():
    parser = argparse.ArgumentParser(prog="scripts/valkey-suite.sh", description=__doc__)
    parser.add_argument("--mode", choices=["sync", "async", "none"], default="sync", help="none: without the module")
    parser.add_argument("--cluster", action="store_true", help="the units of unit/cluster, with a log for each shard, and no others")
    parser.add_argument("--failover", action="store_true", help="with durability.failover yes: leases expire")
    parser.add_argument("--no-skip", action="store_true", help="run what the skip file names as well")
    parser.add_argument("--json", type=pathlib.Path, help="file for the result, for table.py; if it exists, the units that ran are replaced in it")
    parser.add_argument("--only", help="run only tests of that name, or /pattern")
    parser.add_argument("--oracle", action="store_true", help="compare each server with a node that follows its log, after each test")
    parser.add_argument("--lanes", type=int, default=2, help="units that run at a time")
    parser.add_argument("--base-port", type=int, default=PORTS_FROM)
    parser.add_argument("--output", type=pathlib.Path, help="directory for the output of each unit")
    parser.add_argument("units", nargs="*", help="unit/type, unit/multi ...; all units unless told")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, terminated)
    with tempfile.TemporaryDirectory(prefix="vs.") as work:
        work = pathlib.Path(work)
        if arguments.output is None:
            arguments.output = work / "output"
        arguments.output.mkdir(parents=True, exist_ok=True)
        suite = Suite(arguments, work)
        every = suite.units()
        names = [unit for unit in every if not arguments.units or any(matches(unit, given) for given in arguments.units)]
        not_run = [unit for unit in names if arguments.mode != "none" and not arguments.no_skip and suite.skipped.is_whole(unit)]
        names = [unit for unit in names if unit not in not_run]
        for given in arguments.units:
            if not any(matches(unit, given) for unit in every):
                sys.exit(f"there is no unit {given}")
        log = None
        if arguments.mode != "none":
            log = LogService(work)
            suite.log_address = log.address
        if log and arguments.oracle:
            suite.oracle = oracle.Oracle(work / "oracle", log.address)
            ORACLES.append(suite.oracle)
        try:
            if suite.oracle:
                run_units(suite, names, arguments.mode)
                print(suite.oracle.report())
                return 0
            return run(suite, names, not_run, arguments)
        finally:
            if suite.oracle:
                suite.oracle.stop()
            if log:
                log.stop()


def matches(unit, given):
    return unit == given or unit.startswith(given.rstrip("/") + "/")


def run_units(suite, names, mode):
    units = {}
    with concurrent.futures.ThreadPoolExecutor(suite.arguments.lanes) as pool:
        runs = [pool.submit(suite.run, name, mode) for name in names]
        for done in concurrent.futures.as_completed(runs):
            unit = done.result()
            units[unit.name] = unit
            print(f"{unit.name} ({mode}): {unit.passed} passed, {len(unit.failed)} failed in {unit.seconds} s", flush=True)
            for test in unit.failed:
                print(f"    failed: {test}", flush=True)
    return units


def run(suite, names, not_run, arguments):
    mode = arguments.mode
    units = run_units(suite, names, mode)
    suspects = {name: set(unit.failed) for name, unit in units.items() if unit.failed}
    without, once = {}, {}
    if mode != "none" and suspects:
        print("== without the module", flush=True)
        for name, unit in run_units(suite, suspects, "none").items():
            without[name] = suspects[name] & set(unit.failed)
            suspects[name] -= without[name]
        suspects = {name: tests for name, tests in suspects.items() if tests}
    if mode != "none" and suspects:
        print("== again with the module", flush=True)
        for name, unit in run_units(suite, suspects, mode).items():
            once[name] = suspects[name] - set(unit.failed)
            suspects[name] -= once[name]
    report = {
        "mode": mode,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cluster": arguments.cluster,
        "not_run": not_run,
        "units": {
            name: {
                "passed": unit.passed,
                "skipped": unit.skipped,
                "failed_as_listed": unit.known,
                "failed_without_as_well": sorted(without.get(name, [])),
                "passed_when_repeated": sorted(once.get(name, [])),
                "failed": sorted(suspects.get(name, [])),
            }
            for name, unit in sorted(units.items())
        },
    }
    if arguments.json:
        kept = report
        if arguments.json.exists():
            kept = json.loads(arguments.json.read_text(encoding="utf-8"))
            kept["units"].update(report["units"])
            kept["not_run"] = sorted(set(kept.get("not_run", [])) - set(report["units"]) | set(not_run))
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return summarise(report)


def summarise(report):
    def tests(kind):
        return [f"{name}: {test}" for name, unit in report["units"].items() for test in unit[kind]]

    for kind, words in [
        ("failed_without_as_well", "failed without the module as well"),
        ("passed_when_repeated", "failed once, passed when repeated"),
        ("failed", "FAILED ONLY WITH THE MODULE" if report["mode"] != "none" else "failed"),
    ]:
        for test in tests(kind):
            print(f"{words}: {test}")
    skipped = sum(unit["skipped"] for unit in report["units"].values())
    passed = sum(unit["passed"] for unit in report["units"].values()) + len(tests("passed_when_repeated"))
    print(f"{len(report['units'])} units in mode {report['mode']}; of the tests in the skip file "
          f"{skipped} were not run and {len(tests('failed_as_listed'))} failed; "
          f"{len(tests('failed_without_as_well'))} failed without the module as well")
    if report["not_run"]:
        print(f"{len(report['not_run'])} units were not run: {' '.join(report['not_run'])}")
    print(f"{passed} passed, {len(tests('failed'))} failed")
    return 1 if tests("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
