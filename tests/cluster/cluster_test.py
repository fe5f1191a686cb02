"""A cluster whose shards' leaders the log decides: no acknowledged write is missing and each slot has one owner, whichever nodes die."""

import os
import pathlib
import sys
import tempfile
import time

import valkey
from valkey.cluster import ValkeyCluster

import counted_tests
from child_process import wait_for
from cluster_case import ClusterTest
from converted_test import AClusterThatExists
from majority_test import LeaderThatItsClusterDoesNotSee
from messages_test import MessagesAreHeardElsewhere
from ports import HOST
from shards import LEASE_MS, Cluster, Node
from migration_steps_test import SlotsMoveStepByStep
from migration_test import SlotsMove
from slots_test import SlotsAreAdded
from streamed_writes_test import WhatNodesPutIntoTheStreamMoves, build_test_module
from writers import Writers, tag_of

SERVICES = int(os.environ.get("CLUSTER_SERVICES", "1"))
ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "1"))
# From a leader's death to the next answered write of its shard: a second beside the lease, and two more on a busy machine.
TAKEN_OVER_WITHIN_S = LEASE_MS / 1000 + 3
# The same for a planned failover, which waits for no lease.
PLANNED_WITHIN_S = 3
# The same where the nodes are started again. A primary of a cluster that starts refuses everything for two seconds by itself.
STARTED_WITHIN_S = 12
# Of what is to be older than that after a restart: longer than a snapshot takes on a busy machine.
AGE_MS = 6000
# Longer than it takes to hand over, and shorter than a leader that has done so waits to be told who leads.
PAUSE_MS = 300
FOLLOWS_AGAIN = "the cluster pointed this node to another one; it follows its log again"


class ShardsOfACluster(ClusterTest):
    @classmethod
    def make(cls, directory: pathlib.Path) -> Cluster:
        return Cluster(directory, SERVICES, "CLUSTER_TLS" in os.environ)

    def setUp(self):
        self.restart_what_was_killed()
        self.cluster.wait_until_settled()

    def check_no_loss(self, how: str, shards: list[str], within_s: float, change) -> None:
        """Nothing that was acknowledged is missing after `change`, and those shards' writes go on soon."""
        for _ in range(ROUNDS):
            self.restart_what_was_killed()
            self.cluster.wait_until_settled()
            with Writers(self.cluster) as writers:
                begun = time.monotonic()
                change()
                writers.wait_for_writes()
                gaps = {shard: writers.gap_s(shard, begun) for shard in self.cluster.shards}
            self.restart_what_was_killed()
            self.cluster.wait_until_settled()
            missing = writers.missing()
            shown = ", ".join(f"{shard} {gap:.2f} s" for shard, gap in gaps.items())
            print(f"{how}: no write was answered in {shown}; {len(missing)} of {writers.count()} missing", flush=True)
            self.assertEqual(missing, [])
            for shard in shards:
                self.assertLess(gaps[shard], within_s, shard)

    def leaders(self, *shards: str) -> list[Node]:
        return [self.cluster.wait_for_leader(shard) for shard in shards]

    def test_a_leader_is_killed(self):
        self.check_no_loss("a leader killed", ["s0"], TAKEN_OVER_WITHIN_S, lambda: self.leaders("s0")[0].kill())

    def test_a_follower_that_the_bus_points_to_the_new_leader_follows_its_log_again(self):
        (leader,) = self.leaders("s0")
        others = [node for node in self.cluster.shards["s0"] if node is not leader]
        said = {node: node.output().count(FOLLOWS_AGAIN) for node in others}
        leader.kill()
        (follower,) = [node for node in others if node is not self.cluster.wait_for_leader("s0")]
        wait_for("the bus has pointed it elsewhere", lambda: follower.output().count(FOLLOWS_AGAIN) > said[follower])
        services = {service.port for service in self.cluster.log.list}
        wait_for("it is linked to its log", lambda: follower.info("replication")["master_port"] in services
                 and follower.info("replication")["master_link_status"] == "up")

    def test_two_of_three_leaders_are_killed_at_once(self):
        def change():
            for leader in self.leaders("s0", "s1"):
                leader.kill()

        self.check_no_loss("two leaders killed", ["s0", "s1"], TAKEN_OVER_WITHIN_S, change)

    def test_a_leader_stands_still_for_longer_than_its_lease(self):
        def change():
            (leader,) = self.leaders("s0")
            leader.freeze()
            wait_for("another node leads", lambda: self.cluster.leader("s0") not in (None, leader))
            leader.thaw()

        self.check_no_loss("a leader stopped", ["s0"], TAKEN_OVER_WITHIN_S + 1, change)

    def test_all_nodes_of_a_shard_are_killed(self):
        def change():
            for node in self.cluster.shards["s1"]:
                node.kill()
            for node in self.cluster.shards["s1"]:
                node.start()

        self.check_no_loss("a shard killed", ["s1"], STARTED_WITHIN_S, change)

    def test_all_nodes_are_killed(self):
        def change():
            for node in self.cluster.nodes:
                node.kill()
            for node in self.cluster.nodes:
                node.start()

        self.check_no_loss("all nodes killed", list(self.cluster.shards), STARTED_WITHIN_S, change)

    def test_all_nodes_are_killed_and_know_nothing_of_their_cluster(self):
        def change():
            for node in self.cluster.nodes:
                node.kill()
            for node in self.cluster.nodes:
                node.lose_cluster()
                node.start()
            self.cluster.meet()

        self.check_no_loss("all nodes.conf lost", list(self.cluster.shards), 2 * STARTED_WITHIN_S, change)

    def test_a_leader_hands_over(self):
        def change():
            (leader,) = self.leaders("s2")
            leader.ask("DURABILITY.FAILOVER")
            wait_for("another node leads", lambda: self.cluster.leader("s2") not in (None, leader))

        self.check_no_loss("handed over", ["s2"], PLANNED_WITHIN_S, change)

    def test_every_way_of_cluster_failover_hands_over_to_the_node_that_is_asked(self):
        for words in ([], ["FORCE"], ["TAKEOVER"]):
            def change(words=words):
                follower = self.cluster.follower("s0")
                self.assertEqual(follower.ask("CLUSTER", "FAILOVER", *words), "OK")
                wait_for("the node leads", lambda: self.cluster.leader("s0") is follower)

            self.check_no_loss(" ".join(["CLUSTER FAILOVER", *words]), ["s0"], PLANNED_WITHIN_S, change)

    def test_a_node_takes_over_that_has_not_heard_of_the_leaders_last_config_epochs(self):
        def bump(*nodes: Node) -> None:
            # A node whose epoch is the greatest keeps it, so they take turns.
            for node in nodes:
                node.ask("CLUSTER", "BUMPEPOCH")
                wait_for("the others hear of it", lambda node=node: all(
                    epoch_at(other, node) == epoch_at(node, node) for other in self.leaders("s1", "s2")))

        def epoch_at(node: Node, of: Node) -> int:
            lines = [line for line in node.view() if f":{of.port}@" in line[1]]
            return int(lines[0][6])

        def change():
            leader, other = self.leaders("s1", "s2")
            follower = self.cluster.follower("s1")
            known = epoch_at(follower, leader)
            follower.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
            bump(other, leader)
            wait_for("the log has stored it", lambda: self.cluster.stored_slots("s1")[0] == epoch_at(leader, leader))
            # The log does not store the next ones.
            self.cluster.log.freeze()
            bump(other, leader)
            self.assertGreater(epoch_at(leader, leader), known + 1)
            self.assertEqual(epoch_at(follower, leader), known, "the follower has heard of it")
            leader.kill()
            self.cluster.log.thaw()
            wait_for("the follower leads", lambda: follower.role() == "leader")
            follower.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)

        self.check_no_loss("a stale epoch", [], 0, change)

    def test_commands_that_would_go_past_the_log_are_refused(self):
        (leader,) = self.leaders("s0")
        follower = self.cluster.follower("s0")
        other = self.leaders("s1")[0].ask("CLUSTER", "MYID")
        refused = [
            ("RESET", "HARD"), ("REPLICATE", other), ("REPLICATE", "NO", "ONE"), ("FLUSHSLOTS",), ("DELSLOTS", 1),
            ("DELSLOTSRANGE", 1, 2), ("SETSLOT", 1, "MIGRATING", other),
        ]
        for words in refused:
            for node in (leader, follower):
                with self.assertRaisesRegex(valkey.ResponseError, "durability: ", msg=words):
                    node.ask("CLUSTER", *words)
        with self.assertRaisesRegex(valkey.ResponseError, "does not lead"):
            follower.ask("CLUSTER", "ADDSLOTS", 1)
        with self.assertRaisesRegex(valkey.ResponseError, "busy"):
            leader.ask("CLUSTER", "ADDSLOTS", 1)
        for word in ("PSYNC", "SYNC"):
            with self.assertRaisesRegex(valkey.ResponseError, "NOMASTERLINK|follows the log"):
                leader.ask(word, *(["?", -1] if word == "PSYNC" else []))
        for name, value in (("durability.failover", "no"), ("durability.allow-replicaof", "yes"), ("durability.mode", "off")):
            with self.assertRaisesRegex(valkey.ResponseError, "cluster mode"):
                leader.ask("CONFIG", "SET", name, value)
        self.cluster.wait_until_settled()

    def test_a_follower_serves_reads_to_who_asks_for_them_and_sends_others_to_the_leader(self):
        follower = self.cluster.follower("s0")
        key = f"{{{tag_of(0, 3, 5)}}}read"
        with ValkeyCluster(HOST, self.cluster.nodes[0].port) as client:
            client.set(key, "there")
        with follower.connect() as client:
            with self.assertRaisesRegex(valkey.ResponseError, "MOVED"):
                client.execute_command("GET", key)
            client.execute_command("READONLY")
            wait_for("the follower has it", lambda: client.execute_command("GET", key) == "there")
            with self.assertRaisesRegex(valkey.ResponseError, "MOVED"):
                client.execute_command("SET", key, "x")

    def test_nothing_is_dropped_for_an_age_that_was_changed_after_the_snapshot(self):
        nodes = self.cluster.shards["s0"]
        (leader,) = self.leaders("s0")
        tag = f"{{{tag_of(0, 3, 7)}}}"
        with leader.connect() as client:
            client.execute_command("SET", f"{tag}key", "v", "PX", AGE_MS)
            client.execute_command("HSET", f"{tag}hash", "field", "v")
            client.execute_command("HPEXPIRE", f"{tag}hash", AGE_MS, "FIELDS", 1, "field")
            written = time.monotonic()
            decider = wait_for("a service decides", self.cluster.log.decider)
            with self.cluster.connect_log(decider, 20) as log:
                log.execute_command("LOG.SNAPSHOT", "s0")
            client.execute_command("PEXPIRE", f"{tag}key", 600000)
            client.execute_command("HPEXPIRE", f"{tag}hash", 600000, "FIELDS", 1, "field")
            self.assertLess(time.monotonic() - written, AGE_MS / 1000, "the snapshot took too long for this test")
        for node in nodes:
            node.kill()
        time.sleep(max(0.0, written + AGE_MS / 1000 + 0.5 - time.monotonic()))
        # The one that was the leader comes back alone, and so as a primary of the cluster.
        leader.start()
        wait_for("it leads again", lambda: leader.role() == "leader")
        with leader.connect() as client:
            wait_for("the cluster is ok", lambda: leader.cluster_info().get("cluster_state") == "ok")
            self.assertEqual(client.execute_command("GET", f"{tag}key"), "v")
            self.assertEqual(client.execute_command("HGET", f"{tag}hash", "field"), "v")
            # As a leader it does expire keys.
            client.execute_command("SET", f"{tag}short", "v", "PX", 50)
            wait_for("a key expires", lambda: client.execute_command("OBJECT", "ENCODING", f"{tag}short") is None)
        self.assertEqual(leader.ask("CONFIG", "GET", "import-mode"), ["import-mode", "no"])

    def test_a_node_that_knows_nothing_of_its_cluster_follows_and_joins_again(self):
        (leader,) = self.leaders("s2")
        follower = self.cluster.follower("s2")
        follower.kill()
        follower.lose_cluster()
        follower.start()
        wait_for("it follows", lambda: follower.role() == "follower")
        # To its cluster of one node it is a primary without slots, which holds what is not its own to serve or to expire.
        tag = f"{{{tag_of(2, 3, 9)}}}"
        with self.assertRaisesRegex(valkey.ResponseError, "CLUSTERDOWN Hash slot not served"):
            follower.ask("GET", f"{tag}key")
        expired = int(follower.info("stats")["expired_keys"])
        leader.ask("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        for number in range(20):
            leader.ask("SET", f"{tag}{number}", "v", "PX", 100)
        end = int(leader.info("durability")["durability_current_offset"])
        wait_for("the follower has them", lambda: int(follower.info("durability")["durability_current_offset"]) >= end)
        # Ten rounds of the cycle that expires keys.
        time.sleep(1.1)
        self.assertEqual(int(follower.info("stats")["expired_keys"]), expired)
        leader.ask("DEBUG", "SET-ACTIVE-EXPIRE", 1)
        follower.ask("CLUSTER", "MEET", HOST, leader.port, leader.bus_port)
        self.cluster.wait_until_settled()

    def test_the_bus_deletes_nothing_that_is_the_logs(self):
        # The follower forgets its cluster and takes over. To the old leader, which comes back as the primary that it was, it is a node of
        # another shard, and what a plain server does then is to delete the keys of the slots that it has lost.
        def key_count(node: Node) -> int:
            # A node that serves nobody tells this all the same.
            return node.info("keyspace").get("db0", {"keys": 0})["keys"]

        (leader,) = self.leaders("s2")
        follower = self.cluster.follower("s2")
        tag = f"{{{tag_of(2, 3, 11)}}}"
        for number in range(100):
            leader.ask("SET", f"{tag}{number}", "v")
        follower.kill()
        follower.lose_cluster()
        follower.start()
        wait_for("it follows", lambda: follower.role() == "follower")
        leader.kill()
        wait_for("it leads", lambda: follower.role() == "leader")
        leader.start()
        wait_for("the old leader follows", lambda: leader.role() == "follower")
        keys = key_count(follower)
        self.assertGreaterEqual(keys, 100)
        self.assertEqual(key_count(leader), keys)
        follower.ask("CLUSTER", "MEET", HOST, leader.port, leader.bus_port)
        self.cluster.wait_until_settled()
        self.assertEqual(key_count(leader), keys)
        leader.ask("CLUSTER", "FAILOVER")
        wait_for("the old leader leads again", lambda: leader.role() == "leader")
        self.cluster.wait_until_settled()
        self.assertEqual([key_count(node) for node in (leader, follower)], [keys, keys])

    def client_of(self, node: Node) -> valkey.Connection:
        client = valkey.Connection(HOST, node.port, socket_timeout=10)
        self.addCleanup(client.disconnect)
        client.connect()
        return client

    def key_of_first_shard(self, name: str) -> str:
        return f"{{{tag_of(0, len(self.cluster.shards), 0)}}}:{name}"

    def test_clients_that_wait_as_a_leader_hands_over_are_sent_on(self):
        leader = self.cluster.wait_for_leader("s0")
        popping, reading, queued = (self.client_of(leader) for _ in range(3))
        stream = self.key_of_first_shard("stream")
        popping.send_command("BLPOP", self.key_of_first_shard("list"), 0)
        # Read by the server, and run when that has been answered.
        popping.send_command("GET", self.key_of_first_shard("list"))
        for command in (("READONLY",), ("XREAD", "BLOCK", 0, "STREAMS", stream, "0-0")):
            reading.send_command(*command)
        self.assertEqual(reading.read_response(), b"OK")
        queued.send_command("MULTI")
        queued.send_command("SET", self.key_of_first_shard("queued"), 1)
        self.assertEqual([queued.read_response() for _ in range(2)], [b"OK", b"QUEUED"])
        wait_for("two of them wait", lambda: leader.info("clients")["blocked_clients"] == 2)
        leader.ask("DURABILITY.FAILOVER")
        for client, sends in (popping, ()), (popping, ()), (queued, ("EXEC",)):
            if sends:
                client.send_command(*sends)
            with self.assertRaisesRegex(valkey.ResponseError, "^MOVED "):
                client.read_response()
        # Who may read from a replica goes on waiting there.
        new = self.cluster.wait_for_leader("s0")
        self.assertIsNot(new, leader)
        entry = new.ask("XADD", stream, "*", "field", "value")
        self.assertEqual(reading.read_response(), [[stream.encode(), [[entry.encode(), [b"field", b"value"]]]]])

    def test_a_write_that_waits_for_the_end_of_a_pause_is_not_run_by_a_leader_that_has_handed_over(self):
        leader = self.cluster.wait_for_leader("s0")
        client, key = self.client_of(leader), self.key_of_first_shard("paused")
        # The server of the old leader goes on to believe that it is the primary, as nobody tells it otherwise.
        leader.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
        try:
            leader.ask("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
            client.send_command("SET", key, 1)
            leader.ask("DURABILITY.FAILOVER")
            wait_for("it leads no more", lambda: leader.role() not in ("leader", "none"))
            try:
                answer = client.read_response()
            except valkey.ConnectionError:
                answer = None
            except valkey.ResponseError as error:
                answer = error
        finally:
            leader.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)
        self.cluster.wait_until_settled()
        new = self.cluster.wait_for_leader("s0")
        self.assertIsNot(new, leader)
        # On a busy machine, the pause may have ended before.
        self.assertEqual(new.ask("GET", key), "1" if answer == b"OK" else None, answer)

    def test_a_client_that_waits_for_another_module_is_closed_as_a_leader_hands_over(self):
        leader = self.cluster.wait_for_leader("s0")
        leader.ask("MODULE", "LOAD", str(build_test_module(self.directory)))
        self.addCleanup(wait_for, "it is unloaded", lambda: unloads_test_module(leader))
        client = self.client_of(leader)
        # A thread writes, past all filters, and answers, when it is told to.
        client.send_command("tm.thread_open_set", self.key_of_first_shard("threaded"), 1)
        wait_for("it waits", lambda: leader.info("clients")["blocked_clients"] == 1)
        leader.ask("DURABILITY.FAILOVER")
        with self.assertRaises(valkey.ConnectionError):
            client.read_response()
        leader.ask("tm.go")

    def test_clients_of_a_leader_that_hands_over_are_sent_on(self):
        leader = self.cluster.wait_for_leader("s0")
        key = self.key_of_first_shard("kept")
        client = self.client_of(leader)
        client.send_command("SET", key, -1)
        self.assertEqual(client.read_response(), b"OK")
        leader.ask("DURABILITY.FAILOVER")
        # Neither is the connection closed, nor is anything refused.
        with self.assertRaisesRegex(valkey.ResponseError, "^MOVED ") as sent_on:
            for number in range(1_000_000):
                client.send_command("SET", key, number)
                self.assertEqual(client.read_response(), b"OK")
        new = self.cluster.wait_for_leader("s0")
        self.assertIsNot(new, leader)
        self.assertTrue(str(sent_on.exception).endswith(f" {HOST}:{new.port}"), sent_on.exception)
        self.assertEqual(int(new.ask("GET", key)), number - 1)
        client.send_command("PING")
        self.assertEqual(client.read_response(), b"PONG")

    def test_a_node_of_a_cluster_needs_leases(self):
        node = self.cluster.nodes[0]
        for line, says in (("durability.failover no", "set durability.failover yes"), ("durability.allow-replicaof yes", "no REPLICAOF")):
            directory = pathlib.Path(tempfile.mkdtemp(prefix="refused-", dir=self.directory))
            lone = Node(directory, "s0", 0, self.cluster.log, self.cluster.tls, "")
            config = lone.home / "valkey.conf"
            config.write_text(config.read_text() + line + "\n")
            lone.start()
            wait_for("it ends", lambda lone=lone: not lone.is_running())
            self.assertIn(says, lone.output())
        self.assertTrue(node.is_running())


def unloads_test_module(node: Node) -> bool:
    """Not so while a thread of it runs."""
    try:
        return node.ask("MODULE", "UNLOAD", "tm") == "OK"
    except valkey.ResponseError:
        return False


if __name__ == "__main__":
    # The steps are made slow in the files of a single service.
    by_step = [SlotsMoveStepByStep] if SERVICES == 1 else []
    sys.exit(counted_tests.run(*by_step, ShardsOfACluster, AClusterThatExists, SlotsAreAdded, SlotsMove, WhatNodesPutIntoTheStreamMoves, MessagesAreHeardElsewhere,
                               LeaderThatItsClusterDoesNotSee))
