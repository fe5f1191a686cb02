"""What a shard is in a Valkey cluster, its slots and config epoch, is stored by a single log service and by three: killed, started again, without
a disk, replaced, and made three of one. What a leader was answered is what the next one finds. Slots that move from one shard to another are at
each step what the services have answered, whichever of them is killed after it or while it is asked."""

import pathlib
import sys
import tempfile
import unittest

import counted_tests
import valkey
from child_process import wait_for
from cluster import SHARD, ZONES, Cluster
from cluster_case import remove
from growing_test import Growing
from log_services import LogService, LogServices, form, pairs

NODE = "n1"
CLUSTER_NODE_ID = "0123456789abcdef0123456789abcdef01234567"
NOTHING = {"config_epoch": "0", "slots": "", "cluster_node_id": ""}
# The shard to which slots move.
OTHER_SHARD = "invoices"


class Leader:
    """Leads the shard by the commands of a node, at whichever of the services decides. No server is behind it."""

    def __init__(self, logs: list[LogService], shard: str = SHARD):
        self._logs = logs
        self.shard = shard
        self.epoch = 0

    def acquire(self) -> None:
        """Leads in a new epoch. Its lease never expires, so it passes to the same node at once."""
        wait_for("the lease is granted", self._acquire, 40)

    def _acquire(self) -> bool:
        for log in self._logs:
            try:
                # Both on one connection.
                with log.connect(single_connection_client=True) as client:
                    client.execute_command("LOG.CHECK", self.shard, NODE, "host:1", "-")
                    end = pairs(client.execute_command("LOG.STATUS", self.shard))["end"]
                    self.epoch, _ = client.execute_command("LOG.ACQUIRE", self.shard, NODE, "host:1", end, 0)
                    return True
            except (valkey.ValkeyError, KeyError):
                # It is down, or another one decides.
                continue
        return False

    def decider(self) -> LogService:
        return wait_for("a service decides", lambda: next(filter(self._decides, self._logs), None), 40)

    def _decides(self, log: LogService) -> bool:
        try:
            with log.connect() as client:
                return pairs(client.execute_command("LOG.STATUS", self.shard))["standing"] in ("alone", "decides")
        except (valkey.ValkeyError, KeyError):
            return False

    def _stored(self, epoch: int | None) -> dict:
        with self.decider().connect() as client:
            return pairs(client.execute_command("LOG.SLOTS", self.shard, "GET", epoch or self.epoch))

    def get(self, epoch: int | None = None) -> dict[str, str]:
        stored = self._stored(epoch)
        return {name: stored[name] for name in NOTHING}

    def moving(self) -> dict:
        """What it is told of slots that move."""
        stored = self._stored(None)
        return {name: value for name, value in stored.items() if name not in NOTHING}

    def set(self, config_epoch: int, slots: str, epoch: int | None = None) -> dict[str, str]:
        """Returns when it is answered. What `get` is to answer from then on."""
        with self.decider().connect() as client:
            answer = client.execute_command("LOG.SLOTS", self.shard, "SET", epoch or self.epoch, config_epoch, slots, CLUSTER_NODE_ID)
            assert answer in (True, "OK"), answer
        return {"config_epoch": str(config_epoch), "slots": slots, "cluster_node_id": CLUSTER_NODE_ID}


class SlotsCase(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="slots-"))

    def finds(self, leader: Leader, stored: dict[str, str]) -> None:
        """The next leader is told what is stored."""
        leader.acquire()
        self.assertEqual(leader.get(), stored)

    def assert_refused(self, code: str, ask) -> None:
        with self.assertRaisesRegex(valkey.ResponseError, rf"^{code}\b"):
            ask()

    def shows(self, log: LogService, stored: dict[str, str]) -> None:
        """Its status shows that sooner or later."""
        wait_for(f"{log.name} shows them", lambda: {name: log.status().get(name) for name in ("config_epoch", "slots")}.items() <= stored.items())


class OfASingleService(SlotsCase):
    def setUp(self):
        super().setUp()
        self.services = LogServices(self.directory, 1, SHARD, [])
        self.services.start()
        self.leader = Leader(self.services.list)

    def tearDown(self):
        self.services.kill()
        remove(self.directory)

    def test_what_was_answered_is_there_after_a_kill(self):
        self.leader.acquire()
        self.assertEqual(self.leader.get(), NOTHING)
        for config_epoch, slots in [(1, "0-5460"), (1, "0-5460,7000"), (7, ""), (8, "0-16383")]:
            stored = self.leader.set(config_epoch, slots)
            self.services.kill()
            self.services.start()
            self.finds(self.leader, stored)
            self.shows(self.services.list[0], stored)
        before = self.leader.epoch
        self.leader.acquire()
        for refused in [lambda: self.leader.set(9, "1", epoch=before), lambda: self.leader.get(epoch=before)]:
            self.assert_refused("FENCED", refused)
        # The codes of other errors are left out by the client.
        self.assert_refused("config epoch 7 is lower than 8", lambda: self.leader.set(7, "1"))
        self.assertEqual(self.leader.get(), stored)


class OfThreeServices(SlotsCase):
    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self.directory)
        self.logs = self.cluster.logs
        for log in self.logs:
            log.start()
        form(self.logs)
        self.leader = Leader(self.logs)

    def tearDown(self):
        self.cluster.kill()
        remove(self.directory)

    def test_what_was_answered_is_there_whichever_service_is_lost(self):
        leader = self.leader
        leader.acquire()
        self.assertEqual(leader.get(), NOTHING)
        stored = leader.set(1, "0-5460")
        for log in self.logs:
            self.shows(log, stored)
            if not log.decides():
                with log.connect() as client:
                    self.assert_refused("NOTLEADER", lambda client=client: client.execute_command("LOG.SLOTS", SHARD, "GET", leader.epoch))
        for log in self.logs:
            log.kill()
        for log in self.logs:
            log.start()
        self.finds(leader, stored)
        for config_epoch in range(2, 2 + ZONES):
            # At once after the answer.
            stored = leader.set(config_epoch, f"0-5460,{6000 + config_epoch}")
            decider = leader.decider()
            decider.kill()
            self.finds(leader, stored)
            decider.start()
        self.cluster.wait_until_whole()
        # Each is replaced in turn, so at last none has a disk that any of this was written to first.
        for number in range(ZONES):
            stored = leader.set(10 + number, f"{number}-5460")
            log = self.logs[number]
            log.lose_disk()
            self.finds(leader, stored)
            log.start_to_join()
            self.cluster.replace(log)
            self.cluster.wait_until_whole()
            self.shows(log, stored)
            wait_for("it is chosen", lambda log=log: self.is_chosen(log))
            wait_for("it decides", log.decides, 40)
            self.finds(leader, stored)
            self.assertIs(leader.decider(), log)

    def test_slots_that_move_are_what_was_answered_whichever_service_is_killed(self):
        source, target = self.leader, Leader(self.logs, OTHER_SHARD)
        source.acquire()
        target.acquire()
        source.set(5, "0-99")
        target.set(8, "200")
        # Each step is asked, and again where the service that has answered it is killed; or that is killed before it answers.
        for number, dies_asked in enumerate([False, True]):
            slots = f"{10 * number}-{10 * number + 9}"
            job = str(number + 1) * 40

            def step(decides: Leader, *words, dies_asked=dies_asked):
                if dies_asked:
                    return self.answered_after_death(decides, words)
                first = self.answered(decides, words)
                self.replace_decider(decides)
                self.assertEqual(self.answered(decides, words), first)
                return first

            step(source, SHARD, "GRANT", source.epoch, job, slots, OTHER_SHARD)
            step(target, OTHER_SHARD, "IMPORT", target.epoch, job, slots, SHARD)
            self.assertEqual(target.moving()["imports"], f"{job} {slots} {SHARD}")
            # The target's leader dies as well: the next one finds what it has to ask.
            target.acquire()
            self.assertEqual(target.moving()["imports"], f"{job} {slots} {SHARD}")
            claimed = pairs(step(source, OTHER_SHARD, "CLAIM", SHARD, job))
            self.assertEqual(claimed, {"config_epoch": "5", "slots": slots})
            self.assertEqual(step(source, SHARD, "ABORT", source.epoch, job, slots), "claimed")
            self.assertEqual(source.get()["slots"], f"{10 * number + 10}-99")
            step(target, OTHER_SHARD, "SETTLE", target.epoch, 20 + number, job, "taken")
            step(source, OTHER_SHARD, "FORGET", SHARD, job)
            self.assertEqual(target.moving(), {"given": "", "grant": "", "imports": ""})
            self.assertEqual(target.get()["config_epoch"], str(20 + number))
        self.assertEqual((source.get()["slots"], target.get()["slots"]), ("20-99", "0-19,200"))
        self.assertEqual(source.moving(), {"given": "0-19", "grant": "", "imports": ""})
        # The source's next leader has granted nothing.
        job = "3" * 40
        self.answered(source, (SHARD, "GRANT", source.epoch, job, "50", OTHER_SHARD))
        self.replace_decider(source)
        source.acquire()
        self.assert_refused("NOGRANT", lambda: self.answered(source, (OTHER_SHARD, "CLAIM", SHARD, job)))
        self.assertEqual(source.get()["slots"], "20-99")

    def answered(self, decides: Leader, words: tuple):
        """The answer of the service that decides over the log of the shard that `decides` leads."""
        answers = []

        def is_answered() -> bool:
            try:
                with decides.decider().connect() as client:
                    answers.append(client.execute_command("LOG.SLOTS", *words))
                return True
            except valkey.ResponseError as error:
                if not str(error).startswith("NOTLEADER"):
                    raise
            except valkey.ValkeyError:
                # It was just killed.
                pass
            return False

        wait_for(f"{words} is answered", is_answered, 40)
        return answers[-1]

    def answered_after_death(self, decides: Leader, words: tuple):
        """The answer of the next service that decides. Whether the one before has stored it is not known."""
        with decides.decider().connect() as client:
            connection = client.connection_pool.get_connection("LOG.SLOTS")
            connection.send_command("LOG.SLOTS", *words)
            self.replace_decider(decides)
            connection.disconnect()
        return self.answered(decides, words)

    def replace_decider(self, decides: Leader) -> None:
        decider = decides.decider()
        decider.kill()
        decides.decider()
        decider.start()

    def is_chosen(self, log: LogService) -> bool:
        try:
            return log.decides() or self.leader.decider().ask("MOVE", SHARD, log.name) in (True, "OK")
        except valkey.ValkeyError:
            return False


class OfOneThatBecomesThree(SlotsCase):
    def setUp(self):
        super().setUp()
        self.growing = Growing(self.directory)
        self.leader = Leader(self.growing.logs)

    def tearDown(self):
        self.growing.kill()
        remove(self.directory)

    def test_what_was_answered_by_the_one_is_there_when_its_disk_is_lost(self):
        growing = self.growing
        growing.single.start()
        self.leader.acquire()
        stored = self.leader.set(3, "0-5460,16383")
        growing.start_with_peers()
        self.finds(self.leader, stored)
        growing.init()
        wait_for("three services keep the log, whole", growing.is_whole, 40)
        self.finds(self.leader, stored)
        growing.old.lose_disk()
        self.finds(self.leader, stored)


if __name__ == "__main__":
    sys.exit(counted_tests.run(OfASingleService, OfThreeServices, OfOneThatBecomesThree))
