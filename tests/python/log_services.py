"""The log services of a shard, as processes that can be killed: a single one, or three that keep the log together.

Needs the package valkey, see python_packages in tests/binaries.sh.
"""

import os
import pathlib
import shutil
import socket

import valkey
from child_process import ChildProcess, wait_for
from ports import HOST, free_port

# Which logs a service tells of, and who may make a cluster, where there are tokens.
OPERATOR = "the-token-of-the-operator"


def pairs(flat: list[str]) -> dict[str, str]:
    """The names and values of a flat answer."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def write_peer_token(directory: pathlib.Path) -> None:
    """The secret by which the services in a directory know each other."""
    token = directory / "peer-token"
    token.touch(mode=0o600)
    token.write_text("what the services know of each other\n")


class LogService(ChildProcess):
    """One of them."""

    def __init__(self, directory: pathlib.Path, number: int, shard: str, peer_ports: dict[int, int], program: str, more: list[str],
                 disk_mb: int = 0):
        """`peer_ports` are those of all services, by their numbers; none if it is alone. `more` are words of the command line. With `disk_mb`
        its directory is a disk of that size, which is lost when the process ends."""
        self.port, self.http_port = free_port(), free_port()
        self.home = directory / f"log{number}"
        self._shard = shard
        command = [program, "--dir", str(self.home), "--listen", f"{HOST}:{self.port}", "--http", f"{HOST}:{self.http_port}"]
        command += ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server", *more]
        if peer_ports:
            command += ["--name", f"log{number}", "--zone", f"zone{number}", "--peers", self._peers(peer_ports)]
            command += ["--peer-token", str(directory / "peer-token")]
        if disk_mb:
            self.home.mkdir()
            mount = f'mount -t tmpfs -o size={disk_mb}m none "$0" && exec "$@"'
            command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(self.home), *command]
        super().__init__(command, directory / f"log{number}.output")

    @staticmethod
    def _peers(peer_ports: dict[int, int]) -> str:
        return ",".join(f"log{peer}={HOST}:{port}" for peer, port in peer_ports.items())

    def set_peers(self, peer_ports: dict[int, int]) -> None:
        """Gives it other peers from its next start on."""
        at = self._command.index("--peers") + 1
        self._command = [*self._command[:at], self._peers(peer_ports), *self._command[at + 1:]]

    def set_engine(self, program: str) -> None:
        """Gives it another program for engines from its next start on."""
        self._command[self._command.index("--valkey-server") + 1] = program

    def set_port(self, port: int) -> None:
        """Gives it another port for clients from its next start on."""
        self._command[self._command.index("--listen") + 1] = f"{HOST}:{port}"
        self.port = port

    def connect(self, timeout_s: float = 2, **options) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, socket_timeout=timeout_s, decode_responses=True, **options)

    def status(self, **options) -> dict[str, str]:
        """LOG.STATUS of the shard; empty if the service does not answer, or has no such shard."""
        try:
            with self.connect(**options) as client:
                return pairs(client.execute_command("LOG.STATUS", self._shard))
        except valkey.ValkeyError:
            return {}

    def decides(self, **options) -> bool:
        """Whether it decides over the log. A single one always does, if it answers."""
        return self.status(**options).get("standing") in ("alone", "decides")

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
                return client.execute_command("SENTINEL", *words, self._shard)
        except valkey.ValkeyError:
            return None

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
        return sorted((self.home / "snapshots").glob(f"{self._shard}-*/*.rdb"))

    def full_copy(self, timeout_s: float) -> bytes:
        """The RDB that it gives to who has nothing."""
        commands = [["AUTH", self._shard, "any"], ["REPLCONF", "version", self.status()["engine_version"]], ["PSYNC", "?", "-1"]]
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


def form(services: list[LogService], **options) -> None:
    """Makes services that were started a cluster. `options` are those of a connection, where the services want tokens."""
    last_answer = None

    def is_formed() -> bool:
        nonlocal last_answer
        for service in services:
            assert service.is_running(), f"{service.name} has ended:\n{service.output()}"
        try:
            with services[0].connect(**options) as client:
                last_answer = client.execute_command("LOG.CLUSTER", "INIT")
        except valkey.ValkeyError as error:
            # It does not listen yet, or does not reach the others yet.
            last_answer = error
        return last_answer in (True, "OK")

    try:
        wait_for("the log services are a cluster", is_formed)
    except AssertionError as error:
        outputs = "".join(f"\n{service.name}:\n{service.output()}" for service in services)
        raise AssertionError(f"{error}; LOG.CLUSTER INIT answered {last_answer!r}{outputs}") from None


class LogServices:
    """All of them. What is done to them is done to all; they are named log0, log1 ..."""

    name = "log"

    def __init__(self, directory: pathlib.Path, count: int, shard: str, more: list[str], program: str | None = None, **options):
        """`more` are words of the command line, `options` those of a connection, where the services want tokens."""
        write_peer_token(directory)
        peer_ports = {number: free_port() for number in range(count)} if count > 1 else {}
        program = program or os.environ["LOGSERVICE"]
        self.list = [LogService(directory, number, shard, peer_ports, program, more) for number in range(count)]
        self._options = options
        # The value of durability.log.
        self.addresses = ",".join(f"{HOST}:{service.port}" for service in self.list)

    def form(self) -> None:
        """Makes three a cluster, once they run."""
        if len(self.list) > 1:
            form(self.list, **self._options)

    def decider(self) -> LogService | None:
        """The one that decides over the log."""
        return next((service for service in self.list if service.decides(**self._options)), None)

    def start(self, environment: dict[str, str] | None = None) -> None:
        for service in self.list:
            if not service.is_running():
                service.start(environment)

    def kill(self) -> None:
        for service in self.list:
            service.kill()

    def freeze(self) -> None:
        for service in self.list:
            service.freeze()

    def thaw(self) -> None:
        for service in self.list:
            service.thaw()

    def is_running(self) -> bool:
        """Whether all do."""
        return all(service.is_running() for service in self.list)

    def output(self) -> str:
        return "".join(service.output() for service in self.list)
