"""Clients, unmodified, find the leader of a shard by the log service's Sentinel protocol. All of them write all the time, while the
leader is killed and hands over."""

import os
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

import valkey

import counted_tests
from child_process import wait_for
from ports import HOST
from shard import SHARD, TOKEN, Client, Shard, clients

# From the kill to the next write that is answered. The lease is 1 s long, and clients wait a while before they try again.
KILLED_WITHIN_S = 5.0
# The same for a planned failover, which waits for no lease.
PLANNED_WITHIN_S = 2.0
# The same when the log service that decides is killed: an election, and the lease if the node was killed as well.
ELECTED_WITHIN_S = 5.0
SERVICES = int(os.environ.get("SENTINEL_SERVICES", "1"))


class ClientsFindTheLeader(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="sentinel-"))
        cls.shard = Shard(cls.directory, SERVICES)
        cls.clients: list[Client] = []
        cls.shard.start()
        wait_for("a node leads", cls.shard.leader)
        cls.shard.wait_until_settled()
        cls.clients = clients(cls.shard.log)

    @classmethod
    def tearDownClass(cls):
        for client in cls.clients:
            client.kill()
        cls.shard.kill()
        shutil.rmtree(cls.directory)

    def setUp(self):
        # Whatever the test before has killed.
        self.shard.log.start()
        for node in self.shard.nodes:
            if node.role() == "none":
                node.kill()
                node.start()
        self.leader = self.shard.wait_until_settled()

    def wait_for_each(self, what: str, condition):
        """Waits until it holds for each client; answers the answers."""
        answers = {}
        for client in self.clients:
            def holds(client=client):
                self.assertTrue(client.is_running(), client.tail())
                return condition(client)

            try:
                answers[client.name] = wait_for(f"{client.name}: {what}", holds)
            except AssertionError as error:
                raise AssertionError(f"{error}; {client.tail()}") from error
        return answers

    def wait_for_writes(self, since: float, count: int = 10):
        return self.wait_for_each("writes", lambda client: len(client.said("write", since)) >= count)

    def check_no_loss(self, how: str, within_s: float, begun: float) -> None:
        """All clients write again soon after `begun`, and nothing that was acknowledged is missing."""
        leader = wait_for("a node leads", self.shard.leader)
        # What was answered before the change may be read after it.
        self.wait_for_writes(time.monotonic())
        for client in self.clients:
            times = [begun] + [at for at, _ in client.said("write", begun)]
            gap_s = max(later - earlier for earlier, later in zip(times, times[1:]))
            errors = client.said("error", begun)
            said = f"; {len(errors)} errors, the first: {errors[0][1][:120]}" if errors else ""
            print(f"{how}, {client.name}: no write was answered for {gap_s:.2f} s{said}", flush=True)
            self.assertLess(gap_s, within_s, client.tail())
            with leader.connect() as connection:
                acknowledged = int(client.said("write", 0)[-1][1])
                self.assertGreaterEqual(int(connection.get(client.key)), acknowledged, client.name)

    def check_change_of_leader(self, how: str, within_s: float, change):
        """All clients go on writing to another node soon after `change`, and nothing that was acknowledged is missing."""
        self.wait_for_writes(time.monotonic())
        begun = time.monotonic()
        change()
        wait_for("another node leads", lambda: self.shard.leader() not in (None, self.leader))
        self.check_no_loss(how, within_s, begun)

    def test_each_client_writes_to_the_leader_and_reads_from_a_follower(self):
        since = time.monotonic()
        self.wait_for_writes(since)
        self.wait_for_each("reads", lambda client: len(client.said("read", since)) >= 3)
        for client in self.clients:
            self.assertEqual({role for _, role in client.said("read", since)}, {"slave"}, client.name)
            with self.leader.connect() as connection:
                self.assertGreater(int(connection.get(client.key)), 0)

    def test_writes_go_on_after_the_leader_is_killed(self):
        self.check_change_of_leader("killed", KILLED_WITHIN_S, self.leader.kill)

    def test_writes_go_on_after_a_planned_failover(self):
        def hand_over():
            with self.leader.connect() as connection:
                connection.execute_command("DURABILITY.FAILOVER")

        self.check_change_of_leader("planned", PLANNED_WITHIN_S, hand_over)

    def test_reads_go_to_a_follower_after_leaders_have_changed(self):
        self.leader.kill()
        wait_for("another node leads", lambda: self.shard.leader() not in (None, self.leader))
        since = time.monotonic()
        self.wait_for_each("reads", lambda client: ("slave" in [role for _, role in client.said("read", since)]))

    def test_subscribers_are_told_in_either_protocol(self):
        listeners = []
        for protocol in (2, 3):
            listener = self.shard.connect_log(protocol=protocol).pubsub(ignore_subscribe_messages=True)
            listener.subscribe("+switch-master")
            listener.get_message(timeout=5)
            listeners.append(listener)
        self.leader.kill()
        for listener in listeners:
            message = wait_for("a message", lambda listener=listener: listener.get_message(timeout=0.1))
            new = self.shard.leader() or wait_for("another node leads", self.shard.leader)
            self.assertEqual(message["data"], f"{SHARD} {HOST} {self.leader.port} {HOST} {new.port}")
            listener.close()

    def test_who_has_no_token_finds_nothing(self):
        for options in ({"username": None, "password": None}, {"password": "wrong"}, {"username": "other", "password": TOKEN}):
            with self.shard.connect_log(**options) as log, self.assertRaises(valkey.AuthenticationError):
                log.sentinel_masters()
        with self.shard.connect_log(username="other", password="another-token") as log:
            self.assertEqual(log.sentinel_masters(), {})
            self.assertIsNone(log.sentinel_get_master_addr_by_name(SHARD))


class ClientsOfThreeSentinels(ClientsFindTheLeader):
    """Three log services are the clients' Sentinels, and may die as well."""

    def kill_services(self, how: str, *victims) -> None:
        self.wait_for_writes(time.monotonic())
        begun = time.monotonic()
        for victim in victims:
            victim.kill()
        self.wait_for_writes(begun, 1)
        self.check_no_loss(how, ELECTED_WITHIN_S, begun)

    def test_writes_go_on_after_the_log_service_that_decides_is_killed(self):
        self.kill_services("killed", self.shard.log.decider())

    def test_writes_go_on_after_the_first_sentinel_and_the_leader_are_killed(self):
        self.kill_services("killed", self.shard.log.list[0], self.leader)


if __name__ == "__main__":
    sys.exit(counted_tests.run(ClientsOfThreeSentinels if SERVICES > 1 else ClientsFindTheLeader))
