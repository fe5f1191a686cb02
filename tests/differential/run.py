"""Plays sequences of what three clients do at a plain server and at servers with the module, whose log acknowledges late, and
compares all that each connection received until it was closed, byte for byte."""

import argparse
import pathlib
import signal
import sys
import tempfile
import time

from nodes import Node, NotReady
from play import Client, Play
from sequences import Action, Sequence

# What the module's sync mode may cut off: a client that another one kills gets no more of what is held (docs/guarantees.md).
FEWER_IF_CUT_OFF = ("sync",)


class Comparison:
    """A plain server and those that are compared with it."""

    def __init__(self, directory: pathlib.Path, threads: int, modes: list[str], programs: tuple):
        self.nodes: list[Node] = []
        self.most_held = self.most_half_closed = 0
        # For the self-check: what becomes of what was received from the module's servers.
        self.alter = lambda received: received
        try:
            # I/O threads never rest; those of a plain server would show nothing more.
            self.nodes.append(Node("plain", directory, 1))
            for mode in modes:
                self.nodes.append(Node(mode, directory, threads, mode, programs))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def differences(self, actions: list[Action]) -> list[str]:
        """What differs, in words."""
        self._align_ids()
        plain = Play(self.nodes[0])
        expected = plain.run(actions)
        found = []
        for node in self.nodes[1:]:
            play = Play(node, plain.done)
            received = play.run(actions)
            self.most_held = max(self.most_held, play.most_held)
            self.most_half_closed = max(self.most_half_closed, play.most_half_closed)
            found += [f"{node.name}: {what}" for pair in zip(expected, received) if (what := self._compare(node, *pair))]
        return found

    def _align_ids(self) -> None:
        """Clients that connect from now on have the same ids everywhere."""
        for node in self.nodes:
            node.clear()
        ids = [node.next_id() for node in self.nodes]
        for node, at in zip(self.nodes, ids):
            while at < max(ids):
                at = node.next_id()

    def _compare(self, node: Node, expected: Client, received: Client) -> str | None:
        if expected.id != received.id:
            return f"client {expected.id} has the id {received.id}"
        want, got = bytes(expected.received), self.alter(bytes(received.received))
        for plain, with_module in zip(self.nodes[0].modules, node.modules):
            got = got.replace(b"$7\r\nmodules\r\n" + with_module, b"$7\r\nmodules\r\n" + plain)
        if want == got or received.was_cut_off and node.mode in FEWER_IF_CUT_OFF and want.startswith(got):
            return None
        at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
        start = max(0, at - 60)
        return (f"client {expected.id} received {len(got)} bytes instead of {len(want)}, and others from {at} on:\n"
                f"      plain: …{want[start:at + 200]!r}\n      here:  …{got[start:at + 200]!r}")


def shrink(comparison: Comparison, actions: list[Action]) -> list[Action]:
    """A shorter sequence that still shows it: without actions, then without commands."""
    def differs(fewer):
        return bool(comparison.differences(fewer))

    i = 0
    while i < len(actions):
        fewer = actions[:i] + actions[i + 1:]
        if differs(fewer):
            actions = fewer
        else:
            i += 1
    for i, action in enumerate(actions):
        j = 0
        while len(action.commands) > 1 and j < len(action.commands):
            fewer = Action(action.what, action.client, action.commands[:j] + action.commands[j + 1:], action.share)
            if differs(actions[:i] + [fewer] + actions[i + 1:]):
                action = fewer
                actions = actions[:i] + [fewer] + actions[i + 1:]
            else:
                j += 1
    return actions


def compare(directory: pathlib.Path, threads: int, modes: list[str], programs: tuple, seeds: range) -> list[int]:
    """Returns the seeds of which something differed."""
    wrong = []
    comparison = Comparison(directory, threads, modes, programs)
    started = time.monotonic()
    try:
        for seed in seeds:
            actions = Sequence(seed).actions()
            if found := comparison.differences(actions):
                wrong.append(seed)
                if len(wrong) <= 3:
                    print(f"seed {seed}, {threads} threads, differs:")
                    small = shrink(comparison, actions)
                    for action in small:
                        print(f"    {action.shown()[:400]}")
                    for what in comparison.differences(small) or found:
                        print(f"  {what}", flush=True)
        if "sync" in modes and not (comparison.most_held and comparison.most_half_closed):
            raise NotReady("nobody was ever held, or half closed while held: this compares nothing")
    finally:
        comparison.stop()
    print(f"== {len(seeds)} sequences from seed {seeds.start}, {threads} I/O threads, modes {' '.join(modes)}: {len(wrong)} differ, in "
          f"{time.monotonic() - started:.0f} s; at most {comparison.most_held} clients were held and {comparison.most_half_closed} half closed")
    return wrong


def self_check(directory: pathlib.Path, programs: tuple, seeds: range) -> tuple[int, int]:
    """Succeeds if it is found that the module drops replies to clients that are half closed, and that one byte is another."""
    comparison = Comparison(directory, 1, ["sync"], programs)
    passed = failed = 0
    try:
        # Then it keeps one such connection, not more.
        comparison.nodes[1].must("CONFIG", "SET", "maxclients", 10)
        dropped = [seed for seed in seeds if comparison.differences(Sequence(seed).actions())]
        comparison.nodes[1].must("CONFIG", "SET", "maxclients", 1000)
        comparison.alter = lambda received: received[:-1] + b"?"
        altered = [seed for seed in seeds[:3] if comparison.differences(Sequence(seed).actions())]
        for what, found, of in (("replies that were dropped", dropped, len(seeds)), ("another byte", altered, 3)):
            print(f"{what}: found in {len(found)} of {of} sequences")
            passed += bool(found)
            failed += not found
    finally:
        comparison.stop()
    return passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/differential/run.sh", description=__doc__)
    parser.add_argument("--module", required=True)
    parser.add_argument("--logservice", required=True)
    parser.add_argument("--seeds", type=int, default=60, help="how many sequences; a quarter as many with I/O threads")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--threads", type=int, help="with so many I/O threads; else with none, and with 2")
    parser.add_argument("--modes", default="sync async off")
    parser.add_argument("--self-check", action="store_true", help="succeeds if what is wrong on purpose is found")
    arguments = parser.parse_args()
    # Ended from outside, the servers are stopped as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    programs = (arguments.module, arguments.logservice)
    if arguments.self_check:
        with tempfile.TemporaryDirectory(prefix="differential.") as work:
            passed, failed = self_check(pathlib.Path(work), programs, range(40))
        print(f"{passed} passed, {failed} failed")
        return 1 if failed else 0
    modes = arguments.modes.split()
    if arguments.threads:
        runs = [(arguments.threads, modes, arguments.seeds)]
    else:
        runs = [(1, modes, arguments.seeds), (2, modes[:1], (arguments.seeds + 3) // 4)]
    passed = failed = 0
    for threads, modes, count in runs:
        seeds = range(arguments.first, arguments.first + count)
        with tempfile.TemporaryDirectory(prefix="differential.") as work:
            wrong = compare(pathlib.Path(work), threads, modes, programs, seeds)
        passed += len(seeds) - len(wrong)
        failed += len(wrong)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
