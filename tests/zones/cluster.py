"""Three log services that keep the same log, each in a zone of its own, and a node beside each, as processes that can be killed."""

import os
import pathlib
import shutil
import socket

import valkey
from child_process import HOST, ChildProcess, free_port, wait_for
from server_node import ServerNode

SHARD = "orders"
ZONES = 3
LEASE_MS = 3000


def pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class LogService(ChildProcess):
    """One of the log services. They know each other by their peers' ports."""

    def __init__(self, directory: pathlib.Path, number: int, peer_ports: list[int], more: tuple[str, ...] = (), disk_mb: int = 0):
        """`more` are more arguments. With `disk_mb` its directory is a disk of that size, which is lost when the process ends."""
        self.port = free_port()
        self.home = directory / f"log{number}"
        token = directory / "peer-token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text("what the services know of each other\n")
        peers = ",".join(f"log{peer}={HOST}:{port}" for peer, port in enumerate(peer_ports))
        command = [os.environ["LOGSERVICE"], "--dir", str(self.home), "--listen", f"{HOST}:{self.port}"]
        command += ["--http", f"{HOST}:{free_port()}", "--name", f"log{number}", "--zone", f"zone{number}", "--peers", peers]
        command += ["--peer-token", str(token)]
        command += ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server", *more]
        if disk_mb:
            self.home.mkdir()
            mount = f'mount -t tmpfs -o size={disk_mb}m none "$0" && exec "$@"'
            command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(self.home), *command]
        super().__init__(command, directory / f"log{number}.output")

    def connect(self, timeout_s: float = 2) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, socket_timeout=timeout_s, decode_responses=True)

    def disk(self) -> pathlib.Path:
        """Its directory, as the process sees it."""
        assert self._child is not None
        return pathlib.Path(f"/proc/{self._child.pid}/root{self.home}")

    def sentinel(self, *words: str):
        """The answer to a command of Sentinel; none if the service does not answer."""
        try:
            with self.connect() as client:
                # Without the client's own reading of such answers.
                client.response_callbacks.clear()
                return client.execute_command("SENTINEL", *words, SHARD)
        except valkey.ValkeyError:
            return None

    def status(self) -> dict[str, str]:
        """LOG.STATUS of the shard; empty if the service does not answer, or has no such shard."""
        try:
            with self.connect() as client:
                return pairs(client.execute_command("LOG.STATUS", SHARD))
        except valkey.ValkeyError:
            return {}

    def decides(self) -> bool:
        return self.status().get("standing") == "decides"

    def lose_disk(self) -> None:
        """Kills it, and its disk is gone."""
        self.kill()
        shutil.rmtree(self.home)

    def start_to_join(self) -> None:
        """Starts it on an empty directory, to be given a place."""
        command = self._command
        self._command = [*command, "--join"]
        self.start()
        self._command = command

    def ask(self, *arguments: str):
        with self.connect() as client:
            return client.execute_command("LOG.CLUSTER", *arguments)

    def cluster_status(self) -> dict[str, str]:
        """LOG.CLUSTER STATUS; empty if the service does not answer."""
        try:
            return pairs(self.ask("STATUS"))
        except valkey.ValkeyError:
            return {}

    def has_whole(self, name: str) -> bool:
        """Whether it decides over a log that all services of the cluster keep, whole. The cluster's own log has no name."""
        logs = [value for value in self.cluster_status().values() if value.startswith(f"name={name},")]
        return any(log.endswith(",whole=1") for log in logs)

    def snapshots(self) -> list[pathlib.Path]:
        """The RDB files of the shard that it keeps."""
        return sorted((self.home / "snapshots").glob(f"{SHARD}-*/*.rdb"))

    def full_copy(self, timeout_s: float) -> bytes:
        """The RDB that it gives to who has nothing."""
        commands = [["AUTH", SHARD, "any"], ["REPLCONF", "version", self.status()["engine_version"]], ["PSYNC", "?", "-1"]]
        with socket.create_connection((HOST, self.port), timeout=timeout_s) as connection, connection.makefile("rb") as answers:
            for command in commands:
                words = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
                connection.sendall(f"*{len(command)}\r\n{words}".encode())
            while not (line := answers.readline()).startswith(b"+FULLRESYNC"):
                # Empty lines say that it is to be waited for.
                if line not in (b"+OK\r\n", b"\n"):
                    raise AssertionError(f"{self.name} answers {line!r}")
            length = answers.readline()
            rdb = answers.read(int(length[1:]))
            if len(rdb) != int(length[1:]):
                raise AssertionError(f"{self.name} breaks off after {len(rdb)} bytes")
            return rdb


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
        peer_ports = [free_port() for _ in range(ZONES)]
        self.logs = [LogService(directory, number, peer_ports, more, disks_mb[number]) for number in range(ZONES)]
        self._lease_ms = lease_ms
        self.nodes = self._make_nodes()

    def start(self) -> None:
        for log in self.logs:
            log.start()
        wait_for("the log services are a cluster", self._init)
        for node in self.nodes:
            node.start()
        self.wait_until_settled()

    def _make_nodes(self) -> list[Node]:
        return [Node(self.directory, number, self.logs, self._lease_ms) for number in range(ZONES)]

    def renew_nodes(self) -> None:
        """Other nodes take the place of those that were killed, without anything."""
        for node in self.nodes:
            shutil.rmtree(node.home)
        self.nodes = self._make_nodes()

    def _init(self) -> bool:
        try:
            with self.logs[0].connect() as client:
                return client.execute_command("LOG.CLUSTER", "INIT") in (True, "OK")
        except valkey.ValkeyError:
            return False

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

    def replace(self, log: LogService) -> None:
        """Has a service that was started to join take the place of the one of the same name."""
        wait_for("a service has it replaced", lambda: any(self._replace(other, log) for other in self.logs if other is not log))

    def _replace(self, at: LogService, log: LogService) -> bool:
        try:
            return at.ask("REPLACE", log.name, log.name) in (True, "OK")
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
