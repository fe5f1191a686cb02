"""What may ail the log before the server is killed, so that there is something to lose."""

import abc
import random

from cluster import Cluster


class Trouble(abc.ABC):
    """Begins, and ends before the server is killed or after that."""

    name: str

    @abc.abstractmethod
    async def begin(self, cluster: Cluster, choices: random.Random) -> None: ...

    @abc.abstractmethod
    async def end(self, cluster: Cluster) -> None:
        """Not called if the log service was killed and started meanwhile, which ends every trouble."""


class Health(Trouble):
    name = "none"

    async def begin(self, cluster: Cluster, choices: random.Random) -> None:
        pass

    async def end(self, cluster: Cluster) -> None:
        pass


class Stopped(Trouble):
    name = "stopped"

    async def begin(self, cluster: Cluster, choices: random.Random) -> None:
        cluster.log.freeze()

    async def end(self, cluster: Cluster) -> None:
        cluster.log.thaw()


class Killed(Trouble):
    name = "killed"

    async def begin(self, cluster: Cluster, choices: random.Random) -> None:
        cluster.log.kill()

    async def end(self, cluster: Cluster) -> None:
        cluster.log.start()


class FrozenAcks(Trouble):
    """Everything is stored, and nothing acknowledged."""

    name = "acks frozen"

    async def begin(self, cluster: Cluster, choices: random.Random) -> None:
        await cluster.debug_log("FREEZE-ACKS")

    async def end(self, cluster: Cluster) -> None:
        await cluster.debug_log("RESUME-ACKS")


class LateAcks(Trouble):
    name = "acks late"
    DELAY_MS = (10, 1000)

    async def begin(self, cluster: Cluster, choices: random.Random) -> None:
        await cluster.debug_log("DELAY-ACKS", choices.randint(*self.DELAY_MS))

    async def end(self, cluster: Cluster) -> None:
        await cluster.debug_log("RESUME-ACKS")


def deck() -> list[tuple[Trouble, bool]]:
    """Every trouble, and whether it is over when the server is killed, which then catches up."""
    troubles = [Stopped(), Killed(), FrozenAcks(), LateAcks()]
    return [(Health(), True)] + [(trouble, is_over) for trouble in troubles for is_over in (False, True)]
