"""Clients that write in order and record what they did. Most write into one list, the journal, so that the server's own order
is seen; the others write keys of their own."""

import abc
import asyncio
import time
from collections.abc import Callable

from valkey.exceptions import ExecAbortError, ResponseError

from client import CONNECTION_ERRORS, Client
from history import History, Operation
from violation import Violation

RETRY_S = 0.005
PADDING = "x" * 2000  # So that what is on its way to a log that stands still exceeds the buffers of sockets.


class Writer(abc.ABC):
    """Writes 1, 2, 3, ... by one connection, each after the answer to the one before."""

    in_journal = True

    def __init__(self, number: int):
        self.name = f"{type(self).__name__.lower()}:{number}"
        self.history = History(self.name, 0, self.in_journal)
        self.refused = 0

    @abc.abstractmethod
    async def write(self, client: Client, journal: str, value: int) -> int | None:
        """Returns the value's position in the journal, if it is written there."""

    async def read(self, client: Client) -> list[int]:
        """The values in the keys of this writer's own."""
        return []

    def begin_life(self, base: int) -> None:
        """A new history, after `base`, which is durable."""
        self.history = History(self.name, base, self.in_journal)
        self.refused = 0

    def acknowledged(self) -> int:
        return sum(operation.acknowledged_s is not None for operation in self.history.operations)

    async def run(self, connect: Callable[[], Client], journal: str) -> None:
        """Writes until the connection ends."""
        try:
            async with connect() as client:
                while True:
                    await self._write_next(client, journal)
        except CONNECTION_ERRORS:
            pass

    async def _write_next(self, client: Client, journal: str) -> None:
        operations = self.history.operations
        operation = Operation(self.history.base + len(operations) + 1, time.monotonic())
        operations.append(operation)
        try:
            operation.position = await self.write(client, journal, operation.value)
            operation.acknowledged_s = time.monotonic()
        except ResponseError as error:
            if not is_refusal(error):
                raise Violation(f"{self.name}: {operation.value} was answered by: {error}") from error
            # The same value is tried again, so that it is seen if it was written all the same.
            operations.pop()
            self.refused += 1
            await asyncio.sleep(RETRY_S)


class Push(Writer):
    async def write(self, client: Client, journal: str, value: int) -> int:
        return await client.call("RPUSH", journal, f"{self.name} {value}")


class Assign(Writer):
    in_journal = False

    async def write(self, client: Client, journal: str, value: int) -> None:
        await client.call("SET", self.name, f"{value} {PADDING}")

    async def read(self, client: Client) -> list[int]:
        return [number(await client.call("GET", self.name))]


class Increment(Writer):
    in_journal = False

    async def write(self, client: Client, journal: str, value: int) -> None:
        reply = await client.call("INCR", self.name)
        if reply != value:
            raise Violation(f"{self.name}: INCR answered {reply}, not {value}")

    async def read(self, client: Client) -> list[int]:
        return [number(await client.call("GET", self.name))]


class Transaction(Writer):
    async def write(self, client: Client, journal: str, value: int) -> int:
        first, second = ("SET", f"{self.name}:a", value), ("SET", f"{self.name}:b", value)
        push = ("RPUSH", journal, f"{self.name} {value}")
        replies = await client.pipeline([("MULTI",), first, push, second, ("EXEC",)])
        return replies[-1][1]

    async def read(self, client: Client) -> list[int]:
        return [number(reply) for reply in await client.call("MGET", f"{self.name}:a", f"{self.name}:b")]


class Script(Writer):
    CODE = """
        redis.call('SET', KEYS[1], ARGV[1])
        local position = redis.call('RPUSH', KEYS[3], ARGV[2])
        redis.call('HSET', KEYS[2], 'value', ARGV[1])
        return position
    """

    async def write(self, client: Client, journal: str, value: int) -> int:
        keys = (f"{self.name}:a", f"{self.name}:b", journal)
        return await client.call("EVAL", self.CODE, len(keys), *keys, value, f"{self.name} {value}")

    async def read(self, client: Client) -> list[int]:
        replies = await client.pipeline([("GET", f"{self.name}:a"), ("HGET", f"{self.name}:b", "value")])
        return [number(reply) for reply in replies]


def is_refusal(error: ResponseError) -> bool:
    """At the lag limit. A transaction then aborts, because its writes were not queued."""
    return isinstance(error, ExecAbortError) or str(error).startswith("CLUSTERDOWN durability: writes are refused")


def number(reply: bytes | None) -> int:
    return int((reply or b"0").split()[0])


def entry(item: bytes) -> tuple[str, int]:
    """A name and a value, of an item of the journal."""
    name, value = item.decode().split()
    return name, int(value)


def writers(count: int) -> list[Writer]:
    kinds = (Push, Transaction, Assign, Script, Increment)
    return [kinds[index % len(kinds)](index) for index in range(count)]
