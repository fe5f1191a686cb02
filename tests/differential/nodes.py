"""A plain server, or one with the module and a log of its own, and what an administrator sees and does there."""

import os
import pathlib
import re
import sys
from dataclasses import dataclass

from ports import free_port
from sequences import LIBRARY

sys.path.append(str(pathlib.Path(__file__).parent.parent / "oracle"))
from resp import Connection, ReplyError  # noqa: E402
from servers import NotReady, Process, wait_until  # noqa: E402

SHARD = "differential"
# Both servers hash alike, so that sets and the like have one order.
CONFIG = """bind 127.0.0.1
save ""
hash-seed differential
enable-debug-command yes
notify-keyspace-events KEA
activerehashing no
"""
MODULE = """loadmodule {module}
durability.log 127.0.0.1:{log}
durability.shard {shard}
durability.mode {mode}
durability.max-lag-ms 600000
"""


@dataclass
class Listed:
    """A client as `CLIENT LIST` shows it."""

    received: int
    # It is closed once its replies are written. With none it stays, if it has said CLIENT REPLY OFF and QUIT.
    is_closing: bool


class Node:
    """A server with its log service, if it has one."""

    def __init__(self, name: str, directory: pathlib.Path, threads: int, mode: str | None = None, programs: tuple = ()):
        self.name, self.mode = name, mode
        self.processes = []
        self.log = None
        self.is_frozen = False
        directory = directory / name
        directory.mkdir()
        self.port = free_port()
        config = CONFIG + f"port {self.port}\ndir {directory}\n"
        if threads > 1:
            config += f"io-threads {threads}\nio-threads-always-active yes\n"
        binary = pathlib.Path(os.environ["VALKEY_BIN_DIR"]) / "valkey-server"
        if mode:
            module, logservice = programs
            port = free_port()
            log = Process("logservice", [logservice, "--dir", directory / "log", "--listen", f"127.0.0.1:{port}", "--http",
                                         f"127.0.0.1:{free_port()}", "--valkey-server", binary, "--enable-debug-command"], directory, port)
            self.processes.append(log)
            self.log = log.connect()
            config += MODULE.format(module=module, log=port, shard=SHARD, mode=mode)
        (directory / "valkey.conf").write_text(config)
        server = Process("server", [binary, directory / "valkey.conf"], directory, self.port)
        self.processes.append(server)
        self.admin = server.connect()
        if mode:
            role = "off" if mode == "off" else "leader"
            wait_until(lambda: self.figure("role") == role, f"{name} does not come to serve", server)
        self.must("ACL", "SETUSER", "user", "on", ">secret", "~*", "&*", "+@all")
        # What the greeting says of modules is the one thing in which it may differ.
        self.modules = self._modules_in_greeting()

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    def must(self, *command):
        reply = self.admin.call(*command)
        if isinstance(reply, ReplyError):
            raise NotReady(f"{self.name}: {command}: {reply}")
        return reply

    def figure(self, name: str) -> str:
        found = re.search(rb"durability_%b:(\S*)" % name.encode(), self.must("INFO", "durability"))
        return found[1].decode() if found else ""

    def freeze(self, is_frozen: bool) -> None:
        """From now on the log acknowledges nothing, or all."""
        if self.log and self.mode != "off":
            reply = self.log.call("LOG.DEBUG", "FREEZE-ACKS" if is_frozen else "RESUME-ACKS", SHARD)
            if isinstance(reply, ReplyError):
                raise NotReady(reply)
            self.is_frozen = is_frozen

    def wait_until_durable(self) -> None:
        if self.mode == "sync":
            wait_until(lambda: not any(int(self.figure(name) or 0) for name in ("pending_bytes", "held_clients", "half_closed_clients")),
                       "not all leaves", self.processes[-1])

    def clear(self) -> None:
        """As at the beginning."""
        self.freeze(False)
        for command in ("CLIENT UNPAUSE", "FLUSHALL SYNC", "FUNCTION FLUSH SYNC", "SCRIPT FLUSH SYNC"):
            self.must(*command.split())
        self.must("FUNCTION", "LOAD", LIBRARY)
        self.wait_until_durable()

    def listed(self, ids: list[int]) -> dict[int, Listed]:
        """Those of these clients that are there."""
        if not ids:
            return {}
        found = {}
        for line in self.must("CLIENT", "LIST", "ID", *ids).decode().splitlines():
            fields = dict(word.split("=", 1) for word in line.split(" "))
            is_closing = bool(set("cA") & set(fields["flags"])) and (fields["obl"], fields["oll"]) != ("0", "0")
            found[int(fields["id"])] = Listed(int(fields["tot-net-in"]), is_closing)
        return found

    def next_id(self) -> int:
        """The id of a client that connects after this."""
        connection = Connection(self.port)
        try:
            return connection.call("CLIENT", "ID") + 1
        finally:
            connection.close()

    def _modules_in_greeting(self) -> list[bytes]:
        greetings = []
        for version in b"2", b"3":
            connection = Connection(self.port)
            connection.socket.sendall(b"HELLO %b\r\nPING\r\n" % version)
            while not connection.buffer.endswith(b"+PONG\r\n"):
                connection._more()
            connection.close()
            greetings.append(connection.buffer[:-7].split(b"$7\r\nmodules\r\n")[1])
        return greetings
