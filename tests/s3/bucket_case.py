"""What all tests of this folder need: a bucket for each, a log service that keeps its snapshots there, and a node."""

import json
import os
import pathlib
import shutil
import tempfile
import unittest
from collections.abc import Callable

from services import LogService, Node, ObjectStore, Relay, SHARD

FUNCTION = "#!lua name=kept\nserver.register_function('kept', function() return 'kept' end)"


class BucketCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="s3-"))
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.store = ObjectStore(cls.root)
        cls.addClassCleanup(cls.store.process.kill)

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=self.root))
        self.bucket = "bucket-" + self.directory.name.replace("_", "-").lower()
        self.store.s3.create_bucket(Bucket=self.bucket)
        self.relay = Relay(self.store.url)
        self.addCleanup(self.relay.close)

    def start(self, *arguments: str, directory: pathlib.Path | None = None) -> tuple[LogService, Node]:
        """A log service and the node that leads its shard."""
        directory = directory or self.directory
        log = LogService(directory, f"s3://{self.bucket}/some/prefix", self.relay.url, *arguments)
        node = Node(directory, log)
        for process in (log, node):
            self.addCleanup(process.process.kill)
            process.start()
        node.wait_until_leading()
        return log, node

    def damages(self, name: str) -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
        """What puts an object of the bucket back as it is, and what damages it."""
        whole = self.store.read(self.bucket, name)
        middle = len(whole) // 2
        put = lambda body: self.store.s3.put_object(Bucket=self.bucket, Key=name, Body=body)
        return lambda: put(whole), {
            "a byte is another": lambda: put(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]),
            "a byte is missing": lambda: put(whole[:-1]),
            "it is gone": lambda: self.store.s3.delete_object(Bucket=self.bucket, Key=name),
        }

    def records(self, log: LogService) -> list[dict]:
        # A line with its checksum follows.
        text = (log.directory / "shards" / SHARD / "MANIFEST").read_text()
        return json.JSONDecoder().raw_decode(text)[0]["snapshots"]

    def fill(self, node: Node) -> None:
        node.client.function_load(FUNCTION, replace=True)
        node.client.set("binary", b"\x00\xff\r\n")
        node.client.hset("hash", mapping={f"field{i}": "value" for i in range(500)})
        node.client.xadd("stream", {"field": "value"})
        for i in range(50):
            node.client.set(f"large{i}", os.urandom(20_000))

    def restart_both(self, log: LogService, node: Node) -> None:
        """Kills both and starts them without anything that is not promised to be kept."""
        node.wait_until_durable()
        log.process.kill()
        node.process.kill()
        shutil.rmtree(log.directory / "drafts", ignore_errors=True)
        log.start()
        node.start()
        node.wait_until_leading()
