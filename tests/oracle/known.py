"""What is known to differ between a leader and a node that has nothing but its stream. `docs/upstream.md` has a row for each.

Of each: the shortest sequence, whether the module mends it, and the report upstream. A sequence that was found and shrunk belongs to
one of them by what differs and by what is in it; what belongs to none is new."""

import dataclasses

from generate import BASE_MS
from shrink import parts_of


@dataclasses.dataclass(frozen=True)
class Finding:
    """`sequences` each differ at a plain leader. `mended`: none of it differs at a leader with the module. `random`: not each time.
    `node_is_behind`: only where the node's clock is behind the leader's. `leader_has`: only where the leader has a setting that the
    node has not."""

    name: str
    what: str
    sequences: tuple[str, ...]
    mended: bool
    upstream: str
    random: bool = False
    node_is_behind: bool = False
    leader_has: tuple[str, str] | None = None

    def steps(self) -> list[list[list]]:
        return [[read_step(line) for line in sequence.strip().splitlines()] for sequence in self.sequences]


def read_step(line: str) -> list:
    words = [word.encode().decode("unicode_escape").encode("latin-1") if "\\x" in word else word for word in line.split()]
    return ["@clock", int(words[1])] if words[0] == "@clock" else words


FINDINGS = {finding.name: finding for finding in [
    Finding(
        "expired-field-named", "HPERSIST, HEXPIRE, HDEL and HGETDEL name a field that is expired and not yet removed", (
            """HSET h live 1 dead 2
               HPEXPIRE h 100 FIELDS 1 live
               HPEXPIRE h 5 FIELDS 1 dead
               @clock 10
               HPERSIST h FIELDS 2 live dead""",
            """HSET h live 1 dead 2
               HPEXPIRE h 5 FIELDS 1 dead
               @clock 10
               HEXPIRE h 100 FIELDS 2 live dead""",
            f"""HSET h live 1 dead 2
               HPEXPIRE h 100 FIELDS 1 live
               HPEXPIRE h 5 FIELDS 1 dead
               @clock 10
               HPEXPIREAT h {BASE_MS + 1000} GT FIELDS 2 live dead""",
            """HSET h live 1 dead 2
               HPEXPIRE h 5 FIELDS 1 dead
               PEXPIRE h 100000
               @clock 10
               HDEL h live dead
               HSET h a 1""",
            """HSET h live 1 dead 2
               HPEXPIRE h 5 FIELDS 1 dead
               PEXPIRE h 100000
               @clock 10
               HGETDEL h FIELDS 2 live dead
               HSET h a 1""",
        ), mended=True, upstream="valkey-io/valkey#4732",
    ),
    Finding(
        "expired-fields-copied", "COPY of a hash with fields that are expired and not yet removed", (
            """HSET h live 1 dead 2
               HPEXPIRE h 5 FIELDS 1 dead
               @clock 10
               COPY h x""",
        ), mended=True, upstream="none found (#4699 is of the same kind)",
    ),
    Finding(
        "expired-fields-kept", "HSETEX KEEPTTL over the only fields of a hash, expired and not yet removed; the key has a time to live", (
            """HSETEX h PX 1 FIELDS 1 a 1
               PEXPIRE h 100000
               @clock 10
               HSETEX h KEEPTTL FIELDS 1 a 2""",
        ), mended=True, upstream="none found (follows from the mend of valkey-io/valkey#3036)",
    ),
    Finding(
        "expired-fields-sorted", "SORT with STORE, by patterns that name expired fields", (
            """RPUSH l 1 2
               HSET h1 a x
               HSET h2 a y
               HPEXPIRE h1 5 FIELDS 1 a
               @clock 10
               SORT l GET h*->a STORE d""",
            """RPUSH l 1 2
               HSET h1 a 9
               HSET h2 a 5
               HPEXPIRE h1 5 FIELDS 1 a
               @clock 10
               SORT l BY h*->a STORE d""",
            """RPUSH l 1 2
               HSET h1 a text
               HPEXPIRE h1 5 FIELDS 1 a
               @clock 10
               SORT l BY h*->a STORE d""",
        ), mended=True, upstream="none found",
    ),
    Finding(
        "equal-elements-sorted", "SORT with STORE, ALPHA and BY, of a set or sorted set whose elements are equal by that pattern", (
            """ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g 8 h 9 i
               SORT z BY missing:* ALPHA STORE d""",
        ), mended=True, upstream="none found", random=True,
    ),
    Finding(
        "consumer-without-entries", "XREADGROUP, XCLAIM or XAUTOCLAIM make a consumer and give it nothing", (
            """XGROUP CREATE x g 0 MKSTREAM
               XREADGROUP GROUP g c STREAMS x >""",
            """XADD x 1-1 f v
               XGROUP CREATE x g 0
               XREADGROUP GROUP g c STREAMS x 0""",
            """XGROUP CREATE x g 0 MKSTREAM
               XREADGROUP GROUP g c BLOCK 0 STREAMS x >""",
            """XGROUP CREATE x g 0 MKSTREAM
               XCLAIM x g c 0 1-1""",
            """XGROUP CREATE x g 0 MKSTREAM
               XAUTOCLAIM x g c 0 0""",
        ), mended=True, upstream="redis/redis#14963, #6744",
    ),
    Finding(
        "history-read-again", "XREADGROUP with an id other than > raises delivery counts and times", (
            """XADD x 1-1 f v
               XGROUP CREATE x g 0
               XREADGROUP GROUP g c STREAMS x >
               @clock 10
               XREADGROUP GROUP g c STREAMS x 0""",
        ), mended=True, upstream="none found",
    ),
    Finding(
        "bitfield-overflow-fail", "BITFIELD with OVERFLOW FAIL makes or lengthens the string and sets nothing", (
            "BITFIELD s OVERFLOW FAIL INCRBY i5 100 100",
            """SETBIT s 7 1
               BITFIELD s OVERFLOW FAIL INCRBY i5 100 100""",
        ), mended=True, upstream="valkey-io/valkey#4121",
    ),
    Finding(
        "msetex-xx-past", "MSETEX XX names a key twice, with a time that is over", (
            f"""MSET s 1 other 1
               MSETEX 3 other 2 s 2 s 3 XX PXAT {BASE_MS - 1000}""",
        ), mended=True, upstream="none found (valkey-io/valkey#3534 would mend it)",
    ),
    Finding(
        "restored-of-newer-version", "RESTORE of a payload of a newer version, which the leader takes and the node does not", (
            r"RESTORE s 0 \x00\x03\x62\x61\x72\xde\x00\x0fYUza\xd3\xec\xe0 REPLACE",
            r"""SET s before
               RESTORE s 100000 \x00\x03\x62\x61\x72\xde\x00\x0fYUza\xd3\xec\xe0 IDLETIME 5 REPLACE""",
        ), mended=True, upstream="by design", leader_has=("rdb-version-check", "relaxed"),
    ),
    Finding(
        "lex-range-stored", "ZRANGESTORE BYLEX where scores differ: documented as unspecified", (
            """ZADD z -inf x 3.3 c 3.3 2 2 a
               ZRANGESTORE d z [c + BYLEX""",
            """ZADD z -inf x 3.3 c 3.3 2 2 a
               ZRANGESTORE z z [c + BYLEX""",
        ), mended=True, upstream="redis/redis#6870", random=True,
    ),
    Finding(
        "claim-time-cut", "XREADGROUP and XCLAIM at a node whose clock is behind the leader's: it cuts the time of delivery to its own", (
            """XADD x 1-1 f v
               XGROUP CREATE x g 0
               XREADGROUP GROUP g c STREAMS x >""",
        ), mended=False, upstream="none found", node_is_behind=True,
    ),
    Finding(
        "import-mode", "Commands that store what they read of expired keys, which the leader keeps as it has import-mode", (
            """ZADD z 1 a 2 b
               PEXPIRE z 1
               @clock 10
               ZADD d 1 c
               ZRANGESTORE d z 0 -1""",
        ), mended=False, upstream="none found", leader_has=("import-mode", "yes"),
    ),
    Finding(
        "lex-range-of-unequal-scores", "ZREMRANGEBYLEX where scores differ: documented as unspecified", (
            """ZADD z -inf x 3.3 c 3.3 2 2 a
               ZREMRANGEBYLEX z [c [c""",
        ),
        mended=False, upstream="redis/redis#6870", random=True,
    ),
]}

# At the very millisecond at which its time is over a field is not expired yet. No leader may differ here.
NEVER = [[read_step(line) for line in f"""HSET h live 1 dead 2
    HPEXPIRE h 10 FIELDS 1 dead
    @clock 10
    {command}""".splitlines()] for command in (
        "COPY h x", "HDEL h live dead", "HGETDEL h FIELDS 2 live dead", "HPERSIST h FIELDS 2 live dead", "HPEXPIRE h 100 FIELDS 2 live dead",
        "HSETEX h KEEPTTL FIELDS 1 dead 3",
    )]

EXPIRING = {"HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HPERSIST", "HDEL", "HGETDEL"}


def without_idle_consumers(value):
    """A stream's value without consumers that hold nothing."""
    groups = [dict(zip(group[::2], group[1::2])) for group in value[-1]]
    for group in groups:
        group[b"consumers"] = [consumer for consumer in group[b"consumers"] if consumer[1]]
    return value[:-1] + [groups]


def without_deliveries(value):
    """A stream's value without when and how often a pending entry was delivered."""
    value = without_idle_consumers(value)
    for group in value[-1]:
        group[b"pending"] = [entry[:2] for entry in group[b"pending"]]
        group[b"consumers"] = [[name, count, [entry[0] for entry in pending]] for name, count, pending in group[b"consumers"]]
    return value


def equal_but_for(simplify, differences) -> bool:
    return all(what == "stream value" and simplify(leader) == simplify(node) for _, _, what, leader, node in differences)


def by_difference(differences) -> str | None:
    """The finding to which all that differs belongs, by what differs alone."""
    return "consumer-without-entries" if equal_but_for(without_idle_consumers, differences) else None


def without_times(value):
    """A stream's value without when pending entries were delivered."""
    value = without_idle_consumers(value)
    for group in value[-1]:
        group[b"pending"] = [entry[:2] + entry[3:] for entry in group[b"pending"]]
        group[b"consumers"] = [[name, [[entry[0], entry[2]] for entry in pending]] for name, _, pending in group[b"consumers"]]
    return value


def by_suite(differences) -> str | None:
    """The finding to which a difference belongs that a test of Valkey's suite has shown, whose commands are not looked at."""
    if equal_but_for(without_idle_consumers, differences):
        return "consumer-without-entries"
    return "history-read-again" if equal_but_for(without_deliveries, differences) else None


def by_sequence(steps, differences, differs_when_reaped, node_is_behind) -> str | None:
    """The finding to which a shortest sequence belongs. `differs_when_reaped()`: whether it still does if what is expired is
    removed at once."""
    called = [str(step[0]).upper() for step in steps]
    text = {str(word).upper() for step in steps for inner in parts_of(step) or [step] for word in inner}
    whats = {row[2] for row in differences}
    if node_is_behind and equal_but_for(without_times, differences):
        return "claim-time-cut"
    if "XREADGROUP" in text and equal_but_for(without_deliveries, differences):
        return "history-read-again"
    if "BITFIELD" in text and "FAIL" in text:
        return "bitfield-overflow-fail"
    if "MSETEX" in text and "XX" in text:
        return "msetex-xx-past"
    if whats <= {"zset value", "only at the node", "missing at the node", "time to live"} and ("ZREMRANGEBYLEX" in text or "BYLEX" in text):
        return "lex-range-of-unequal-scores" if "ZREMRANGEBYLEX" in text else "lex-range-stored"
    if "@CLOCK" in called and not differs_when_reaped():
        if "SORT" in text and any("->" in word for word in text) and whats & {"list value", "errors at the node"}:
            return "expired-fields-sorted"
        if called[-1] == "COPY":
            return "expired-fields-copied"
        if "HSETEX" in called and "KEEPTTL" in text and "time to live" in whats:
            return "expired-fields-kept"
        if EXPIRING & text:
            return "expired-field-named"
    if {"SORT", "BY", "ALPHA", "STORE"} <= text and whats <= {"list value"}:
        return "equal-elements-sorted"
    return None


def by_crash(steps) -> str | None:
    """The finding to which a sequence belongs that ended a server, or its child that saves: HRANDFIELD of a hash without fields, which COPY
    has made, or a full copy for the node."""
    text = {str(word).upper() for step in steps for inner in parts_of(step) or [step] for word in inner}
    return "expired-fields-copied" if "COPY" in text and text & {"HRANDFIELD", "@RESYNC"} else None


def by_refusal(text: str) -> str | None:
    """The finding to which an engine's refusal of the log belongs."""
    return "expired-fields-sorted" if "after processing the command 'sort'" in text else None
