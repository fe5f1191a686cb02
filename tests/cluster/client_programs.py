"""Clients of a cluster, unmodified, as programs that write all the time. What they print is kept with the time."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections import Counter

from ports import HOST
from shards import Cluster

# Classes of errors that say little by themselves: what the text begins with is part of the kind.
GENERIC = {"Error", "ReplyError", "ResponseError", "RequestError"}
# Before what the server says, in GLIDE.
PREFIX = "An error was signalled by the server"


def kind_of(error: str, text: str) -> str:
    """Of an error of that class."""
    if error not in GENERIC:
        return error
    words = text.removeprefix(PREFIX).strip(" :-").split()[:4]
    # Up to a slot or an address.
    words = itertools.takewhile(lambda word: not any(letter.isdigit() for letter in word), words)
    return f"{error}: {' '.join(words).rstrip('.:')}"


class ClientProgram:
    """A program that writes to keys of each tag, see clients/valkey_py.py."""

    def __init__(self, name: str, command: list[str], cluster: Cluster, tags: list[str]):
        self.name = name
        self.tags = tags
        # For each tag when which number was acknowledged.
        self.writes: dict[str, list[tuple[float, int]]] = {tag: [] for tag in tags}
        # When an error of which kind was seen, and its text.
        self.errors: list[tuple[float, str, str]] = []
        # What is no such line: the program has ended, as a rule.
        self.strays: list[str] = []
        command = [*command, HOST, ",".join(str(node.port) for node in cluster.nodes), name, *tags]
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._child.stdout:
            now = time.monotonic()
            try:
                said = json.loads(line)
            except json.JSONDecodeError:
                self.strays.append(line)
                continue
            if "write" in said:
                self.writes[said["tag"]].append((now, said["write"]))
            else:
                self.errors.append((now, kind_of(said["error"], said["text"]), said["text"]))

    def key(self, tag: str, number: int) -> str:
        return f"{self.name}{{{tag}}}:{number}"

    def kinds(self, since: float) -> Counter[str]:
        """How many errors of each kind it has seen."""
        return Counter(kind for at, kind, _ in list(self.errors) if at >= since)

    def texts(self, kinds: set[str]) -> str:
        """What the errors of these kinds say."""
        return f"{self.name}: {sorted({text for _, kind, text in list(self.errors) if kind in kinds})}"

    def least(self, since: float) -> int:
        """How many writes have been acknowledged to the tag that has the fewest."""
        return min(sum(at >= since for at, _ in reversed(writes)) for writes in self.writes.values())

    def gap_s(self, since: float) -> float:
        """The longest time from then on in which no write to one of the tags was acknowledged."""
        longest = 0.0
        for writes in self.writes.values():
            times = [since] + [at for at, _ in list(writes) if at >= since]
            longest = max(longest, *(later - sooner for sooner, later in zip(times, times[1:])))
        return longest

    def is_running(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        """Returns when all that it has said is known."""
        self._child.kill()
        self._child.wait()
        self._listener.join()

    def tail(self) -> str:
        counts = {tag: len(writes) for tag, writes in self.writes.items()}
        return f"{self.name} has written {counts}, its last errors are {self.errors[-4:]}, and it said besides: {self.strays[-4:]}"


def start_clients(cluster: Cluster, tags: list[str]) -> list[ClientProgram]:
    """One of each library."""
    here = pathlib.Path(__file__).parent / "clients"
    commands = {
        "valkey-py": [sys.executable, str(here / "valkey_py.py")],
        "redis-crate": [os.environ["REDIS_CRATE_CLIENT"], "sync"],
        "redis-crate-async": [os.environ["REDIS_CRATE_CLIENT"], "async"],
    }
    for name in ("ioredis", "glide"):
        modules = os.environ.get(f"{name.upper()}_MODULES")
        if modules:
            commands[name] = ["env", f"NODE_PATH={modules}", "node", str(here / f"{name}.js")]
    return [ClientProgram(name, command, cluster, tags) for name, command in commands.items()]
