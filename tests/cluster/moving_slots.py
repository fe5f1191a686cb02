"""A cluster of two shards between which slots move, and what is to be true of it whenever they do not."""

import os
import pathlib

import valkey
from child_process import wait_for
from cluster_case import ClusterTest
from shards import Cluster, Node
from valkey.crc import key_slot
from writers import Writers, tag_of

SERVICES = int(os.environ.get("CLUSTER_SERVICES", "1"))
ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "1"))
SHARDS = 2
# Of the shard s0, and of the writer's tags in it: what moves there and back.
MOVES = (0, 4000)
# A migration that needs longer than that has stopped, on a busy machine as well.
MIGRATION_S = 30
# How many keys are moved besides those of the writers.
FILLED = 2000
OVER = ("success", "failed", "cancelled", "forgotten")


class MovingSlots(ClusterTest):
    @classmethod
    def make(cls, directory: pathlib.Path) -> Cluster:
        cls.failpoints = directory / "failpoints"
        program = os.environ["LOGSERVICE_FAILPOINTS" if SERVICES == 1 else "LOGSERVICE"]
        return Cluster(directory, SERVICES, "CLUSTER_TLS" in os.environ, (2,) * SHARDS, "cluster-require-full-coverage no\n",
                       program, {"FAILPOINTS_FILE": str(cls.failpoints)})

    def setUp(self):
        self.restart()
        self.bring_back()

    def restart(self) -> None:
        self.restart_what_was_killed()
        self.cluster.wait_until_settled()

    def bring_back(self) -> None:
        """The slots that move are those of s0 again."""
        if self.owner() != "s0":
            self.assertEqual(self.wait_until_over(self.migrate("s1", "s0")), ("success", ""))
            self.cluster.wait_until_settled()

    def leaders(self) -> tuple[Node, Node]:
        return self.cluster.wait_for_leader("s0"), self.cluster.wait_for_leader("s1")

    def owner(self) -> str:
        """The shard whose log has the slots that move; empty while none has them all."""
        def has(shard: str) -> bool:
            ranges = [part.split("-") for part in self.cluster.stored_slots(shard)[1].split(",") if part]
            return any(int(part[0]) <= MOVES[0] and MOVES[1] <= int(part[-1]) for part in ranges)

        return next((shard for shard in self.cluster.shards if has(shard)), "")

    def migrate(self, source: str, target: str) -> Node:
        """Begins to move the slots. Returns the node that they leave."""
        node = self.cluster.wait_for_leader(source)
        node.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *MOVES, "NODE", self.cluster.wait_for_leader(target).ask("CLUSTER", "MYID"))
        return node

    def state(self, node: Node) -> tuple[str, str]:
        """The state of the newest migration that the node takes part in, and its message. A node that was started anew remembers none."""
        try:
            jobs = node.ask("CLUSTER", "GETSLOTMIGRATIONS")
        except valkey.ValkeyError:
            return "", ""
        if not jobs:
            return "forgotten", ""
        fields = dict(zip(jobs[0][::2], jobs[0][1::2]))
        return fields["state"], fields["message"]

    def wait_until_over(self, node: Node) -> tuple[str, str]:
        return wait_for("the migration is over", lambda: self.state(node) if self.state(node)[0] in OVER else None, MIGRATION_S)

    def fill(self) -> None:
        """Strings and lists in the slots that move."""
        tags = [tag for tag in (tag_of(0, SHARDS, 20 + number) for number in range(50)) if key_slot(tag.encode()) <= MOVES[1]]
        with self.leaders()[0].connect(timeout_s=20) as client, client.pipeline(transaction=False) as pipeline:
            for number in range(FILLED // 2):
                key = f"{{{tags[number % len(tags)]}}}filled{number}"
                pipeline.execute_command("SET", f"{key}s", number)
                # What is left of an earlier life would be appended to.
                pipeline.execute_command("DEL", f"{key}l").execute_command("RPUSH", f"{key}l", number, number)
            pipeline.execute()

    def key_count(self) -> int:
        """How many of what was filled there are, of lists those with their two elements."""
        found = 0
        for shard in self.cluster.shards:
            with self.cluster.wait_for_leader(shard).connect(timeout_s=20) as client:
                for key in client.scan_iter("*filled*", count=1000):
                    found += key.endswith("s") or client.execute_command("LLEN", key) == 2
        return found

    def check_whole(self, writers: Writers, how: str) -> None:
        missing = writers.missing()
        gaps = [writers.gap_s(shard, writers.list[0].times[0]) for shard in self.cluster.shards]
        print(f"{how}: no write was answered in {gaps[0]:.2f} and {gaps[1]:.2f} s; {len(missing)} of {writers.count()} missing", flush=True)
        self.assertEqual(missing, [])
        self.check_keys()

    def check_keys(self) -> None:
        """No node holds a key in a slot that is not its shard's."""
        self.cluster.wait_until_settled()
        for shard in self.cluster.shards:
            own = self.cluster.wait_for_leader(shard)
            (line,) = [line for line in own.view() if "myself" in line[2]]
            ranges = [part.split("-") for part in line[8:] if not part.startswith("[")]
            slots = {slot for part in ranges for slot in range(int(part[0]), int(part[-1]) + 1)}
            with own.connect(timeout_s=20) as client:
                foreign = [key for key in client.scan_iter(count=1000) if key_slot(key.encode()) not in slots]
            self.assertEqual(foreign[:5], [], f"{own.name} holds keys of another shard")

    def stand_still(self, node: Node, shard: str) -> None:
        node.freeze()
        wait_for("another node leads", lambda: self.cluster.leader(shard) not in (None, node))
        node.thaw()
