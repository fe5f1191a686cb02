"""A log service that is alone and has data becomes one of three, under load: killed at every step, started again, and at last its disk is lost.
Whatever was acknowledged is there."""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import counted_tests
import valkey
from child_process import ChildProcess, wait_for
from cluster import LEASE_MS, SHARD, ZONES
from cluster_case import remove
from log_services import LogService, pairs, write_peer_token
from ports import HOST, free_port
from server_node import ServerNode
from writers import Writers

# Small, so that a log has several segments soon.
MORE = ("--segment-mb", "2")
VALUE = "x" * 10_000


class Single(ChildProcess):
    """A service without peers, on the directory and the port that `log` has later."""

    def __init__(self, directory: pathlib.Path, log: LogService, more: tuple[str, ...]):
        command = [os.environ["LOGSERVICE"], "--dir", str(log.home), "--listen", f"{HOST}:{log.port}"]
        command += ["--http", f"{HOST}:{free_port()}", "--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server", *more]
        super().__init__(command, directory / "single.output")


class Growing:
    """What becomes three zones. Looks to writers as a cluster."""

    def __init__(self, directory: pathlib.Path, more: tuple[str, ...] = MORE):
        peer_ports = {number: free_port() for number in range(ZONES)}
        self.directory = directory
        write_peer_token(directory)
        self.logs = [LogService(directory, number, SHARD, peer_ports, os.environ["LOGSERVICE"], list(more)) for number in range(ZONES)]
        self.old = self.logs[0]
        self.single = Single(directory, self.old, more)
        everywhere = ",".join(f"{HOST}:{log.port}" for log in self.logs)
        # One of them is told of no other service yet.
        addresses = [everywhere, f"{HOST}:{self.old.port}"]
        self.nodes = [ServerNode(directory, f"node{number}", address, SHARD, LEASE_MS) for number, address in enumerate(addresses)]

    def start_alone(self) -> None:
        self.single.start()
        wait_for("the service answers", lambda: self.old.status() is not None and _answers(self.old))
        for node in self.nodes:
            node.start()
        wait_for("there is a leader and a follower", lambda: sorted(node.role() for node in self.nodes) == ["follower", "leader"], 40)

    def start_with_peers(self) -> None:
        self.single.terminate()
        for log in self.logs:
            log.start()
        for log in self.logs:
            wait_for("it answers", lambda log=log: _answers(log))

    def leader(self) -> ServerNode | None:
        return next((node for node in self.nodes if node.role() == "leader"), None)

    def init(self) -> None:
        wait_for("the log services are a cluster", self._init)

    def _init(self) -> bool:
        try:
            return self.old.ask("INIT") in (True, "OK")
        except valkey.ValkeyError as error:
            # Peers may not be connected yet, or this service has just been killed.
            assert "cannot be brought" not in str(error) and "of their own" not in str(error), error
            return False

    def is_whole(self) -> bool:
        return any(log.has_whole(SHARD) for log in self.logs) and any(log.has_whole("") for log in self.logs)

    def state(self, log: LogService) -> dict[str, str]:
        """How LOG.CLUSTER STATUS shows the shard; empty if it does not."""
        lines = [value for value in log.cluster_status().values() if value.startswith(f"name={SHARD},")]
        return dict(field.split("=", 1) for field in lines[0].split(",")) if lines else {}

    def kill(self) -> None:
        for process in [*self.nodes, *self.logs, self.single]:
            process.kill()


def _answers(log: LogService) -> bool:
    try:
        with log.connect() as client:
            return bool(client.ping())
    except valkey.ValkeyError:
        return False


class Grows(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="growing-"))
        self.growing = Growing(self.directory, (*MORE, *self.more()))

    def more(self) -> tuple[str, ...]:
        """More arguments of the services."""
        return ()

    def tearDown(self):
        self.growing.kill()
        remove(self.directory)

    def fill(self, mb: int, first: int = 0) -> None:
        """Writes so many MiB to the log."""
        with self.growing.leader().connect(timeout_s=20) as client:
            for number in range(first, first + mb * 100):
                client.set(f"key{number}", VALUE)

    def goes_on(self, writers: Writers) -> None:
        count = writers.count()
        wait_for("writes go on", lambda: writers.count() > count + 50, 40)

    def snapshot(self) -> None:
        with self.growing.old.connect(timeout_s=120) as client:
            client.execute_command("LOG.SNAPSHOT", SHARD)

    def lose_the_old_disk(self, writers: Writers, values: int) -> None:
        """The service that had the data, and its disk, are gone, and a node that knows no other service with them."""
        growing = self.growing
        growing.old.lose_disk()
        growing.nodes[1].kill()
        wait_for("another service decides", lambda: any(log.decides() for log in growing.logs[1:]), 40)
        wait_for("the node that knows the others leads", lambda: growing.nodes[0].role() == "leader", 40)
        self.goes_on(writers)
        # A node without anything gets all of it from the two that are left.
        shutil.rmtree(growing.nodes[1].home)
        addresses = ",".join(f"{HOST}:{log.port}" for log in growing.logs[1:])
        growing.nodes[1] = ServerNode(self.directory, "node1", addresses, SHARD, LEASE_MS)
        growing.nodes[1].start()
        wait_for("a new node follows", lambda: growing.nodes[1].role() == "follower", 40)
        with growing.nodes[1].connect(timeout_s=10) as client:
            self.assertEqual(client.exists(*[f"key{number}" for number in range(values)]), values)


class ASingleServiceBecomesThree(Grows):
    def test_all_goes_on_while_it_grows_and_its_disk_may_be_lost_then(self):
        growing = self.growing
        growing.start_alone()
        self.fill(3)
        self.snapshot()
        self.fill(3, first=300)
        with Writers(growing) as writers:
            wait_for("there is load", lambda: writers.count() > 100)
            growing.start_with_peers()
            self.goes_on(writers)
            self.assertEqual(growing.state(growing.old).get("alone"), "1", "it is alone still")
            for other in growing.logs[1:]:
                with self.assertRaisesRegex(valkey.ResponseError, "has shards of its own: say LOG.CLUSTER INIT there|cannot be reached"):
                    other.ask("INIT")
            moment = time.monotonic()
            growing.init()
            wait_for("all three keep the log, whole", growing.is_whole, 120)
            print(f"{time.monotonic() - moment:.1f} s, longest pause {writers.gap_after(moment) * 1000:.0f} ms;", end=" ")
            self.goes_on(writers)
            self.assertEqual([node.role() for node in growing.nodes].count("leader"), 1)
            kept = growing.old.home / "before-cluster" / SHARD
            self.assertTrue(kept.is_dir(), "what it had kept alone is there for people")
            self.assertIn(str(kept), growing.old.output())
            self.assertFalse((growing.old.home / "shards" / SHARD).exists())
            self.assertIn(growing.old.ask("INIT"), (True, "OK"), "said again, it changes nothing")
            self.lose_the_old_disk(writers, 600)
        self.assertEqual(writers.missing(), [])

    def test_restarts_in_the_middle_and_services_that_are_away(self):
        """The others are stopped as soon as the cluster is made: the old one goes on alone, over restarts, until they are back."""
        growing = self.growing
        growing.start_alone()
        self.fill(2)
        with Writers(growing) as writers:
            growing.start_with_peers()
            growing.init()
            growing.logs[1].kill()
            growing.logs[2].kill()
            self.goes_on(writers)
            for stop in (growing.old.terminate, growing.old.kill):
                stop()
                growing.old.start()
                self.goes_on(writers)
            growing.logs[1].start()
            self.goes_on(writers)
            growing.logs[2].start()
            wait_for("all three keep the log, whole", growing.is_whole, 120)
            self.lose_the_old_disk(writers, 200)
        self.assertEqual(writers.missing(), [])

    def test_what_cannot_be_brought_together_is_refused(self):
        growing = self.growing
        growing.start_alone()
        growing.single.terminate()
        # Another service has data, too.
        shutil.copytree(growing.old.home, growing.logs[1].home)
        for log in growing.logs:
            log.start()
        for log in growing.logs:
            wait_for("it answers", lambda log=log: _answers(log))
        error = wait_for("it is refused", lambda: self._refusal(growing.old, "shards of their own"))
        self.assertIn("log0 and log1 both have shards of their own", error)
        wait_for("the third one refuses it, too", lambda: self._refusal(growing.logs[2], "has shards of its own: say LOG.CLUSTER INIT there"))
        # A service that is to take a place brings nothing.
        growing.logs[1].terminate()
        wait_for("it does not start, and says why", lambda: self._does_not_join(growing.logs[1]))
        # As long as there is no cluster, it may be what it was.
        growing.old.terminate()
        growing.single.start()
        wait_for("it is served", lambda: growing.old.status().get("standing") == "alone")

    def _does_not_join(self, log: LogService) -> bool:
        log.start_to_join()
        wait_for("it ends", lambda: not log.is_running())
        return "give --join an empty --dir" in log.output()

    def _refusal(self, log: LogService, why: str) -> str:
        try:
            log.ask("INIT")
        except valkey.ResponseError as error:
            return str(error) if why in str(error) else ""
        except valkey.ValkeyError:
            return ""
        raise AssertionError("a cluster was made")


class AnEncryptedServiceBecomesThree(Grows):
    def more(self) -> tuple[str, ...]:
        self.keys = self.directory / "keys"
        self.keys.touch(mode=0o600)
        self.keys.write_text(f"k1 01{'17' * 31}\n")
        return ("--encrypt-key-file", str(self.keys))

    def test_nothing_of_it_is_plain_at_any_service(self):
        growing = self.growing
        growing.start_alone()
        self.fill(1)
        self.snapshot()
        self.fill(1, first=100)
        with Writers(growing) as writers:
            growing.start_with_peers()
            growing.init()
            wait_for("all three keep the log, whole", growing.is_whole, 120)
            self.lose_the_old_disk(writers, 200)
        self.assertEqual(writers.missing(), [])
        for log in growing.logs[1:]:
            log.kill()
            segments = list((log.home / "replicas" / SHARD / "log").glob("*.log"))
            self.assertTrue(segments)
            for path in segments:
                self.assertNotIn(VALUE[:100].encode(), path.read_bytes())


class ItIsKilledMeanwhile(Grows):
    # Steps on files: those of a copy in the making, of its name, of what is set aside, of votes and states.
    STEPS = ("record-write", "record-sync", "segment-header-write", "segment-header-sync", "segment-rename", "segment-directory-sync", "vote-create",
             "vote-write", "vote-sync", "manifest-create", "manifest-write", "manifest-sync", "manifest-rename", "manifest-directory-sync",
             "copy-rename", "copy-directory-sync", "aside-create", "aside-rename", "aside-directory-sync", "open-create", "open-directory-sync")
    # More than are brought before the last step.
    SHARDS = [f"a{number:02}" for number in range(40)]

    def make_shards(self) -> None:
        """Shards without nodes, which are brought before the one with nodes. Each has the records of several leaders."""
        with self.growing.old.connect(timeout_s=10) as client:
            for shard in self.SHARDS:
                client.execute_command("LOG.CHECK", shard, "n1", "127.0.0.1:1", "-")
                end = 0
                for epoch in (1, 2):
                    client.execute_command("LOG.ACQUIRE", shard, "n1", "127.0.0.1:1", end, 0)
                    client.execute_command("LOG.BEGIN", shard, epoch, f"{epoch:040x}", end)
                    for number in range(10):
                        words = ["SET", f"{shard}:{epoch}:{number}", "x" * 3000]
                        command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
                        end = client.execute_command("LOG.APPEND", shard, epoch, end, command)
                client.execute_command("LOG.RELEASE", shard, 2, "FORCE")

    def dump(self, log: LogService, shard: str) -> str:
        """All that a shard's log holds: offsets, epochs, times and commands."""
        found = subprocess.run([os.environ["LOGSERVICE"], "dump", str(log.home), "--shard", shard], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(found.returncode, 0, found.stderr)
        return found.stdout

    def test_it_is_killed_at_steps_of_files_until_all_is_brought(self):
        old = self.growing.old
        file = self.directory / "failpoints"
        chance = random.Random(7)

        def rounds():
            program, old._command[0] = old._command[0], os.environ["LOGSERVICE_FAILPOINTS"]
            for step in self.STEPS:
                # The opening of what is there takes some of these steps, too.
                file.write_text(f"{step}={chance.randrange(12)}*off->return(kill)")
                old.start({"FAILPOINTS_FILE": str(file)})
                yield 3
            old._command[0] = program

        self.kill_and_go_on(rounds())
        killed = {line.split()[1].rstrip(":") for line in old.output().splitlines() if line.startswith("failpoint ") and line.endswith("killed")}
        print(f"killed at {len(killed)} steps: {' '.join(sorted(killed))}", end=" ")
        self.assertGreater(len(killed), len(self.STEPS) // 2)

    def test_it_is_killed_at_any_moment_until_all_is_brought(self):
        chance = random.Random(8)

        def rounds():
            for _ in range(12):
                self.start_old()
                yield chance.uniform(0.05, 1)

        self.kill_and_go_on(rounds())

    def start_old(self) -> None:
        old = self.growing.old

        def answers() -> bool:
            # A program that the one before had started may still have its port for a moment.
            if not old.is_running():
                old.start()
            return _answers(old)

        wait_for("the old service answers", answers)

    def kill_and_go_on(self, rounds) -> None:
        """Each round has started the old service, and says after how many seconds it is killed, if it has not ended before. At last it is
        left alone, and must have lost nothing."""
        growing, old = self.growing, self.growing.old
        growing.start_alone()
        self.make_shards()
        self.fill(3)
        self.snapshot()
        self.fill(1, first=300)
        with Writers(growing) as writers:
            wait_for("there is load", lambda: writers.count() > 100)
            growing.single.terminate()
            dumped = {shard: self.dump(old, shard) for shard in self.SHARDS}
            self.assertEqual(len(set(dumped.values())), len(self.SHARDS))
            for log in growing.logs[1:]:
                log.start()
            for seconds in rounds:
                until = time.monotonic() + seconds
                while old.is_running() and time.monotonic() < until:
                    growing._init()
                    time.sleep(0.01)
                old.kill()
            self.start_old()
            growing.init()
            for shard in (*self.SHARDS, "", SHARD):
                wait_for(f"'{shard}' is whole", lambda shard=shard: any(log.has_whole(shard) for log in growing.logs), 120)
            self.goes_on(writers)
            for log in growing.logs[1:]:
                wait_for("it has all", lambda log=log: all(log_has(log, shard, dumped[shard]) for shard in self.SHARDS))
            self.lose_the_old_disk(writers, 400)
        self.assertEqual(writers.missing(), [])
        for log in growing.logs[1:]:
            log.terminate()
            for shard in self.SHARDS:
                self.assertEqual(self.dump(log, shard), dumped[shard], shard)


def log_has(log: LogService, shard: str, dumped: str) -> bool:
    """Whether a service's log of the shard goes as far as what was dumped."""
    try:
        with log.connect() as client:
            return int(pairs(client.execute_command("LOG.STATUS", shard))["end"]) >= int(dumped.splitlines()[-1].split(" ", 1)[0])
    except valkey.ValkeyError:
        return False


if __name__ == "__main__":
    sys.exit(counted_tests.run(ASingleServiceBecomesThree, AnEncryptedServiceBecomesThree, ItIsKilledMeanwhile))
