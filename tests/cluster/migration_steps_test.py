"""Somebody dies or stands still between any two steps in which the logs decide whose the slots are: each slot has one owner, and nothing
acknowledged is missing."""

import contextlib

import valkey
from child_process import wait_for
from moving_slots import MIGRATION_S, MovingSlots
from ports import HOST
from shards import Node
from writers import Writers

# What the logs have stored, in order: the source's has granted the slots, the target's knows what is intended, the target has claimed them, and
# its log has taken them.
STEPS = ("granted", "intended", "claimed", "taken")
# How long the log takes to store each of them, so that there is time to break something between two.
SLOW_STEP = "manifest-sync=sleep(150)"
VERY_SLOW_STEP = "manifest-sync=sleep(400)"


class SlotsMoveStepByStep(MovingSlots):
    @contextlib.contextmanager
    def slow_steps(self, slow_step: str = SLOW_STEP):
        """The log takes its time for each step."""
        said = f"failpoints: {slow_step}"
        before = self.cluster.log.output().count(said)
        self.failpoints.with_suffix(".new").write_text(slow_step)
        self.failpoints.with_suffix(".new").rename(self.failpoints)
        wait_for("the log is slow", lambda: self.cluster.log.output().count(said) > before)
        try:
            yield
        finally:
            self.failpoints.unlink()

    def step_rounds(self, how: str, fault) -> None:
        """`fault` between any two steps of a migration: whatever comes of it, nothing is missing, and the shard that keeps its slots, or has
        got them, serves them."""
        for step in STEPS:
            self.restart()
            source = self.owner()
            target = "s1" if source == "s0" else "s0"
            with Writers(self.cluster, 4) as writers:
                leaders = [self.cluster.wait_for_leader(shard) for shard in (source, target)]
                with self.slow_steps():
                    node = self.migrate(source, target)
                    wait_for(f"the slots are {step}", lambda: self.is_stored(step, source, target), MIGRATION_S)
                    fault(*leaders)
                self.restart()
                writers.wait_for_writes()
                self.wait_until_over(node)
            moved = "moved" if self.owner() == target else "stayed"
            if step in STEPS[2:]:
                self.assertEqual(moved, "moved", "what is claimed is the target's")
            self.check_whole(writers, f"{how} when the slots are {step}: {moved}")

    def is_stored(self, step: str, source: str, target: str) -> bool:
        match step:
            case "granted":
                return self.cluster.status(source)["slots_granted"] != ""
            case "intended":
                return self.cluster.status(target)["slots_importing"] != ""
            case "claimed":
                return self.cluster.status(source)["slots_claimed"] != ""
            case _:
                return self.owner() == target

    def test_the_source_dies_at_each_step(self):
        self.step_rounds("the source killed", lambda source, target: source.kill())

    def test_the_target_dies_at_each_step(self):
        self.step_rounds("the target killed", lambda source, target: target.kill())

    def test_both_die_at_each_step(self):
        def both(source: Node, target: Node) -> None:
            source.kill()
            target.kill()

        self.step_rounds("both killed", both)

    def test_the_target_stands_still_at_each_step_for_longer_than_the_source_waits(self):
        self.step_rounds("the target stopped", lambda source, target: self.stand_still(target, target.shard))

    def test_the_sources_leader_changes_at_each_step_while_the_target_stands_still(self):
        def change(source: Node, target: Node) -> None:
            target.freeze()
            source.kill()
            wait_for("another node leads", lambda: self.cluster.leader(source.shard) not in (None, source))
            target.thaw()

        self.step_rounds("the source changed", change)

    def test_the_log_stands_still_at_each_step_until_the_leases_have_passed(self):
        def stop(source: Node, target: Node) -> None:
            self.cluster.log.freeze()
            for node in (source, target):
                wait_for(f"{node.name} is suspended", lambda node=node: node.role() == "suspended")
            # Both leaders renew their leases in the same epoch, unless others are faster.
            self.cluster.log.thaw()

        self.step_rounds("the log stopped", stop)

    def test_a_flush_of_the_target_does_not_delete_what_is_being_claimed(self):
        source = self.owner()
        target = "s1" if source == "s0" else "s0"
        queued = valkey.Connection(HOST, self.cluster.wait_for_leader(target).port, socket_timeout=10)
        self.addCleanup(queued.disconnect)
        queued.connect()
        for words in (("MULTI",), ("FLUSHALL",)):
            queued.send_command(*words)
            queued.read_response()
        with Writers(self.cluster, 4) as writers:
            with self.slow_steps(VERY_SLOW_STEP):
                node = self.migrate(source, target)
                wait_for("the slots are intended", lambda: self.is_stored("intended", source, target), MIGRATION_S)
                # What is being decided is not decided now.
                self.cluster.log.freeze()
                queued.send_command("EXEC")
                with self.assertRaises(valkey.exceptions.ExecAbortError):
                    queued.read_response()
                queued.send_command("FLUSHALL")
                with self.assertRaises(valkey.ResponseError):
                    queued.read_response()
                self.cluster.log.thaw()
            self.restart()
            writers.wait_for_writes()
            self.wait_until_over(node)
        self.check_whole(writers, "the target flushed")

    def test_both_hand_over_at_each_step(self):
        def hand_over(source: Node, target: Node) -> None:
            for node in (target, source):
                with contextlib.suppress(valkey.ValkeyError):
                    node.ask("DURABILITY.FAILOVER")

        self.step_rounds("both hand over", hand_over)
