"""Clients of a cluster, unmodified, write all the time while a leader is killed or stopped, leaders hand over and slots move: each goes on by
itself, nothing that was acknowledged is missing, and it reports no error that it would not report of a plain Valkey cluster (docs/clients.md)."""

import os
import pathlib
import subprocess
import sys
import time

import valkey
from valkey.cluster import ValkeyCluster
from valkey.crc import key_slot

import counted_tests
from child_process import wait_for
from client_programs import ClientProgram, start_clients
from cluster_case import ClusterTest
from log_services import pairs
from plain_cluster import PlainCluster
from ports import HOST
from shards import LEASE_MS, Cluster, Node
from writers import tag_of

ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "1"))
COUNTS = (2, 2, 2)
# What moves to the shard s1 and back. The tags of half of the writers in s0 are among them.
MOVES = (0, 4000)
MOVED = MOVES[1] - MOVES[0] + 1
# However a shard comes to another leader: a second beside the lease, and some more for clients, which wait for a while before they try again.
# A hand-over waits for no lease, but the redis crate waits for 1.3 s after each CLUSTERDOWN, and on a busy machine it gets two.
LED_WITHIN_S = LEASE_MS / 1000 + 4
# What it takes on an idle machine is in migration_test.py.
MOVED_WITHIN_S = 4
# How many keys are read at a time.
BATCH = 500

# The kinds of errors that clients of a plain cluster report when a leader is killed or stopped. They report nothing if a replica takes over by
# CLUSTER FAILOVER, or if slots move.
NONE: dict[str, set[str]] = {}
KILLED = {
    "valkey-py": {"ConnectionError", "ClusterDownError"},
    "redis-crate": {"Io"},
    "redis-crate-async": {"Io"},
    "ioredis": {"Error: Too many Cluster redirections"},
    "glide": {"ConnectionError", "TimeoutError", "RequestError: Moved"},
}


def tags() -> list[str]:
    """Two in slots that move, and one of each shard in slots that stay."""
    first = [tag_of(0, len(COUNTS), number) for number in range(100)]
    moving = [tag for tag in first if key_slot(tag.encode()) <= MOVES[1]]
    staying = [tag for tag in first if key_slot(tag.encode()) > MOVES[1]]
    return [*moving[:2], staying[0], tag_of(1, len(COUNTS), 0), tag_of(2, len(COUNTS), 0)]


class ClientsOfACluster(ClusterTest):
    clients: list[ClientProgram]
    @classmethod
    def make(cls, directory: pathlib.Path) -> Cluster:
        return Cluster(directory, int(os.environ.get("CLUSTER_SERVICES", "1")), False, COUNTS)

    @classmethod
    def setUpClass(cls):
        cls.clients = []
        super().setUpClass()
        try:
            cls.clients = start_clients(cls.cluster, tags())
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        for client in cls.clients:
            client.kill()
        super().tearDownClass()

    def setUp(self):
        self.restart_what_was_killed()
        self.cluster.wait_until_settled()

    def wait_for_writes(self, since: float, count: int = 20) -> None:
        """Until each client has that many answered for each tag."""
        for client in self.clients:
            def has_written(client=client) -> bool:
                self.assertTrue(client.is_running(), client.tail())
                return client.least(since) >= count

            try:
                wait_for(f"{client.name} writes", has_written)
            except AssertionError as error:
                raise AssertionError(f"{error}; {client.tail()}") from error

    def check(self, how: str, within_s: float, expected: dict[str, set[str]], change, rounds: int = ROUNDS) -> None:
        """Each client goes on soon after `change`, reports errors of the `expected` kinds only, and nothing that was acknowledged is
        missing."""
        for _ in range(rounds):
            self.wait_for_writes(time.monotonic())
            begun = time.monotonic()
            change()
            self.wait_for_writes(time.monotonic())
            self.restart_what_was_killed()
            self.cluster.wait_until_settled()
            # What happens to a client when a node comes back belongs to it.
            self.wait_for_writes(time.monotonic())
            for client in self.clients:
                missing, count = self.missing(client)
                kinds, gap_s = client.kinds(begun), client.gap_s(begun)
                shown = ", ".join(f"{number} times {kind}" for kind, number in kinds.items())
                print(f"{how}, {client.name}: no write was answered for {gap_s:.2f} s; {len(missing)} of {count} missing; "
                      f"errors: {shown or 'none'}", flush=True)
                unexpected = set(kinds) - expected.get(client.name, set())
                self.assertEqual(unexpected, set(), client.texts(unexpected))
                self.judge(client, missing, gap_s, within_s)

    def judge(self, client: ClientProgram, missing: list[str], gap_s: float, within_s: float) -> None:
        self.assertEqual(missing, [], client.name)
        self.assertLess(gap_s, within_s, client.tail())

    def missing(self, client: ClientProgram) -> tuple[list[str], int]:
        """Which keys are not there whose writes were acknowledged, and how many were."""
        missing, count = [], 0
        with ValkeyCluster(HOST, self.cluster.nodes[0].port, socket_timeout=5) as reader:
            for tag in client.tags:
                keys = [client.key(tag, number) for _, number in list(client.writes[tag])]
                count += len(keys)
                for start in range(0, len(keys), BATCH):
                    batch = keys[start:start + BATCH]
                    missing += [key for key, value in zip(batch, reader.mget(batch)) if value is None]
        return missing, count

    def leaders(self) -> tuple[Node, Node]:
        return self.cluster.wait_for_leader("s0"), self.cluster.wait_for_leader("s1")

    def another_leads(self, old: Node) -> bool:
        # The old one may stand still, and would not answer.
        return any(node.role() == "leader" for node in self.cluster.shards[old.shard] if node is not old)

    def wait_for_another(self, old: Node) -> None:
        wait_for("another node leads", lambda: self.another_leads(old))

    def hand_over(self, old: Node, ask) -> None:
        """Asks, and again if it is given up, as on a busy machine: then nothing has happened to clients."""
        given_up = []

        def is_handed_over() -> bool:
            if self.another_leads(old):
                return True
            why = self.why_given_up(old)
            if why:
                given_up.append(why)
                ask()
            return False

        ask()
        try:
            wait_for("another node leads", is_handed_over)
        except AssertionError as error:
            raise AssertionError(f"{error}; given up: {given_up}; roles: {[node.role() for node in self.cluster.shards['s0']]}") from error
        if given_up:
            print(f"given up before: {given_up}", flush=True)

    @staticmethod
    def why_given_up(_: Node) -> str:
        """Why the node has not handed over; empty if it did, or still tries to."""
        return ""

    def test_a_leader_is_killed(self):
        def change():
            (leader, _) = self.leaders()
            leader.kill()
            self.wait_for_another(leader)

        self.check("a leader killed", LED_WITHIN_S, KILLED, change)

    def test_a_leader_stands_still_for_longer_than_its_lease(self):
        def change():
            (leader, _) = self.leaders()
            leader.freeze()
            self.wait_for_another(leader)
            leader.thaw()

        self.check("a leader stopped", LED_WITHIN_S, KILLED, change)

    def test_a_follower_takes_over_as_it_is_asked_to(self):
        def change():
            (leader, _) = self.leaders()
            follower = self.cluster.follower("s0")
            self.hand_over(leader, lambda: follower.ask("CLUSTER", "FAILOVER"))

        self.check("CLUSTER FAILOVER", LED_WITHIN_S, NONE, change)

    def test_slots_move_and_are_moved_back_by_valkey_cli(self):
        def move():
            source, target = self.leaders()
            source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *MOVES, "NODE", target.ask("CLUSTER", "MYID"))
            wait_for("they have moved", lambda: self.newest_migration(source) == "success")

        def move_back():
            target, source = self.leaders()
            command = [os.environ["VALKEY_BIN_DIR"] + "/valkey-cli", "--cluster", "reshard", f"{HOST}:{source.port}",
                       "--cluster-from", source.ask("CLUSTER", "MYID"), "--cluster-to", target.ask("CLUSTER", "MYID"),
                       "--cluster-slots", str(MOVED), "--cluster-use-atomic-slot-migration", "--cluster-yes"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

        for _ in range(ROUNDS):
            self.check("CLUSTER MIGRATESLOTS", MOVED_WITHIN_S, NONE, move, 1)
            self.check("valkey-cli reshard", MOVED_WITHIN_S, NONE, move_back, 1)

    @staticmethod
    def newest_migration(node: Node) -> str:
        jobs = node.ask("CLUSTER", "GETSLOTMIGRATIONS")
        return dict(zip(jobs[0][::2], jobs[0][1::2]))["state"] if jobs else ""


class ClientsOfADurableCluster(ClientsOfACluster):
    @staticmethod
    def why_given_up(node: Node) -> str:
        try:
            return pairs(node.ask("DURABILITY.STATUS"))["failover_error"]
        except valkey.ValkeyError:
            # It reads from nobody as it hands over.
            return ""

    def test_a_leader_hands_over(self):
        def change():
            (leader, _) = self.leaders()
            self.hand_over(leader, lambda: leader.ask("DURABILITY.FAILOVER"))

        self.check("DURABILITY.FAILOVER", LED_WITHIN_S, NONE, change)


class ClientsOfAPlainCluster(ClientsOfACluster):
    """What the other one is measured by: here the clients report errors of these kinds as well, and of no others."""

    @classmethod
    def make(cls, directory: pathlib.Path) -> Cluster:
        return PlainCluster(directory, 1, False, COUNTS)

    def judge(self, client: ClientProgram, missing: list[str], gap_s: float, within_s: float) -> None:
        """Of a plain cluster nothing is asked but that."""


if __name__ == "__main__":
    sys.exit(counted_tests.run(ClientsOfAPlainCluster if os.environ.get("CLUSTER_CLIENTS") == "plain" else ClientsOfADurableCluster))
