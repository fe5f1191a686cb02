"""Clients that write all the time, and remember what was acknowledged and when."""

import threading
import time

import valkey

from cluster import Cluster


class Writer(threading.Thread):
    """Appends numbers to a list of its own, one at a time, and goes to another node after an error."""

    def __init__(self, cluster: Cluster, number: int):
        super().__init__(daemon=True)
        self.key = f"writer{number}"
        self.acknowledged: list[tuple[float, int]] = []
        self._cluster = cluster
        self._is_over = threading.Event()

    def run(self) -> None:
        value, at = 0, 0
        while not self._is_over.is_set():
            node = self._cluster.nodes[at % len(self._cluster.nodes)]
            try:
                with node.connect(timeout_s=1) as client:
                    while not self._is_over.is_set():
                        value += 1
                        client.rpush(self.key, value)
                        self.acknowledged.append((time.monotonic(), value))
            except valkey.ValkeyError:
                at += 1
                self._is_over.wait(0.01)

    def end(self) -> None:
        self._is_over.set()
        self.join()


class Writers:
    """Some writers, while something happens to the cluster."""

    def __init__(self, cluster: Cluster, count: int = 4):
        self._cluster = cluster
        self._writers = [Writer(cluster, number) for number in range(count)]

    def __enter__(self) -> "Writers":
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *_) -> None:
        for writer in self._writers:
            writer.end()

    def count(self) -> int:
        return sum(len(writer.acknowledged) for writer in self._writers)

    def first_after(self, moment: float) -> float | None:
        """When a write was acknowledged that was later than that, of any writer."""
        after = [at for writer in self._writers for at, _ in writer.acknowledged[-1:] if at > moment]
        return min(after, default=None)

    def gap_after(self, moment: float) -> float:
        """The longest time without any acknowledgement, from just before that moment on."""
        times = sorted(at for writer in self._writers for at, _ in writer.acknowledged if at > moment - 0.1)
        return max((later - sooner for sooner, later in zip(times, times[1:])), default=float("inf"))

    def missing(self) -> list[tuple[str, int]]:
        """What was acknowledged, and is not there."""
        leader = self._cluster.leader()
        assert leader is not None, "no node leads"
        missing = []
        with leader.connect(timeout_s=10) as client:
            for writer in self._writers:
                there = {int(value) for value in client.lrange(writer.key, 0, -1)}
                missing += [(writer.key, value) for _, value in writer.acknowledged if value not in there]
        return missing
