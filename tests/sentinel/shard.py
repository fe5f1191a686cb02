"""A shard of several nodes, its log service, and clients, as processes that can be killed."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import valkey
from child_process import HOST, ChildProcess, free_port, wait_for
from server_node import ServerNode

SHARD = "orders"
# The clients', with which they can find the leader and nothing else.
TOKEN = "the-token-of-orders"
NODE_TOKEN = "the-token-of-its-nodes"
LEASE_MS = 1000


class LogService(ChildProcess):
    """A log service that wants tokens."""

    def __init__(self, directory: pathlib.Path):
        self.port = free_port()
        tokens = directory / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{SHARD} {NODE_TOKEN}\n{SHARD} {TOKEN} discover\nother another-token\n")
        command = [os.environ["LOGSERVICE"], "--dir", str(directory / "log"), "--listen", f"{HOST}:{self.port}"]
        command += ["--http", f"{HOST}:{free_port()}", "--tokens", str(tokens)]
        command += ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server"]
        super().__init__(command, directory / "log.output")


class Node(ServerNode):
    """A server with the module, which has a token."""

    def __init__(self, directory: pathlib.Path, number: int, log: LogService):
        token = directory / f"n{number}.token"
        token.touch(mode=0o600)
        token.write_text(f"{NODE_TOKEN}\n")
        super().__init__(directory, f"n{number}", f"{HOST}:{log.port}", SHARD, LEASE_MS, f"durability.auth-file {token}\n")


class Shard:
    """A log service and three nodes."""

    def __init__(self, directory: pathlib.Path):
        self.log = LogService(directory)
        self.nodes = [Node(directory, number, self.log) for number in range(3)]

    def start(self) -> None:
        for process in [self.log, *self.nodes]:
            process.start()

    def kill(self) -> None:
        for process in [*self.nodes, self.log]:
            process.kill()

    def leader(self) -> Node | None:
        return next((node for node in self.nodes if node.role() == "leader"), None)

    def settled(self) -> Node | None:
        """The leader, if all others follow and the log service has heard that."""
        leader = self.leader()
        with self.connect_log() as log:
            replicas = log.sentinel_slaves(SHARD) if leader else []
        up = [replica for replica in replicas if replica["flags"] == "slave"]
        return leader if len(up) == len(self.nodes) - 1 else None

    def wait_until_settled(self) -> Node:
        return wait_for("one leads and the others follow", self.settled)

    def connect_log(self, **options) -> valkey.Valkey:
        options = {"username": SHARD, "password": TOKEN} | options
        return valkey.Valkey(HOST, self.log.port, socket_timeout=5, decode_responses=True, **options)


class Client:
    """A program that writes and reads, see clients/valkey_py.py. What it printed is kept with the time."""

    def __init__(self, name: str, command: list[str], log: LogService):
        self.name = name
        self.key = f"key-of-{name}"
        self.lines: list[tuple[float, str, str]] = []
        command = [*command, HOST, str(log.port), SHARD, TOKEN, self.key]
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._child.stdout:
            kind, _, rest = line.rstrip("\n").partition(" ")
            self.lines.append((time.monotonic(), kind, rest))

    def said(self, kind: str, since: float) -> list[tuple[float, str]]:
        return [(at, rest) for at, said, rest in list(self.lines) if said == kind and at >= since]

    def is_running(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def tail(self) -> str:
        return f"{self.name} said last: {[(kind, rest) for _, kind, rest in self.lines[-8:]]}"


def clients(log: LogService) -> list[Client]:
    """One of each library."""
    here = pathlib.Path(__file__).parent / "clients"
    started = [
        Client("valkey-py", [sys.executable, str(here / "valkey_py.py")], log),
        Client("redis-crate", [os.environ["REDIS_CRATE_CLIENT"]], log),
    ]
    modules = os.environ.get("IOREDIS_MODULES")
    if modules:
        started.append(Client("ioredis", ["env", f"NODE_PATH={modules}", "node", str(here / "ioredis.js")], log))
    return started
