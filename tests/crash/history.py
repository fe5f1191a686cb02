"""What clients did in one life of a server, and what was there after it. All times are of one monotonic clock, in seconds."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Operation:
    """A write of `value`. One that was refused is none."""

    value: int
    invoked_s: float
    acknowledged_s: float | None = None  # None: no answer came.
    position: int | None = None  # The place in the journal that the answer tells, from 1.


@dataclass
class History:
    """What one client wrote: the values after `base`, one by one, each after the answer to the one before."""

    name: str
    base: int  # Found when the life began.
    in_journal: bool
    operations: list[Operation] = field(default_factory=list)


@dataclass
class Found:
    """What a restarted server holds."""

    journal: list[tuple[str, int]]  # Names and values, in the order in which the server executed them.
    places: dict[str, list[int]]  # Of each name, the value in every key of its own.


@dataclass
class Record:
    """A life of a server, up to its end by kill -9, and what was found after it."""

    histories: list[History]
    found: Found
    killed_s: float
    limit_ms: float  # durability.max-lag-ms
    durable_until_s: float  # The server said by DURABILITY.LAG that everything is durable that ran before.
