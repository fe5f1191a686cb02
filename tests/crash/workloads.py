"""What the connections write, and what must be found of it afterwards.

Each worker writes 1, 2, 3, ... in its own way to its own keys. So all that can be found of its work is one number: the last
that was written. It must not be less than the last that was acknowledged, nor more than the last that was sent.
"""

import abc
import asyncio
from collections.abc import Callable

from client import CLIENT_ERRORS, Client
from violation import Violation

RECONNECT_S = 0.02


class Worker(abc.ABC):
    """Writes by one connection at a time, and remembers what it was told."""

    def __init__(self, number: int):
        self.name = f"{type(self).__name__.lower()}:{number}"
        self.operations = 0
        self._acknowledged = 0
        self._sent = 0

    @abc.abstractmethod
    async def write(self, client: Client, value: int) -> None:
        """Writes `value`, which follows the one that was written last."""

    @abc.abstractmethod
    async def read(self, client: Client) -> int:
        """The last value that is there; raises Violation if it is there in part."""

    async def verify(self, client: Client) -> None:
        """Compares what is there with what was promised, and goes on from there."""
        found = await self.read(client)
        if found > self._sent:
            raise Violation(f"{self.name}: {found} is there, but only {self._sent} was sent")
        if found < self._acknowledged:
            raise Violation(f"{self.name}: {self._acknowledged} was acknowledged, but only {found} is there")
        self._acknowledged = self._sent = found

    async def run(self, connect: Callable[[], Client], stop: asyncio.Event) -> None:
        """Writes until told to stop. Connects again whenever the connection ends or a command is refused."""
        while not stop.is_set():
            try:
                async with connect() as client:
                    await self.verify(client)
                    while not stop.is_set():
                        await self._write_next(client)
            except CLIENT_ERRORS:
                await asyncio.sleep(RECONNECT_S)

    async def _write_next(self, client: Client) -> None:
        value = self._acknowledged + 1
        self._sent = value
        await self.write(client, value)
        self._acknowledged = value
        self.operations += 1

    def _expect_equal(self, first: object, second: object) -> None:
        if first != second:
            raise Violation(f"{self.name}: half of a write is there: {first!r} and {second!r}")


def number(reply: bytes | None) -> int:
    return int(reply or 0)


class Increment(Worker):
    async def write(self, client: Client, value: int) -> None:
        reply = await client.call("INCR", self.name)
        if reply != value:
            raise Violation(f"{self.name}: INCR answered {reply}, not {value}")

    async def read(self, client: Client) -> int:
        return number(await client.call("GET", self.name))


class Assign(Worker):
    async def write(self, client: Client, value: int) -> None:
        await client.call("SET", self.name, value)

    async def read(self, client: Client) -> int:
        return number(await client.call("GET", self.name))


class Append(Worker):
    async def write(self, client: Client, value: int) -> None:
        await client.call("RPUSH", self.name, value)

    async def read(self, client: Client) -> int:
        items = [number(item) for item in await client.call("LRANGE", self.name, 0, -1)]
        if items != list(range(1, len(items) + 1)):
            raise Violation(f"{self.name}: items are missing, doubled or out of order among {len(items)}")
        return len(items)


class Transaction(Worker):
    async def write(self, client: Client, value: int) -> None:
        first, second = ("SET", f"{self.name}:a", value), ("SET", f"{self.name}:b", value)
        await client.pipeline([("MULTI",), first, second, ("EXEC",)])

    async def read(self, client: Client) -> int:
        first, second = await client.call("MGET", f"{self.name}:a", f"{self.name}:b")
        self._expect_equal(first, second)
        return number(first)


class Script(Worker):
    CODE = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('HSET', KEYS[2], 'value', ARGV[1])"

    async def write(self, client: Client, value: int) -> None:
        await client.call("EVAL", self.CODE, 2, f"{self.name}:a", f"{self.name}:b", value)

    async def read(self, client: Client) -> int:
        first = await client.call("GET", f"{self.name}:a")
        self._expect_equal(first, await client.call("HGET", f"{self.name}:b", "value"))
        return number(first)


def workers(count: int) -> list[Worker]:
    kinds = (Increment, Assign, Append, Transaction, Script)
    return [kinds[index % len(kinds)](index) for index in range(count)]
