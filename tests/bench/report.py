"""Compares durable Valkey with what people use: all systems side by side, interleaved, in one run. Writes a report with tables, pictures and
all figures. docs/bench/README.md says how it is measured.
"""

import argparse
import datetime
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import cpu
import loads
import measure
import plots
import tables
from systems import Systems, settle



def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench.sh --report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=3_000_000, help="keys of the workload with reads (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="medians are of so many (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a measurement (default %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="where the report goes (default docs/bench, with --short target/bench-report)")
    parser.add_argument("--dir", type=pathlib.Path, help="a directory on the disk that is measured (default target/bench)")
    parser.add_argument("--short", action="store_true", help="few loads, few keys, one run: to see that all of it works")
    options = parser.parse_args()
    if options.short:
        options.keys, options.runs, options.seconds = 20_000, 1, 1.0
    if options.keys < 1 or options.runs < 1 or options.seconds <= 0:
        parser.error("--keys and --runs are 1 or more, --seconds more than 0")
    root = pathlib.Path(os.environ["BENCH_ROOT"])
    options.root = root
    options.out = options.out or (root / "target" / "bench-report" if options.short else root / "docs" / "bench")
    options.dir = options.dir or root / "target" / "bench"
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """All measurements."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._loads = loads.SHORT_LOADS if options.short else loads.LOADS
        self._rows: list[measure.Row] = []
        self._capacity = 0.0

    def run(self, directory: pathlib.Path) -> tables.Figures:
        systems: list = []
        for run in range(1, self._options.runs + 1):
            # On files of its own: what one run leaves on the disk is not the next one's to carry.
            with tempfile.TemporaryDirectory(prefix=f"run{run}.", dir=directory) as home:
                all_systems = Systems(pathlib.Path(home))
                systems = all_systems.list
                try:
                    all_systems.start()
                    self._one_run(run, systems, pathlib.Path(home))
                finally:
                    all_systems.kill()
        return tables.Figures(self._rows, self._loads, systems)

    def _one_run(self, run: int, systems: list, home: pathlib.Path) -> None:
        say(f"run {run} of {self._options.runs}: {self._options.keys} keys into {len(systems)} systems")
        for system in systems:
            measure.fill(system, self._options.keys)
            settle(system, home)
        if not self._capacity:
            self._capacity = measure.capacity(systems[0], self._options.keys, max(self._options.seconds, 1))
            say(f"plain Valkey takes {self._capacity:.0f} requests a second of the workload with reads")
        for load in self._loads:
            say(f"run {run}: {load.title}")
            # Who is first and who is last changes from run to run.
            for system in systems[run % len(systems):] + systems[:run % len(systems)]:
                if load.delay_ms and not system.has_log:
                    continue
                settle(system, home)
                rate = (load.share or 0) * self._capacity
                self._rows.append(measure.measure(run, system, load, rate, self._options.keys, self._options.seconds))
        for system in systems:
            system.check()

    def facts(self, directory: pathlib.Path, took_s: float) -> list[tuple[str, str]]:
        options = self._options
        git = ["git", "-C", str(options.root)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True, text=True).stdout
        server = subprocess.run([os.environ["VALKEY_BIN_DIR"] + "/valkey-server", "--version"], check=True, capture_output=True, text=True)
        return [
            ("machine", cpu.machine()),
            ("disk", f"4 KB are written and synced in {cpu.disk_sync_ms(directory):.2f} ms (median)"),
            ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("commit", commit + (", with changes" if changed else "")),
            ("server", " ".join(server.stdout.split()[2:3])),
            ("measured", f"{options.runs} runs, {options.seconds:g} s each, in {took_s / 60:.0f} minutes"),
            ("keys", f"{options.keys:,} of {loads.SEED_VALUE_BYTES} B in the workload with reads, {loads.SET_KEYS:,} in the others"),
            ("plain's capacity", f"{self._capacity:,.0f} requests/s: 80 % GET, 20 % SET, 50 clients, as fast as they are answered"),
        ]


def main() -> None:
    options = arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="report.", dir=options.dir) as directory:
        figures = bench.run(pathlib.Path(directory))
        facts = bench.facts(pathlib.Path(directory), time.monotonic() - begun)
    tables.write_csv(figures, options.out / "measurements.csv")
    tables.write_cpu_csv(figures, options.out / "cpu.csv")
    tables.write_markdown(figures, facts, plots.draw(figures, options.out), options.out / "report.md")
    say(f"done in {time.monotonic() - begun:.0f} s")
    print(options.out / "report.md")


if __name__ == "__main__":
    main()
