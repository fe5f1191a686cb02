"""A plain cluster with data whose nodes get the module: its logs begin with what it has."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import unittest

import valkey
from child_process import wait_for
from plain_cluster import PlainCluster
from shards import Node, flags
from writers import tag_of

SERVICES = int(os.environ.get("CLUSTER_SERVICES", "1"))
KEYS = 200


class AClusterThatExists(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="converted-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.cluster = PlainCluster(self.directory, SERVICES, "CLUSTER_TLS" in os.environ, (2, 2))
        self.addCleanup(self.cluster.kill)
        self.primaries = [nodes[0] for nodes in self.cluster.shards.values()]
        self.replicas = [nodes[1] for nodes in self.cluster.shards.values()]

    def fill(self) -> None:
        for shard, primary in enumerate(self.primaries):
            tag = tag_of(shard, len(self.primaries), 0)
            with primary.connect(timeout_s=20) as client:
                for number in range(KEYS):
                    client.set(f"{{{tag}}}:text:{number}", number, ex=100_000 + number)
                client.hset(f"{{{tag}}}:hash", mapping={"kept": 1, "short": 2})
                client.execute_command("HEXPIRE", f"{{{tag}}}:hash", 100_000, "FIELDS", 1, "short")
                client.xadd(f"{{{tag}}}:stream", {"field": "value"})
                client.xgroup_create(f"{{{tag}}}:stream", "group", 0)
                client.execute_command("FUNCTION", "LOAD", "REPLACE",
                                       "#!lua name=own\nserver.register_function('one', function() return 1 end)")
                self.assertEqual(client.execute_command("WAIT", 1, 20_000), 1)

    def stop(self) -> None:
        for node in self.cluster.nodes:
            # It closes the connection in place of an answer.
            with contextlib.suppress(valkey.ConnectionError):
                node.ask("SHUTDOWN", "SAVE")
            wait_for(f"{node.name} ends", lambda node=node: not node.is_running())

    def contents(self, node: Node) -> tuple:
        with node.connect(timeout_s=20) as client:
            keys = sorted(client.scan_iter(count=1000))
            return (node.ask("DEBUG", "DIGEST"), keys, [client.expiretime(key) for key in keys], len(node.ask("FUNCTION", "LIST")))

    def own_line(self, node: Node) -> list[str]:
        (line,) = [line for line in node.view() if "myself" in flags(line)]
        return line

    def test_its_logs_begin_with_its_data_and_its_slots(self):
        self.cluster.start()
        self.fill()
        before = [(self.contents(node), self.own_line(node)[8:], node.ask("CLUSTER", "MYID")) for node in self.primaries]
        self.stop()
        for node in self.cluster.nodes:
            node.take_module()
        self.cluster.log.start()
        self.cluster.log.form()
        for node in self.primaries:
            node.start()
            wait_for(f"{node.name} leads", lambda node=node: node.role() == "leader")
        for node in self.replicas:
            node.start()
        self.cluster.wait_until_settled()
        after = [(self.contents(node), self.own_line(node)[8:], node.ask("CLUSTER", "MYID")) for node in self.primaries]
        self.assertEqual(after, before)
        for shard, (_, slots, _) in zip(self.cluster.shards, before):
            self.assertEqual(self.cluster.stored_slots(shard)[1], ",".join(slots))
        # From there on the other node can take over, with everything.
        for replica, (contents, *_) in zip(self.replicas, before):
            replica.ask("CLUSTER", "FAILOVER")
            wait_for(f"{replica.name} leads", lambda replica=replica: replica.role() == "leader")
            self.assertEqual(self.contents(replica), contents)
        self.cluster.wait_until_settled()
