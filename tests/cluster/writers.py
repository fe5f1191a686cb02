"""Clients of the cluster that write all the time, and remember what was acknowledged and when."""

import threading
import time

import valkey
from valkey.cluster import ClusterNode, ValkeyCluster
from valkey.crc import key_slot
from valkey.exceptions import ValkeyClusterException

from ports import HOST
from shards import SLOTS, Cluster

KEYS = 32
# What the client raises when it does not get an answer.
UNREACHABLE = (valkey.ValkeyError, ValkeyClusterException)


def tag_of(shard: int, shards: int, number: int) -> str:
    """A tag whose slot is one of the shard's, the numberth."""
    first, end = shard * SLOTS // shards, (shard + 1) * SLOTS // shards
    tags = (f"t{try_number}" for try_number in range(SLOTS * 4))
    found = [tag for _, tag in zip(range(4000), tags) if first <= key_slot(tag.encode()) < end]
    return found[number]


class Writer(threading.Thread):
    """Writes ascending numbers to keys of its own, all in one shard, one at a time. Each write also reads what the one before has left, so that
    a write is missed even if a later one takes its place."""

    def __init__(self, cluster: Cluster, shard: int, number: int):
        super().__init__(daemon=True)
        self.shard = f"s{shard}"
        self.prefix = f"w{number}{{{tag_of(shard, len(cluster.shards), number)}}}"
        self.last: dict[str, int] = {}
        self.missed: list[str] = []
        self.times: list[float] = []
        self.errors: list[str] = []
        self._nodes = [ClusterNode(HOST, node.port) for node in cluster.nodes]
        self._is_over = threading.Event()

    def _connect(self) -> ValkeyCluster | None:
        try:
            return ValkeyCluster(startup_nodes=self._nodes, socket_timeout=1, socket_connect_timeout=1)
        except UNREACHABLE as error:
            self.errors.append(str(error))
            return None

    def run(self) -> None:
        client, value = None, 0
        while not self._is_over.is_set():
            client = client or self._connect()
            value += 1
            key = f"{self.prefix}:{value % KEYS}"
            try:
                if client is None:
                    self._is_over.wait(0.05)
                    continue
                there = client.set(key, value, get=True)
                self.look(key, there)
                self.last[key] = value
                self.times.append(time.monotonic())
            except UNREACHABLE as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                if isinstance(error, ValkeyClusterException):
                    # It has found no node at all, and would not look again.
                    client = None
                self._is_over.wait(0.01)
            except (ValueError, AttributeError) as error:
                # What this client's own code meets when it closes a connection while it still reads from it, as nodes come and go.
                self.errors.append(f"the client: {error!r}")
                client = None

    def look(self, key: str, there: str | bytes | None) -> None:
        """What was not acknowledged may be there as well, so it may be a later one."""
        acknowledged = self.last.get(key)
        if acknowledged is not None and (there is None or int(there) < acknowledged):
            self.missed.append(f"{key} was {there}, {acknowledged} was acknowledged")

    def end(self) -> None:
        self._is_over.set()
        self.join()


class Writers:
    """Some writers for each shard, while something happens to the cluster."""

    def __init__(self, cluster: Cluster, count: int = 2):
        self._cluster = cluster
        self.list = [Writer(cluster, shard, number) for shard in range(len(cluster.shards)) for number in range(count)]

    def __enter__(self) -> "Writers":
        for writer in self.list:
            writer.start()
        self.wait_for_writes()
        return self

    def __exit__(self, *_) -> None:
        for writer in self.list:
            writer.end()

    def wait_for_writes(self, seconds: float = 20, count: int = 20) -> None:
        """Waits until each has that many more writes acknowledged."""
        deadline = time.monotonic() + seconds
        wanted = {writer: len(writer.times) + count for writer in self.list}
        while any(len(writer.times) < wanted[writer] for writer in self.list):
            if time.monotonic() > deadline:
                stuck = [(writer.prefix, writer.errors[-3:]) for writer in self.list if len(writer.times) < wanted[writer]]
                raise AssertionError(f"no writes within {seconds} s: {stuck}")
            time.sleep(0.01)

    def gap_s(self, shard: str, since: float) -> float:
        """The longest time from then on in which no write of that shard was acknowledged."""
        times = sorted([since] + [at for writer in self.list if writer.shard == shard for at in writer.times if at > since])
        return max((later - sooner for sooner, later in zip(times, times[1:])), default=float("inf"))

    def count(self) -> int:
        return sum(len(writer.times) for writer in self.list)

    def missing(self) -> list[str]:
        """What was acknowledged for a key, and was not there at the next write to it, nor is there now, nor anything later. The writers have
        ended."""
        client = ValkeyCluster(HOST, self._cluster.nodes[0].port, socket_timeout=5)
        for writer in self.list:
            for key in writer.last:
                writer.look(key, client.get(key))
        client.close()
        return [missed for writer in self.list for missed in writer.missed]
