"""What operators do to the log services of a shard under load: one goes on alone when the disks of the other two are lost, one is replaced
under another name, and another one is to decide."""

import contextlib
import sys
import time

import counted_tests
import valkey
from child_process import wait_for
from cluster import SHARD, ZONES
from cluster_case import ClusterCase
from log_services import LogService
from ports import free_port
from writers import Writers

# A decision goes to the zone of the node that leads when both are settled for 5 s. As much again, for a loaded machine.
ZONES_COUNT_AFTER_S = 10.0


class OperatorsAct(ClusterCase):
    @contextlib.contextmanager
    def under_load(self):
        with Writers(self.cluster) as writers:
            self.goes_on(writers)
            yield writers

    def goes_on(self, writers: Writers) -> None:
        count = writers.count()
        wait_for("writes go on", lambda: writers.count() > count + 100, seconds=40)

    def follower(self) -> LogService:
        wait_for("a service decides", self.cluster.decider)
        return next(log for log in self.cluster.logs if not log.decides())

    def others(self, log: LogService) -> list[LogService]:
        return [other for other in self.cluster.logs if other is not log]

    def refused(self, log: LogService, *command: str) -> str:
        """Why a command is refused."""
        with self.assertRaises(valkey.ResponseError) as refused:
            log.ask(*command)
        return str(refused.exception)

    def forces(self, log: LogService) -> bool:
        """Whether it goes on alone, now that it was told to."""
        try:
            return log.ask("FORCE", log.name, "ACCEPT-LOSS") in (True, "OK")
        except valkey.ResponseError as error:
            # It has not noticed yet that it is alone.
            self.assertRegex(str(error), "two services of the cluster answer|is connected")
            return False
        except valkey.TimeoutError:
            # It is repeated: that changes nothing.
            return False

    def test_the_last_service_goes_on_alone_and_gets_two_others(self):
        with self.under_load() as before:
            pass
        self.cluster.wait_until_settled()
        # Whatever is acknowledged up to here is at all three, and so at the one that is left.
        left = self.follower()
        self.assertIn("nothing is lost", self.refused(left, "FORCE", left.name, "ACCEPT-LOSS"))
        lost = self.others(left)
        for log in lost:
            log.lose_disk()
        wait_for("nobody decides", lambda: not left.decides() and left.status().get("decider", "") == "")
        self.assertIn("ACCEPT-LOSS", self.refused(left, "FORCE", left.name, "please"))
        self.assertIn(f"this is service {left.name}", self.refused(left, "FORCE", lost[0].name, "ACCEPT-LOSS"))
        wait_for("it goes on alone", lambda: self.forces(left), seconds=30)
        with self.under_load() as after:
            # It is what it is after a crash, too.
            left.kill()
            left.start()
            self.goes_on(after)
            for log in lost:
                log.start_to_join()
                self.cluster.replace(log)
                self.goes_on(after)
            self.cluster.wait_until_whole()
            self.goes_on(after)
            # Nothing rests on it any more.
            left.lose_disk()
            self.goes_on(after)
        wait_for("a node leads", self.cluster.leader, seconds=20)
        self.assertEqual(before.missing(), [])
        self.assertEqual(after.missing(), [])

    def test_a_service_is_replaced_under_another_name_and_address(self):
        gone = self.follower()
        number = self.cluster.logs.index(gone)
        staying = self.others(gone)
        peer_ports = {peer: port for peer, port in self.cluster.peer_ports.items() if peer != number} | {ZONES: free_port()}
        with self.under_load() as writers:
            gone.lose_disk()
            new = self.cluster.make_log(ZONES, peer_ports)
            # Nodes go only where durability.log says.
            new.set_port(gone.port)
            self.cluster.logs[number] = new
            new.start_to_join()
            self.cluster.replace(new, gone.name)
            self.cluster.wait_until_whole()
            # Those that stay know the new one by what the cluster remembers, also after they were restarted as they were.
            for log in staying:
                log.terminate()
                log.start()
                self.cluster.wait_until_settled()
            # And as the documents have it.
            for log in [*staying, new]:
                log.terminate()
                log.set_peers(peer_ports)
                log.start()
                self.cluster.wait_until_settled()
            self.assertIn(f"name={new.name},", " ".join(new.cluster_status().values()))
            self.cluster.wait_until_whole()
            staying[0].lose_disk()
            self.goes_on(writers)
        wait_for("a node leads", self.cluster.leader, seconds=20)
        self.assertEqual(writers.missing(), [])

    def is_in_place(self) -> bool:
        """Whether the service of the leader's zone decides."""
        leader, decider = self.cluster.leader(), self.cluster.decider()
        return leader is not None and decider is self.cluster.logs[self.cluster.nodes.index(leader)]

    def test_who_was_chosen_decides_on_although_the_leader_is_in_another_zone(self):
        wait_for("the decision is in the zone of the leader", self.is_in_place, seconds=90)
        decider = self.cluster.decider()
        chosen = self.others(decider)[0]
        with self.under_load() as writers:
            self.assertIn(decider.ask("MOVE", SHARD, chosen.name), (True, "OK"))
            wait_for("it decides", chosen.decides)
            until = time.monotonic() + ZONES_COUNT_AFTER_S
            while time.monotonic() < until:
                self.assertTrue(chosen.decides())
                time.sleep(0.1)
            self.assertIn("LOG.CLUSTER MOVE has chosen this service", chosen.status()["placement"])
            self.goes_on(writers)
        self.assertEqual(writers.missing(), [])


if __name__ == "__main__":
    sys.exit(counted_tests.run(OperatorsAct))
