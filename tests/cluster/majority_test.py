"""A leader whose log answers, and that the majority of its cluster's primaries does not see."""

import os
import pathlib
import shutil
import tempfile
import time
import unittest

from child_process import wait_for
from shards import LEASE_MS, Cluster, Node
from writers import Writers

# Until a node that hears nothing of another one takes it for failed.
NODE_TIMEOUT_MS = 2000
# From then on: a lease, a look at the other nodes, the hand-over, and more on a busy machine.
HANDED_OVER_WITHIN_S = (NODE_TIMEOUT_MS + LEASE_MS) / 1000 + 6
BETTER = "handing over to {}, which does"
NONE_BETTER = "no other node of the shard says that it does: going on"


class LeaderThatItsClusterDoesNotSee(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="majority-"))
        services = int(os.environ.get("CLUSTER_SERVICES", "1"))
        self.cluster = Cluster(self.directory, services, "CLUSTER_TLS" in os.environ, (3, 1, 1))
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self.cluster.kill)
        self.cluster.start()
        for node in self.cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
        self.leader = self.cluster.wait_for_leader("s0")
        self.others = [node for node in self.cluster.shards["s0"] if node is not self.leader]

    def cut_off(self, node: Node) -> None:
        """It hears nothing from the bus. Links end, as they do in a network that is cut: where only the answer to a ping is lost, and something
        else is heard, the server waits for that answer for ever."""
        node.ask("DEBUG", "CLOSE-CLUSTER-LINK-ON-PACKET-DROP", 1)
        node.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)

    def connect(self, node: Node) -> None:
        node.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)

    def sees_majority(self, node: Node) -> int | None:
        """As the leader has heard it from the log."""
        lines = [value for name, value in self.leader.info("durability").items() if name.startswith("durability_node") and isinstance(value, dict)]
        return next((line.get("sees_majority") for line in lines if line["id"] == node.name), None)

    def test_it_hands_over_to_a_node_that_sees_the_majority_and_loses_nothing(self):
        with Writers(self.cluster) as writers:
            begun = time.monotonic()
            self.cut_off(self.leader)
            wait_for("another node leads", lambda: self.cluster.leader("s0") not in (None, self.leader), HANDED_OVER_WITHIN_S)
            self.assertGreater(time.monotonic() - begun, LEASE_MS / 1000, "it did not wait for a lease")
            writers.wait_for_writes()
        leader = self.cluster.leader("s0")
        self.assertIn(BETTER.format(leader.name), self.leader.output())
        self.assertEqual(self.leader.info("durability")["durability_depositions"], 0, "it was not taken from it")
        self.connect(self.leader)
        self.cluster.wait_until_settled()
        missing = writers.missing()
        print(f"cut off from the bus: writes of s0 were away for {writers.gap_s('s0', begun):.2f} s; {len(missing)} of {writers.count()} missing")
        self.assertEqual(missing, [])

    def test_it_goes_on_while_no_node_of_the_shard_is_better_off(self):
        preferred, other = self.others
        preferred.ask("CONFIG", "SET", "durability.priority", 200)
        for node in self.cluster.shards["s0"]:
            self.cut_off(node)
        for node in self.cluster.shards["s0"]:
            wait_for("it sees no majority", lambda node=node: node.cluster_info().get("cluster_state") == "fail")
            wait_for("the leader hears that from the log", lambda node=node: self.sees_majority(node) == 0)
        wait_for("it says so", lambda: NONE_BETTER in self.leader.output())
        time.sleep(2 * LEASE_MS / 1000)
        self.assertEqual(self.leader.role(), "leader")
        self.assertEqual(self.leader.output().count(NONE_BETTER), 1)
        self.connect(other)
        wait_for("the leader hears of it", lambda: self.sees_majority(other) == 1)
        wait_for("the node that sees the majority leads", lambda: other.role() == "leader", HANDED_OVER_WITHIN_S)
        for node in (self.leader, preferred):
            self.connect(node)
        self.cluster.wait_until_settled()

    def test_all_leaders_of_a_majority_that_is_gone_go_on(self):
        # The only nodes of their shards: nobody leads these, and the leader of s0 and its followers see a minority.
        for shard in ("s1", "s2"):
            self.cluster.leader(shard).kill()
        wait_for("it says that nobody is better off", lambda: NONE_BETTER in self.leader.output(), HANDED_OVER_WITHIN_S)
        self.assertEqual(self.leader.role(), "leader")
        for node in self.cluster.nodes:
            if not node.is_running():
                node.start()
        self.cluster.wait_until_settled()
        self.assertIs(self.cluster.leader("s0"), self.leader)
