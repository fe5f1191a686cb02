"""Each of three services keeps snapshots in its own directory: what one stores is at two before it counts, and what one lacks it fetches."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import valkey
from child_process import wait_for
from cluster import SHARD, Cluster
from log_services import LogService, form
from ports import HOST, free_port

KEYS = 2000


def save_data(directory: pathlib.Path) -> None:
    """Leaves the RDB of a plain server there."""
    port = free_port()
    command = [os.environ["VALKEY_BIN_DIR"] + "/valkey-server", "--port", str(port), "--dir", str(directory), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server, valkey.Valkey(HOST, port) as client:
        try:
            wait_for("it answers", lambda: is_there(client))
            client.mset({f"old{number}": "x" * 500 for number in range(KEYS)})
            client.save()
        finally:
            server.kill()


def is_there(client: valkey.Valkey) -> bool:
    try:
        return client.ping()
    except valkey.ValkeyError:
        return False


class SnapshotsTravel(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="snapshots-"))
        self.cluster = Cluster(self.directory)
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self.cluster.kill)

    def start_with_data(self) -> None:
        """Starts the log services and one node, which has data: with that the log begins."""
        save_data(self.cluster.nodes[0].home)
        for log in self.cluster.logs:
            log.start()
        form(self.cluster.logs)
        self.cluster.nodes[0].start()
        wait_for("its data is in the log", lambda: (log := self.cluster.decider()) and log.status().get("snapshots") == "1")

    def others(self) -> list[LogService]:
        return [log for log in self.cluster.logs if not log.decides()]

    def make_snapshot(self) -> int:
        """Has a snapshot made. Answers where it stands."""
        made = []

        def make() -> bool:
            # An engine gives way to everything else on the machine.
            decider = self.cluster.decider()
            if decider is None:
                return False
            with decider.connect(timeout_s=180) as client:
                try:
                    made.append(client.execute_command("LOG.SNAPSHOT", SHARD)[0])
                except valkey.ResponseError as error:
                    # Another service has come to decide meanwhile.
                    if not str(error).startswith("NOTLEADER"):
                        raise
            return bool(made)

        wait_for("a snapshot is made", make, seconds=180)
        return made[0]

    def names(self) -> list[list[str]]:
        return [[path.name for path in log.snapshots()] for log in self.cluster.logs]

    def wait_until_all_have(self, offset: int) -> None:
        """All services have that snapshot, and nothing else."""
        def all_have_it() -> bool:
            names = self.names()
            return all(of_log == names[0] and len(of_log) == 1 and of_log[0].startswith(f"{offset:020}-") for of_log in names)

        wait_for("all services have the snapshot", all_have_it, seconds=60)

    def write(self, value: str) -> None:
        with self.cluster.leader().connect() as client:
            for number in range(100):
                client.set(f"new{number}", value * 100)

    def test_a_service_that_follows_makes_the_snapshot(self):
        self.cluster.start()
        decider = self.cluster.keep_decider()
        for value in "ab":
            self.write(value)
            offset = self.make_snapshot()
            self.wait_until_all_have(offset)
        self.assertIn("made by service log", decider.output())
        self.assertNotIn("made and rehearsed", decider.output())
        self.assertTrue(any("made and rehearsed" in log.output() for log in self.others()))

    def test_the_service_that_decides_makes_it_itself_if_no_other_one_can(self):
        self.cluster.start()
        self.write("a")
        decider = self.cluster.keep_decider()
        # Their engine is gone. They store what the decider makes.
        for log in self.others():
            log.kill()
            log._command[log._command.index("--valkey-server") + 1] = "/bin/false"
            log.start()
            self.cluster.wait_until_settled()
        self.assertTrue(decider.decides())
        self.wait_until_all_have(self.make_snapshot())
        self.assertIn("made and rehearsed", decider.output())

    def test_files_that_are_lost_are_fetched_and_a_full_copy_waits_for_that(self):
        self.start_with_data()
        self.wait_until_all_have(0)
        for log in [self.cluster.decider(), *self.others()]:
            [path] = log.snapshots()
            before = path.read_bytes()
            path.unlink()
            self.assertEqual(log.full_copy(timeout_s=20), before)
            self.assertEqual(path.read_bytes(), before)

    def test_a_damaged_file_is_fetched_again(self):
        self.start_with_data()
        self.wait_until_all_have(0)
        log = self.cluster.decider()
        [path] = log.snapshots()
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        # It is noticed when it is to be given out: the answer breaks off, or waits for what is fetched. Nobody gets what is damaged.
        copy = None
        with contextlib.suppress(AssertionError, OSError, ValueError):
            copy = log.full_copy(timeout_s=1)
        self.assertTrue(copy in (None, before), "what is damaged was given out")
        wait_for("it is as it was", lambda: path.read_bytes() == before, seconds=40)
        self.assertEqual(log.full_copy(timeout_s=20), before)

    def test_the_service_that_decides_dies_after_a_seed_and_its_disk_is_lost(self):
        self.start_with_data()
        decider = self.cluster.decider()
        # From here on the state names it, so that it is at two services.
        self.assertGreaterEqual(sum(bool(names) for names in self.names()), 2)
        decider.kill()
        shutil.rmtree(decider.home)
        self.cluster.nodes[0].kill()
        # Nodes without data get all of it from the two that are left.
        self.cluster.nodes[1].start()
        wait_for("another node leads", lambda: self.cluster.nodes[1].role() == "leader", seconds=40)
        with self.cluster.nodes[1].connect() as client:
            self.assertEqual(client.dbsize(), KEYS)
            client.set("more", 1)
        for log in self.cluster.logs:
            if log is not decider:
                self.assertIn(b"old1999", log.full_copy(timeout_s=20))
