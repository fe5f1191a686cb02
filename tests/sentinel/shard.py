"""A shard of several nodes, its log services, and clients, as processes that can be killed."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import valkey
from child_process import wait_for
from log_services import OPERATOR, LogService, LogServices
from ports import HOST
from server_node import ServerNode

SHARD = "orders"
# The clients', with which they can find the leader and nothing else.
TOKEN = "the-token-of-orders"
NODE_TOKEN = "the-token-of-its-nodes"
LEASE_MS = 1000


def log_services(directory: pathlib.Path, count: int) -> LogServices:
    """Log services that want tokens."""
    tokens = directory / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{SHARD} {NODE_TOKEN}\n{SHARD} {TOKEN} discover\nother another-token\n* {OPERATOR} operate\n")
    return LogServices(directory, count, SHARD, ["--tokens", str(tokens)], password=OPERATOR)


class Node(ServerNode):
    """A server with the module, which has a token."""

    def __init__(self, directory: pathlib.Path, number: int, log: LogServices):
        token = directory / f"n{number}.token"
        token.touch(mode=0o600)
        token.write_text(f"{NODE_TOKEN}\n")
        super().__init__(directory, f"n{number}", log.addresses, SHARD, LEASE_MS, f"durability.auth-file {token}\n")


class Shard:
    """Log services, one or three, and three nodes."""

    def __init__(self, directory: pathlib.Path, services: int):
        self.log = log_services(directory, services)
        self.nodes = [Node(directory, number, self.log) for number in range(3)]

    def start(self) -> None:
        self.log.start()
        self.log.form()
        for node in self.nodes:
            node.start()

    def kill(self) -> None:
        for process in [*self.nodes, self.log]:
            process.kill()

    def leader(self) -> Node | None:
        return next((node for node in self.nodes if node.role() == "leader"), None)

    def settled(self) -> Node | None:
        """The leader, if all log services run, all others follow, and the service that decides has heard that."""
        leader, decider = self.leader(), self.log.decider()
        if not (leader and decider and self.log.is_running()):
            return None
        with self.connect_log(decider) as log:
            replicas = log.sentinel_slaves(SHARD)
        up = [replica for replica in replicas if replica["flags"] == "slave"]
        return leader if len(up) == len(self.nodes) - 1 else None

    def wait_until_settled(self) -> Node:
        return wait_for("one leads and the others follow", self.settled)

    def connect_log(self, service: LogService | None = None, **options) -> valkey.Valkey:
        """To that service, or to the first."""
        options = {"username": SHARD, "password": TOKEN} | options
        return (service or self.log.list[0]).connect(**options)


class Client:
    """A program that writes and reads, see clients/valkey_py.py. What it printed is kept with the time."""

    def __init__(self, name: str, command: list[str], log: LogServices):
        self.name = name
        self.key = f"key-of-{name}"
        self.lines: list[tuple[float, str, str]] = []
        command = [*command, HOST, ",".join(str(service.port) for service in log.list), SHARD, TOKEN, self.key]
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


def clients(log: LogServices) -> list[Client]:
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
