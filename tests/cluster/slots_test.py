"""Slots that are added, and nodes that know less of their cluster than they should, in a cluster of one shard that has few slots."""

import os
import pathlib
import re
import shutil
import tempfile
import unittest

import valkey
from child_process import wait_for
from ports import HOST
from shards import Cluster, Node

SLOTS = 100
STORED_AGAIN = "the log has stored what this node serves in its cluster"


class SlotsAreAdded(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="slots-"))
        services = int(os.environ.get("CLUSTER_SERVICES", "1"))
        self.cluster = Cluster(self.directory, services, "CLUSTER_TLS" in os.environ, (2,), "cluster-require-full-coverage no\n")
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self.cluster.kill)
        self.cluster.start(SLOTS)

    def nodes(self) -> tuple[Node, Node]:
        """The leader, and the other one."""
        return self.cluster.wait_for_leader("s0"), self.cluster.follower("s0")

    def own_slots(self, node: Node) -> str:
        (own,) = [line for line in node.view() if "myself" in line[2]]
        return ",".join(own[8:])

    def test_slots_of_which_it_is_not_known_whether_they_were_stored_are_taken_back(self):
        leader, _ = self.nodes()
        self.cluster.log.freeze()
        with self.assertRaisesRegex(valkey.ResponseError, "not added|leads no more"):
            leader.ask("CLUSTER", "ADDSLOTS", SLOTS)
        # It gets what it was sent.
        self.cluster.log.thaw()
        # Unless another node has taken over, on a busy machine: it claims what is stored.
        wait_for("it is stored what there is", lambda: STORED_AGAIN in leader.output() or self.cluster.leader("s0") not in (None, leader), 40)
        self.cluster.wait_until_settled()
        leader = self.cluster.wait_for_leader("s0")
        slots = self.own_slots(leader)
        leader.ask("DURABILITY.FAILOVER")
        wait_for("the other one leads", lambda: self.cluster.leader("s0") not in (None, leader))
        self.cluster.wait_until_settled()
        self.assertEqual(self.own_slots(self.cluster.wait_for_leader("s0")), slots)

    def test_a_client_that_cannot_wait_adds_none(self):
        leader, _ = self.nodes()
        with leader.connect() as client, client.pipeline() as transaction:
            transaction.execute_command("CLUSTER", "ADDSLOTS", SLOTS)
            with self.assertRaisesRegex(valkey.ResponseError, "can wait"):
                transaction.execute()
        with valkey.Valkey(HOST, leader.port, protocol=3, socket_timeout=5) as client, client.pubsub() as subscriber:
            subscriber.subscribe("channel")
            wait_for("it has subscribed", lambda: subscriber.get_message(timeout=5))
            with self.assertRaisesRegex(valkey.ResponseError, "can wait"):
                subscriber.execute_command("CLUSTER", "ADDSLOTS", SLOTS)
                subscriber.parse_response(timeout=5)
        self.assertEqual(self.own_slots(leader), f"0-{SLOTS - 1}")
        self.assertEqual(leader.ask("CLUSTER", "ADDSLOTS", SLOTS), "OK")

    def test_a_replica_does_not_begin_an_empty_log_while_its_primary_lives(self):
        leader, follower = self.nodes()
        for process in (leader, follower):
            process.kill()
        for service in self.cluster.log.list:
            service.lose_disk()
        self.cluster.log.start()
        self.cluster.log.form()
        follower.start()
        wait_for("it answers", lambda: follower.role() != "none")
        wait_for("it says for whom it waits", lambda: "is a replica of" in str(follower.info("durability").get("durability_last_error")))
        self.assertNotEqual(follower.role(), "leader")
        leader.start()
        wait_for("the primary leads", lambda: leader.role() == "leader", 40)
        self.cluster.wait_until_settled()
        self.assertEqual(self.own_slots(leader), f"0-{SLOTS - 1}")

    def test_a_replica_that_has_forgotten_its_primary_starts_and_follows(self):
        leader, follower = self.nodes()
        follower.terminate()
        file = follower.home / "nodes.conf"
        # As a server saves it that takes itself for a replica while it loads: no primary, and slots that nobody has.
        lines = [re.sub(r"(myself,slave) \S+", r"\1 -", line) for line in file.read_text().splitlines()]
        file.write_text("".join(re.sub(r" connected .*", " connected", line) + "\n" for line in lines))
        # The bus is to tell it of the slots before its log tells it whose replica it is.
        self.cluster.log.freeze()
        follower.start()

        def knows_slots() -> bool:
            self.assertTrue(follower.is_running(), follower.output())
            return any(f":{leader.port}@" in line[1] and line[8:] for line in follower.view())

        wait_for("it hears of the slots", knows_slots)
        self.cluster.log.thaw()
        wait_for("it follows", lambda: follower.role() == "follower", 40)
        self.cluster.wait_until_settled()
        self.assertTrue(follower.is_running(), follower.output())
