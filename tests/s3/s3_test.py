"""Snapshots in an object store: what is stored, what comes back, and what happens if the store is away or damaged.

    s3_test.py [test...]
"""

import os
import sys
import time

import valkey

import counted_tests
from child_process import wait_for
from archive_test import ArchiveInS3
from bucket_case import BucketCase
from services import LogService, Node, PlainServer, SHARD
from zones_test import ArchiveOfThree

# How long LOG.SNAPSHOT may take to say that the store refuses connections, or answers nothing.
REFUSED_SECONDS = 30.0
SILENT_SECONDS = 45.0


class SnapshotsInS3(BucketCase):
    def recorded(self, log: LogService) -> list[str]:
        """The names of the objects that count."""
        return sorted(f"some/prefix/{record['file']}" for record in self.records(log))

    def wait_until_only_recorded(self, log: LogService, count: int) -> None:
        self.assertEqual(len(self.recorded(log)), count)
        wait_for("only what counts is stored", lambda: self.store.names(self.bucket) == self.recorded(log))

    def test_a_snapshot_is_stored_the_log_below_goes_and_so_does_the_older_snapshot(self):
        log, node = self.start()
        self.fill(node)
        first = log.snapshot()
        self.wait_until_only_recorded(log, 1)
        self.assertEqual(int(log.status()["base"]), first)
        older = self.recorded(log)
        node.client.set("more", 1)
        second = log.snapshot()
        self.assertGreater(second, first)
        self.wait_until_only_recorded(log, 1)
        self.assertNotEqual(self.recorded(log), older)
        self.assertEqual(int(log.status()["base"]), second)
        self.assertEqual(list((log.directory / "drafts").iterdir()), [])

    def test_what_the_object_store_and_the_log_hold_comes_back(self):
        log, node = self.start()
        self.fill(node)
        log.snapshot()
        node.client.set("after", 1)
        digest = node.digest()
        self.restart_both(log, node)
        self.assertEqual(node.digest(), digest)
        self.assertEqual(node.client.fcall("kept", 0), b"kept")
        node.client.set("after", 2)
        log.snapshot()
        digest = node.digest()
        self.restart_both(log, node)
        self.assertEqual(node.digest(), digest)

    def test_a_large_snapshot_is_stored_in_parts(self):
        log, node = self.start()
        for i in range(20):
            node.client.set(f"key{i}", os.urandom(1 << 20))
        log.snapshot()
        [name] = self.recorded(log)
        found = self.store.s3.head_object(Bucket=self.bucket, Key=name)
        self.assertRegex(found["ETag"], r"-3\"$")
        self.assertEqual(found["ContentLength"], self.records(log)[0]["bytes"])
        self.assertEqual(self.store.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []), [])
        digest = node.digest()
        self.restart_both(log, node)
        self.assertEqual(node.digest(), digest)

    def test_a_node_with_data_seeds_its_log_into_the_object_store(self):
        log, node = self.start()
        node.client.execute_command("DURABILITY.MODE", "off")
        self.fill(node)
        node.client.execute_command("DURABILITY.MODE", "sync")
        node.wait_until_leading()
        node.client.set("after", 1)
        self.wait_until_only_recorded(log, 1)
        digest = node.digest()
        self.restart_both(log, node)
        self.assertEqual(node.digest(), digest)

    def test_a_damaged_or_missing_object_is_told_and_nothing_is_lost(self):
        log, node = self.start()
        self.fill(node)
        log.snapshot()
        node.client.set("after", 1)
        node.wait_until_durable()
        digest = node.digest()
        [name] = self.recorded(log)
        file = name.rsplit("/", 1)[1]
        put_back, damages = self.damages(name)
        for what, damage in damages.items():
            with self.subTest(what):
                check = ("check", str(log.directory), "--snapshots", log.url)
                self.assertEqual(log.run(*check)[0], 0)
                damage()
                code, said = log.run(*check)
                self.assertEqual(code, 1)
                self.assertIn(f"shard {SHARD}: DAMAGED: ", said)
                self.assertIn(file, said)
                with self.assertRaisesRegex(valkey.ResponseError, f"no snapshot was made: .*{file}"):
                    log.snapshot()
                node.process.kill()
                node.start()
                wait_for("the node is told", lambda: file in node.last_error())
                self.assertEqual(node.role(), "attaching")
                self.assertIn(file, log.status()["full_copy_error"])
                put_back()
                node.wait_until_leading()
                self.assertEqual(node.digest(), digest)

    def assert_fails_soon(self, log: LogService, node: Node, seconds: float) -> None:
        """A snapshot cannot be made, and is said not to be within that time, while everything else goes on."""
        before = log.status()
        node.client.set("meanwhile", before["end"])
        asked = valkey.Connection(host="127.0.0.1", port=log.port)
        self.addCleanup(asked.disconnect)
        started = time.monotonic()
        asked.send_command("LOG.SNAPSHOT", SHARD)
        slowest = 0.0
        while not asked.can_read(timeout=0.05):
            begun = time.monotonic()
            node.client.set("meanwhile", begun)
            slowest = max(slowest, time.monotonic() - begun)
            self.assertLess(time.monotonic() - started, seconds, "LOG.SNAPSHOT does not answer")
        took = time.monotonic() - started
        with self.assertRaises(valkey.ResponseError) as raised:
            asked.read_response()
        self.assertRegex(str(raised.exception), r"^no snapshot was made: .*cannot \w+ ")
        print(f"LOG.SNAPSHOT said so after {took:.1f} s; slowest SET meanwhile {slowest * 1000:.0f} ms", flush=True)
        self.assertLess(slowest, 2.0)
        after = log.status()
        self.assertIn("cannot", after["snapshot_error"])
        for field in ("base", "snapshots", "snapshot_offset", "leader", "epoch"):
            self.assertEqual(after[field], before[field])

    def test_without_the_object_store_everything_but_snapshots_goes_on(self):
        log, node = self.start()
        node.client.set("key", "value")
        # The first one has nothing to read from the store: it fails at storing.
        self.relay.close()
        self.assert_fails_soon(log, node, REFUSED_SECONDS)
        self.relay.open()
        log.snapshot()
        self.assertEqual(log.status()["snapshot_error"], "")
        # The second one begins with reading.
        self.relay.close()
        self.assert_fails_soon(log, node, REFUSED_SECONDS)
        # Leadership needs no object store.
        log.client.execute_command("LOG.CHECK", "other", "node", "127.0.0.1:1", "-")
        epoch, _ = log.client.execute_command("LOG.ACQUIRE", "other", "node", "127.0.0.1:1", 0, 0)
        self.assertEqual(epoch, 1)
        self.assertEqual(list((log.directory / "drafts").iterdir()), [])
        # A node that starts meanwhile waits, and is told.
        node.wait_until_durable()
        digest = node.digest()
        node.process.kill()
        log.process.kill()
        log.start()
        node.start()
        wait_for("the node is told", lambda: "cannot open" in node.last_error(), REFUSED_SECONDS + 15)
        with self.assertRaises(valkey.exceptions.BusyLoadingError):
            node.client.get("key")
        self.relay.open()
        node.wait_until_leading()
        self.assertEqual(node.digest(), digest)
        log.snapshot()
        self.wait_until_only_recorded(log, 1)

    def test_an_object_store_that_answers_nothing_is_given_up(self):
        log, node = self.start()
        node.client.set("key", "value")
        with self.relay.silent():
            self.assert_fails_soon(log, node, SILENT_SECONDS)
            self.assertEqual(self.store.names(self.bucket), [])
        log.snapshot()
        self.wait_until_only_recorded(log, 1)

    def test_what_is_kept_can_be_checked_and_restored(self):
        log, node = self.start("--keep-snapshots", "2")
        moments = []
        for i in range(3):
            node.client.set("key", i)
            node.wait_until_durable()
            moments.append((log.status()["end"], node.digest()))
            log.snapshot()
        self.wait_until_only_recorded(log, 2)
        code, said = log.run("check", str(log.directory), "--snapshots", log.url)
        self.assertEqual((code, said.count("snapshot at offset")), (0, 2), said)

        restore = ("restore", str(log.directory), "--shard", SHARD, "--snapshots", log.url, "--valkey-server", log.engine)
        for offset, digest in moments[1:]:
            out = self.directory / f"{offset}.rdb"
            code, said = log.run(*restore, "--to", offset, "--out", str(out))
            self.assertEqual(code, 0, said)
            server = PlainServer(self.directory, out)
            self.addCleanup(server.process.kill)
            self.assertEqual(server.client.execute_command("DEBUG", "DIGEST").decode(), digest)
        code, said = log.run(*restore, "--to", moments[0][0], "--out", str(self.directory / "early.rdb"))
        self.assertEqual(code, 1)
        self.assertIn("is before what is kept", said)

    def test_what_is_encrypted_is_encrypted_before_it_is_sent(self):
        keys = self.directory / "keys"
        keys.touch(mode=0o600)
        keys.write_text(f"first-key {os.urandom(32).hex()}\n")
        log, node = self.start("--encrypt-key-file", str(keys))
        # More than one part, and more than one block.
        values = {f"key{i}": os.urandom(1 << 20) for i in range(20)}
        node.client.mset(values)
        log.snapshot()
        self.wait_until_only_recorded(log, 1)
        [name] = self.recorded(log)
        stored = self.store.read(self.bucket, name)
        self.assertGreater(len(stored), self.records(log)[0]["bytes"])
        self.assertIn(b"first-key", stored[:256])
        for key, value in values.items():
            self.assertNotIn(value[:16], stored, key)
        digest = node.digest()
        self.restart_both(log, node)
        self.assertEqual(node.digest(), digest)

        check = ("check", str(log.directory), "--snapshots", log.url)
        for keys_given in ((), ("--encrypt-key-file", str(keys))):
            code, said = log.run(*check, *keys_given)
            self.assertEqual(code, 0, said)
            self.assertIn("encrypted with first-key", said)
        damaged = bytearray(stored)
        damaged[len(stored) // 2] ^= 1
        self.store.s3.put_object(Bucket=self.bucket, Key=name, Body=bytes(damaged))
        code, said = log.run(*check)
        self.assertEqual(code, 1)
        self.assertIn("does not match its checksum", said)

    def test_two_services_with_shards_of_one_name_share_a_bucket(self):
        both = []
        for name in ("one", "two"):
            directory = self.directory / name
            directory.mkdir()
            both.append(self.start(directory=directory))
        for turn in range(2):
            for number, (log, node) in enumerate(both):
                node.client.set("key", f"{number}-{turn}")
                log.snapshot()
        stored = sorted(sum((self.recorded(log) for log, _ in both), []))
        self.assertEqual(len(stored), 2)
        wait_for("only what counts is stored", lambda: self.store.names(self.bucket) == stored)
        for number, (log, node) in enumerate(both):
            self.restart_both(log, node)
            self.assertEqual(node.client.get("key"), f"{number}-1".encode())
        self.assertEqual(self.store.names(self.bucket), stored)

    def test_what_a_crash_has_left_in_the_object_store_goes_and_other_objects_stay(self):
        log, node = self.start()
        node.client.set("key", "value")
        log.snapshot()
        [name] = self.recorded(log)
        place = name.rsplit("/", 1)[0]
        older, newer = f"{place}/{1:020}-00000000.rdb", f"{place}/{10**9:020}-00000000.rdb"
        others = [f"{place}/notes.txt", "some/prefix/notes.txt", f"other/{older}"]
        for key in [older, newer, *others]:
            self.store.s3.put_object(Bucket=self.bucket, Key=key, Body=b"x")
        (log.directory / "drafts" / "left").write_text("x")
        self.restart_both(log, node)
        # It may be an older copy of a directory that is served elsewhere, and what is newer may be needed there.
        wait_for("what is older goes", lambda: self.store.names(self.bucket) == sorted([name, newer, *others]))
        node.client.set("key", "again")
        log.snapshot()
        [name] = self.recorded(log)
        wait_for("what is left goes", lambda: self.store.names(self.bucket) == sorted([name, *others]))
        self.assertFalse((log.directory / "drafts" / "left").exists())

    def test_a_second_service_that_is_turned_away_leaves_the_first_ones_drafts(self):
        log, _ = self.start()
        draft = log.directory / "drafts" / "in-the-making"
        draft.parent.mkdir(exist_ok=True)
        draft.write_text("x")
        code, said = log.run("--dir", str(log.directory), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--snapshots", log.url)
        self.assertEqual(code, 1)
        self.assertIn("in use by another logservice", said)
        self.assertTrue(draft.exists())


if __name__ == "__main__":
    sys.exit(counted_tests.run(SnapshotsInS3, ArchiveInS3, ArchiveOfThree))
