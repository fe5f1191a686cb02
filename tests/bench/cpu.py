"""Processor time of processes, by their threads. It stays comparable on a machine that is not quiet, where times do not."""

import collections
import dataclasses
import os
import pathlib
import time

# The name of a thread without what numbers it.
DIGITS = "0123456789-_"


@dataclasses.dataclass
class Sample:
    """Nanoseconds on a processor until a moment."""

    # By the label of the process: of all its threads, those that have ended included.
    processes: dict[str, int]
    # By the label of the process and the number of the thread: the name of the thread, and its time.
    threads: dict[tuple[str, int], tuple[str, int]]


def _process_ns(pid: int) -> int:
    # What clock_getcpuclockid(3) returns.
    return time.clock_gettime_ns((~pid << 3) | 2)


def _threads(pid: int) -> dict[int, tuple[str, int]]:
    seen = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = "main" if int(task.name) == pid else (task / "comm").read_text().strip().rstrip(DIGITS)
            seen[int(task.name)] = (name, int((task / "schedstat").read_text().split()[0]))
        except (FileNotFoundError, ProcessLookupError):
            # It has ended.
            continue
    return seen


def sample(pids: dict[str, int]) -> Sample:
    """What these processes have used until now."""
    threads = {(process, thread): seen for process, pid in pids.items() for thread, seen in _threads(pid).items()}
    return Sample({process: _process_ns(pid) for process, pid in pids.items()}, threads)


def per_request_us(before: Sample, after: Sample, requests: int) -> dict[tuple[str, str], float]:
    """Microseconds for each request, by process and name of the thread. Threads that are named alike are added up."""
    if not requests:
        return {}
    used: collections.Counter[tuple[str, str]] = collections.Counter()
    for key, (name, ns) in after.threads.items():
        used[key[0], name] += ns - before.threads.get(key, (name, 0))[1]
    for process, ns in after.processes.items():
        known = sum(ns for (of, _), ns in used.items() if of == process)
        # The two are read one after the other, so they differ by a little.
        used[process, "ended"] = max(ns - before.processes[process] - known, 0)
    return {key: ns / 1000 / requests for key, ns in used.items()}


def machine() -> str:
    """What this machine is, in a line."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_kb = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    system = os.uname()
    return f"{len(models)} x {models[0] if models else system.machine}, {memory_kb / (1 << 20):.0f} GiB, {system.sysname} {system.release}"


def disk_sync_ms(directory: pathlib.Path, times: int = 200) -> float:
    """The median time of writing 4 KB to a file and syncing it."""
    taken = []
    file = directory / "sync-time"
    with file.open("wb") as out:
        out.write(bytes(4096))
        for _ in range(times):
            out.seek(0)
            out.write(bytes(4096))
            start = time.monotonic()
            out.flush()
            os.fdatasync(out.fileno())
            taken.append(time.monotonic() - start)
    file.unlink()
    return sorted(taken)[times // 2] * 1000
