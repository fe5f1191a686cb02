"""What --keep keeps of a log that three services keep together: whoever decides archives it, and nothing is missing between two."""

import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent / "zones"))

import valkey

from archive_test import ARCHIVED_S, KEEP, written
from bucket_case import BucketCase
from child_process import wait_for
from cluster import SHARD, Cluster
from ports import HOST
from services import CREDENTIALS, LogService, PlainServer


def held_by(client: valkey.Valkey) -> dict:
    """Keys, values and times to live, without DEBUG, which these nodes do not allow."""
    strings = {key: (client.get(key), client.execute_command("PEXPIRETIME", key)) for key in client.keys("key*")}
    return strings | {b"hash": client.hgetall("hash")}


class ArchiveOfThree(BucketCase):
    def test_the_archive_has_all_moments_while_services_that_decide_are_killed_and_after_all_disks_are_gone(self):
        variables = CREDENTIALS | {"AWS_ENDPOINT_URL": self.relay.url, "AWS_ALLOW_HTTP": "true"}
        os.environ.update(variables)
        self.addCleanup(lambda: [os.environ.pop(name) for name in variables])
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.root))
        url = f"s3://{self.bucket}/three"
        cluster = Cluster(directory, more=("--snapshots", url, *KEEP))
        self.addCleanup(cluster.kill)
        cluster.start()
        seed, moments = random.Random(3), []
        for turn in range(4):
            node = wait_for("a node leads", cluster.leader, 60)
            with valkey.Valkey(HOST, node.port, socket_timeout=10) as client:
                for _ in range(100):
                    client.set(f"key{seed.randrange(50)}", os.urandom(200), px=seed.randrange(10_000_000, 90_000_000))
                    client.hset("hash", f"field{seed.randrange(50)}", turn)
                # In sync mode, what was answered is durable.
                held = held_by(client)
            time.sleep(0.005)
            moments.append((written(time.time()), held))
            time.sleep(0.005)
            if turn == 3:
                break
            decider = wait_for("a service decides", cluster.decider, 60)
            # Before or after the log is archived: without a snapshot it is only on disks.
            if turn != 1:
                with decider.connect(timeout_s=60) as client:
                    client.execute_command("LOG.SNAPSHOT", SHARD)
            decider.kill()
            wait_for("another one decides", lambda: (other := cluster.decider()) is not None and other is not decider, 60)
            cluster.start_what_is_dead()
            cluster.wait_until_settled()

        def is_archived() -> bool:
            decider = cluster.decider()
            status = decider.status() if decider else {}
            return status.get("archive_end") == status.get("end", "none")

        wait_for("all log is in the bucket", is_archived, ARCHIVED_S)
        cluster.kill()
        for log in cluster.logs:
            shutil.rmtree(log.home)
        alone = LogService(self.directory, url, self.relay.url)
        for moment, held in moments:
            out = self.directory / f"{time.monotonic_ns()}.rdb"
            command = ("restore", "--shard", SHARD, "--snapshots", url, "--valkey-server", alone.engine, "--out", str(out), "--to", moment)
            code, said = alone.run(*command)
            self.assertEqual(code, 0, said)
            server = PlainServer(self.directory, out)
            self.addCleanup(server.process.kill)
            self.assertEqual(held_by(server.client), held)
            server.process.kill()
