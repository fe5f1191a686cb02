"""The shortest sequence of each known difference. A plain server has to differ still: if it does not, Valkey has mended it."""

import pathlib
import re

import known
from compare import differences
from servers import Pair

TRIES_OF_RANDOM = 400
TABLE = pathlib.Path(__file__).parents[2] / "docs" / "upstream.md"


def play_pinned(pair: Pair) -> tuple[int, int]:
    passed = failed = 0
    for finding in known.FINDINGS.values():
        pair.set_node_clock(finding.node_is_behind)
        before = pair.set_of_leader(*finding.leader_has) if finding.leader_has else None
        must_differ = not (pair.has_module and finding.mended)
        for at, steps in enumerate(finding.steps()):
            differs = any(differs_once(pair, steps) for _ in range(TRIES_OF_RANDOM if finding.random and must_differ else 1))
            if differs == must_differ:
                passed += 1
                continue
            failed += 1
            print(f"FAILED: {finding.name}, sequence {at + 1}: " + (
                "leader and node differ, which the module mends" if differs else
                "is mended in the module: say so in known.py" if pair.has_module else
                "Valkey differs no longer: take it out of known.py and docs/upstream.md, and the module's mend with it"))
            for row in differences(*pair.states()):
                print(f"    {row}")
        if before:
            pair.set_of_leader(finding.leader_has[0], before)
    pair.set_node_clock(is_behind=False)
    for steps in known.NEVER:
        if differs_once(pair, steps):
            failed += 1
            print(f"FAILED: {steps[-1]} differs at the millisecond at which a field expires: {differences(*pair.states())}")
        else:
            passed += 1
    for complaint in table_complaints():
        failed += 1
        print(f"FAILED: {complaint}")
    passed += not table_complaints()
    return passed, failed


def differs_once(pair: Pair, steps) -> bool:
    # A profile in which small sorted sets are skiplists.
    pair.play(steps, 500)
    return bool(differences(*pair.states()))


def table_complaints() -> list[str]:
    """docs/upstream.md and known.py name the same findings, and say the same of what the module does."""
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (mended|open) \|[^|]*\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE))
    ours = {finding.name: "mended" if finding.mended else "open" for finding in known.FINDINGS.values()}
    return [f"{TABLE.name} says {rows.get(name, 'nothing')} of {name}, known.py says {ours.get(name, 'nothing')}"
            for name in sorted(rows.keys() | ours.keys()) if rows.get(name) != ours.get(name)]


def self_check(pair: Pair) -> tuple[int, int]:
    """Changes that are deliberately kept out of the stream, one of each kind of thing that is compared."""
    hidden = [
        ("a key", "server.call('SET', 's1', 'x')"),
        ("a value", "server.call('APPEND', 's2', 'x')"),
        ("a time to live", "server.call('PEXPIRE', 's2', 100000)"),
        ("a key that is gone", "server.call('DEL', 's2')"),
        ("a field's time to live", "server.call('HPEXPIRE', 'h1', 100000, 'FIELDS', 1, 'a')"),
        ("a field that is expired", "server.call('HPERSIST', 'h1', 'FIELDS', 1, 'soon')"),
        ("an order", "server.call('LMOVE', 'l1', 'l1', 'LEFT', 'RIGHT')"),
        ("a score", "server.call('ZINCRBY', 'z1', 1, 'a')"),
        ("a consumer", "server.call('XGROUP', 'CREATECONSUMER', 'x1', 'g', 'd')"),
        ("a group's place", "server.call('XGROUP', 'SETID', 'x1', 'g', '0')"),
        ("a pending entry", "server.call('XACK', 'x1', 'g', '1-1')"),
        ("a stream's last id", "server.call('XSETID', 'x1', '9-9')"),
        ("a database", "server.call('SELECT', 3) server.call('SET', 's1', 'x')"),
    ]
    before = [line.split() for line in (
        "SET s2 v", "HSET h1 a 1 b 2 soon 3", "HPEXPIRE h1 5 FIELDS 1 soon", "RPUSH l1 a b", "ZADD z1 1 a", "XADD x1 1-1 f v", "XADD x1 1-2 f v",
        "XGROUP CREATE x1 g 0", "XREADGROUP GROUP g c COUNT 1 STREAMS x1 >",
    )]
    passed = failed = 0
    for name, change in hidden:
        quiet = ["EVAL", f"server.set_repl(server.REPL_NONE) {change}", "0"]
        loud = ["EVAL", change, "0"]
        for step, must_differ in ((quiet, True), (loud, False)):
            pair.play(before + [step])
            if bool(differences(*pair.states())) == must_differ:
                passed += 1
            else:
                failed += 1
                print(f"FAILED: {name}, {'hidden, was not found' if must_differ else 'replicated, and yet differs'}")
    return passed, failed
