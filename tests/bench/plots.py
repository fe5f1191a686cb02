"""The figures as pictures: SVG by matplotlib."""

import pathlib

import matplotlib

matplotlib.use("svg")
# The same figures make the same file.
matplotlib.rcParams["svg.hashsalt"] = "durability"
matplotlib.rcParams["font.size"] = 9

from matplotlib import pyplot  # noqa: E402
from tables import Figures  # noqa: E402

# Told apart also by who sees few colours (Okabe and Ito).
COLOURS = ["#000000", "#999999", "#d55e00", "#e69f00", "#56b4e9", "#0072b2", "#009e73"]


def _save(figure, axes, file: pathlib.Path) -> None:
    """With what the colours of these axes mean above all."""
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 0.93), ncols=4, fontsize=8, frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)


def _bars(axes, figures: Figures, loads: list, name: str, scale: float) -> None:
    width = 0.8 / len(figures.systems)
    for number, system in enumerate(figures.systems):
        values = [(figures.median(load, system, name) or 0) / scale for load in loads]
        places = [place + (number - (len(figures.systems) - 1) / 2) * width for place in range(len(loads))]
        axes.bar(places, values, width, label=system.title, color=COLOURS[number % len(COLOURS)])
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)


def _logarithmic(axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def _seed(figures: Figures, file: pathlib.Path) -> None:
    """Latencies of reads and writes at each rate."""
    loads = [load for load in figures.loads if load.is_seed and not load.delay_ms]
    figure, all_axes = pyplot.subplots(2, 2, figsize=(10, 6.5), sharex=True)
    for line, kind in zip(all_axes, ("reads", "writes"), strict=True):
        for axes, quantile in zip(line, ("p50", "p90"), strict=True):
            _bars(axes, figures, loads, f"{kind} {quantile}_us", 1000)
            _logarithmic(axes)
            axes.set_title(f"{kind}, {quantile} (ms, from when they were due)")
            axes.set_xticks(range(len(loads)), [f"{load.share * 100:.0f} %" for load in loads])
    for axes in all_axes[1]:
        axes.set_xlabel("rate, of plain's capacity")
    _save(figure, all_axes[0][0], file)


def _throughput(figures: Figures, file: pathlib.Path) -> None:
    """Writes a second without a fixed rate."""
    loads = [load for load in figures.loads if not load.is_seed and not load.delay_ms]
    figure, axes = pyplot.subplots(figsize=(10, 4))
    _bars(axes, figures, loads, "requests_per_second", 1000)
    _logarithmic(axes)
    axes.set_ylabel("thousand SETs a second")
    axes.set_xticks(range(len(loads)), [load.title.removeprefix("SET, ").replace(", ", "\n") for load in loads])
    _save(figure, axes, file)


def _cpu(figures: Figures, file: pathlib.Path) -> None:
    """Processor time for each request."""
    loads = [load for load in figures.loads if not load.delay_ms]
    figure, axes = pyplot.subplots(figsize=(10, 4))
    _bars(axes, figures, loads, "cpu", 1)
    _logarithmic(axes)
    axes.set_ylabel("µs of all processes for each request")
    axes.set_xticks(range(len(loads)), [load.name.replace("-", "\n") for load in loads])
    _save(figure, axes, file)


def draw(figures: Figures, directory: pathlib.Path) -> list[tuple[str, str]]:
    """Draws all of them. Returns their titles and the names of their files."""
    pictures = [
        ("Latency of reads and writes at three rates", "latency.svg", _seed),
        ("Writes a second", "throughput.svg", _throughput),
        ("Processor time for each request", "cpu.svg", _cpu),
    ]
    for _, name, picture in pictures:
        picture(figures, directory / name)
    return [(title, name) for title, name, _ in pictures]
