"""What a node puts into the stream by itself, in place of the server, moves with slots as all other writes do."""

import os
import pathlib
import subprocess

from child_process import wait_for
from moving_slots import MOVES, MovingSlots
from shards import Node
from valkey.crc import key_slot
from writers import tag_of

SCRIPT = "for i = 2, #ARGV do server.call(ARGV[1], KEYS[1], ARGV[i]) end"
UNREPLICATED = "server.set_repl(server.REPL_NONE) server.call('SET', KEYS[1], ARGV[1])"
FUNCTION = "#!lua name=writes\nserver.register_function('append', function(keys, arguments) return server.call('APPEND', keys[1], arguments[1]) end)"
# What ends after the slots have begun to move, in milliseconds.
FIELD_MS = 300


def build_test_module(directory: pathlib.Path) -> pathlib.Path:
    """The module for tests of tests/suite."""
    library = directory / "testmodule.so"
    source = pathlib.Path(__file__).parent.parent / "suite/support/testmodule.c"
    include = pathlib.Path(os.environ["VALKEY_SOURCE"]) / "src"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-fPIC", "-shared", "-I", str(include), "-o", str(library), str(source)], check=True)
    return library


class WhatNodesPutIntoTheStreamMoves(MovingSlots):
    def setUp(self):
        super().setUp()
        self.source, self.target = self.leaders()
        self.tag = next(tag for tag in (tag_of(0, len(self.cluster.shards), number) for number in range(50))
                        if key_slot(tag.encode()) <= MOVES[1])
        # Slots move until all but the last word is said, and what has expired stays until somebody names it.
        for there, back in ((("SLOTMIGRATION", "PREVENT-PAUSE", 1), ("SLOTMIGRATION", "PREVENT-PAUSE", 0)),
                            (("SET-ACTIVE-EXPIRE", 0), ("SET-ACTIVE-EXPIRE", 1))):
            self.source.ask("DEBUG", *there)
            self.addCleanup(self.source.ask, "DEBUG", *back)

    def key(self, name: str) -> str:
        return f"{{{self.tag}}}:{name}"

    def prepare(self, node: Node) -> None:
        node.ask("FUNCTION", "LOAD", "REPLACE", FUNCTION)
        node.ask("SET", self.key("text"), "before")
        node.ask("RPUSH", self.key("list"), 3, 1, 2)
        for number in (1, 2, 3):
            node.ask("SET", self.key(f"weight:{number}"), -number)
        node.ask("XADD", self.key("stream"), "1-1", "field", "value")
        node.ask("XGROUP", "CREATE", self.key("stream"), "group", 0)
        for name in ("hash", "copied"):
            node.ask("HSET", self.key(name), "kept", 1, "short", 2)
            node.ask("HPEXPIRE", self.key(name), FIELD_MS, "FIELDS", 1, "short")

    def write(self, node: Node) -> None:
        """What the server would not put into the stream, or not as it is: see docs/upstream.md."""
        node.ask("EVAL", SCRIPT, 1, self.key("set"), "SADD", "one", "two")
        node.ask("EVAL", UNREPLICATED, 1, self.key("text"), "by a script that says that it is not replicated")
        node.ask("FCALL", "append", 1, self.key("text"), ", and by a function")
        node.ask("SORT", self.key("list"), "BY", self.key("weight:*"), "STORE", self.key("sorted"))
        node.ask("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", self.key("stream"), ">")
        node.ask("XREADGROUP", "GROUP", "group", "nothing", "STREAMS", self.key("stream"), ">")
        node.ask("BITFIELD", self.key("bits"), "OVERFLOW", "FAIL", "INCRBY", "u2", 100, 9)
        node.ask("HDEL", self.key("hash"), "short")
        node.ask("COPY", self.key("copied"), self.key("copy"))

    def contents(self, node: Node) -> dict[str, tuple]:
        names = ("text", "set", "list", "sorted", "stream", "bits", "hash", "copied", "copy")
        found = {name: (node.ask("DEBUG", "DIGEST-VALUE", self.key(name)), node.ask("PTTL", self.key(name))) for name in names}
        consumers = node.ask("XINFO", "CONSUMERS", self.key("stream"), "group")
        return found | {"consumers": sorted(consumer[1] for consumer in consumers), "pending": node.ask("XPENDING", self.key("stream"), "group")}

    def begin(self) -> Node:
        """Slots move, and wait for their last word."""
        migration = self.migrate("s0", "s1")
        wait_for("the snapshot is there", lambda: self.state(migration)[0] == "waiting-to-pause")
        return migration

    def test_with_the_slots_that_move_meanwhile(self):
        self.prepare(self.source)
        migration = self.begin()
        wait_for("the fields have expired", lambda: self.source.ask("HPTTL", self.key("hash"), "FIELDS", 1, "short") == [-2])
        self.write(self.source)
        before = self.contents(self.source)
        self.source.ask("DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", 0)
        self.assertEqual(self.wait_until_over(migration), ("success", ""))
        self.assertEqual(self.contents(self.target), before)
        self.check_keys()

    def test_slots_stay_if_a_module_writes_what_it_does_not_replicate(self):
        self.source.ask("MODULE", "LOAD", str(build_test_module(self.directory)))
        self.addCleanup(self.source.ask, "MODULE", "UNLOAD", "tm")
        migration = self.begin()
        # It is answered when the log has begun anew with it, for which the server waits for more replicas for 5 s.
        with self.source.connect(timeout_s=30) as client:
            client.execute_command("tm.call_silent", self.key("silent"), "value")
        self.assertEqual(self.wait_until_over(migration), ("failed", "Something was written that is not replicated"))
        self.assertEqual((self.owner(), self.source.ask("GET", self.key("silent"))), ("s0", "value"))
        self.cluster.wait_until_settled()
