"""Two plain servers of a cluster, without the module, between which slots move, and the replication stream of the one to which they move."""

import os
import pathlib
import socket
import threading

import valkey
from child_process import ChildProcess, wait_for
from ports import HOST, free_port
from valkey.crc import key_slot

HALF = 8192
# The slots that move.
LAST = 2000


class Server(ChildProcess):
    """A plain valkey-server."""

    def __init__(self, directory: pathlib.Path, name: str, *settings: str):
        self.port = free_port()
        home = directory / name
        home.mkdir(exist_ok=True)
        command = [os.environ["VALKEY_BIN_DIR"] + "/valkey-server", "--port", str(self.port), "--bind", HOST, "--dir", str(home), "--save", "",
                   "--enable-debug-command", "yes", *settings]
        super().__init__(command, directory / f"{name}.output")

    def connect(self) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, decode_responses=True, socket_timeout=20)

    def answers(self) -> bool:
        try:
            return bool(self.connect().ping())
        except valkey.ValkeyError:
            return False


class Stream:
    """The replication stream of a server that holds nothing yet, as a replica is sent it."""

    def __init__(self, server: Server):
        self._connection = socket.create_connection((HOST, server.port), timeout=20)
        self._input = self._connection.makefile("rb")
        self._connection.sendall(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n")
        assert self._input.readline().startswith(b"+FULLRESYNC")
        # Empty lines say that it is to be waited for.
        while not (line := self._input.readline()).startswith(b"$"):
            assert line == b"\n", line
        self._input.read(int(line[1:]))
        self._connection.settimeout(None)
        self.bytes = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while chunk := self._input.read1(1 << 16):
            self.bytes += chunk

    def until(self, server: Server) -> bytes:
        """All of it, up to what the server is told now."""
        with server.connect() as client:
            # Its key belongs to the server.
            client.set("{mine}:last", "x")
        wait_for("the stream has it", lambda: b"{mine}:last" in self.bytes and self.bytes.endswith(b"x\r\n"))
        self._connection.shutdown(socket.SHUT_RDWR)
        return bytes(self.bytes)


class Commands:
    """The commands of a stream, with where they begin."""

    def __init__(self, stream: bytes):
        self.list: list[tuple[int, list[bytes]]] = []
        at = 0
        while at < len(stream):
            begin, words = at, []
            end = stream.index(b"\r\n", at)
            count, at = int(stream[at + 1:end]), end + 2
            for _ in range(count):
                end = stream.index(b"\r\n", at)
                length, at = int(stream[at + 1:end]), end + 2
                words.append(stream[at:at + length])
                at += length + 2
            self.list.append((begin, words))

    def of_slots(self, step: bytes) -> list[int]:
        """Where the commands of a migration with that step begin."""
        return [begin for begin, words in self.list if words[:3] == [b"CLUSTER", b"SYNCSLOTS", step]]

    def between(self, first: int, last: int) -> int:
        """Where a command begins that is in the middle of those."""
        begins = [begin for begin, _ in self.list if first < begin < last]
        return begins[len(begins) // 2]


class Pair:
    """A source with the lower half of the slots, and a target with the upper one."""

    def __init__(self, directory: pathlib.Path):
        # Shorter waits than a cluster in use has.
        settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]
        self.source, self.target = (Server(directory, name, *settings, "--cluster-port", str(free_port())) for name in ("source", "target"))
        for server in (self.source, self.target):
            server.start()
        for server in (self.source, self.target):
            wait_for("it answers", server.answers)

    def kill(self) -> None:
        self.source.kill()
        self.target.kill()

    def join(self) -> None:
        with self.source.connect() as source, self.target.connect() as target:
            source.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, HALF - 1)
            target.execute_command("CLUSTER", "ADDSLOTSRANGE", HALF, 2 * HALF - 1)
            bus = self.target._command[self.target._command.index("--cluster-port") + 1]
            source.execute_command("CLUSTER", "MEET", HOST, self.target.port, bus)
            for client in (source, target):
                wait_for("they know each other", lambda client=client: self._size(client) == 2, 40)

    @staticmethod
    def _size(client: valkey.Valkey) -> int:
        info = client.execute_command("CLUSTER INFO")
        return int(info["cluster_size"]) if isinstance(info, dict) and info.get("cluster_state") == "ok" else 0

    def fill(self, count: int, salt: str) -> None:
        """Keys of several kinds, each where it belongs."""
        with self.source.connect() as source, self.target.connect() as target:
            for number in range(count):
                key = f"{salt}:{number}"
                is_sources = key_slot(key.encode()) < HALF
                try:
                    self._write(source if is_sources else target, key, number)
                except valkey.ResponseError as error:
                    # It has moved.
                    assert is_sources and str(error).startswith("MOVED"), error
                    self._write(target, key, number)

    @staticmethod
    def _write(client: valkey.Valkey, key: str, number: int) -> None:
        kind = number % 4
        if kind == 0:
            client.set(key, f"{key} {number}", px=3_600_000 if number % 8 else None)
        elif kind == 1:
            client.hset(key, mapping={f"f{at}": at for at in range(20)})
        elif kind == 2:
            client.rpush(key, *range(10))
        else:
            client.zadd(key, {f"m{at}": at for at in range(5)})

    def begin(self) -> None:
        """Has slots move, up to where the source would pause."""
        with self.source.connect() as source, self.target.connect() as target:
            source.execute_command("DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", 1)
            source.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, LAST, "NODE", target.execute_command("CLUSTER MYID"))
        wait_for("the target has what there was", lambda: self.state() in ("replicating", "waiting-to-pause"), 40)

    def finish(self) -> None:
        with self.source.connect() as source:
            source.execute_command("DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", 0)
        wait_for("the slots have moved", lambda: self.state(self.target) == "success", 40)

    def cancel(self) -> None:
        with self.source.connect() as source:
            source.execute_command("CLUSTER", "CANCELSLOTMIGRATIONS")
        wait_for("the target has given up", lambda: self.state(self.target) in ("failed", "cancelled"), 40)

    def state(self, server: Server | None = None) -> str:
        """Of the newest migration."""
        with (server or self.source).connect() as client:
            jobs = client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
        newest = jobs[0] if jobs else []
        fields = newest if isinstance(newest, dict) else dict(zip(newest[::2], newest[1::2]))
        return fields.get("state", "")
