"""Kills the server, the log service or both at random moments under load, and checks after each kill that every
acknowledged write is there, and every transaction and script whole. In async mode writes may be missing, but only the
youngest, and none older than the lag limit.

The last line is "N passed, N failed", where N are rounds. A failed round ends the test, and the directory that the first
line names stays.
"""

import argparse
import asyncio
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import async_test
from faults import failed_at, killed_at, Nurse
from child_process import ChildProcess
from cluster import Cluster, NotReady
from log_services import LogServices
from violation import Violation
from workloads import Worker, workers

CONNECTIONS = 50
LOAD_S = (0.2, 2.0)
OUTAGE_S = (0.0, 0.3)
FAILING_LOAD_S = (1.0, 4.0)
PROGRESS_TIMEOUT_S = 15.0
# Of three log services, some are killed in so many rounds, and all or none in the others.
SOME_SERVICES = 0.7
POLL_S = 0.01


class Load:
    """The workers at work. Leaving the block stops them; what they found broken is raised."""

    def __init__(self, cluster: Cluster, crew: list[Worker]):
        self._cluster = cluster
        self._crew = crew
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(worker.run(self._cluster.connect, self._stop)) for worker in self._crew]
        return self

    async def __aexit__(self, kind, *_) -> None:
        self._stop.set()
        _, hanging = await asyncio.wait(self._tasks, timeout=PROGRESS_TIMEOUT_S)
        for task in hanging:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            if hanging:
                raise Violation(f"{len(hanging)} connections wait for a reply that does not come")
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def wait_for_progress(self) -> None:
        """Until every worker has had something acknowledged that was not yet when this was called."""
        before = {worker: worker.operations for worker in self._crew}
        deadline = time.monotonic() + PROGRESS_TIMEOUT_S
        while any(worker.operations == count for worker, count in before.items()):
            if any(task.done() for task in self._tasks):
                return  # With a violation, which is raised at the end.
            if time.monotonic() > deadline:
                stuck = [worker.name for worker, count in before.items() if worker.operations == count]
                raise Violation(f"no progress after the restart: {', '.join(stuck)}")
            await asyncio.sleep(POLL_S)


async def verify(cluster: Cluster, crew: list[Worker]) -> None:
    async with cluster.connect() as client:
        for worker in crew:
            await worker.verify(client)


async def crash(cluster: Cluster, victims: list[ChildProcess | LogServices], outage_s: float) -> float:
    """Kills, and starts again in the same order. Returns how long the shard was without its victims, in seconds."""
    started = time.monotonic()
    for victim in victims:
        victim.kill()
    await asyncio.sleep(outage_s)
    for victim in victims:
        victim.start()
    await cluster.wait_until_leading()
    return time.monotonic() - started


async def play_round(cluster: Cluster, crew: list[Worker], choices: random.Random) -> str:
    """One round. Returns what it did, for the table."""
    victims = choices.choice([[cluster.server], [cluster.log], [cluster.server, cluster.log], [cluster.log, cluster.server]])
    if len(cluster.log.list) > 1 and choices.random() < SOME_SERVICES:
        some = cluster.some_services(choices)
        victims = choices.choice([some, some, [*some, cluster.server], [cluster.server, *some]])
    load_s, outage_s = choices.uniform(*LOAD_S), choices.uniform(*OUTAGE_S)
    killed_services = cluster.log.list if cluster.log in victims else victims
    survivors = [process for process in (cluster.server, *cluster.log.list) if process not in victims and process not in killed_services]
    before = sum(worker.operations for worker in crew)
    async with Load(cluster, crew) as load:
        await asyncio.sleep(load_s)
        away_s = await crash(cluster, victims, outage_s)
        await load.wait_for_progress()
    for survivor in survivors:
        if not survivor.is_running():
            raise Violation(f"the {survivor.name} died as well")
    await verify(cluster, crew)
    killed = " + ".join(victim.name for victim in victims)
    acknowledged = sum(worker.operations for worker in crew) - before
    return f"{killed:<22} {load_s:>6.2f} {away_s * 1000:>8.0f} {acknowledged:>10} {len(crew):>5} connections"


async def play_failing_round(cluster: Cluster, crew: list[Worker], choices: random.Random) -> str:
    """A round in which the steps of the log's storage fail, until all processes are started anew without that."""
    victims = choices.choice([[cluster.log], [cluster.server, cluster.log], [cluster.log, cluster.server]])
    load_s, outage_s = choices.uniform(*FAILING_LOAD_S), choices.uniform(*OUTAGE_S)
    before = sum(worker.operations for worker in crew)
    nurse = Nurse(cluster, choices)
    async with Load(cluster, crew) as load:
        nurse.start_log()
        nursing = asyncio.create_task(nurse.run())
        await asyncio.sleep(load_s)
        nurse.stop()
        await nursing
        away_s = await crash(cluster, victims, outage_s)
        await load.wait_for_progress()
    if not cluster.server.is_running():
        raise Violation("the server died as well")
    if await cluster.log_state() != "ok":
        raise Violation(f"the log is {await cluster.log_state()}, and nothing fails any more")
    await verify(cluster, crew)
    killed = " + ".join(victim.name for victim in victims)
    acknowledged = sum(worker.operations for worker in crew) - before
    faults = f"{nurse.deaths} deaths, {nurse.failures} failures of the log"
    return f"{killed:<22} {load_s:>6.2f} {away_s * 1000:>8.0f} {acknowledged:>10} {len(crew):>5} connections; {faults}"


def sum_up_faults(cluster: Cluster, crew: list[Worker]) -> bool:
    """What the failpoints did; whether they did anything."""
    output = cluster.log.output()
    kills, failures = killed_at(output), failed_at(output)
    for what, counts in [("killed at", kills), ("failed with", failures)]:
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    acknowledged = sum(worker.operations for worker in crew)
    print(f"{kills.total()} kills by failpoints, {failures.total()} failures, {acknowledged} acknowledged writes checked")
    return kills.total() > 0


async def test(cluster: Cluster, rounds: int, seed: int, has_failpoints: bool) -> bool:
    mode = "sync with failpoints" if has_failpoints else "sync"
    print(f"seed {seed}, mode {mode}, log services: {len(cluster.log.list)}, {CONNECTIONS} connections, logs and data in {cluster.directory}")
    print(f"{'round':>5}  {'killed':<22} {'at s':>6} {'away ms':>8} {'acked ops':>10}  verified")
    choices = random.Random(seed)
    crew = workers(CONNECTIONS)
    await cluster.wait_until_leading()
    passed = failed = 0
    for number in range(1, rounds + 1):
        try:
            play = play_failing_round if has_failpoints else play_round
            print(f"{number:>5}  {await play(cluster, crew, choices)}", flush=True)
            passed += 1
        except (Violation, NotReady) as failure:
            print(f"{number:>5}  FAILED: {failure}", flush=True)
            failed += 1
            break
    if has_failpoints and not sum_up_faults(cluster, crew):
        print("FAILED: no failpoint killed anything, so nothing was tested")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed == 0 and passed > 0


async def self_check_failpoints(cluster: Cluster) -> bool:
    """A disk that says it wrote and did not, from some record on; and then both are killed."""
    crew = workers(CONNECTIONS)
    await cluster.wait_until_leading()
    cluster.log.kill()
    cluster.log.start({"FAILPOINTS": "record-write=100*off->return(lie)"})
    try:
        async with Load(cluster, crew) as load:
            await load.wait_for_progress()
            await asyncio.sleep(FAILING_LOAD_S[0])
            await crash(cluster, [cluster.server, cluster.log], outage_s=0)
            await load.wait_for_progress()
        await verify(cluster, crew)
    except Violation as failure:
        print(f"the loss was detected: {failure}")
        print("1 passed, 0 failed")
        return True
    except NotReady as failure:
        # Where the log had gone on in another segment, the service itself finds that something is missing before it.
        if await cluster.log_state() != "damaged":
            raise
        print(f"the loss was detected by the log service: {failure}")
        print("1 passed, 0 failed")
        return True
    print(f"acknowledged writes were lost on purpose, and the test did not see it: {cluster.directory}")
    print("0 passed, 1 failed")
    return False


async def self_check(cluster: Cluster) -> bool:
    """Acknowledges writes that nobody keeps: async mode, a log service that stands still, and then both are killed."""
    crew = workers(CONNECTIONS)
    await cluster.wait_until_leading()
    try:
        async with Load(cluster, crew) as load:
            await load.wait_for_progress()
            cluster.log.freeze()
            await load.wait_for_progress()
            await crash(cluster, [cluster.server, cluster.log], outage_s=0)
            await load.wait_for_progress()
        await verify(cluster, crew)
    except Violation as violation:
        print(f"the loss was detected: {violation}")
        print("1 passed, 0 failed")
        return True
    print(f"acknowledged writes were lost on purpose, and the test did not see it: {cluster.directory}")
    print("0 passed, 1 failed")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    parser.add_argument("--failpoints", action="store_true",
                        help="steps of the log's storage fail as well; mode sync only")
    parser.add_argument("--services", type=int, choices=[1, 3], default=1, help="log services; three keep the log together")
    parser.add_argument("--self-check", action="store_true",
                        help="break the promise of that mode on purpose; succeeds only if that is detected")
    arguments = parser.parse_args()
    is_async, has_failpoints = arguments.mode == "async", arguments.failpoints
    if is_async and has_failpoints:
        parser.error("--failpoints is for mode sync")
    if has_failpoints and arguments.services > 1:
        parser.error("--failpoints is for one log service; tests/failover makes disks of three fail")
    # Ended by a signal, it ends its processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="crash."))
    # What sync mode promises is broken by async mode.
    breaks_by_mode = arguments.self_check and not has_failpoints
    cluster = Cluster(directory, "async" if is_async or breaks_by_mode else "sync", has_failpoints, arguments.services)
    succeeded = False
    try:
        cluster.start()
        if arguments.self_check:
            check = self_check_failpoints if has_failpoints else self_check
            work = async_test.self_check(cluster) if is_async else check(cluster)
        elif is_async:
            work = async_test.test(cluster, arguments.rounds, arguments.seed)
        else:
            work = test(cluster, arguments.rounds, arguments.seed, has_failpoints)
        succeeded = asyncio.run(work)
    finally:
        cluster.kill()
        if succeeded:
            shutil.rmtree(directory)
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
