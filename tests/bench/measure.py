"""One measurement: a system, loaded by the load generator."""

import dataclasses
import json
import os
import subprocess

import cpu
import loads
from loads import Load
from ports import HOST
from systems import System


@dataclasses.dataclass
class Row:
    """What was seen."""

    run: int
    system: str
    load: str
    # Requests a second that were asked for; 0: as many as were answered.
    rate: float
    seen: dict
    # Microseconds for each request, by process and thread.
    cpu_us: dict[tuple[str, str], float]

    def value(self, name: str) -> float | None:
        """A figure by its name: `requests_per_second`, `reads p50_us`, or `cpu` of a process and `cpu` of all. None if there is none."""
        first, _, rest = name.partition(" ")
        if first == "cpu":
            used = [us for (process, _), us in self.cpu_us.items() if rest in ("", process)]
            return sum(used) if used else None
        if rest:
            return self.seen[first][rest] if self.seen[first]["count"] else None
        return self.seen[first]


def _generate(system: System, *options: object) -> dict:
    command = [os.environ["BENCH_LOAD"], "--server", f"{HOST}:{system.port}", *map(str, options)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{system.title}: {done.stderr}")
    return json.loads(done.stdout)


def fill(system: System, keys: int) -> None:
    """Writes all keys."""
    _generate(system, "--fill", "--keys", keys, "--clients", 8, "--pipeline", 100, "--value-bytes", loads.SEED_VALUE_BYTES)


def capacity(system: System, keys: int, seconds: float) -> float:
    """Requests a second that it answers as fast as it can."""
    seen = _generate(system, "--keys", keys, "--clients", 50, "--reads-percent", loads.SEED_READS_PERCENT, "--value-bytes",
                     loads.SEED_VALUE_BYTES, "--seconds", seconds)
    return seen["requests_per_second"]


def measure(run: int, system: System, load: Load, rate: float, keys: int, seconds: float) -> Row:
    """Loads it, and says what was seen."""
    options = ["--clients", load.clients, "--pipeline", load.pipeline, "--rate", rate, "--reads-percent", load.reads_percent,
               "--keys", keys if load.is_seed else min(keys, loads.SET_KEYS), "--value-bytes", load.value_bytes, "--seconds", seconds,
               "--seed", run, "--prefix", "key:" if load.is_seed else "set:"]
    if load.delay_ms:
        system.delay(load.delay_ms)
    pids = {label: process.pid() for label, process in system.processes.items()}
    try:
        before = cpu.sample(pids)
        seen = _generate(system, *options)
        after = cpu.sample(pids)
    finally:
        if load.delay_ms:
            system.delay(0)
    if seen["errors"]:
        raise AssertionError(f"{system.title}: {seen['errors']} requests of {load.title} were answered by an error")
    return Row(run, system.name, load.name, rate, seen, cpu.per_request_us(before, after, seen["all_requests"]))
