"""The figures as CSV and as Markdown. Of several runs the median is shown, and in the CSV each run."""

import csv
import pathlib
import statistics

from loads import Load
from measure import Row
from systems import System

# What a row of the CSV has besides run, system, load and rate.
COLUMNS = ["requests_per_second", *(f"{kind} {figure}" for kind in ("reads", "writes") for figure in ("p50_us", "p90_us", "p99_us", "max_us")),
           "late_p99_us", "unanswered"]


class Figures:
    """All rows, by load and system."""

    def __init__(self, rows: list[Row], loads: list[Load], systems: list[System]):
        self.rows, self.loads, self.systems = rows, loads, systems

    def median(self, load: Load, system: System, name: str) -> float | None:
        """Of all runs; none if there is no such figure."""
        values = [row.value(name) for row in self.rows if (row.load, row.system) == (load.name, system.name)]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def measured(self, load: Load) -> list[System]:
        """The systems that had this load."""
        names = {row.system for row in self.rows if row.load == load.name}
        return [system for system in self.systems if system.name in names]


def write_csv(figures: Figures, file: pathlib.Path) -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "system", "load", "asked_per_second", *(name.replace(" ", "_") for name in COLUMNS), "cpu_us_per_request"])
        for row in figures.rows:
            values = [row.value(name) for name in COLUMNS]
            cells = ["" if value is None else f"{value:.0f}" for value in values]
            writer.writerow([row.run, row.system, row.load, f"{row.rate:.0f}", *cells, f"{row.value('cpu') or 0:.2f}"])


def write_cpu_csv(figures: Figures, file: pathlib.Path) -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "system", "load", "process", "thread", "cpu_us_per_request"])
        for row in figures.rows:
            for (process, thread), us in sorted(row.cpu_us.items()):
                if us >= 0.005:
                    writer.writerow([row.run, row.system, row.load, process, thread, f"{us:.2f}"])


def _us(value: float | None) -> str:
    """A time as people read it."""
    if value is None:
        return "-"
    return f"{value / 1000:,.0f} ms" if value >= 100_000 else f"{value / 1000:.1f} ms" if value >= 10_000 else f"{value:,.0f} µs"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(figures: Figures, load: Load) -> list[str]:
    kinds = ["reads", "writes"] if load.is_seed else ["writes"]
    quantiles = [("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us")]
    plain = next((system for system in figures.measured(load) if system.name == "plain"), None)
    head = ["", "requests/s", *(f"{kind}, {title}" for kind in kinds for title, _ in quantiles), "CPU of all", "of the server"]
    lines = [_row(head), "|---|" + "---:|" * (len(head) - 1)]
    for system in figures.measured(load):
        rate = figures.median(load, system, "requests_per_second")
        cells = [system.title, f"{rate:,.0f}"]
        for kind in kinds:
            for _, figure in quantiles:
                value = figures.median(load, system, f"{kind} {figure}")
                base = figures.median(load, plain, f"{kind} {figure}") if plain else None
                cells.append(_us(value) + (f" ({value / base:.2f})" if base and value is not None and system is not plain else ""))
        cells += [f"{figures.median(load, system, 'cpu') or 0:.1f} µs", f"{figures.median(load, system, 'cpu server') or 0:.1f} µs"]
        unanswered = figures.median(load, system, "unanswered")
        if unanswered:
            cells[0] += f" ({unanswered:,.0f} not answered within 3 s)"
        lines.append(_row(cells))
    return lines


def write_markdown(figures: Figures, facts: list[tuple[str, str]], plots: list[tuple[str, str]], file: pathlib.Path) -> None:
    """`facts` say what was measured where, `plots` are titles and files."""
    lines = ["# What durability costs: a report", "", "Made by `scripts/bench.sh --report`. [How it is measured](README.md).", ""]
    lines += ["| | |", "|---|---|", *(_row([name, value]) for name, value in facts), ""]
    for title, name in plots:
        lines += [f"![{title}]({name})", ""]
    lines += ["Medians of the runs. In brackets: times that of plain Valkey. CPU is processor time for each request, of all processes and of", "the server alone.", ""]
    for load in figures.loads:
        lines += [f"## {load.title}", "", *_table(figures, load), ""]
    lines += ["[All runs](measurements.csv), and [processor time of each thread](cpu.csv).", ""]
    file.write_text("\n".join(lines))
