"""What a write costs when zones are far apart: SET one at a time, while the service that decides is in the zone of the node that leads, and
while it is in another one. Whatever crosses zones goes through a proxy that delays it. Run by distance.sh, on a quiet machine."""

import argparse
import os
import pathlib
import shutil
import socket
import statistics
import tempfile
import time

from child_process import ChildProcess, wait_for
from cluster import SHARD, ZONES, Cluster
from log_services import LogService, write_peer_token
from ports import HOST, free_port
from server_node import ServerNode

# Long: a node that changes its role while it is measured spoils the figure.
LEASE_MS = 30_000
VALUE = b"x" * 100
SET = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%s\r\n" % (len(VALUE), VALUE)
# The decision moves at most once a minute.
MOVES_WITHIN_S = 90


class Distance:
    """The links between zones, each a port of the proxy."""

    def __init__(self, directory: pathlib.Path, delay_us: int):
        self._directory = directory
        self._delay_us = delay_us
        self._links: list[str] = []
        self.proxy: ChildProcess | None = None

    def port(self, zone: int, to_zone: int, port: int) -> int:
        """Where something in `zone` reaches a port of `to_zone`."""
        if zone == to_zone:
            return port
        link = free_port()
        self._links.append(f"{HOST}:{link}={HOST}:{port}")
        return link

    def start(self) -> None:
        command = [os.environ["DELAY_PROXY"], str(self._delay_us), *self._links]
        self.proxy = ChildProcess(command, self._directory / "proxy.output")
        self.proxy.start()


class FarCluster(Cluster):
    """As Cluster, with a distance between the zones."""

    def __init__(self, directory: pathlib.Path, delay_us: int):
        self.directory = directory
        self.distance = Distance(directory, delay_us)
        ports = [free_port() for _ in range(ZONES)]
        write_peer_token(directory)
        peers = lambda zone: {other: self.distance.port(zone, other, port) for other, port in enumerate(ports)}
        program = os.environ["LOGSERVICE"]
        self.logs = [LogService(directory, zone, SHARD, peers(zone), program, []) for zone in range(ZONES)]
        self.nodes = [self._node(zone) for zone in range(ZONES)]

    def _node(self, zone: int) -> ServerNode:
        others = [(zone + step) % ZONES for step in range(ZONES)]
        addresses = ",".join(f"{HOST}:{self.distance.port(zone, other, self.logs[other].port)}" for other in others)
        more = f"durability.zone zone{zone}\n"
        return ServerNode(self.directory, f"node{zone}", addresses, SHARD, LEASE_MS, more)

    def start(self) -> None:
        self.distance.start()
        super().start()

    def kill(self) -> None:
        super().kill()
        self.distance.proxy.kill()

    def place(self) -> tuple[int, int] | None:
        """In which zone a service decides, and in which a node leads."""
        decider, leader = self.decider(), self.leader()
        return None if decider is None or leader is None else (self.logs.index(decider), self.nodes.index(leader))

    def wait_until_shared(self) -> None:
        wait_for("the service that decides is in the leader's zone",
                 lambda: (place := self.place()) is not None and place[0] == place[1], seconds=MOVES_WITHIN_S)

    def set_zones(self, zone_of) -> None:
        for zone, node in enumerate(self.nodes):
            with node.connect(timeout_s=10) as client:
                client.config_set("durability.zone", zone_of(zone))

    def measure(self, count: int) -> list[float]:
        """How long each of so many SETs took, in milliseconds."""
        took_ms = []
        with socket.create_connection((HOST, self.leader().port), timeout=10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(count):
                began = time.perf_counter()
                client.sendall(SET)
                answer = client.recv(100)
                took_ms.append((time.perf_counter() - began) * 1000)
                assert answer == b"+OK\r\n", answer
        return took_ms


def show(what: str, took_ms: list[float]) -> None:
    cuts = statistics.quantiles(took_ms, n=100)
    print(f"{what}: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, fastest {min(took_ms):.2f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-us", type=int, default=500, help="between two zones, one way")
    parser.add_argument("--count", type=int, default=2000, help="of SETs in each of three rounds")
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="distance-"))
    far = FarCluster(directory, options.delay_us)
    print(f"zones are {options.delay_us} us apart each way: there and back takes {2 * options.delay_us / 1000:.1f} ms")
    try:
        far.start()
        far.wait_until_shared()
        shared = [far.measure(options.count) for _ in range(3)]
        # Without zones the decision stays where it is when another node leads.
        far.set_zones(lambda zone: "")
        target = far.nodes[(far.place()[1] + 1) % ZONES]
        with far.leader().connect(timeout_s=10) as client:
            client.execute_command("DURABILITY.FAILOVER", "TO", target.name)
        wait_for("it leads", lambda: target.role() == "leader")
        elsewhere = [far.measure(options.count) for _ in range(3)]
        assert far.place()[0] != far.place()[1], "it moved meanwhile"
        for round_of_both in zip(shared, elsewhere):
            show("in the leader's zone", round_of_both[0])
            show("in another zone     ", round_of_both[1])
    finally:
        far.kill()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
