"""A shard whose log three services keep, with a node in each zone. Services, nodes and whole zones die under load: writes go on after a
pause, and whatever was acknowledged is there."""

import contextlib
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

import counted_tests
import valkey
from child_process import wait_for
from cluster import LEASE_MS, Cluster, Node
from cluster_case import ClusterCase
from log_services import pairs
from snapshots_test import SnapshotsTravel
from writers import Writers

# The time-out of an election, doubled once by a split vote, and what a loaded machine takes besides.
ELECTION_S = 3.0
SLACK_S = 2.0


class ZonesDie(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="zones-"))
        cls.cluster = Cluster(cls.directory)
        cls.cluster.start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        shutil.rmtree(cls.directory)

    def setUp(self):
        # Whatever the test before has killed.
        self.cluster.start_what_is_dead()
        self.cluster.wait_until_settled()
        with self.cluster.leader().connect() as client:
            client.flushall()

    @contextlib.contextmanager
    def under_load(self):
        """Clients write all the time; some hundred of their writes are acknowledged when it begins."""
        with Writers(self.cluster) as writers:
            wait_for("there is load", lambda: writers.count() > 200)
            yield writers

    def goes_on(self, writers: Writers, moment: float, within_s: float) -> None:
        """Writes are acknowledged again from that moment on, and go on for a while."""
        wait_for("writes are acknowledged again", lambda: writers.first_after(moment), seconds=within_s + SLACK_S)
        count = writers.count()
        wait_for("writes go on", lambda: writers.count() > count + 50)
        print(f"longest pause from then on {writers.gap_after(moment) * 1000:.0f} ms", end=" ")

    def assert_nothing_is_missing(self, writers: Writers) -> None:
        self.cluster.start_what_is_dead()
        self.cluster.wait_until_settled()
        self.assertGreater(writers.count(), 100)
        self.assertEqual(writers.missing(), [])

    def test_the_service_that_decides_dies(self):
        with self.under_load() as writers:
            decider = self.cluster.decider()
            moment = time.monotonic()
            decider.kill()
            self.goes_on(writers, moment, ELECTION_S)
        self.assert_nothing_is_missing(writers)

    def test_the_service_that_decides_stands_still_and_goes_on(self):
        with self.under_load() as writers:
            decider = self.cluster.decider()
            moment = time.monotonic()
            decider.freeze()
            self.goes_on(writers, moment, ELECTION_S)
            decider.thaw()
            wait_for("it follows", lambda: decider.status().get("standing") == "follows")
        self.assert_nothing_is_missing(writers)

    def test_another_service_dies_and_nobody_notices(self):
        with self.under_load() as writers:
            other = next(log for log in self.cluster.logs if not log.decides())
            moment = time.monotonic()
            other.kill()
            count = writers.count()
            wait_for("writes go on", lambda: writers.count() > count + 200)
            pause_s = writers.gap_after(moment)
            print(f"longest pause {pause_s * 1000:.0f} ms", end=" ")
            self.assertLess(pause_s, ELECTION_S)
        self.assert_nothing_is_missing(writers)

    def test_a_zone_dies_with_the_node_that_leads_and_the_service_that_decides(self):
        with self.under_load() as writers:
            decider, leader = self.cluster.decider(), self.cluster.leader()
            moment = time.monotonic()
            decider.kill()
            leader.kill()
            self.goes_on(writers, moment, ELECTION_S + LEASE_MS / 1000)
        self.assert_nothing_is_missing(writers)

    def test_with_two_services_dead_writes_wait_and_with_one_back_they_go_on(self):
        with self.under_load() as writers:
            for log in self.cluster.logs[:2]:
                log.kill()
            # What was under way is over.
            wait_for("writes wait", lambda: writers.first_after(time.monotonic() - 0.5) is None)
            moment = time.monotonic()
            self.cluster.logs[0].start()
            self.goes_on(writers, moment, ELECTION_S + LEASE_MS / 1000)
        self.assert_nothing_is_missing(writers)

    def test_a_service_on_an_empty_directory_does_not_join(self):
        log = next(log for log in self.cluster.logs if not log.decides())
        log.kill()
        kept = log.home.with_name("kept")
        log.home.rename(kept)
        try:
            with Writers(self.cluster) as writers:
                log.start()
                wait_for("its log says why", lambda: "this service is of no cluster" in log.output())
                count = writers.count()
                wait_for("writes go on", lambda: writers.count() > count + 200)
                self.assertEqual(log.status(), {})
        finally:
            log.kill()
            shutil.rmtree(log.home)
            kept.rename(log.home)
        self.assert_nothing_is_missing(writers)

    def test_a_rolling_restart_hands_over_and_keeps_the_lease(self):
        with self.under_load() as writers:
            leader, epoch = self.cluster.leader(), self.cluster.decider().status()["epoch"]
            # The one that decides is among them at least once.
            for log in self.cluster.logs:
                decides, moment = log.decides(), time.monotonic()
                log.terminate()
                count = writers.count()
                wait_for("writes go on", lambda: writers.count() > count + 50)
                pause_s = writers.gap_after(moment)
                print(f"longest pause {pause_s * 1000:.0f} ms" + (" (it decided)" if decides else ""), end=" ")
                # An election takes half a second at least, and the lease of the node then counts anew.
                self.assertLess(pause_s, ELECTION_S)
                if decides:
                    self.assertIn("shards were handed over in", log.output())
                log.start()
                wait_for("it has caught up", self.cluster.is_settled, seconds=40)
            status = self.cluster.decider().status()
            self.assertEqual((self.cluster.leader(), status["epoch"]), (leader, epoch), "the lease was lost")
        self.assert_nothing_is_missing(writers)

    def test_each_service_answers_clients_alike_until_it_hears_of_none_that_decides(self):
        def flags(log) -> list[str]:
            primary = log.sentinel("PRIMARY")
            return pairs(primary)["flags"].split(",") if primary else []

        def replicas(log) -> list[tuple[str, str]]:
            return sorted((pairs(one)["runid"], pairs(one)["flags"]) for one in log.sentinel("REPLICAS") or [])

        followers = sorted((node.name, "slave") for node in self.cluster.nodes if node.role() == "follower")
        for log in self.cluster.logs:
            wait_for("it knows the nodes", lambda: replicas(log) == followers)
            wait_for("it shows the leader", lambda: flags(log) == ["master"])
            self.assertEqual(len(log.sentinel("SENTINELS")), 2)
        # Cut off from the others, it says that it does not know any more.
        alone = next(log for log in self.cluster.logs if not log.decides())
        others = [log for log in self.cluster.logs if log is not alone]
        try:
            for log in others:
                log.freeze()
            wait_for("it hears of nobody that decides", lambda: "o_down" in flags(alone))
            self.assertGreaterEqual(int(alone.status()["decider_silent_ms"]), 2000)
        finally:
            for log in others:
                log.thaw()
        wait_for("it hears of the leader again", lambda: flags(alone) == ["master"])

    def test_everything_dies_at_once(self):
        with self.under_load() as writers:
            self.cluster.kill()
        self.assert_nothing_is_missing(writers)


class TheDecisionFollowsTheLeader(ClusterCase):
    """On a cluster of its own: a decision moves for the sake of zones once a minute."""

    def place(self) -> tuple[int, int] | None:
        """In which zone a service decides, and in which a node leads."""
        decider, leader = self.cluster.decider(), self.cluster.leader()
        if decider is None or leader is None:
            return None
        return self.cluster.logs.index(decider), self.cluster.nodes.index(leader)

    def is_in_place(self) -> bool:
        place = self.place()
        return place is not None and place[0] == place[1]

    def fail_over_to(self, node: Node) -> None:
        def is_asked() -> bool:
            try:
                with self.cluster.leader().connect(timeout_s=10) as client:
                    client.execute_command("DURABILITY.FAILOVER", "TO", node.name)
            except valkey.ResponseError as error:
                # Nodes tell a service of themselves once it decides.
                if "does not know that node" in str(error):
                    return False
                raise
            return True

        wait_for("the service that decides knows the node", is_asked)
        wait_for("it leads", lambda: node.role() == "leader")

    def test_the_decision_follows_the_node_that_leads_into_its_zone_once_a_minute(self):
        nodes = self.cluster.nodes
        with Writers(self.cluster) as writers:
            wait_for("there is load", lambda: writers.count() > 200)
            moment = time.monotonic()
            if self.is_in_place():
                self.fail_over_to(nodes[(self.place()[1] + 1) % len(nodes)])
                decider = self.cluster.decider()
                wait_for("it is said why not yet", lambda: "has changed within 5 s" in decider.status().get("placement", ""))
                moment = time.monotonic()
            leader, epoch = self.cluster.leader(), self.cluster.decider().status()["epoch"]
            wait_for("the decision is where the leader is", self.is_in_place, seconds=60)
            count = writers.count()
            wait_for("writes go on", lambda: writers.count() > count + 200)
            print(f"longest pause {writers.gap_after(moment) * 1000:.0f} ms", end=" ")
            decider = self.cluster.decider()
            wait_for("nothing is left to say", lambda: decider.status().get("placement") == "")
            self.assertEqual((self.cluster.leader(), decider.status()["epoch"]), (leader, epoch), "the lease was lost")
            # Not again within the minute, and the next service knows that.
            self.fail_over_to(nodes[(nodes.index(leader) + 1) % len(nodes)])
            wait_for("it stays", lambda: "handed over within 60 s" in decider.status().get("placement", ""))
        self.assertEqual(writers.missing(), [])


if __name__ == "__main__":
    sys.exit(counted_tests.run(ZonesDie, TheDecisionFollowsTheLeader, SnapshotsTravel))
