"""What --keep keeps in an object store: log and snapshots, from which a shard is restored to any moment, also when nothing else is left."""

import contextlib
import datetime
import os
import pathlib
import random
import shutil
import time

import valkey

from bucket_case import BucketCase
from child_process import wait_for
from services import LogService, Node, PlainServer, SHARD

KEEP = ("--keep", "35d")
# Log waits for so long at most, and a little longer.
ARCHIVED_S = 75.0


def copy_of(client: valkey.Valkey) -> dict:
    """All that a server holds: values, times to live of keys and of fields, consumer groups, functions."""
    held = {"functions": sorted(repr(library) for library in client.function_list(withcode=True))}
    for key in client.keys():
        kind = client.type(key)
        fields = sorted(client.hkeys(key)) if kind == b"hash" else []
        held[key] = (
            kind,
            client.execute_command("PEXPIRETIME", key),
            client.execute_command("DEBUG", "DIGEST-VALUE", key),
            client.execute_command("HPEXPIRETIME", key, "FIELDS", len(fields), *fields) if fields else None,
            [(group[b"name"], group[b"last-delivered-id"], group[b"pel-count"]) for group in groups(client, key)] if kind == b"stream" else None,
        )
    return held


def groups(client: valkey.Valkey, key: bytes) -> list[dict]:
    full = client.execute_command("XINFO", "STREAM", key, "FULL")
    full = full if isinstance(full, dict) else dict(zip(full[::2], full[1::2]))
    found = full[b"groups"] if b"groups" in full else full["groups"]
    return [group if isinstance(group, dict) else dict(zip(group[::2], group[1::2])) for group in found]


def written(moment: float) -> str:
    time = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


class ArchiveInS3(BucketCase):
    def archived(self, log: LogService) -> None:
        wait_for("all log is in the bucket", lambda: log.status()["archive_end"] == log.status()["end"], ARCHIVED_S)

    def pieces(self) -> list[str]:
        return [name for name in self.names() if "/log/" in name]

    def names(self) -> list[str]:
        pages = self.store.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def write(self, node: Node, seed: random.Random) -> None:
        client = node.client
        for _ in range(40):
            key = f"key{seed.randrange(60)}"
            match seed.randrange(7):
                case 0:
                    client.set(key, os.urandom(seed.randrange(1, 2000)), px=seed.randrange(10_000_000, 90_000_000))
                case 1:
                    client.delete(key)
                case 2:
                    client.hset("hash" + key, f"field{seed.randrange(9)}", "value")
                    client.execute_command("HPEXPIRE", "hash" + key, seed.randrange(10_000_000, 90_000_000), "FIELDS", 1, "field1")
                case 3:
                    client.xadd("stream" + key, {"field": os.urandom(20)})
                    client.execute_command("XGROUP", "CREATE", "stream" + key, f"group{seed.randrange(10**9)}", "0")
                case 4:
                    client.function_load(f"#!lua name=lib{seed.randrange(5)}\nserver.register_function('f{seed.randrange(10**9)}', function() end)", replace=True)
                case 5:
                    client.transaction(lambda pipe: (pipe.incr("count"), pipe.lpush("list", key)))
                case 6:
                    client.zadd("zset", {key: seed.random()})

    def moment(self, node: Node) -> tuple[str, dict]:
        """The time now, and a copy of what the node holds, between two writes."""
        node.wait_until_durable()
        held = copy_of(node.client)
        time.sleep(0.005)
        now = time.time()
        time.sleep(0.005)
        return written(now), held

    def restore(self, log: LogService, *arguments: str) -> tuple[int, str, pathlib.Path]:
        out = self.directory / f"{time.monotonic_ns()}.rdb"
        command = ("restore", "--shard", SHARD, "--snapshots", log.url, "--valkey-server", log.engine, "--out", str(out))
        return *log.run(*command, *arguments), out

    def assert_holds(self, file: pathlib.Path, held: dict) -> None:
        server = PlainServer(self.directory, file)
        self.addCleanup(server.process.kill)
        wait_for("it has loaded the file", lambda: not server.client.info("persistence")["loading"])
        found = copy_of(server.client)
        self.assertEqual(found.keys(), held.keys())
        for key, value in held.items():
            self.assertEqual(found[key], value, key)
        server.process.kill()

    def test_any_moment_across_ten_snapshots_comes_back_after_the_directory_was_deleted(self):
        seed = random.Random(18)
        log, node = self.start(*KEEP)
        moments = [self.moment(node)]
        for snapshot in range(10):
            for _ in range(2):
                self.write(node, seed)
                moments.append(self.moment(node))
            log.snapshot()
            self.archived(log)
            if snapshot == 4:
                self.restart_both(log, node)
            moments.append(self.moment(node))
        self.write(node, seed)
        moments.append(self.moment(node))
        self.archived(log)
        wait_for("the log is dropped on disk", lambda: log.status()["snapshots"] == "1")
        self.assertEqual(log.status()["archive_gaps"], "0")
        node.process.kill()
        log.process.kill()
        shutil.rmtree(log.directory)
        for moment, held in [moments[0], *seed.sample(moments[1:-1], 5), moments[-1]]:
            code, said, out = self.restore(log, "--to", moment)
            self.assertEqual(code, 0, said)
            self.assert_holds(out, held)
        # The shard began without data.
        code, said, _ = self.restore(log, "--to", "2020-01-01T00:00:00Z")
        self.assertEqual(code, 0, said)
        self.assertIn(": 0 keys,", said)
        code, said, _ = self.restore(log, "--to", "99999999999")
        self.assertEqual(code, 1)
        self.assertIn("is after the end of the log", said)

    def test_log_is_in_the_bucket_within_a_minute_and_damage_and_absence_are_told(self):
        log, node = self.start(*KEEP)
        node.client.set("key", "value", px=10_000_000)
        begun = time.monotonic()
        early, held = self.moment(node)
        self.archived(log)
        print(f"the log was in the bucket after {time.monotonic() - begun:.1f} s", flush=True)
        node.client.set("key", "other")
        # A snapshot has it archived at once.
        log.snapshot()
        self.archived(log)
        node.process.kill()
        log.process.kill()
        shutil.rmtree(log.directory)
        code, said, out = self.restore(log, "--to", early)
        self.assertEqual(code, 0, said)
        self.assert_holds(out, held)
        [name, *_] = self.pieces()
        put_back, damages = self.damages(name)
        for what, damage in damages.items():
            with self.subTest(what):
                damage()
                code, said, out = self.restore(log, "--to", early)
                self.assertEqual(code, 1, said)
                self.assertFalse(out.exists())
                self.assertRegex(said, "cannot be restored" if what == "it is gone" else "cannot be used: it ")
                put_back()
        self.relay.close()
        code, said, _ = self.restore(log, "--to", early)
        self.assertEqual(code, 1)
        self.assertIn("cannot list", said)

    def assert_goes_on(self, log: LogService, node: Node, until) -> None:
        """Writes are taken as fast as ever until something is so."""
        slowest, deadline = 0.0, time.monotonic() + 60
        while not until():
            begun = time.monotonic()
            node.client.set("meanwhile", begun)
            slowest = max(slowest, time.monotonic() - begun)
            self.assertLess(time.monotonic(), deadline)
        print(f"slowest SET meanwhile {slowest * 1000:.0f} ms", flush=True)
        self.assertLess(slowest, 2.0)

    def test_while_the_bucket_is_away_read_only_or_slow_writes_go_on_and_nothing_is_given_up(self):
        log, node = self.start(*KEEP)

        def refuse(how: str | None):
            self.relay.refusal = how

        def slow(bytes_per_second: int | None):
            self.relay.bytes_per_second = bytes_per_second

        node.client.set("key", "value")
        log.snapshot()
        self.archived(log)
        troubles = {
            "away": (self.relay.close, self.relay.open),
            "read-only": (lambda: refuse("403 Forbidden"), lambda: refuse(None)),
            "full": (lambda: refuse("507 Insufficient Storage"), lambda: refuse(None)),
            "slow": (lambda: slow(4 << 20), lambda: slow(None)),
        }
        for what, (begin, end) in troubles.items():
            with self.subTest(what), contextlib.ExitStack() as ended:
                begin()
                ended.callback(end)
                # More than a piece, so that it is not waited for more.
                for i in range(10):
                    node.client.set(f"{what}{i}", os.urandom(1 << 20))
                before = log.status()
                if what == "slow":
                    self.assert_goes_on(log, node, lambda: int(log.status()["archive_end"]) >= int(before["end"]) - (8 << 20))
                    self.assertEqual(log.status()["archive_error"], "")
                else:
                    self.assert_goes_on(log, node, lambda: log.status()["archive_error"])
                    status = log.status()
                    self.assertIn("cannot store", status["archive_error"])
                    self.assertGreater(int(status["archive_behind_ms"]), 0)
                    self.assertEqual(status["base"], before["base"])
                    self.assertIn("its log is not archived", log.process.output())
                ended.close()
                log.snapshot()
                self.archived(log)
                self.assertEqual((log.status()["archive_error"], log.status()["archive_gaps"]), ("", "0"))
        moment, held = self.moment(node)
        node.process.kill()
        log.process.kill()
        shutil.rmtree(log.directory)
        code, said, out = self.restore(log, "--to", moment)
        self.assertEqual(code, 0, said)
        self.assert_holds(out, held)

    def test_named_backups_are_listed_copied_verified_restored_and_outlive_the_shard(self):
        log, node = self.start(*KEEP)
        self.fill(node)
        node.wait_until_durable()
        held = copy_of(node.client)
        name, offset, _ = log.client.execute_command("LOG.BACKUP", SHARD, "before")
        self.assertEqual((name, int(log.status()["end"])), (b"before", offset))
        with self.assertRaisesRegex(valkey.ResponseError, "there is a backup named before already"):
            log.client.execute_command("LOG.BACKUP", SHARD, "before")
        with self.assertRaisesRegex(valkey.ResponseError, "does not begin with a dot"):
            log.client.execute_command("LOG.BACKUP", SHARD, ".x")
        node.client.flushall()
        [unnamed, *_] = log.client.execute_command("LOG.BACKUP", SHARD)
        self.archived(log)
        code, said = log.run("backups", "--snapshots", log.url)
        self.assertEqual(code, 0, said)
        self.assertIn(f"backup before: offset {offset}, made ", said)
        self.assertIn(f"backup {unnamed.decode()}: ", said)
        self.assertRegex(said, r"any moment from the beginning \(offset 0\) to \S+ \(offset \d+\)")

        which = ("--shard", SHARD, "--backup", "before")
        safe = "file://" + str(self.directory / "safe")
        code, said = log.run("backups", "export", "--snapshots", log.url, *which, "--into", safe)
        self.assertEqual(code, 0, said)
        for url in (log.url, safe):
            code, said = log.run("backups", "verify", "--snapshots", url, *which, "--valkey-server", log.engine)
            self.assertEqual(code, 0, said)
            self.assertIn("sound", said)
        code, said = log.run("backups", "verify", "--snapshots", safe, "--shard", SHARD, "--backup", "other", "--valkey-server", log.engine)
        self.assertEqual(code, 1)
        self.assertIn("no backup named other", said)
        [copy] = (self.directory / "safe").glob("s3-*/*.rdb")
        whole = copy.read_bytes()
        copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        code, said = log.run("backups", "verify", "--snapshots", safe, *which, "--valkey-server", log.engine)
        self.assertEqual(code, 1)
        self.assertIn("does not match its checksum", said)

        # A service without --keep leaves alone what was kept.
        node.process.kill()
        log.process.kill()
        log = LogService(self.directory, log.url, self.relay.url)
        self.addCleanup(log.process.kill)
        log.start()
        node = Node(self.directory / "again", log)
        self.addCleanup(node.process.kill)
        node.start()
        node.wait_until_leading()
        node.client.set("more", 1)
        log.snapshot()
        with self.assertRaisesRegex(valkey.ResponseError, "start it with --keep"):
            log.client.execute_command("LOG.BACKUP", SHARD)
        node.process.kill()
        # As the lease may still hold.
        log.client.execute_command("LOG.DROP", SHARD, log.status()["log_id"], "FORCE")
        wait_for("the shard is gone", lambda: not list((log.directory / "shards").iterdir()))
        code, said, out = self.restore(log, "--backup", "before")
        self.assertEqual(code, 0, said)
        self.assert_holds(out, held)

    def test_what_cannot_be_kept_is_refused_with_what_to_do(self):
        log = LogService(self.directory, f"s3://{self.bucket}", self.relay.url)
        serve = ("--dir", str(log.directory), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        for arguments, said in {
            (*serve, "--keep", "35d"): "give --snapshots s3://bucket/prefix",
            (*serve, "--keep", "5s", "--snapshots", log.url): "--keep 5s is too short",
            (*serve, "--keep", "soon", "--snapshots", log.url): "invalid value 'soon' for '--keep <TIME>'",
            ("restore", "--shard", "none", "--snapshots", log.url, "--to", "1", "--out", "x"): "nothing of shard none was kept there",
            ("restore", "--shard", "none", "--to", "1", "--out", "x"): "required",
        }.items():
            with self.subTest(said):
                code, found = log.run(*arguments)
                self.assertNotEqual(code, 0)
                self.assertIn(said, found)
