"""Records what Prometheus would scrape while something happens to a shard of three nodes and three log services: `recorded/*.json`, which
recorded_test.py has the alert rules judge. Only what the rules use is kept.

    tests/deploy/run.sh --record [scenario...]

All of them take 25 minutes, because snapshots have to fail for a quarter of an hour before somebody is told. Needs what run.sh needs.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import sys
import tempfile
import threading
import time
import urllib.request

import valkey
from child_process import wait_for
from log_services import LogServices
from ports import HOST
from prometheus_test import metrics, rules
from server_node import ServerNode

RECORDED = pathlib.Path(__file__).parent / "recorded"
SHARD = "s"
LEASE_MS = 1500
# What the log is behind by when writes are refused.
MAX_LAG_MS = 10_000
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
# What recorded_test.py looks at besides.
JUDGED = {"valkey_durability_refusals_total", "valkey_durability_refused_seconds_total"}
# In each scenario nothing happens for so long at first.
QUIET_S = 15


def scraped(http_port: int) -> dict[str, str]:
    """The values that a log service shows, by name and labels; `up` alone if it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{http_port}/metrics", timeout=0.8) as answer:
            text = answer.read().decode()
    except OSError:
        return {"up{": "0"}
    found = {"up{": "1"}
    for line in text.splitlines():
        sample = SAMPLE.match(line)
        if sample:
            found[f"{sample[1]}{{{sample[2] or ''}"] = sample[3]
    return found


class Recording:
    """The values of all scrapes, by series."""

    def __init__(self, interval_s: float, http_ports: list[int]):
        self._interval_s, self._http_ports = interval_s, http_ports
        self._wanted = set().union(*(metrics(rule["expr"]) for rule in rules())) | JUDGED
        self._series: dict[str, dict[int, str]] = {}
        self._scrapes = 0
        self._began = time.time()
        # As Prometheus does, none waits for another one.
        self._scrapers = concurrent.futures.ThreadPoolExecutor(len(http_ports))

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._scrape()
            due = self._began + self._scrapes * self._interval_s
            time.sleep(max(0.0, due - time.time()))

    def _scrape(self) -> None:
        for number, values in enumerate(self._scrapers.map(scraped, self._http_ports)):
            for series, value in values.items():
                name, _, labels = series.partition("{")
                if name in self._wanted:
                    # promtool's clock begins at 0.
                    shift = self._began if name.endswith("_timestamp_seconds") else 0
                    value = f"{float(value) - shift:.6g}"
                    more = "," + labels if labels else ""
                    full = f'{name}{{job="logservice",instance="log{number}"{more}}}'
                    self._series.setdefault(full, {})[self._scrapes] = value
        self._scrapes += 1

    def store(self, name: str) -> None:
        RECORDED.mkdir(exist_ok=True)
        series = {full: packed(gone_at_once([values.get(at) for at in range(self._scrapes)])) for full, values in sorted(self._series.items())}
        what = {"interval_s": self._interval_s, "scrapes": self._scrapes, "series": series}
        (RECORDED / f"{name}.json").write_text(json.dumps(what, indent=0) + "\n")


def gone_at_once(values: list[str | None]) -> list[str | None]:
    """As Prometheus has them: a series that is not in a scrape is gone with it, and not only minutes later."""
    return ["stale" if value is None and at > 0 and values[at - 1] is not None else value for at, value in enumerate(values)]


def packed(values: list[str | None]) -> str:
    """In promtool's notation: `AxN` stands for N + 1 times A, `_` for nothing."""
    runs: list[list] = []
    for value in values:
        word = "_" if value is None else value
        if runs and runs[-1][0] == word:
            runs[-1][1] += 1
        else:
            runs.append([word, 1])
    return " ".join(word if times == 1 else f"_x{times}" if word == "_" else f"{word}x{times - 1}" for word, times in runs)


class Shard:
    """Three log services, a node beside each, and a writer."""

    def __init__(self, directory: pathlib.Path, mode: str, more: list[str]):
        self.logs = LogServices(directory, 3, SHARD, more)
        lines = f"durability.mode {mode}\ndurability.max-lag-ms {MAX_LAG_MS}\ndurability.throttle no\n"
        self.nodes = [ServerNode(directory, f"n{number}", self.logs.addresses, SHARD, LEASE_MS, lines) for number in range(3)]
        self._stopped = threading.Event()
        self._writer = threading.Thread(target=self._write)

    def start(self) -> None:
        self.logs.start()
        self.logs.form()
        for node in self.nodes:
            node.start()
        wait_for("one node leads and two follow", lambda: sorted(node.role() for node in self.nodes) == ["follower", "follower", "leader"], 60)
        self._writer.start()
        with self.leader().connect() as client:
            wait_for("the writer writes", lambda: client.dbsize() > 100)

    def leader(self) -> ServerNode:
        return wait_for("a node leads", lambda: next((node for node in self.nodes if node.role() == "leader"), None), 60)

    def decider(self):
        return wait_for("a service decides", self.logs.decider, 60)

    def _write(self) -> None:
        number = 0
        while not self._stopped.is_set():
            for node in self.nodes:
                # Nodes that do not lead, or refuse, are passed over: what they say is in the figures.
                with contextlib.suppress(valkey.ValkeyError), node.connect() as client:
                    while not self._stopped.is_set():
                        client.set(f"key{number % 1000}", number)
                        number += 1
                        time.sleep(0.005)
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopped.set()
        if self._writer.is_alive():
            self._writer.join()
        for process in [*self.nodes, self.logs]:
            process.kill()

    def recording(self, interval_s: float = 1) -> Recording:
        return Recording(interval_s, [service.http_port for service in self.logs.list])


def healthy(shard: Shard) -> Recording:
    recording = shard.recording()
    recording.run(QUIET_S + 75)
    return recording


def log_stopped(shard: Shard) -> Recording:
    """Two of three stop, and go on after 45 s."""
    # The one that is left hears of all nodes.
    stopped = shard.logs.list[:2]
    recording = shard.recording()
    recording.run(QUIET_S)
    for service in stopped:
        service.freeze()
    recording.run(45)
    for service in stopped:
        service.thaw()
    recording.run(30)
    return recording


def leader_killed(shard: Shard) -> Recording:
    """It is started again after 20 s."""
    recording = shard.recording()
    recording.run(QUIET_S)
    leader = shard.leader()
    leader.kill()
    recording.run(20)
    leader.start()
    recording.run(40)
    return recording


def snapshot_fails(shard: Shard) -> Recording:
    for service in shard.logs.list:
        service.terminate()
        service.set_engine("/bin/false")
        service.start()
    shard.decider()
    with shard.leader().connect(20) as client:
        for number in range(3):
            client.set(f"large{number}", "x" * (1 << 20))
    recording = shard.recording(15)
    recording.run(17 * 60)
    return recording


# The mode of the nodes, and words of the log services' command line.
SCENARIOS = {
    healthy: ("sync", []),
    log_stopped: ("async", []),
    leader_killed: ("sync", []),
    snapshot_fails: ("sync", ["--snapshot-log-mb", "1"]),
}


def main(names: list[str]) -> None:
    for scenario, (mode, more) in SCENARIOS.items():
        name = scenario.__name__
        if names and name not in names:
            continue
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="record-") as directory:
            shard = Shard(pathlib.Path(directory), mode, more)
            try:
                shard.start()
                scenario(shard).store(name)
            finally:
                shard.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
