"""A log to which slots came from another shard can be made a snapshot of, restored and checked. No snapshot stands inside an import that is open."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import counted_tests
import valkey
from child_process import wait_for
from log_services import LogService
from recording import LAST, Commands, Pair, Server, Stream

SHARD = "orders"
FIRST_REPLID, SECOND_REPLID = "a" * 40, "b" * 40


class Imports(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="imports-"))
        self.pair = Pair(self.directory)
        self.log = LogService(self.directory, 0, SHARD, {}, os.environ["LOGSERVICE"], ["--snapshot-log-mb", "0"])
        self.log.start()
        wait_for("the log service answers", self.is_led)
        self.end = 0

    def tearDown(self):
        self.pair.kill()
        self.log.kill()
        shutil.rmtree(self.directory)

    def is_led(self) -> bool:
        """Leads the log as the target's node would."""
        try:
            self.client = self.log.connect(timeout_s=30, single_connection_client=True)
            self.client.execute_command("LOG.CHECK", SHARD, "n1", "host:1", "-")
            self.epoch, _ = self.client.execute_command("LOG.ACQUIRE", SHARD, "n1", "host:1", 0, 0)
            self.client.execute_command("LOG.SLOTS", SHARD, "SET", self.epoch, 5, "8192-16383")
            self.client.execute_command("LOG.BEGIN", SHARD, self.epoch, FIRST_REPLID, 0)
            return True
        except valkey.ValkeyError:
            return False

    def append(self, stream: bytes, until: int) -> None:
        while self.end < until:
            chunk = stream[self.end:min(until, self.end + 65536)]
            self.end = self.client.execute_command("LOG.APPEND", SHARD, self.epoch, self.end, chunk)

    def snapshot(self) -> int:
        return self.client.execute_command("LOG.SNAPSHOT", SHARD)[0]

    def restored(self, offset: int) -> tuple[str, str, int]:
        """What restoring it says, and the digest and number of keys of a server that has loaded that."""
        home = self.directory / f"restored-{offset}"
        home.mkdir()
        command = [os.environ["LOGSERVICE"], "restore", str(self.log.home), "--shard", SHARD, "--to", str(offset), "--out", str(home / "dump.rdb"),
                   "--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        server = Server(self.directory, home.name)
        server.start()
        try:
            wait_for("it answers", server.answers)
            with server.connect() as client:
                return done.stdout, client.execute_command("DEBUG", "DIGEST"), client.dbsize()
        finally:
            server.kill()

    def digest(self) -> str:
        with self.pair.target.connect() as client:
            return client.execute_command("DEBUG", "DIGEST")

    def record(self, end_import) -> tuple[bytes, Commands]:
        """The stream of a target to which slots came until `end_import` has ended that."""
        stream = Stream(self.pair.target)
        self.pair.join()
        self.pair.fill(3000, "before")
        self.pair.begin()
        self.pair.fill(1000, "meanwhile")
        end_import()
        self.pair.fill(500, "after")
        recorded = stream.until(self.pair.target)
        commands = Commands(recorded)
        self.assertEqual(len(commands.of_slots(b"ESTABLISH")), 1)
        self.assertEqual(len(commands.of_slots(b"FINISH")), 1)
        return recorded, commands

    def test_slots_that_came_are_in_snapshots_and_no_snapshot_stands_where_they_were_coming(self):
        stream, commands = self.record(self.pair.finish)
        [establish], [finish] = commands.of_slots(b"ESTABLISH"), commands.of_slots(b"FINISH")
        middle = commands.between(establish, finish)
        # A command is cut, as appends do it.
        self.append(stream, middle + 5)
        self.assertEqual(self.snapshot(), establish)
        self.assertRegex(self.log.output(), rf"snapshot at offset {establish}, .* before an import that is open: slots 0-{LAST} by job")
        why = rf"nothing was written since offset {establish} before an import that is open: slots 0-{LAST} by job [0-9a-f]{{40}} since offset {establish}\."
        with self.assertRaisesRegex(valkey.ResponseError, why):
            self.snapshot()
        said, _, keys_within = self.restored(middle)
        self.assertRegex(said, rf"being imported from another shard, whose they still are:\n- slots 0-{LAST} by job")
        self.assertIn(f"--to {establish} leaves them out", said)
        said, _, keys_before = self.restored(establish)
        self.assertNotIn("imported", said)
        self.assertGreater(keys_within, keys_before)
        # The last command of the import has begun.
        self.append(stream, finish + 40)
        with self.assertRaisesRegex(valkey.ResponseError, why):
            self.snapshot()
        self.append(stream, len(stream))
        self.assertEqual(self.snapshot(), len(stream))
        said, digest, _ = self.restored(len(stream))
        self.assertNotIn("imported", said)
        self.assertEqual(digest, self.digest())
        self.assert_checked()

    def test_an_import_that_fails_leaves_nothing_behind(self):
        stream, commands = self.record(self.pair.cancel)
        [establish] = commands.of_slots(b"ESTABLISH")
        self.append(stream, establish + 100)
        self.assertEqual(self.snapshot(), establish)
        self.append(stream, len(stream))
        self.assertEqual(self.snapshot(), len(stream))
        self.assertEqual(self.restored(len(stream))[1], self.digest())
        self.assert_checked()

    def test_another_leader_ends_an_import(self):
        stream, commands = self.record(self.pair.finish)
        [establish], [finish] = commands.of_slots(b"ESTABLISH"), commands.of_slots(b"FINISH")
        middle = commands.between(establish, finish)
        self.append(stream, middle)
        self.assertEqual(self.snapshot(), establish)
        self.epoch, _ = self.client.execute_command("LOG.ACQUIRE", SHARD, "n1", "host:1", middle, 0)
        self.client.execute_command("LOG.BEGIN", SHARD, self.epoch, SECOND_REPLID, middle)
        written = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
        self.append(stream[:middle] + written, middle + len(written))
        self.assertEqual(self.snapshot(), middle + len(written))
        self.assertNotIn("imported", self.restored(middle + len(written))[0])
        self.assert_checked()

    def assert_checked(self) -> None:
        """The log is sound as it lies there, and what it holds is the stream, not what engines were fed."""
        self.client.close()
        self.log.terminate()
        for tool in (["check", str(self.log.home)], ["dump", str(self.log.home), "--shard", SHARD]):
            done = subprocess.run([os.environ["LOGSERVICE"], *tool], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotRegex(done.stdout, re.compile(r'"PING" "\.', re.MULTILINE))


if __name__ == "__main__":
    sys.exit(counted_tests.run(Imports))
