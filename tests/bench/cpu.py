"""Processor time of processes, by their threads. It stays comparable on a machine that is not quiet, where times do not."""

import collections
import os
import pathlib
import time

# The name of a thread without what numbers it.
DIGITS = "0123456789-_"


def _threads(pid: int) -> dict[str, int]:
    """Nanoseconds on a processor, by the name of the thread. Threads that are named alike are added up."""
    used: collections.Counter[str] = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = "main" if int(task.name) == pid else (task / "comm").read_text().strip().rstrip(DIGITS)
            used[name] += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            # It has ended.
            continue
    return dict(used)


def sample(pids: dict[str, int]) -> dict[tuple[str, str], int]:
    """Nanoseconds by process and thread."""
    return {(process, thread): ns for process, pid in pids.items() for thread, ns in _threads(pid).items()}


def per_request_us(before: dict, after: dict, requests: int) -> dict[tuple[str, str], float]:
    """Microseconds for each request, between two samples."""
    return {key: (ns - before.get(key, 0)) / 1000 / requests for key, ns in after.items()} if requests else {}


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
