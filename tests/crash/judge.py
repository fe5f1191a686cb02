"""Says whether what a server in async mode lost when it was killed is what it may lose: the youngest writes, none older than
the lag limit, and every write whole.

All that is compared is certain. A write runs between its invocation and its acknowledgement, so one that was acknowledged
before another was invoked ran before it, and nothing is concluded from times that overlap.
"""

from dataclasses import dataclass

from history import Found, History, Operation, Record
from violation import Violation

# The server looks at its lag once in each round of its event loop, and there is a round each 100 ms at least.
ROUND_MS = 100


@dataclass
class Loss:
    """Writes that were acknowledged and are missing."""

    count: int = 0
    age_ms: float = 0.0  # Of the oldest when the server was killed, at most.
    span_ms: float = 0.0  # From the oldest to the youngest write that was acknowledged, at least.


def judge(record: Record) -> Loss:
    """Returns what is missing; raises Violation if it may not be."""
    journal = by_name(record.found.journal)
    missing: list[tuple[Operation, str]] = []
    surviving: list[tuple[Operation, str]] = []
    for history in record.histories:
        last = last_value(history, record.found, journal.get(history.name, []))
        check_positions(history, last, record.found.journal)
        for operation in history.operations:
            if operation.value <= last:
                surviving.append((operation, history.name))
            elif operation.acknowledged_s is not None:
                missing.append((operation, history.name))
    if not missing:
        return Loss()
    oldest, name = min(missing, key=lambda item: item[0].acknowledged_s)
    what = f"{name}: {oldest.value} is missing"
    check_no_hole(oldest.acknowledged_s, surviving, what)
    span_ms = check_age(record, oldest.acknowledged_s, what)
    age_ms = (record.killed_s - min(operation.invoked_s for operation, _ in missing)) * 1000
    return Loss(len(missing), age_ms, span_ms)


def by_name(journal: list[tuple[str, int]]) -> dict[str, list[int]]:
    values: dict[str, list[int]] = {}
    for name, value in journal:
        values.setdefault(name, []).append(value)
    return values


def last_value(history: History, found: Found, journal: list[int]) -> int:
    """The last value that is there, of a history of which a first part is there, in all its places."""
    name, base = history.name, history.base
    seen = set(found.places[name])
    if history.in_journal:
        for expected, value in enumerate(journal, start=base + 1):
            if value != expected:
                raise Violation(f"{name}: the journal has {value} where {expected} should be: missing, doubled or out of order")
        seen.add(base + len(journal))
    if len(seen) != 1:
        raise Violation(f"{name}: a part of a write is there: {sorted(seen)}")
    last = seen.pop()
    if last < base:
        raise Violation(f"{name}: {base} was there after the last restart, and now it is {last}")
    if last > base + len(history.operations):
        raise Violation(f"{name}: {last} is there, but only {base + len(history.operations)} was written")
    return last


def check_positions(history: History, last: int, journal: list[tuple[str, int]]) -> None:
    """The journal is a first part of what the server executed, in the order in which it did."""
    for operation in history.operations:
        position, entry = operation.position, (history.name, operation.value)
        if position is None:
            continue
        if operation.value <= last:
            if position > len(journal) or journal[position - 1] != entry:
                raise Violation(f"{entry} was written at {position} of the journal, and is there, but not at that place")
        elif position <= len(journal):
            raise Violation(f"{entry} was written at {position} of the journal and is missing, but {len(journal)} are there")


def check_no_hole(missing_since_s: float, surviving: list[tuple[Operation, str]], what: str) -> None:
    """Nothing is there that was written after something that is missing."""
    if not surviving:
        return
    youngest, name = max(surviving, key=lambda item: item[0].invoked_s)
    later_ms = (youngest.invoked_s - missing_since_s) * 1000
    if later_ms > 0:
        raise Violation(f"{what}, but {name}: {youngest.value}, written {later_ms:.3f} ms after its acknowledgement, is there")


def check_age(record: Record, missing_since_s: float, what: str) -> float:
    """Nothing is acknowledged when the log lacks something that is older than the limit; and the lag that the server tells is
    no less than what can be lost. Returns the span."""
    written = [operation for history in record.histories for operation in history.operations]
    last_s = max(operation.invoked_s for operation in written if operation.acknowledged_s is not None)
    span_ms = (last_s - missing_since_s) * 1000
    if span_ms > record.limit_ms + ROUND_MS:
        raise Violation(f"{what}, and {span_ms:.0f} ms later writes were acknowledged; the limit is {record.limit_ms} ms")
    early_ms = (record.durable_until_s - missing_since_s) * 1000
    if early_ms > 0:
        raise Violation(f"{what}, though by the lag that the server told it was durable for {early_ms:.3f} ms")
    return max(span_ms, 0.0)
