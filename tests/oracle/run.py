"""The oracle: plays sequences of commands at a leader and compares everything it holds with a node that has only its stream.

Without --module the leader is a plain server and the node its replica, which shows what Valkey itself fails to propagate. With it
the leader has the module, and the node follows the log. What Valkey is known to get wrong is listed in `known.py`."""

import argparse
import collections
import pathlib
import signal
import sys
import tempfile
import time

import generate
import known
import shapes
from compare import differences, soft_differences
from generate import sequence
from pinned import play_pinned, self_check
from servers import SEEDS_OF_A_PROFILE, Clock, NotReady, Pair
from shrink import shrink


def shown(step) -> str:
    words = []
    for word in step:
        text = repr(word) if isinstance(word, bytes) else str(word)
        words.append(text if text and not set(text) & set(" \n\"'") else repr(text))
    return " ".join(words)


class Search:
    """Plays the sequences of some seeds and keeps what differed, shrunk and counted by its kind."""

    def __init__(self, pair: Pair, show: int):
        self.pair, self.show = pair, show
        shapes.FUNCTIONS_PAYLOAD = functions_payload(pair)
        self.payloads = pair.payloads()
        self.kinds = collections.Counter()
        self.soft = collections.Counter()
        self.equal = self.known = self.rebuilt = 0
        # Seeds whose sequences showed what must not be.
        self.wrong: list[int] = []

    def differs(self, steps, seed) -> list:
        self.pair.play(steps, seed)
        return differences(*self.pair.states())

    def differs_when_reaped(self, steps, seed) -> bool:
        """Whether a sequence still differs if what is expired is removed before each command."""
        usual, self.pair.reap_s = self.pair.reap_s, 0.1
        try:
            return bool(self.differs(reaped(steps), seed))
        finally:
            self.pair.reap_s = usual

    def new_differences(self, steps, seed) -> list:
        """What differs, unless all of it is known by what it is."""
        found = self.differs(steps, seed)
        return [] if found and known.by_difference(found) else found

    def play(self, seed: int) -> None:
        steps = sequence(seed, self.payloads)
        self.pair.play(steps, seed)
        leader, node = self.pair.states()
        found = differences(leader, node)
        for kind, of, a, b in soft_differences(leader, node):
            self.soft[kind, of, f"{a[0].decode()} at the leader, {b[0].decode()} at the node" if kind == "encoding" else ""] += 1
        if found:
            self.judge(seed, steps, found)
        else:
            self.equal += 1

    def judge(self, seed, steps, found) -> None:
        name = known.by_difference(found)
        small = steps
        if not name:
            small = shrink(steps, lambda fewer: bool(self.new_differences(fewer, seed)))
            # What is random may not show a second time.
            found = self.new_differences(small, seed) or found
            name = known.by_sequence(small, found, lambda: self.differs_when_reaped(small, seed), self.pair.node_ahead_ms < 0)
        is_wrong = not name or (self.pair.has_module and known.FINDINGS[name].mended)
        if is_wrong:
            self.wrong.append(seed)
        else:
            self.known += 1
        kind = name or " ".join(shown(step).split()[0] for step in small if not step[0].startswith("@"))
        kind = (kind, ", ".join(sorted({row[2] for row in found})))
        self.kinds[kind] += 1
        if self.kinds[kind] <= (max(self.show, 3) if is_wrong else self.show) and (is_wrong or small is not steps):
            print(f"seed {seed} differs: {'NEW' if not name else name}{' (which the module mends)' if name and is_wrong else ''}: {kind[1]}")
            for step in small:
                print(f"    {shown(step)[:600]}")
            for database, key, what, a, b in found:
                print(f"  {database} {key}: {what}\n    leader: {a}\n    node:   {b}", flush=True)

    def crashed(self, seed: int) -> None:
        """A server ended, does not answer, or cannot be followed. Everything is started anew."""
        steps = sequence(seed, self.payloads)
        name = known.by_crash(steps)
        if not name or (self.pair.has_module and known.FINDINGS[name].mended):
            self.wrong.append(seed)
        else:
            self.known += 1
        self.kinds[name or "NEW", "crash"] += 1
        if self.kinds[name or "NEW", "crash"] <= max(self.show, 0 if name else 3):
            print(f"seed {seed}: a server ended: {name or 'NEW'}", *map(shown, steps), sep="\n    ")
            print(self.pair.last_words(), flush=True)
        self.pair.restart()

    def rebuild(self, seed: int) -> None:
        """Compares what the last sequence left with a node that begins from nothing: with a snapshot, and the stream behind it."""
        self.rebuilt += 1
        try:
            found = differences(*self.pair.states_of_new_node())
        except NotReady as error:
            # The log has a command for good that no node can run.
            name = known.by_refusal(str(error))
            self.kinds[name or "NEW", "no snapshot can be made"] += 1
            if not name or known.FINDINGS[name].mended:
                self.wrong.append(seed)
                print(f"seed {seed}: no node can be rebuilt: {error}", flush=True)
            self.pair.restart()
            return
        # What the followers have had wrong before is in the snapshot as well.
        if found and not self.new_differences_known(found):
            self.wrong.append(seed)
            print(f"seed {seed}: a node that was rebuilt differs")
            for database, key, what, a, b in found:
                print(f"  {database} {key}: {what}\n    leader: {a}\n    node:   {b}", flush=True)

    def new_differences_known(self, found) -> bool:
        return differences(*self.pair.states()) != [] or known.by_difference(found) is not None


def reaped(steps) -> list:
    """The sequence, with what is expired removed before the next command."""
    queueing, out = False, []
    for step in steps:
        name = str(step[0]).upper()
        out += [step] if queueing else [["@reap"], step]
        queueing = name == "MULTI" or (queueing and name not in ("EXEC", "DISCARD"))
    return out


def functions_payload(pair: Pair) -> bytes:
    pair.begin(0)
    pair.leader.call("FUNCTION", "LOAD", "#!lua name=lf1\nserver.register_function('f1', function() return 'restored' end)")
    return pair.leader.call("FUNCTION", "DUMP")


def search(pair: Pair, arguments) -> tuple[int, int]:
    """Returns how many groups of seeds passed, and how many did not."""
    found = Search(pair, arguments.show)
    started = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.sequences)
    for seed in seeds:
        try:
            found.play(seed)
        except (OSError, NotReady):
            found.crashed(seed)
        if arguments.rebuild_every and (seed + 1) % arguments.rebuild_every == 0:
            found.rebuild(seed)
        if arguments.minutes and time.monotonic() - started > arguments.minutes * 60:
            seeds = range(arguments.first, seed + 1)
            break
    print(f"== {len(seeds)} sequences from seed {arguments.first} in {time.monotonic() - started:.0f} s: {found.equal} equal, "
          f"{found.known} differ as known, {len(found.wrong)} differ otherwise; {found.rebuilt} nodes rebuilt")
    for (name, what), count in found.kinds.most_common():
        print(f"{count:7} {name}: {what}")
    for what, count in found.soft.most_common():
        print(f"{count:7} noise: {' '.join(what)}")
    if found.wrong:
        print(f"again: --first {found.wrong[0]} --sequences 1")
    groups = {seed // SEEDS_OF_A_PROFILE for seed in seeds}
    failed = {seed // SEEDS_OF_A_PROFILE for seed in found.wrong}
    return len(groups - failed), len(failed)


def main():
    parser = argparse.ArgumentParser(prog="tests/oracle/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=5000, help="how many; each has a seed")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--module", help="the leader loads this module and ships to a log service; else it is a plain server")
    parser.add_argument("--logservice")
    parser.add_argument("--rebuild-every", type=int, default=0, help="after so many sequences, compare with a node that begins from nothing")
    parser.add_argument("--resync-chance", type=float, default=generate.resync_chance,
                        help="which part of the sequences has nodes that take everything anew; slow")
    parser.add_argument("--node-behind", action="store_true", help="the node's clock is behind the leader's, not ahead")
    parser.add_argument("--show", type=int, default=1, help="how many sequences to print of each kind of difference")
    parser.add_argument("--minutes", type=float, help="end after so long")
    parser.add_argument("--pinned", action="store_true", help="play the sequences of known.py instead")
    parser.add_argument("--self-check", action="store_true", help="succeeds if a change that is not propagated is found")
    arguments = parser.parse_args()
    # Ended from outside, the servers are stopped as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    generate.resync_chance = arguments.resync_chance
    with tempfile.TemporaryDirectory(prefix="oracle.") as work:
        work = pathlib.Path(work)
        Clock.build(work)
        pair = Pair(work, arguments.module, arguments.logservice)
        try:
            pair.set_node_clock(arguments.node_behind)
            if arguments.self_check:
                passed, failed = self_check(pair)
            elif arguments.pinned:
                passed, failed = play_pinned(pair)
            else:
                passed, failed = search(pair, arguments)
        finally:
            pair.stop()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
