"""The log services of a shard, as processes that can be killed: a single one, or three that keep the log together.

Needs the package valkey, see python_packages in tests/binaries.sh.
"""

import os
import pathlib

import valkey
from child_process import HOST, ChildProcess, free_port, wait_for

# Which logs a service tells of, and who may make a cluster, where there are tokens.
OPERATOR = "the-token-of-the-operator"


class LogService(ChildProcess):
    """One of them. `peer_ports` are empty if it is alone."""

    def __init__(self, directory: pathlib.Path, number: int, shard: str, peer_ports: list[int], program: str, more: list[str]):
        self.port = free_port()
        self.home = directory / f"log{number}"
        self._shard = shard
        command = [program, "--dir", str(self.home), "--listen", f"{HOST}:{self.port}", "--http", f"{HOST}:{free_port()}"]
        command += ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server", *more]
        if peer_ports:
            peers = ",".join(f"log{peer}={HOST}:{port}" for peer, port in enumerate(peer_ports))
            command += ["--name", f"log{number}", "--zone", f"zone{number}", "--peers", peers]
            command += ["--peer-token", str(directory / "peer-token")]
        super().__init__(command, directory / f"log{number}.output")

    def connect(self, **options) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, socket_timeout=2, decode_responses=True, **options)

    def status(self, **options) -> dict[str, str]:
        """LOG.STATUS of the shard; empty if the service does not answer, or has no such shard."""
        try:
            with self.connect(**options) as client:
                flat = client.execute_command("LOG.STATUS", self._shard)
        except valkey.ValkeyError:
            return {}
        return dict(zip(flat[::2], flat[1::2], strict=True))


class LogServices:
    """All of them. What is done to them is done to all; they are named log0, log1 ..."""

    name = "log"

    def __init__(self, directory: pathlib.Path, count: int, shard: str, more: list[str], program: str | None = None, **options):
        """`more` are words of the command line, `options` those of a connection, where the services want tokens."""
        token = directory / "peer-token"
        token.touch(mode=0o600)
        token.write_text("what the services know of each other\n")
        peer_ports = [free_port() for _ in range(count)] if count > 1 else []
        program = program or os.environ["LOGSERVICE"]
        self.list = [LogService(directory, number, shard, peer_ports, program, more) for number in range(count)]
        self._options = options
        # The value of durability.log.
        self.addresses = ",".join(f"{HOST}:{service.port}" for service in self.list)

    def form(self) -> None:
        """Makes three a cluster, once they run."""
        if len(self.list) > 1:
            wait_for("the log services are a cluster", self._init)

    def _init(self) -> bool:
        try:
            with self.list[0].connect(**self._options) as client:
                return client.execute_command("LOG.CLUSTER", "INIT") in (True, "OK")
        except valkey.ValkeyError:
            return False

    def decider(self) -> LogService | None:
        """The one that decides over the log. A single one always does, if it answers."""
        return next((service for service in self.list
                     if service.status(**self._options).get("standing") in ("alone", "decides")), None)

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
