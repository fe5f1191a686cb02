"""Compares the servers of Valkey's own test suite with nodes that follow their logs, after each test.

The suite asks over a socket: a line with the test's name and the ports of its servers, and waits for the answer. For each server that leads a
shard this keeps a plain server that follows the shard's log. The leader is read by one script, which also says at which offset; the node is read
when it has come there. While a server is read its clock is set back, so that what is expired is read as well."""

import dataclasses
import pathlib
import re
import socket
import threading
import time

import known
from compare import differences, in_order, is_same_hyperloglog
from ports import free_port
from resp import Connection, ReplyError
from servers import HERE, Clock, NotReady, Process, server_binary

READ_AT_MS = 1_000_000_000_000
NODE_AT_MS = 4_000_000_000_000
# Larger ones would take longer to read than the suite waits for anything.
MOST_KEYS = 3_000
TRIES = 5
PATIENCE_S = 20.0
NODES_KEPT = 12

# Put at the end of the suite's own tests/support/test.tcl.
HOOK = """
rename test test_without_oracle
proc test {name code args} {
    set result [uplevel 1 [list test_without_oracle $name $code {*}$args]]
    catch {
        set ports {}
        foreach server $::servers { lappend ports [dict get $server port] }
        set oracle [socket 127.0.0.1 $::env(ORACLE_SUITE_PORT)]
        fconfigure $oracle -translation lf -encoding utf-8
        puts $oracle "[join $ports ,]\\t$::curfile\\t[string map {\\n { }} $name]"
        flush $oracle
        gets $oracle
        close $oracle
    }
    return $result
}
"""


class Skipped(Exception):
    """A server that cannot be compared: why."""


def position(info: bytes) -> tuple[bytes, int]:
    """The replication id and the offset that INFO tells. The offset alone is no place: a log that was begun anew has it as well."""
    return re.search(rb"master_replid:(\w+)", info)[1], int(re.search(rb"master_repl_offset:(\d+)", info)[1])


@dataclasses.dataclass
class Follower:
    """A plain server that follows the log of one server of the suite."""

    process: Process
    connection: Connection
    # What differed before, so that it is told once.
    told: set

    def stop(self) -> None:
        self.connection.close()
        self.process.stop()


class Oracle:
    """Answers the suite. One lane of it at a time asks for one server; lanes have clocks of their own."""

    def __init__(self, directory: pathlib.Path, log_address: str):
        self.directory, self.log_address = directory, log_address
        directory.mkdir()
        Clock.build(directory)
        self.clocks: dict[str, Clock] = {}
        self.node_clocks: dict[str, Clock] = {}
        self.followers: dict[str, Follower] = {}
        self.lock = threading.Lock()
        self.script = (HERE / "state.lua").read_bytes()
        self.compared = 0
        self.skipped: dict[str, int] = {}
        self.found: list[tuple] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def clock_of(self, lane: str) -> Clock:
        """The clock of a lane's servers, which runs but while one of them is read. The clock of the nodes that follow them stands in
        the far future, so that they apply everything when its time is over, but while one is read."""
        if lane not in self.clocks:
            self.clocks[lane] = Clock(self.directory / f"{lane}.clock", 0)
            self.node_clocks[lane] = Clock(self.directory / f"{lane}.nodes.clock", NODE_AT_MS)
        return self.clocks[lane]

    def _listen(self) -> None:
        while True:
            asking, _ = self.listener.accept()
            threading.Thread(target=self._answer, args=(asking,), daemon=True).start()

    def _answer(self, asking: socket.socket) -> None:
        with asking, asking.makefile("rw", encoding="utf-8", errors="replace") as line:
            ports, file, test = line.readline().rstrip("\n").split("\t", 2)
            for port in filter(None, ports.split(",")):
                try:
                    self._compare(int(port), file, test)
                    self.compared += 1
                except Skipped as reason:
                    self.skipped[str(reason)] = self.skipped.get(str(reason), 0) + 1
                except (OSError, NotReady) as error:
                    reason = f"{type(error).__name__}: {str(error)[:60]}"
                    self.skipped[reason] = self.skipped.get(reason, 0) + 1
            line.write("done\n")

    def _compare(self, port: int, file: str, test: str) -> None:
        leader = Connection(port, timeout_s=PATIENCE_S)
        try:
            shard, databases, lane = self._facts(leader)
            follower = self._follower(shard, lane)
            for _ in range(TRIES):
                ours, at = self._read(leader, self.clocks[lane], 0, databases)
                self._wait(follower, at)
                theirs, reached = self._read(follower.connection, self.node_clocks[lane], NODE_AT_MS, databases)
                if reached == at:
                    break
            else:
                raise Skipped("it is written to all the time")
            self._tell(follower, differences(ours, theirs), port, file, test)
        finally:
            leader.close()

    def _facts(self, leader: Connection) -> tuple[str, int, str]:
        info = leader.call("INFO", "durability")
        if isinstance(info, ReplyError):
            raise Skipped(f"it answers {info.split()[0]}")
        if b"durability_role:leader" not in info:
            raise Skipped("it does not lead")
        values = leader.call("CONFIG", "GET", "durability.shard", "databases", "dir")
        if isinstance(values, ReplyError):
            raise Skipped(f"CONFIG answers {values.split()[0]}")
        settings = dict(zip(values[::2], values[1::2]))
        sizes = leader.call("INFO", "keyspace")
        if sum(map(int, re.findall(rb"keys=(\d+)", sizes))) > MOST_KEYS:
            raise Skipped(f"more than {MOST_KEYS} keys")
        lane = re.search(r"/(lane\d+)/", settings[b"dir"].decode())
        if lane is None or lane[1] not in self.clocks:
            raise Skipped("it is of no lane")
        return settings[b"durability.shard"].decode(), int(settings[b"databases"]), lane[1]

    def _read(self, connection: Connection, clock: Clock, clock_ms: int, databases: int) -> tuple[list, tuple[bytes, int]]:
        """What a server holds, and where in which history. Its clock is then set to clock_ms again."""
        commands = [["MULTI"], ["INFO", "replication"], ["EVAL_RO", self.script, 0, databases], ["FUNCTION", "LIST", "WITHCODE"], ["EXEC"]]
        clock.set(READ_AT_MS)
        try:
            replies = connection.run(commands)
        finally:
            clock.set(clock_ms)
        if isinstance(replies[-1], ReplyError) or isinstance(replies[-1][1], ReplyError):
            refused = next(reply for reply in [*replies, *(replies[-1] if isinstance(replies[-1], list) else [])] if isinstance(reply, ReplyError))
            raise Skipped(f"reading it answers {refused[:60]}")
        info, state, functions = replies[-1]
        return [state, in_order(functions)], position(info)

    def _follower(self, shard: str, lane: str) -> Follower:
        with self.lock:
            if shard in self.followers:
                return self.followers[shard]
            port = free_port()
            directory = self.directory / f"follower{port}-{len(self.followers)}-{time.monotonic_ns()}"
            directory.mkdir()
            host, log_port = self.log_address.split(":")
            config = directory / "valkey.conf"
            config.write_text(
                f'bind 127.0.0.1\nport {port}\ndir {directory}\nsave ""\ndatabases 300\nreplicaof {host} {log_port}\nprimaryuser {shard}\n'
                "primaryauth none\nrepl-diskless-load swapdb\nrepl-timeout 100000000\nproto-max-bulk-len 4gb\n")
            process = Process("follower", [server_binary(), config], directory, port, self.node_clocks[lane].settings())
            follower = Follower(process, process.connect(), set())
            self.followers[shard] = follower
            while len(self.followers) > NODES_KEPT:
                self.followers.pop(next(iter(self.followers))).stop()
            return follower

    def _wait(self, follower: Follower, at: tuple[bytes, int]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            info = follower.connection.call("INFO", "replication")
            history, reached = position(info)
            if history == at[0] and reached >= at[1] and b"master_link_status:up" in info:
                return
            if time.monotonic() > deadline:
                raise Skipped("its node does not come to its offset")
            time.sleep(0.003)

    def _tell(self, follower: Follower, found, port: int, file: str, test: str) -> None:
        # Tests set at one server how values are to be stored.
        hard = [row for row in found if row[2] != "encoding" and not is_same_hyperloglog(*row[3:])]
        new = [row for row in hard if repr(row) not in follower.told]
        follower.told = {repr(row) for row in found}
        if new:
            self.found.append((file, test, known.by_suite(new), new))

    def stop(self) -> None:
        self.listener.close()
        for follower in self.followers.values():
            follower.stop()

    def report(self) -> str:
        lines = [f"== oracle: {self.compared} comparisons, {len(self.found)} found something that differs"]
        lines += [f"{count:7} not compared: {reason}" for reason, count in sorted(self.skipped.items(), key=lambda item: -item[1])]
        for file, test, name, rows in self.found:
            lines.append(f"{file}: {test}: {name or 'differs'}")
            for database, key, what, ours, theirs in rows[:3]:
                lines.append(f"    {database} {key[:60]}: {what}\n        leader: {repr(ours)[:400]}\n        node:   {repr(theirs)[:400]}")
        return "\n".join(lines)
