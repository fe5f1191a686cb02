"""Servers whose wall clock the test sets, and pairs of them: a leader, and a node that has nothing but the leader's stream."""

import mmap
import os
import pathlib
import re
import struct
import subprocess
import time

import shapes
from compare import in_order
from generate import BASE_MS
from ports import free_port
from resp import Connection, ReplyError

HERE = pathlib.Path(__file__).parent
DATABASES = 4
# At this time nothing is expired, at either server: what is physically there is read.
READ_AT_MS = BASE_MS - 10_000_000
# A node that is rebuilt applies the stream when all times to live in it are long over; one whose clock is slow may do so before they begin.
NODE_AHEAD_MS = 86_400_000
NODE_BEHIND_MS = -3_600_000
START_TIMEOUT_S = 30
BLOCKING = re.compile(r"^(B[LRZ].*|XREADGROUP)$")


# The server with which the log service makes snapshots, in the node's time. It is also a valkey-check-rdb if it is called so,
# which a script does not learn.
ENGINE = """#!/bin/bash
if [ "$1" = - ]; then exec env {words} {server} "$@"; fi
exec -a valkey-check-rdb {server} "$@"
"""


class NotReady(Exception):
    """A process did not come to serve, or a node did not follow, in time."""


class Clock:
    """The wall clock of the servers that were started with it; 0: the machine's."""

    library: pathlib.Path

    def __init__(self, path: pathlib.Path, ms: int):
        path.write_bytes(struct.pack("q", ms * 1000))
        self.path = path
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    @classmethod
    def build(cls, directory: pathlib.Path) -> None:
        cls.library = directory / "clock.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", cls.library, HERE / "clock.c"], check=True)

    def set(self, ms: int) -> None:
        self._page[:] = struct.pack("q", ms * 1000)

    def settings(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "ORACLE_CLOCK": str(self.path)}


def server_binary() -> pathlib.Path:
    return pathlib.Path(os.environ["VALKEY_BIN_DIR"]) / "valkey-server"


class Process:
    """A program with a port and an output file."""

    def __init__(self, name: str, command: list, directory: pathlib.Path, port: int, more_environment: dict[str, str] | None = None):
        self.name, self.port = name, port
        self.output = directory / f"{name}.output"
        with self.output.open("ab") as output:
            self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                          env=os.environ | (more_environment or {}))

    def connect(self) -> Connection:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return Connection(self.port)
            except OSError:
                if time.monotonic() > deadline or self.child.poll() is not None:
                    raise NotReady(f"{self.name} does not start: {self.output.read_text(errors='replace')[-2000:]}") from None
                time.sleep(0.01)

    def stop(self) -> None:
        self.child.kill()
        self.child.wait()


def server(name: str, directory: pathlib.Path, clock: Clock, more: str = "") -> Process:
    port = free_port()
    data = directory / name
    data.mkdir()
    config = directory / f"{name}.conf"
    config.write_text(
        f'bind 127.0.0.1\nport {port}\ndir {data}\nsave ""\ndatabases {DATABASES}\nenable-debug-command yes\nhz 500\ndynamic-hz no\n'
        f"repl-timeout 100000000\nrepl-diskless-sync-delay 0\nrepl-diskless-load swapdb\nnotify-keyspace-events KEA\n" + more
    )
    return Process(name, [server_binary(), config], directory, port, clock.settings())


def wait_until(holds, otherwise: str, process: Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise NotReady(f"{otherwise}: {process.output.read_text(errors='replace')[-2000:]}")
        time.sleep(0.002)


def wait_for_link(connection: Connection, process: Process) -> None:
    wait_until(lambda: b"master_link_status:up" in connection.call("INFO", "replication"), f"{process.name} does not follow", process)


# Settings that change how values are stored and removed, the same at both servers; a seed belongs to one of them.
SMALL = ("hash-max-listpack-entries 2 list-max-listpack-size 2 set-max-intset-entries 2 set-max-listpack-entries 3 "
         "zset-max-listpack-entries 3 stream-node-max-entries 3 hll-sparse-max-bytes 50").split()
USUAL = ("hash-max-listpack-entries 512 list-max-listpack-size -2 set-max-intset-entries 512 set-max-listpack-entries 128 "
         "zset-max-listpack-entries 128 stream-node-max-entries 100 hll-sparse-max-bytes 3000").split()
LAZY = "lazyfree-lazy-expire yes lazyfree-lazy-user-del yes lazyfree-lazy-server-del yes".split()
EAGER = "lazyfree-lazy-expire no lazyfree-lazy-user-del no lazyfree-lazy-server-del no".split()
PROFILES = [USUAL + LAZY, SMALL + EAGER, SMALL + LAZY, USUAL + EAGER]
SEEDS_OF_A_PROFILE = 500


class Pair:
    """A leader and a node that follows its stream. Plays a sequence and reads what both hold."""

    def __init__(self, directory: pathlib.Path, module: str | None = None, logservice: str | None = None):
        self.directory, self.has_module, self.programs = directory, bool(module), (module, logservice)
        self.leader_clock = Clock(directory / "leader.clock", BASE_MS)
        self.node_clock = Clock(directory / "node.clock", BASE_MS + NODE_AHEAD_MS)
        self.node_ahead_ms = NODE_AHEAD_MS
        # How long @reap lasts: three turns of active expiry, on an idle machine.
        self.reap_s = 0.006
        self.processes = []
        self.restarts = 0
        self.start()

    def start(self) -> None:
        self.profile = None
        self.round = 0
        self.node_errors = 0
        self.leader_clock.set(BASE_MS)
        self.node_clock.set(BASE_MS + self.node_ahead_ms)
        directory = self.directory / f"servers{self.restarts}"
        directory.mkdir()
        try:
            if self.has_module:
                source, self.followed = self._with_log(directory, *self.programs)
            else:
                source = self.followed = server("leader", directory, self.leader_clock)
                self.processes.append(source)
            sink = server("sink", directory, self.leader_clock)
            self.processes.append(sink)
            sink.connect().close()
            shapes.MIGRATE_TO_PORT = sink.port
            self.leader, self.other = source.connect(), source.connect()
            node = self._follower("node")
            self.node, self.news = node.connect(), node.connect()
            self.news.call("SUBSCRIBE", "oracle")
            wait_for_link(self.node, node)
            self.other_id = self.other.call("CLIENT", "ID")
            script = (HERE / "state.lua").read_bytes()
            self.script = self.leader.call("SCRIPT", "LOAD", script)
            if self.node.call("SCRIPT", "LOAD", script) != self.script:
                raise NotReady(f"the script does not load: {self.script!r}")
            self.leader.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """All anew, after a server crashed."""
        self.stop()
        self.restarts += 1
        self.start()

    def _with_log(self, directory, module, logservice):
        port = free_port()
        engine = directory / "engine"
        engine.write_text(ENGINE.format(words=" ".join(f"{k}={v}" for k, v in self.node_clock.settings().items()), server=server_binary()))
        engine.chmod(0o755)
        log = Process("logservice", [logservice, "--dir", directory / "log", "--listen", f"127.0.0.1:{port}",
                                     "--http", f"127.0.0.1:{free_port()}", "--snapshot-log-mb", 0,
                                     "--valkey-server", engine], directory, port)
        self.processes.append(log)
        log.connect().close()
        leader = server("leader", directory, self.leader_clock,
                        f"loadmodule {module}\ndurability.log 127.0.0.1:{port}\ndurability.shard oracle\ndurability.mode sync\n")
        self.processes.append(leader)
        connection = leader.connect()
        wait_until(lambda: b"durability_role:leader" in (connection.call("INFO", "durability") or b""), "the node does not lead", leader)
        connection.call("SET", "first", "write")
        connection.close()
        return leader, log

    def _follower(self, name: str) -> Process:
        login = "primaryuser oracle\nprimaryauth none\n" if self.has_module else ""
        node = server(name, self.directory / f"servers{self.restarts}", self.node_clock, f"replicaof 127.0.0.1 {self.followed.port}\n{login}")
        self.processes.append(node)
        return node

    def stop(self) -> None:
        while self.processes:
            self.processes.pop().stop()

    def last_words(self) -> str:
        """What the servers that ended had to say."""
        time.sleep(1)
        ended = [process for process in self.processes if process.child.poll() is not None]
        said = [(process.name, process.output.read_text(errors="replace")) for process in ended]
        return "\n".join(f"{name} ended: {text[max(0, text.find('BUG REPORT START')):][:3000]}" for name, text in said)

    def payloads(self) -> list[bytes]:
        """DUMPs of values of each kind, for RESTORE."""
        self.begin(0)
        stamp = BASE_MS + 5
        self.leader.run([line.split() for line in (
            "SET s v", "HSET h a 1 b 2", f"HSETEX v PXAT {stamp} FIELDS 1 a 1", f"HSETEX w PXAT {stamp} FIELDS 2 a 1 b 2", "HSET w c 3",
            "RPUSH l a b", "SADD t 1 2", "SADD u a b", "ZADD z 1 a 2 b", "XADD x 1-1 f v", "XGROUP CREATE x g 0", "XADD x 1-2 f v",
            "XREADGROUP GROUP g c COUNT 1 STREAMS x >", "PFADD p a b c",
        )])
        return self.leader.run([["DUMP", key] for key in "shvwltuzxp"])

    def begin(self, seed: int) -> None:
        """Both servers are empty afterwards, as for the first sequence."""
        profile = seed // SEEDS_OF_A_PROFILE % len(PROFILES)
        if profile != self.profile:
            for connection in self.leader, self.node:
                connection.call("CONFIG", "SET", *PROFILES[profile])
            self.profile = profile
        self.leader_clock.set(BASE_MS)
        self.leader.run([["RESET"], ["FLUSHALL", "SYNC"], ["FUNCTION", "FLUSH", "SYNC"]])

    def set_node_clock(self, is_behind: bool) -> None:
        self.node_ahead_ms = NODE_BEHIND_MS if is_behind else NODE_AHEAD_MS
        self.node_clock.set(BASE_MS + self.node_ahead_ms)

    def set_of_leader(self, name: str, value: str) -> str:
        """Sets a setting and returns what it was."""
        before = self.leader.call("CONFIG", "GET", name)[1].decode()
        self.leader.call("CONFIG", "SET", name, value)
        return before

    def play(self, steps: list[list], seed: int = 0) -> list:
        """Plays a sequence at the leader; returns its replies."""
        self.begin(seed)
        replies, now_ms, blocked, queueing = [], BASE_MS, False, False
        waiting = []

        def flush():
            replies.extend(self.leader.run(waiting))
            waiting.clear()

        for step in steps:
            name = str(step[0]).upper()
            if name == "@clock".upper():
                flush()
                now_ms += step[1]
                self.leader_clock.set(now_ms)
            elif name == "@REAP":
                flush()
                self.leader.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)
                time.sleep(self.reap_s)
                self.leader.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
            elif name == "@RESYNC":
                flush()
                self.resync()
            elif not queueing and BLOCKING.match(name) and (name != "XREADGROUP" or "BLOCK" in step):
                flush()
                if not blocked:
                    self.other.send(step)
                    blocked = self._is_blocked()
                elif self.other.has_reply():
                    self.other.read()
                    blocked = False
            else:
                queueing = name == "MULTI" or (queueing and name not in ("EXEC", "DISCARD"))
                waiting.append(step)
        flush()
        if blocked and not self.other.has_reply():
            self.leader.run([["RESET"], ["CLIENT", "UNBLOCK", self.other_id, "ERROR"]])
        if blocked:
            self.other.read()
        return replies

    def _is_blocked(self) -> bool:
        """Whether the other connection's command waits now; if not, its reply was read."""
        while True:
            if self.other.has_reply():
                self.other.read()
                return False
            if b" flags=b" in self.processes_client(self.other_id):
                return True

    def processes_client(self, client_id: int) -> bytes:
        listed = self.leader.call("CLIENT", "LIST", "ID", client_id)
        return listed if isinstance(listed, bytes) else b""

    def catch_up(self, keep_state: bool = False) -> None:
        """Returns when the node has applied all that the leader did. The leader's connection keeps its database only if it is to."""
        self.round += 1
        self.leader.run(([] if keep_state else [["RESET"]]) + [["PUBLISH", "oracle", self.round]])
        while (message := self.news.read())[2] != b"%d" % self.round:
            if isinstance(message, ReplyError):
                raise NotReady(str(message))

    def states(self) -> tuple[list, list]:
        """What leader and node hold: [[hard facts, soft facts], functions] of each."""
        self.catch_up()
        return self._read(self.node)

    def resync(self) -> None:
        """The node takes everything anew: from the leader's RDB, or from a snapshot of the log that is made now."""
        self.catch_up(keep_state=True)
        if self.has_module:
            self._make_snapshot()
        self.node.run([["REPLICAOF", "NO", "ONE"], ["REPLICAOF", "127.0.0.1", self.followed.port]])
        wait_for_link(self.node, self.processes[-1])

    def _make_snapshot(self) -> None:
        log = self.followed.connect()
        made = log.call("LOG.SNAPSHOT", "oracle")
        log.close()
        if isinstance(made, ReplyError):
            raise NotReady(made)

    def states_of_new_node(self) -> tuple[list, list]:
        """The same, of a node that begins from nothing. With a log it begins from a snapshot that is made now."""
        self.catch_up()
        if self.has_module:
            self._make_snapshot()
        process = self._follower(f"node{self.round}")
        try:
            node = process.connect()
            wait_for_link(node, process)
            offset = lambda connection: re.search(rb"master_repl_offset:(\d+)", connection.call("INFO", "replication"))[1]
            at = int(offset(self.leader))
            wait_until(lambda: int(offset(node)) >= at, "the new node does not catch up", process)
            node.call("SCRIPT", "LOAD", (HERE / "state.lua").read_bytes())
            return self._read(node)
        finally:
            self.processes.remove(process)
            process.stop()

    def _read(self, node: Connection) -> tuple[list, list]:
        self.leader_clock.set(READ_AT_MS)
        self.node_clock.set(READ_AT_MS)
        commands = [["EVALSHA_RO", self.script, 0, DATABASES], ["FUNCTION", "LIST", "WITHCODE"], ["INFO", "stats"]]
        self.leader.send(*commands)
        node.send(*commands)
        both = [[connection.read() for _ in commands] for connection in (self.leader, node)]
        self.node_clock.set(BASE_MS + self.node_ahead_ms)
        for state in both:
            if isinstance(state[0], ReplyError):
                raise NotReady(state[0])
            state[1] = in_order(state[1])
            # Commands of the stream that a node answered with an error: it has passed over them.
            state[2] = int(re.search(rb"unexpected_error_replies:(\d+)", state[2])[1])
        errors = both[1][2]
        if node is self.node:
            both[1][2] -= self.node_errors
            self.node_errors = errors
        return both[0], both[1]
