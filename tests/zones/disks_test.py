"""A shard whose log three services keep, and the disks of the services: full, damaged, looked at with logservice check, dump and restore.
A shard is dropped, and made again."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import counted_tests
import valkey
from child_process import wait_for
from cluster import SHARD, Cluster
from cluster_case import ClusterCase
from log_services import LogService
from writers import Writers

SEGMENT_MB = 2
VALUE = "x" * 10_000
# What a copy takes at most before a disk of this size is filled by the test.
DISK_MB = 64


def logservice(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([os.environ["LOGSERVICE"], *arguments], capture_output=True, text=True, timeout=60, check=False)


def segments(log: LogService, shard: str = SHARD) -> list[pathlib.Path]:
    return sorted((log.home / "replicas" / shard / "log").glob("*.log"))


class Disks(ClusterCase):
    disks_mb = (0, 0, 0)
    more: tuple[str, ...] = ()

    def make_cluster(self) -> Cluster:
        return Cluster(self.directory, more=("--segment-mb", str(SEGMENT_MB), *self.more), disks_mb=self.disks_mb)

    def fill(self, mb: int, first: int = 0) -> None:
        """Writes so many MiB to the log."""
        with self.cluster.leader().connect(timeout_s=20) as client:
            for number in range(first, first + mb * 100):
                client.set(f"key{number}", VALUE)

    def follower(self) -> LogService:
        return next(log for log in self.cluster.logs if not log.decides())

    def others(self, log: LogService) -> list[LogService]:
        return [other for other in self.cluster.logs if other is not log]

    def operate(self, log: LogService, *command: str):
        with log.connect() as client:
            return client.execute_command(*command)


class DamagedCopies(Disks):
    def test_a_damaged_copy_is_fetched_from_the_others_and_counts_again(self):
        self.fill(7)
        log = self.follower()
        wait_for("it has several segments", lambda: len(segments(log)) > 2)
        self.cluster.wait_until_settled()
        log.kill()
        # In the last record: nothing that a crash explains, as a later one stands behind it.
        path = segments(log)[1]
        with path.open("r+b") as file:
            file.seek(300_000)
            byte = file.read(1)
            file.seek(300_000)
            file.write(bytes([byte[0] ^ 1]))
        found = logservice("check", str(log.home), "--shard", SHARD)
        self.assertIn("DAMAGED", found.stdout)
        self.assertIn(str(path), found.stdout)
        self.assertEqual(found.returncode, 1)
        with Writers(self.cluster) as writers:
            wait_for("there is load", lambda: writers.count() > 100)
            log.start()
            wait_for("it is fetched anew", lambda: log.status().get("repaired") == "1" and log.status().get("state") == "ok", seconds=30)
            count = writers.count()
            wait_for("writes go on", lambda: writers.count() > count + 100)
        self.cluster.wait_until_settled()
        self.assertIn("is whole again", log.output())
        # It is whole: another one's disk is thrown away, and all is there.
        lost = self.others(log)[0]
        lost.kill()
        shutil.rmtree(lost.home / "replicas")
        wait_for("a service decides", self.cluster.decider)
        wait_for("a node leads", self.cluster.leader, seconds=20)
        self.assertEqual(writers.missing(), [])
        for other in self.others(lost):
            other.kill()
            found = logservice("check", str(other.home), "--shard", SHARD)
            self.assertIn(f"copy of shard {SHARD}: sound: offsets ", found.stdout)


class DamagedCopyOfTheClustersOwnLog(Disks):
    def test_it_is_fetched_from_the_others_and_the_service_serves_again(self):
        log = self.follower()
        log.kill()
        # What it has voted is in another file.
        copy = log.home / "replicas" / "_cluster" / "COPY"
        copy.write_bytes(copy.read_bytes().replace(b'"checkpoint"', b'"checkpoin!"', 1))
        found = logservice("check", str(log.home))
        self.assertIn("copy of the cluster's own log: DAMAGED", found.stdout)
        with Writers(self.cluster) as writers:
            wait_for("there is load", lambda: writers.count() > 100)
            log.start()
            wait_for("it serves again", lambda: log.status().get("state") == "ok", seconds=30)
            self.cluster.wait_until_settled()
        self.assertIn("the cluster's own log: this service's copy is whole again", log.output())
        # It counts: another one's disk is thrown away, and shards are dropped and made.
        lost = self.others(log)[0]
        lost.kill()
        shutil.rmtree(lost.home / "replicas")
        wait_for("a node leads", self.cluster.leader, seconds=20)
        self.assertEqual(writers.missing(), [])
        decides = lambda log: f"decider={log.name}," in log.cluster_status().get("cluster_log", "")  # noqa: E731
        wait_for("a service decides over the cluster", lambda: any(decides(log) for log in self.cluster.logs))


class LookedAt(Disks):
    def test_check_dump_and_restore_read_copies(self):
        with self.cluster.leader().connect() as client:
            client.set("before", "1")
            time.sleep(0.1)
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time())) + f".{int(time.time() * 1000) % 1000:03}Z"
            time.sleep(0.1)
            client.set("after", "1")
            client.flushall()
        log = self.follower()
        self.cluster.wait_until_settled()
        log.kill()
        found = logservice("check", str(log.home))
        self.assertEqual(found.returncode, 0, found.stdout + found.stderr)
        self.assertIn("copy of the cluster's own log: sound: ", found.stdout)
        self.assertIn("1 shards, all sound", found.stdout)
        dumped = logservice("dump", str(log.home), "--shard", SHARD)
        self.assertIn('"SET" "before" "1"', dumped.stdout.replace('"set"', '"SET"'))
        self.assertIn('"FLUSHALL"', dumped.stdout.upper())
        rdb = self.directory / "restored.rdb"
        engine = os.environ["VALKEY_BIN_DIR"] + "/valkey-server"
        arguments = ["restore", str(log.home), "--shard", SHARD, "--to", moment, "--out", str(rdb)]
        restored = logservice(*arguments, "--valkey-server", engine)
        self.assertIn("1 keys", restored.stdout, restored.stderr)
        self.assertIn(b"before", rdb.read_bytes())
        self.assertNotIn(b"after", rdb.read_bytes())


class DroppedShards(Disks):
    def test_a_shard_is_dropped_and_made_again_while_a_service_is_away(self):
        with self.cluster.leader().connect() as client:
            client.set("key", "of the old one")
        self.cluster.wait_until_settled()
        away = self.follower()
        log_id = away.status()["log_id"]
        with self.assertRaisesRegex(valkey.ValkeyError, "NOTLEADER"):
            self.operate(away, "LOG.DROP", SHARD, log_id)
        with self.assertRaisesRegex(valkey.ValkeyError, "in use"):
            self.operate(self.cluster.decider(), "LOG.DROP", SHARD, log_id)
        away.kill()
        for node in self.cluster.nodes:
            node.kill()
        decider = wait_for("a service decides", self.cluster.decider)
        self.assertIn(self.operate(decider, "LOG.DROP", SHARD, log_id, "FORCE"), (True, "OK"))
        self.assertEqual(self.operate(decider, "LOG.SHARDS"), [])
        for log in self.others(away):
            wait_for("its copy is gone", lambda log=log: [path.name for path in (log.home / "replicas").iterdir()] == ["_cluster"])
        # Nodes keep what they have: new ones begin the new shard.
        self.cluster.renew_nodes()
        for node in self.cluster.nodes:
            node.start()
        leader = wait_for("a node leads", self.cluster.leader, seconds=30)
        with leader.connect() as client:
            self.assertIsNone(client.get("key"))
            client.set("key", "of the new one")
        away.start()
        self.cluster.wait_until_settled()
        self.assertNotEqual(away.status()["log_id"], log_id)
        names = lambda: sorted(path.name for path in (away.home / "replicas").iterdir())  # noqa: E731
        wait_for("its old copy is gone", lambda: names() == ["_cluster", f"{SHARD}#1"])
        away_end = away.status()["end"]
        self.assertEqual(away_end, self.cluster.decider().status()["end"])
        away.kill()
        found = logservice("check", str(away.home), "--shard", SHARD)
        self.assertIn(f"copy of shard {SHARD} in replicas/{SHARD}#1: sound: offsets ", found.stdout, found.stderr)
        dumped = logservice("dump", str(away.home), "--shard", SHARD)
        self.assertIn('"of the new one"', dumped.stdout, dumped.stderr)
        rdb = self.directory / "restored.rdb"
        engine = os.environ["VALKEY_BIN_DIR"] + "/valkey-server"
        arguments = ["restore", str(away.home), "--shard", SHARD, "--to", away_end, "--out", str(rdb)]
        restored = logservice(*arguments, "--valkey-server", engine)
        self.assertIn("1 keys", restored.stdout, restored.stderr)


class FullDisks(Disks):
    disks_mb = (DISK_MB, DISK_MB, DISK_MB)

    def take_space(self, log: LogService) -> pathlib.Path:
        """Fills the disk of a service from outside."""
        filler = log.disk() / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                pass
        return filler

    def test_a_follower_whose_disk_is_full_falls_behind_and_catches_up(self):
        self.fill(1)
        log = self.follower()
        filler = self.take_space(log)
        self.fill(5, first=1000)
        status = wait_for("it says so", lambda: log.status() if log.status().get("state") == "nospace" else None)
        self.assertIn("disk is full", status["error"])
        self.fill(1, first=2000)
        filler.unlink()
        wait_for("it has caught up", self.cluster.is_settled, seconds=40)
        self.assertEqual(log.status()["state"], "ok")

    def test_who_decides_and_is_full_hands_over_and_with_two_full_writes_are_refused(self):
        self.fill(1)
        first = self.cluster.decider()
        fillers = [self.take_space(first)]
        self.fill(5, first=1000)
        wait_for("another one decides", lambda: self.cluster.decider() not in (None, first), seconds=20)
        second = next(log for log in self.cluster.logs if log is not first and not log.decides())
        fillers.append(self.take_space(second))
        with Writers(self.cluster) as writers:
            with self.cluster.leader().connect(timeout_s=2) as client:
                for number in range(1000):
                    try:
                        client.set(f"more{number}", VALUE)
                    except valkey.ValkeyError:
                        break
            def refuses():
                decider = self.cluster.decider()
                return decider and decider.status().get("state") == "nospace" and "have no space" in decider.status()["error"]
            wait_for("it says so", refuses, seconds=30)
            for filler in fillers:
                filler.unlink()
            moment = time.monotonic()
            wait_for("writes are acknowledged again", lambda: writers.first_after(moment), seconds=40)
        self.cluster.wait_until_settled()
        self.assertEqual(writers.missing(), [])


if __name__ == "__main__":
    sys.exit(counted_tests.run(DamagedCopies, DamagedCopyOfTheClustersOwnLog, LookedAt, DroppedShards, FullDisks))
