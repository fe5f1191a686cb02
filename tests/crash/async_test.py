"""Kills a server in async mode, and judges what is missing after the restart.

A round is a life of the server: clients write, the log gets into trouble, gets out of it or not, and the server is killed.
"""

import asyncio
import dataclasses
import random
import time
import unittest

import judge_test
from client import CONNECTION_ERRORS
from history import Found, Record
from judge import Loss, judge, ROUND_MS
from cluster import Cluster, NotReady
from trouble import Health, Killed, Trouble, deck
from violation import Violation
from writers import Writer, entry, writers

CLIENTS = 20
LIMITS_MS = (300, 1000, 10_000)
LOAD_S = (0.2, 1.0)
TROUBLE_S = (0.0, 2.0)
CATCH_UP_S = (0.0, 0.05)
OUTAGE_S = (0.0, 0.3)
LAG_INTERVAL_S = 0.002
LAG_RESOLUTION_S = 0.02  # What the lag may vary by while the log does nothing.
PROGRESS_TIMEOUT_S = 5.0  # The server tries to reach its log every 2 s at least.
END_TIMEOUT_S = 15.0


@dataclasses.dataclass
class Plan:
    """What happens in a round. Times in seconds."""

    trouble: Trouble
    is_over: bool  # The trouble, when the server is killed.
    victims: str
    limit_ms: int
    load_s: float
    trouble_s: float
    catch_up_s: float
    outage_s: float

    def __str__(self) -> str:
        trouble = self.trouble.name
        if not isinstance(self.trouble, Health):
            trouble += f" {self.trouble_s:.1f} s" + (", over" if self.is_over else "")
        return f"{trouble:<24} {self.victims:<14} {self.limit_ms:>8}"


def make_plan(card: tuple[Trouble, bool], choices: random.Random) -> Plan:
    victims = choices.choice(["server", "server + log", "log + server"])
    times = [choices.uniform(*span) for span in (LOAD_S, TROUBLE_S, CATCH_UP_S, OUTAGE_S)]
    return Plan(*card, victims, choices.choice(LIMITS_MS), *times)


class LagWatch:
    """Asks for the lag all the time. `durable_until_s` is before everything that the server said the log may lack."""

    def __init__(self):
        self.durable_until_s = 0.0

    async def run(self, cluster: Cluster) -> None:
        """Until the connection ends."""
        try:
            async with cluster.connect() as client:
                while True:
                    asked_s = time.monotonic()
                    lag_ms = await client.call("DURABILITY.LAG") + 1  # It is told in whole milliseconds.
                    self.durable_until_s = max(self.durable_until_s, asked_s - lag_ms / 1000)
                    await asyncio.sleep(LAG_INTERVAL_S)
        except CONNECTION_ERRORS:
            pass

    async def wait_for_progress(self) -> None:
        """Until the log has something that it did not have when this was called."""
        before_s, deadline = self.durable_until_s, time.monotonic() + PROGRESS_TIMEOUT_S
        while self.durable_until_s < before_s + LAG_RESOLUTION_S:
            if time.monotonic() > deadline:
                raise Violation("the log is there again, and nothing becomes durable")
            await asyncio.sleep(LAG_INTERVAL_S)


class Test:
    """The shard, the clients, and what every life so far has left."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._writers = writers(CLIENTS)
        self._journals: dict[str, int] = {}  # Of earlier lives, with their lengths.

    async def live(self, number: int, plan: Plan, choices: random.Random) -> Record:
        """A life of the server, its end, and what was found then."""
        cluster, journal, watch = self._cluster, f"journal:{number}", LagWatch()
        async with cluster.connect() as client:
            await client.call("CONFIG", "SET", "durability.max-lag-ms", plan.limit_ms)
        tasks = [asyncio.create_task(client) for client in
                 [watch.run(cluster)] + [writer.run(cluster.connect, journal) for writer in self._writers]]
        try:
            await asyncio.sleep(plan.load_s)
            await plan.trouble.begin(cluster, choices)
            await asyncio.sleep(plan.trouble_s)
            if plan.is_over:
                await plan.trouble.end(cluster)
                await watch.wait_for_progress()
                await asyncio.sleep(plan.catch_up_s)
            await check_alive(cluster, tasks)
            killed_s = time.monotonic()
            self._kill(plan)
        finally:
            cluster.server.kill()  # Which ends the clients, if something else has failed as well.
            _, hanging = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
        if hanging:
            raise Violation(f"{len(hanging)} connections did not end with the server")
        await asyncio.gather(*tasks)
        await asyncio.sleep(plan.outage_s)
        await self._restart(plan)
        found = await self._read(journal)
        histories = [writer.history for writer in self._writers]
        return Record(histories, found, killed_s, plan.limit_ms, watch.durable_until_s)

    def _kill(self, plan: Plan) -> None:
        processes = {"server": self._cluster.server, "log": self._cluster.log}
        for name in plan.victims.split(" + "):
            processes[name].kill()

    async def _restart(self, plan: Plan) -> None:
        if not self._cluster.log.is_running():
            self._cluster.log.start()
        elif not plan.is_over:
            await plan.trouble.end(self._cluster)
        self._cluster.server.start()
        await self._cluster.wait_until_leading()

    async def _read(self, journal: str) -> Found:
        async with self._cluster.connect() as client:
            for earlier, length in self._journals.items():
                there = await client.call("LLEN", earlier)
                if there != length:
                    raise Violation(f"{earlier} had {length} entries after an earlier restart, and has {there} now")
            entries = [entry(item) for item in await client.call("LRANGE", journal, 0, -1)]
            places = {writer.name: await writer.read(client) for writer in self._writers}
        self._journals[journal] = len(entries)
        return Found(entries, places)

    def begin_next_life(self, record: Record) -> None:
        """Every writer goes on from what the judge has passed."""
        in_journal = dict(record.found.journal)
        for writer in self._writers:
            places = record.found.places[writer.name] or [in_journal.get(writer.name, writer.history.base)]
            writer.begin_life(places[0])

    def counts(self) -> tuple[int, int]:
        """Writes in this life: acknowledged, refused."""
        return sum(writer.acknowledged() for writer in self._writers), sum(writer.refused for writer in self._writers)


async def check_alive(cluster: Cluster, tasks: list[asyncio.Task]) -> None:
    """In async mode nothing ends a connection but the end of the server."""
    if not cluster.server.is_running():
        raise Violation("the server died by itself")
    ended = [task for task in tasks if task.done()]
    await asyncio.gather(*ended)  # What it raised.
    if ended:
        raise Violation(f"{len(ended)} connections ended while the server was there")


async def test(cluster: Cluster, rounds: int, seed: int) -> bool:
    print(f"seed {seed}, mode async, log services: {len(cluster.log.list)}, {CLIENTS} clients, logs and data in {cluster.directory}")
    print(f"{'round':>5}  {'the log’s trouble':<24} {'killed':<14} {'limit ms':>8} {'acked':>7} {'refused':>7} "
          f"{'lost':>6} {'age ms':>7} {'span ms':>7}")
    choices = random.Random(seed)
    cards: list[tuple[Trouble, bool]] = []
    work, losses = Test(cluster), []
    await cluster.wait_until_leading()
    for number in range(1, rounds + 1):
        if not cards:
            cards = deck()
            choices.shuffle(cards)
        plan = make_plan(cards.pop(), choices)
        try:
            record = await work.live(number, plan, choices)
            loss = judge(record)
        except (Violation, NotReady) as failure:
            print(f"{number:>5}  {plan} FAILED: {failure}")
            print(f"{number - 1} passed, 1 failed")
            return False
        acknowledged, refused = work.counts()
        print(f"{number:>5}  {plan} {acknowledged:>7} {refused:>7} {loss.count:>6} {loss.age_ms:>7.0f} {loss.span_ms:>7.0f}",
              flush=True)
        losses.append(loss)
        work.begin_next_life(record)
    return sum_up(losses)


def sum_up(losses: list[Loss]) -> bool:
    age_ms, span_ms = max(loss.age_ms for loss in losses), max(loss.span_ms for loss in losses)
    print(f"{sum(loss.count for loss in losses)} acknowledged writes were lost. Of any round's oldest: at most {age_ms:.0f} ms "
          f"before the kill, {span_ms:.0f} ms before the last that was acknowledged")
    # All cards were played, and some of them lose: else there was nothing to judge.
    is_empty = len(losses) >= len(deck()) and not any(loss.count for loss in losses)
    if is_empty:
        print("FAILED: nothing was lost, so nothing was tested")
    print(f"{len(losses)} passed, {int(is_empty)} failed")
    return not is_empty


async def self_check(cluster: Cluster) -> bool:
    """The judge's own tests; and a true record, which it passes, and finds at fault once something in it is changed."""
    loaded = unittest.defaultTestLoader.loadTestsFromModule(judge_test)
    result = unittest.TextTestRunner().run(loaded)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed
    await cluster.wait_until_leading()
    plan = Plan(Killed(), False, "server", LIMITS_MS[-1], load_s=0.5, trouble_s=0.5, catch_up_s=0.0, outage_s=0.0)
    work = Test(cluster)
    record = await work.live(1, plan, random.Random(0))
    loss = judge(record)
    print(f"{loss.count} acknowledged writes were lost on purpose, the oldest {loss.age_ms:.0f} ms before the kill")
    for what, changed in changed_records(record):
        try:
            judge(changed)
            print(f"not seen: {what}")
            failed += 1
        except Violation as violation:
            print(f"{what}: {violation}")
            passed += 1
    print(f"{passed} passed, {failed} failed")
    return failed == 0


def changed_records(record: Record) -> list[tuple[str, Record]]:
    journal, places = record.found.journal, record.found.places
    assign = next(name for name in places if name.startswith("assign"))
    transaction = next(name for name in places if name.startswith("transaction"))
    hole = Found(journal[: len(journal) // 2] + journal[len(journal) // 2 + 1 :], places)
    stale = Found(journal, places | {assign: [1]})
    torn = Found(journal, places | {transaction: [places[transaction][0], places[transaction][1] - 1]})
    return [
        ("a hole in the journal", dataclasses.replace(record, found=hole)),
        ("a key that is older than the others", dataclasses.replace(record, found=stale)),
        ("half of a transaction", dataclasses.replace(record, found=torn)),
        ("a limit that was exceeded", dataclasses.replace(record, limit_ms=-ROUND_MS)),
        ("a lag that was told too small", dataclasses.replace(record, durable_until_s=record.killed_s)),
    ]
