"""Sequences of commands from a seed: few keys, so that commands meet what others left; times to live of a few milliseconds, and
steps of the clock that bring them to their end. A step is a list of words; words that begin with @ are for the harness:

@clock MS   the clock goes on
@reap       the server's own removal of what is expired gets a turn
@resync     the node takes everything anew, from an RDB

A command that may block is sent by a connection of its own, unless it is part of a transaction.
"""

import json
import random

import shapes
from shapes import BASE_MS

# What runs a list of commands in a script or function: each is ["call" or "pcall", command...]. After an error of a `call`, what was
# done before stands.
RUN = """for _, step in ipairs(cjson.decode(ARGV[1])) do
    local how = table.remove(step, 1)
    server[how](unpack(step))
end
return 'done'"""
LIBRARY = """#!lua name=%s
local function run(keys, ARGV)
%s
end
server.register_function('%s', run)"""


# Which part of the sequences has nodes that take everything anew. That takes a second each time.
resync_chance = 0.001


class Generator:
    """One sequence. `payloads` are DUMPs of values to RESTORE, which differ in no run."""

    def __init__(self, seed: int, payloads: list[bytes]):
        self.random = random.Random(seed)
        self.payloads = payloads
        # Streams and hashes have most that commands can leave behind.
        names = list(shapes.FAMILIES) + ["stream", "hash"]
        # A sequence is about one or two kinds of value, now and then about anything.
        count = self.random.choice([1, 1, 1, 2, 2, len(names)])
        self.families = self.random.sample(names, count)
        if self.random.random() < 0.4 and "keys" not in self.families:
            self.families.append("keys")
        self.narrow = self.random.random() < 0.7
        self.clock_chance = self.random.choice([0.0, 0.1, 0.2, 0.3])
        self.scripts = self.random.random() < 0.25
        self.transactions = self.random.random() < 0.3
        self.databases = self.random.random() < 0.2
        self.blocks = self.random.random() < 0.1
        self.resyncs = self.random.random() < resync_chance
        self.in_transaction = False

    def command(self) -> list:
        family = self.random.choice(self.families)
        return shapes.FAMILIES[family](self.words(family))

    def words(self, family=None):
        return shapes.Words(self.random, family or self.random.choice(self.families), self.payloads, self.narrow)

    def inner(self) -> list:
        """A command as a script may call it: words without bytes that are no text."""
        while True:
            command = self.command()
            if all(not isinstance(word, bytes) for word in command):
                return [str(word) for word in command]

    def script(self) -> list:
        rng = self.random
        steps = [[rng.choice(["call", "pcall", "pcall"])] + self.inner() for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.1:
            steps.insert(rng.randrange(len(steps) + 1), ["call", "SELECT", str(rng.randrange(3))])
        if rng.random() < 0.6:
            return ["EVAL", RUN, "0", json.dumps(steps)]
        return ["FCALL", rng.choice(["f1", "f2"]), "0", json.dumps(steps)]

    def function(self) -> list:
        rng = self.random
        name = rng.choice(["f1", "f2"])
        code = LIBRARY % ("l" + name, RUN.replace("done", rng.choice("ab")), name)
        return rng.choice([
            ["FUNCTION", "LOAD", code],
            ["FUNCTION", "LOAD", "REPLACE", code],
            ["FUNCTION", "LOAD", "REPLACE", code],
            ["FUNCTION", "LOAD", "REPLACE", "#!lua name=broken\nthis is not Lua"],
            ["FUNCTION", "DELETE", "l" + name],
            ["FUNCTION", "FLUSH"] + rng.choice([[], ["ASYNC"], ["SYNC"]]),
            ["FUNCTION", "RESTORE", shapes.FUNCTIONS_PAYLOAD] + rng.choice([[], ["REPLACE"], ["FLUSH"], ["APPEND"]]),
        ])

    def step(self) -> list:
        rng = self.random
        if not self.in_transaction:
            if rng.random() < self.clock_chance:
                return ["@clock", rng.choice([1, 1, 2, 3, 5, 10, 10, 100, 2000])]
            if self.clock_chance and rng.random() < 0.01:
                return ["@reap"]
            if self.resyncs and rng.random() < 0.15:
                return ["@resync"]
        chance = rng.random()
        if self.scripts and chance < 0.35:
            return self.script() if rng.random() < 0.75 else self.function()
        if self.databases and chance < 0.5:
            return rng.choice([
                ["SELECT", rng.randrange(3)], ["SELECT", rng.randrange(3)], ["SWAPDB", rng.randrange(3), rng.randrange(3)],
                ["MOVE", self.words().key(), rng.randrange(4)],
                ["FLUSHDB"], ["FLUSHALL", rng.choice(["ASYNC", "SYNC"])],
            ])
        if self.blocks and chance < 0.6 and not self.in_transaction:
            return shapes.blocking(self.words())
        if self.transactions and chance < 0.6:
            if self.in_transaction:
                self.in_transaction = rng.random() < 0.6
                return self.command() if self.in_transaction else [rng.choice(["EXEC"] * 9 + ["DISCARD"])]
            self.in_transaction = True
            return ["MULTI"]
        return self.command()

    def sequence(self) -> list[list]:
        steps = []
        if self.scripts:
            steps += [["FUNCTION", "LOAD", "REPLACE", LIBRARY % ("l" + name, RUN, name)] for name in ("f1", "f2")]
        for family in self.families:
            if self.random.random() < 0.7:
                steps += shapes.beginning(family, self.words(family))
        steps += [self.step() for _ in range(self.random.randint(4, 24))]
        if self.in_transaction:
            steps.append(["EXEC"])
        return steps


def sequence(seed: int, payloads: list[bytes]) -> list[list]:
    return Generator(seed, payloads).sequence()


__all__ = ["BASE_MS", "sequence"]
