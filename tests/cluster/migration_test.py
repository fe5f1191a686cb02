"""Slots that move from one shard to another while clients write: each slot has one owner, and nothing acknowledged is missing, whoever dies
when."""

import os
import random
import shutil
import subprocess
import time

import valkey
from child_process import wait_for
from moving_slots import FILLED, MIGRATION_S, MOVES, ROUNDS, MovingSlots
from ports import HOST
from shards import Node
from writers import Writers

# How long no write of the shards is answered because slots move. The log is asked five times meanwhile.
PAUSED_AT_MOST_S = 1.0


class SlotsMove(MovingSlots):
    def test_slots_move_there_and_back_while_clients_write(self):
        self.fill()
        for source, target in (("s0", "s1"), ("s1", "s0")) * ROUNDS:
            with Writers(self.cluster, 4) as writers:
                node = self.migrate(source, target)
                self.assertEqual(self.wait_until_over(node), ("success", ""))
                writers.wait_for_writes()
            self.assertEqual(self.owner(), target)
            self.check_whole(writers, f"moved from {source} to {target}")
            for shard in self.cluster.shards:
                self.assertLess(writers.gap_s(shard, writers.list[0].times[0]), PAUSED_AT_MOST_S)

    def fault_rounds(self, how: str, fault) -> None:
        """`fault` at a random moment of a migration, again and again: whatever comes of the migration, nothing is missing."""
        seed = int(os.environ.get("CLUSTER_SEED", time.time_ns() % 1_000_000))
        print(f"seed {seed} (CLUSTER_SEED)", flush=True)
        chance = random.Random(seed)
        moved = 0
        for _ in range(ROUNDS):
            self.restart()
            source = self.owner()
            target = "s1" if source == "s0" else "s0"
            with Writers(self.cluster, 4) as writers:
                leaders = [self.cluster.wait_for_leader(shard) for shard in (source, target)]
                node = self.migrate(source, target)
                # A migration takes about that long.
                time.sleep(chance.uniform(0, 0.2))
                fault(*leaders)
                self.restart()
                writers.wait_for_writes()
                wait_for("some shard has the slots", lambda: self.owner() != "", MIGRATION_S)
                self.wait_until_over(node)
                writers.wait_for_writes()
            moved += self.owner() == target
            self.cluster.wait_until_settled()
            self.check_whole(writers, how)
        print(f"{how}: {moved} of {ROUNDS} moved", flush=True)

    def test_the_source_dies(self):
        self.fault_rounds("the source killed", lambda source, target: source.kill())

    def test_the_target_dies(self):
        self.fault_rounds("the target killed", lambda source, target: target.kill())

    def test_both_die(self):
        def both(source: Node, target: Node) -> None:
            source.kill()
            target.kill()

        self.fault_rounds("both killed", both)

    def test_the_source_hands_over(self):
        self.fault_rounds("the source hands over", lambda source, target: source.ask("DURABILITY.FAILOVER"))

    def test_the_target_hands_over(self):
        self.fault_rounds("the target hands over", lambda source, target: target.ask("DURABILITY.FAILOVER"))

    def test_the_target_stands_still(self):
        def stop(_: Node, target: Node) -> None:
            self.stand_still(target, target.shard)

        self.fault_rounds("the target stopped", stop)

    def test_the_source_stands_still(self):
        def stop(source: Node, _: Node) -> None:
            self.stand_still(source, source.shard)

        self.fault_rounds("the source stopped", stop)

    def test_the_log_service_dies(self):
        def kill(*_: Node) -> None:
            service = self.cluster.log.decider() or self.cluster.log.list[0]
            service.kill()
            service.start(self.cluster.log_environment)

        self.fault_rounds("a log service killed", kill)

    def test_a_target_that_has_not_heard_of_the_claim_takes_over_with_the_slots(self):
        self.fill()
        _, target = self.leaders()
        other = self.cluster.follower("s1")
        other.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
        with Writers(self.cluster, 4) as writers:
            node = self.migrate("s0", "s1")
            self.assertEqual(self.wait_until_over(node), ("success", ""))
            target.kill()
            wait_for("the other one leads", lambda: other.role() == "leader")
            other.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)
            self.restart()
            writers.wait_for_writes()
        self.assertEqual(self.owner(), "s1")
        self.check_whole(writers, "taken over by who was deaf")
        self.assertEqual(self.key_count(), FILLED)

    def test_a_migration_is_over_in_the_log_of_a_node_that_comes_later(self):
        # The keys come to the log of s1 by a migration, and leave it again.
        self.fill()
        for source, target in (("s0", "s1"), ("s1", "s0"), ("s0", "s1")):
            self.assertEqual(self.wait_until_over(self.migrate(source, target)), ("success", ""))
        other = self.cluster.follower("s1")
        other.kill()
        shutil.rmtree(other.home / "data", ignore_errors=True)
        other.lose_cluster()
        other.start()
        wait_for("it follows", lambda: other.role() == "follower")
        for node in self.leaders():
            other.ask("CLUSTER", "MEET", HOST, node.port, node.bus_port)
        self.cluster.wait_until_settled()
        other.ask("CLUSTER", "FAILOVER")
        wait_for("it leads", lambda: other.role() == "leader")
        self.cluster.wait_until_settled()
        self.assertEqual(self.key_count(), FILLED)
        self.check_keys()

    def test_valkey_cli_moves_slots_and_finds_nothing_wrong(self):
        def cli(*words: str) -> str:
            node = self.cluster.wait_for_leader("s0")
            command = [os.environ["VALKEY_BIN_DIR"] + "/valkey-cli", "--cluster", words[0], f"{HOST}:{node.port}", *words[1:]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return done.stdout

        leader, target = self.leaders()
        self.fill()
        cli("reshard", "--cluster-from", leader.ask("CLUSTER", "MYID"), "--cluster-to", target.ask("CLUSTER", "MYID"),
            "--cluster-slots", "1000", "--cluster-use-atomic-slot-migration", "--cluster-yes")
        self.cluster.wait_until_settled()
        self.assertNotEqual(self.cluster.stored_slots("s0")[1], "0-8191")
        self.assertIn("All 16384 slots covered", cli("check"))
        cli("rebalance", "--cluster-use-atomic-slot-migration", "--cluster-threshold", "1")
        self.cluster.wait_until_settled()
        self.assertIn("All 16384 slots covered", cli("check"))
        self.check_keys()
        self.assertEqual(self.key_count(), FILLED)

    def test_only_who_leads_moves_slots_and_only_as_a_whole(self):
        leader, other = self.leaders()
        follower, target = self.cluster.follower("s0"), other.ask("CLUSTER", "MYID")
        with self.assertRaisesRegex(valkey.ResponseError, "does not lead its shard: move slots"):
            follower.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *MOVES, "NODE", target)
        for words in (("SETSLOT", 1, "MIGRATING", target), ("SETSLOT", 1, "NODE", target), ("DELSLOTS", 1), ("FLUSHSLOTS",)):
            with self.assertRaisesRegex(valkey.ResponseError, "CLUSTER MIGRATESLOTS"):
                leader.ask("CLUSTER", *words)
        with self.assertRaisesRegex(valkey.ResponseError, "CANCELSLOTMIGRATIONS"):
            leader.ask("CLUSTER", "SYNCSLOTS", "FINISH", "STATE", "SUCCESS", "NAME", "a" * 40)
        self.assertEqual(self.owner(), "s0")

    def test_a_target_that_is_no_leader_takes_nothing(self):
        leader, _ = self.leaders()
        target = self.cluster.follower("s1").ask("CLUSTER", "MYID")
        leader.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *MOVES, "NODE", target)
        state, message = self.wait_until_over(leader)
        self.assertEqual(state, "failed")
        self.assertRegex(message, "does not lead its shard|only be used on primary")
        self.assertEqual(self.owner(), "s0")

    def test_a_target_without_the_module_gets_nothing(self):
        leader, _ = self.leaders()
        plain = Node(self.directory, "plain", 0, self.cluster.log, self.cluster.tls, "cluster-require-full-coverage no\n")
        plain.leave_out_module()
        plain.start()
        self.addCleanup(plain.kill)
        target = wait_for("it answers", lambda: plain.view() and plain.ask("CLUSTER", "MYID"))
        plain.ask("CLUSTER", "MEET", HOST, leader.port, leader.bus_port)
        wait_for("it knows the cluster, and the cluster knows it", lambda: plain.cluster_info().get("cluster_slots_assigned") == "16384"
                 and all(target in (line[0] for line in node.view()) for node in self.cluster.nodes))
        self.fill()
        leader.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *MOVES, "NODE", target)
        state, message = self.wait_until_over(leader)
        self.assertEqual(state, "failed")
        self.assertIn("every node has to run the module", message)
        self.assertEqual((self.owner(), self.key_count()), ("s0", FILLED))
        plain.kill()
        for node in self.cluster.nodes:
            node.ask("CLUSTER", "FORGET", target)
