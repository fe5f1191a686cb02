"""What is made to fail in the log service, step by step of its storage, while the clients write.

The log service is built with failpoints for this (logservice/src/store/file_store/files.rs); they are set when it starts.
"""

import asyncio
import collections
import random
import re

from valkey.exceptions import ResponseError

from client import CLIENT_ERRORS
from cluster import Cluster

POLL_S = 0.02
LAST_REPLY_S = 2.0

# Steps, and how often each comes in the time that a log service lives here, more or less.
WRITES = {"record-write": 600, "segment-header-write": 3, "spare-write": 60, "manifest-write": 3}
OTHERS = {
    "record-sync": 600,
    "segment-create": 3, "segment-allocate": 3, "segment-header-sync": 3, "segment-rename": 3, "segment-directory-sync": 3,
    "spare-create": 2, "spare-sync": 2, "segment-recycle": 2, "segment-remove": 3,
    "manifest-create": 3, "manifest-sync": 3, "manifest-rename": 3, "manifest-directory-sync": 3,
}  # fmt: skip
OPENING_WRITES = {"cut-write": 1, "last-record-write": 1}
OPENING = {"open-create": 2, "open-remove": 2, "open-directory-sync": 3, "cut-sync": 1, "last-record-sync": 1}
STEPS = WRITES | OTHERS | OPENING_WRITES | OPENING
FULL_TIMES = 20  # The most steps in a row for which the disk is full.


def choose(choices: random.Random) -> str:
    """A value for FAILPOINTS: one to three steps, each of which fails when it has been passed some times."""
    faults = []
    for step in choices.sample(sorted(STEPS), choices.randint(1, 3)) + choices.sample(["record-write", "record-sync"], 1):
        is_write = step in WRITES or step in OPENING_WRITES
        fault = choices.choice(["kill", "kill", "eio", "enospc"] + (["torn", "short"] if is_write else []))
        times = choices.randint(1, FULL_TIMES) if fault == "enospc" else 1
        faults.append(f"{step}={choices.randrange(STEPS[step])}*off->{times}*return({fault})->off")
    return ";".join(dict((fault.split("=")[0], fault) for fault in faults).values())


class Nurse:
    """Starts the log service again whenever it died, or says that it has failed, with other faults each time."""

    def __init__(self, cluster: Cluster, choices: random.Random):
        self._cluster = cluster
        self._choices = choices
        self._stop = asyncio.Event()
        self.deaths = 0
        self.failures = 0

    def start_log(self) -> None:
        self._cluster.log.kill()
        self._cluster.log.start({"FAILPOINTS": choose(self._choices)})

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            if not self._cluster.log.is_running():
                self.deaths += 1
                self.start_log()
            elif await self._has_failed():
                self.failures += 1
                self.start_log()
            await asyncio.sleep(POLL_S)

    async def _has_failed(self) -> bool:
        try:
            return await asyncio.wait_for(self._cluster.log_state(), LAST_REPLY_S) in ("failed", "damaged")
        except ResponseError as error:
            return str(error).startswith("LOGFAILED")
        except (*CLIENT_ERRORS, asyncio.TimeoutError):
            return False  # It is starting, or it died.


def killed_at(output: str) -> collections.Counter:
    """How often each failpoint killed the log service, from what it wrote."""
    return collections.Counter(re.findall(r"^failpoint ([a-z-]+): killed$", output, re.MULTILINE))


def failed_at(output: str) -> collections.Counter:
    """How often the log failed, by what it said could not be done."""
    return collections.Counter(re.findall(r"(?:the log has failed|is not served)[^:]*: (cannot [a-z ]+)", output))
