"""Messages that are published at a leader and heard at other nodes of the cluster: after the writes before them are durable, or never."""

import os
import pathlib
import shutil
import tempfile
import time
import unittest

import valkey
from child_process import wait_for
from ports import HOST
from shards import Cluster, Node
from writers import tag_of

# How long nothing is acknowledged, which the lease outlasts.
FROZEN_S = 3
LONG_LEASE_MS = 20000
SHARDS = 2


class Subscriber:
    """Hears channels at one node."""

    def __init__(self, node: Node, *words: str):
        """`words` are the command that subscribes."""
        self._client = valkey.Valkey(HOST, node.port, decode_responses=True, single_connection_client=True, socket_timeout=5)
        self._connection = self._client.connection
        self._connection.send_command(*words)
        for _ in words[1:]:
            self._connection.read_response()
        self.heard: list[str] = []

    def hear(self) -> list[str]:
        """What was published, all that has come until now."""
        while self._connection.can_read(timeout=0):
            self.heard.append(self._connection.read_response()[-1])
        return self.heard

    def close(self) -> None:
        self._client.close()


class MessagesAreHeardElsewhere(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="messages-"))
        services = int(os.environ.get("CLUSTER_SERVICES", "1"))
        self.cluster = Cluster(self.directory, services, "CLUSTER_TLS" in os.environ, (2, 1))
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self.cluster.kill)
        self.cluster.start()
        # What is sent while a link is made anew is lost, as in any cluster.
        for node in self.cluster.nodes:
            wait_for(f"{node.name} has its links", lambda node=node: self.links(node) == 2 * (len(self.cluster.nodes) - 1))
        self.leader, self.follower = self.cluster.wait_for_leader("s0"), self.cluster.follower("s0")
        self.other = self.cluster.wait_for_leader("s1")
        # Slots of the leader's shard.
        self.key = f"{{{tag_of(0, SHARDS, 3)}}}key"
        self.channel = f"{{{tag_of(0, SHARDS, 3)}}}channel"

    @staticmethod
    def links(node: Node) -> int:
        """How many links the node has, one each way to each other node."""
        return len({(link[1], link[3]) for link in node.ask("CLUSTER", "LINKS")})

    def subscribe(self, node: Node, *words: str) -> Subscriber:
        subscriber = Subscriber(node, *words)
        self.addCleanup(subscriber.close)
        return subscriber

    def frozen(self, lease_ms: int) -> None:
        """The log acknowledges nothing from now on. The lease of the publishers' leader lasts that long, and that of the other one outlasts
        the test."""
        leases = {node: lease_ms for node in self.cluster.shards["s0"]} | {self.other: LONG_LEASE_MS}
        for node, length_ms in leases.items():
            node.ask("CONFIG", "SET", "durability.lease-ms", length_ms)
        for node in (self.leader, self.other):
            length_ms = leases[node]
            wait_for("the lease is as long", lambda node=node, length_ms=length_ms:
                     length_ms / 2 < int(node.info("durability")["durability_lease_left_ms"]) <= length_ms)
        self.cluster.log.freeze()

    def pongs(self, node: Node) -> dict[str, int]:
        """When that node last heard of each other one, by their addresses."""
        return {line[1]: int(line[5]) for line in node.view() if "myself" not in line[2]}

    def test_a_message_waits_for_the_writes_before_it_and_keeps_its_place(self):
        everywhere = [self.subscribe(node, "SUBSCRIBE", "news") for node in (self.leader, self.follower, self.other)]
        everywhere.append(self.subscribe(self.other, "PSUBSCRIBE", "n*"))
        of_shard = [self.subscribe(node, "SSUBSCRIBE", self.channel) for node in (self.leader, self.follower)]
        with self.leader.connect() as client:
            client.execute_command("PUBLISH", "news", "before")
            client.execute_command("SPUBLISH", self.channel, "before")
        subscribers = [*everywhere, *of_shard]
        for subscriber in subscribers:
            wait_for("what depends on nothing is heard", lambda subscriber=subscriber: subscriber.hear() == ["before"])

        self.frozen(LONG_LEASE_MS)
        publisher = self.leader.connect(timeout_s=2 * FROZEN_S)
        self.addCleanup(publisher.close)
        connection = publisher.connection_pool.get_connection("SET")
        script = "redis.call('SET', KEYS[1], 3); redis.call('PUBLISH', 'news', 3); redis.call('SPUBLISH', ARGV[1], 3)"
        for words in (
            ["SET", self.key, "1"], ["PUBLISH", "news", "1"], ["SPUBLISH", self.channel, "1"],
            ["MULTI"], ["SET", self.key, "2"], ["PUBLISH", "news", "2"], ["SPUBLISH", self.channel, "2"], ["EXEC"],
            ["EVAL", script, "1", self.key, self.channel],
            # More than a socket takes at once.
            ["PUBLISH", "news", "x" * (8 << 20)], ["PUBLISH", "news", "last"], ["SPUBLISH", self.channel, "last"],
        ):
            connection.send_command(*words)
        nodes = [self.follower, self.other]
        pongs = [self.pongs(node) for node in nodes]
        time.sleep(FROZEN_S)
        self.assertEqual([len(subscriber.hear()) for subscriber in subscribers], [1] * len(subscribers))
        for node, before in zip(nodes, pongs, strict=True):
            # The same link carries what tells that the leader lives.
            self.assertTrue(all(self.pongs(node)[address] > at for address, at in before.items()), node.name)
        held = self.leader.info("durability")
        self.assertGreater(held["durability_held_messages"], 0)
        self.assertGreater(held["durability_held_bytes"], 16 << 20)

        self.cluster.log.thaw()
        for subscriber in everywhere:
            wait_for("all is heard", lambda subscriber=subscriber: subscriber.hear()[-1] == "last", 20)
            self.assertEqual([text[:9] for text in subscriber.heard], ["before", "1", "2", "3", "x" * 9, "last"])
        for subscriber in of_shard:
            wait_for("all is heard", lambda subscriber=subscriber: subscriber.hear()[-1] == "last")
            self.assertEqual(subscriber.heard, ["before", "1", "2", "3", "last"])
        self.assertEqual(self.leader.info("durability")["durability_held_messages"], 0)
        self.assertEqual(self.leader.info("durability")["durability_lost_messages"], 0)
        self.cluster.wait_until_settled()

    def test_what_waits_when_the_lease_passes_is_never_heard(self):
        subscribers = [self.subscribe(node, "SUBSCRIBE", "news") for node in (self.follower, self.other)]
        self.frozen(1000)
        with self.leader.connect() as publisher:
            connection = publisher.connection_pool.get_connection("SET")
            connection.send_command("SET", self.key, "1")
            connection.send_command("PUBLISH", "news", "never")
            wait_for("the lease has passed", lambda: self.leader.role() == "suspended")
        self.cluster.log.thaw()
        leader = self.cluster.wait_for_leader("s0")
        wait_for("what comes later is heard", lambda: leader.ask("PUBLISH", "news", "later") is not None
                 and all("later" in subscriber.hear() for subscriber in subscribers))
        self.assertEqual([set(subscriber.heard) for subscriber in subscribers], [{"later"}] * 2)

    def test_messages_that_find_no_room_are_lost_and_counted(self):
        subscribers = [self.subscribe(node, "SUBSCRIBE", "news") for node in (self.follower, self.other)]
        self.leader.ask("CONFIG", "SET", "durability.max-held-bytes", 1 << 20)
        self.frozen(LONG_LEASE_MS)
        publisher = self.leader.connect(timeout_s=2 * FROZEN_S)
        self.addCleanup(publisher.close)
        connection = publisher.connection_pool.get_connection("SET")
        connection.send_command("SET", self.key, "1")
        for number in range(8):
            connection.send_command("PUBLISH", "news", f"{number}" + "x" * (250 << 10))
        # There is room for four, of all that go to the two nodes. Which node gets how many of them is the sockets'.
        wait_for("some are lost", lambda: self.leader.info("durability")["durability_lost_messages"] == 12)
        self.assertLess(self.leader.info("durability")["durability_held_bytes"], 3 << 20)
        self.cluster.log.thaw()
        wait_for("the others are heard", lambda: sum(len(subscriber.hear()) for subscriber in subscribers) == 4)
        for subscriber in subscribers:
            numbers = [text[:1] for text in subscriber.heard]
            self.assertEqual(numbers, ["0", "1", "2", "3"][:len(numbers)])
        self.leader.ask("PUBLISH", "news", "last")
        for subscriber in subscribers:
            wait_for("the next one is heard", lambda subscriber=subscriber: subscriber.hear()[-1:] == ["last"])
        self.assertEqual(sum(len(subscriber.heard) for subscriber in subscribers), 4 + 2)

    def test_without_waiting_for_the_log_messages_leave_at_once(self):
        subscriber = self.subscribe(self.other, "SUBSCRIBE", "news")
        self.leader.ask("CONFIG", "SET", "durability.mode", "async")
        self.frozen(LONG_LEASE_MS)
        self.leader.ask("SET", self.key, "1")
        self.leader.ask("PUBLISH", "news", "at once")
        wait_for("it is heard", lambda: subscriber.hear() == ["at once"])
        self.assertNotEqual(self.leader.info("durability")["durability_pending_bytes"], 0)
        self.cluster.log.thaw()
