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
from child_process import wait_for
from cluster import LEASE_MS, Cluster
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

    def test_everything_dies_at_once(self):
        with self.under_load() as writers:
            self.cluster.kill()
        self.assert_nothing_is_missing(writers)


if __name__ == "__main__":
    sys.exit(counted_tests.run(ZonesDie))
