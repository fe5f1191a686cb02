"""A service loses its disk under load, and another one on an empty directory takes its place. As soon as all logs are whole again, another
disk may be lost: whatever was acknowledged is there."""

import contextlib
import os
import sys
import time

import counted_tests
import valkey
from child_process import wait_for
from cluster import ZONES
from cluster_case import ClusterCase
from writers import Writers


# How many replacements follow each other.
REPLACEMENTS = int(os.environ.get("REPLACEMENTS", "2"))


class ServicesAreReplaced(ClusterCase):
    @contextlib.contextmanager
    def under_load(self):
        with Writers(self.cluster) as writers:
            wait_for("there is load", lambda: writers.count() > 200)
            yield writers

    def goes_on(self, writers: Writers) -> None:
        count = writers.count()
        wait_for("writes go on", lambda: writers.count() > count + 100)

    def number_of(self, is_it) -> int:
        """One of the services of which that holds."""
        numbers = range(ZONES)
        found = wait_for("there is such a service", lambda: [number for number in numbers if is_it(self.cluster.logs[number])])
        return found[0]

    def replace(self, number: int) -> float:
        """The service is replaced; how long that takes until all is whole."""
        log = self.cluster.logs[number]
        log.lose_disk()
        began = time.monotonic()
        log.start_to_join()
        self.cluster.replace(log)
        self.cluster.wait_until_whole()
        return time.monotonic() - began

    def test_a_service_is_replaced_and_then_another_disk_is_lost(self):
        """Each replacement is followed by the loss of another disk, at once: that of the service that decides, and of one that does not."""
        with self.under_load() as writers:
            lost = self.number_of(lambda log: not log.decides())
            for replacement in range(REPLACEMENTS):
                took_s = self.replace(lost)
                print(f"{took_s:.1f} s, {writers.count()} acknowledged;", end=" ", flush=True)
                others = [number for number in range(ZONES) if number != lost]
                deciders = [number for number in others if self.cluster.logs[number].decides()]
                followers = [number for number in others if number not in deciders]
                # The new one may decide itself.
                lost = (deciders or followers)[0] if replacement % 2 == 0 else (followers or deciders)[0]
            # For good.
            self.cluster.logs[lost].lose_disk()
            self.goes_on(writers)
            left = [log for number, log in enumerate(self.cluster.logs) if number != lost]
            wait_for("one of the other two decides", lambda: any(log.decides() for log in left))
        wait_for("a node leads", self.cluster.leader)
        self.assertEqual(writers.missing(), [])

    def test_who_decides_is_chosen_and_what_is_wrong_is_refused(self):
        decider = self.cluster.decider()
        other = next(log for log in self.cluster.logs if log is not decider)
        with self.under_load() as writers:
            moment = time.monotonic()
            self.assertIn(decider.ask("MOVE", "orders", other.name), (True, "OK"))
            wait_for("it decides", other.decides)
            self.goes_on(writers)
            print(f"longest pause {writers.gap_after(moment) * 1000:.0f} ms", end=" ")
        self.assertEqual(writers.missing(), [])
        for wrong, why in [
            (("MOVE", "orders", "nobody"), "no service of the cluster is called"),
            (("MOVE", "none", other.name), "no shard"),
            (("REPLACE", "log0", "log9"), "no service log9 is connected|NOTLEADER"),
            (("REPLACE", "log0", "log0"), "has a place already|NOTLEADER"),
        ]:
            for log in self.cluster.logs:
                with self.assertRaisesRegex(valkey.ResponseError, why):
                    log.ask(*wrong)


if __name__ == "__main__":
    sys.exit(counted_tests.run(ServicesAreReplaced))
