"""What the systems are loaded with."""

import dataclasses

# The workload with which the cloud announced its durable cache: reads and writes of 3 million keys, without pipelines.
SEED_READS_PERCENT = 80
SEED_VALUE_BYTES = 100
# As a share of what plain Valkey takes.
SEED_SHARES = (0.25, 0.5, 0.9)
# More than are ever busy: at a fixed rate, a request should not wait for a connection.
SEED_CLIENTS = 200
# Writes only: of so many keys, that their values have room in memory.
SET_KEYS = 10_000
DELAYS_MS = (1, 2)


@dataclasses.dataclass(frozen=True)
class Load:
    """One of them."""

    name: str
    title: str
    clients: int
    pipeline: int = 1
    # Requests a second as a share of what plain Valkey takes; none: as fast as they are answered.
    share: float | None = None
    reads_percent: int = 0
    value_bytes: int = 100
    # How late each acknowledgement of the log is. Only systems with a log have such loads.
    delay_ms: int = 0

    @property
    def is_seed(self) -> bool:
        return self.reads_percent > 0


def _seed(share: float, delay_ms: int = 0) -> Load:
    late = f", acknowledged {delay_ms} ms late" if delay_ms else ""
    return Load(f"seed-{share * 100:.0f}" + (f"-{delay_ms}ms" if delay_ms else ""), f"80 % GET, 20 % SET at {share * 100:.0f} % of plain's capacity{late}",
                SEED_CLIENTS, share=share, reads_percent=SEED_READS_PERCENT, value_bytes=SEED_VALUE_BYTES, delay_ms=delay_ms)


def _sets(clients: int, pipeline: int = 1, value_bytes: int = 100, delay_ms: int = 0) -> Load:
    length = f"{value_bytes >> 10}KB" if value_bytes >= 1024 else f"{value_bytes}B"
    name = f"set-{clients}" + (f"-p{pipeline}" if pipeline > 1 else "") + f"-{length}" + (f"-{delay_ms}ms" if delay_ms else "")
    title = f"SET, {clients} client{'s' if clients > 1 else ''}" + (f", pipelines of {pipeline}" if pipeline > 1 else "")
    title += f", {length.replace('KB', ' KB').replace('100B', '100 B')}" + (f", acknowledged {delay_ms} ms late" if delay_ms else "")
    return Load(name, title, clients, pipeline, value_bytes=value_bytes, delay_ms=delay_ms)


LOADS = [
    *(_seed(share) for share in SEED_SHARES),
    _sets(1),
    _sets(50),
    _sets(400),
    _sets(50, pipeline=16),
    _sets(50, value_bytes=1 << 10),
    _sets(50, value_bytes=16 << 10),
    *(load for delay_ms in DELAYS_MS for load in (_seed(0.5, delay_ms), _sets(50, delay_ms=delay_ms), _sets(400, delay_ms=delay_ms))),
]
# Enough to see that all of it works.
SHORT_LOADS = [_seed(0.25), _sets(50, pipeline=16), _sets(50, delay_ms=1)]
