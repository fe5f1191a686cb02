"""Three log services that keep the same log, each in a zone of its own, and a node beside each, as processes that can be killed."""

import os
import pathlib
import shutil

import valkey
from child_process import wait_for
from log_services import LogService, form, write_peer_token
from ports import HOST, free_port
from server_node import ServerNode

SHARD = "orders"
ZONES = 3
LEASE_MS = 3000


class Node(ServerNode):
    """A server with the module, which knows all log services, that of its own zone first."""

    def __init__(self, directory: pathlib.Path, number: int, logs: list[LogService], lease_ms: int):
        addresses = ",".join(f"{HOST}:{logs[(number + other) % len(logs)].port}" for other in range(len(logs)))
        super().__init__(directory, f"node{number}", addresses, SHARD, lease_ms, f"durability.zone zone{number}\n")


class Cluster:
    """Three zones with a log service and a node each."""

    def __init__(self, directory: pathlib.Path, lease_ms: int = LEASE_MS, more: tuple[str, ...] = (), disks_mb: tuple[int, ...] = (0, 0, 0)):
        """`more` are arguments of the log services, `disks_mb` the sizes of their disks: 0 for no disk of its own."""
        self.directory = directory
        write_peer_token(directory)
        self.peer_ports = {number: free_port() for number in range(ZONES)}
        self._more = list(more)
        self.logs = [self.make_log(number, self.peer_ports, disks_mb[number]) for number in range(ZONES)]
        self._lease_ms = lease_ms
        self.nodes = self._make_nodes()

    def start(self) -> None:
        for log in self.logs:
            log.start()
        form(self.logs)
        for node in self.nodes:
            node.start()
        self.wait_until_settled()

    def make_log(self, number: int, peer_ports: dict[int, int], disk_mb: int = 0) -> LogService:
        """A log service of that number, which knows those."""
        return LogService(self.directory, number, SHARD, peer_ports, os.environ["LOGSERVICE"], self._more, disk_mb)

    def _make_nodes(self) -> list[Node]:
        return [Node(self.directory, number, self.logs, self._lease_ms) for number in range(ZONES)]

    def renew_nodes(self) -> None:
        """Other nodes take the place of those that were killed, without anything."""
        for node in self.nodes:
            shutil.rmtree(node.home)
        self.nodes = self._make_nodes()

    def kill(self) -> None:
        for process in [*self.nodes, *self.logs]:
            process.kill()

    def start_what_is_dead(self) -> None:
        for process in [*self.logs, *self.nodes]:
            if not process.is_running():
                process.start()

    def decider(self) -> LogService | None:
        """The log service that decides over the log."""
        return next((log for log in self.logs if log.decides()), None)

    def keep_decider(self) -> LogService:
        """The log service that decides, and goes on to for as long as a node leads: not that of the leader's zone after some seconds."""
        def kept() -> LogService | None:
            decider = self.decider()
            try:
                return decider if decider and decider.ask("MOVE", SHARD, decider.name) in (True, "OK") else None
            except valkey.ResponseError as error:
                assert "NOTLEADER" in str(error), error
                return None

        return wait_for("the decision stays", kept)

    def replace(self, log: LogService, old: str | None = None) -> None:
        """Has a service that was started to join take the place of the one named `old`, or of the one that had its name."""
        others = [other for other in self.logs if other is not log]
        wait_for("a service has it replaced", lambda: any(self._replace(other, old or log.name, log) for other in others))

    def _replace(self, at: LogService, old: str, log: LogService) -> bool:
        try:
            return at.ask("REPLACE", old, log.name) in (True, "OK")
        except valkey.ValkeyError as error:
            # Where it is not decided, or too early.
            is_early = any(text in str(error) for text in ("NOTLEADER", "is connected here", "cannot be reached", "did not answer", "was lost before"))
            assert is_early or not isinstance(error, valkey.ResponseError), error
            return False

    def wait_until_whole(self, seconds: float = 60) -> None:
        """Until all services keep both logs, whole."""
        for name in ("", SHARD):
            wait_for(f"log '{name}' is whole", lambda name=name: any(log.has_whole(name) for log in self.logs), seconds)

    def leader(self) -> Node | None:
        return next((node for node in self.nodes if node.role() == "leader"), None)

    def is_settled(self) -> bool:
        """Whether all nodes and all copies are there, and one of each leads."""
        roles = sorted(node.role() for node in self.nodes)
        decider = self.decider()
        if roles != ["follower", "follower", "leader"] or decider is None:
            return False
        copies = [value for name, value in decider.status().items() if name.startswith("copy")]
        return len(copies) == ZONES and all(",lag=0," in copy and copy.endswith("heard=1") for copy in copies)

    def wait_until_settled(self) -> None:
        wait_for("all nodes and copies are there", self.is_settled, seconds=40)
