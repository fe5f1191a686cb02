"""Writers and a log at a third of their pace, with durability.throttle yes and no by turns in one run.

The log is behind a relay that passes on a third of what the writers wrote without a limit. 50 clients write and 10 read, each as soon as it
is answered. Shown for each round: the lag, once a second; how many writes were answered and how many refused; how long writes and reads took.
Fails unless nothing is refused with throttling and the lag stays below the limit, and something is refused without.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import valkey
from child_process import ChildProcess, wait_for
from log_services import LogServices
from ports import HOST, free_port

SHARD = "throttle"
SUPPORT = pathlib.Path(__file__).resolve().parent.parent / "suite" / "support"


class PacedShard:
    """A log service behind a relay, and a node in async mode."""

    def __init__(self, directory: pathlib.Path, max_lag_ms: int):
        self._pace = directory / "pace"
        self.log = LogServices(directory, 1, SHARD, [], os.environ["LOGSERVICE"])
        relay_port, self.port = free_port(), free_port()
        relay = [sys.executable, str(SUPPORT / "relay.py"), str(relay_port), "paced", *self.log.addresses.split(":"), str(self._pace)]
        self.relay = ChildProcess(relay, directory / "relay.output")
        config = directory / "valkey.conf"
        config.write_text(
            f'bind {HOST}\nport {self.port}\ndir {directory}\nsave ""\nloadmodule {os.environ["DURABILITY_SO"]}\n'
            f"durability.log {HOST}:{relay_port}\ndurability.shard {SHARD}\ndurability.mode async\n"
            f"durability.max-lag-ms {max_lag_ms}\n"
        )
        self.server = ChildProcess([os.environ["VALKEY_BIN_DIR"] + "/valkey-server", str(config)], directory / "server.output")

    def start(self) -> None:
        self.log.start()
        self.relay.start()
        self.server.start()
        wait_for("the node leads", lambda: self.figure("role") == "leader")

    def kill(self) -> None:
        self.server.kill()
        self.relay.kill()
        self.log.kill()

    def call(self, *command: str):
        with valkey.Valkey(HOST, self.port, socket_timeout=10, decode_responses=True) as client:
            return client.execute_command(*command)

    def figure(self, name: str):
        try:
            return self.call("INFO", "durability")[f"durability_{name}"]
        except valkey.ConnectionError:
            return None

    def set_pace(self, pace: int | None) -> None:
        """So many bytes a second reach the log; any number if none is given."""
        if pace is None:
            self._pace.unlink(missing_ok=True)
        else:
            written = self._pace.with_suffix(".new")
            written.write_text(str(pace))
            written.rename(self._pace)

    def settle(self) -> None:
        self.set_pace(None)
        wait_for("everything is durable", lambda: self.figure("pending_bytes") == 0, 60)
        wait_for("writes are taken", lambda: self.figure("refusing_writes") == 0)

    def run(self, writers: int, readers: int, seconds: float) -> tuple[list[int], dict[str, int]]:
        """Returns the lag ten times a second, and the figures of closed_loop.py."""
        clients = [str(argument) for argument in (HOST, self.port, writers, readers, seconds)]
        command = [sys.executable, str(SUPPORT / "closed_loop.py"), *clients]
        *_, lags, figures = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        words = figures.split()
        return [int(lag) for lag in lags.split()], {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def round_of(shard: PacedShard, throttle: str, pace: int, options: argparse.Namespace) -> bool:
    """Whether all was as it should be."""
    shard.settle()
    shard.call("CONFIG", "SET", "durability.throttle", throttle)
    before = shard.call("INFO", "durability")
    shard.set_pace(pace)
    lags, seen = shard.run(options.writers, options.readers, options.seconds)
    after = shard.call("INFO", "durability")
    grown = {name: after[f"durability_{name}"] - before[f"durability_{name}"]
             for name in ("refusals", "throttled_writes", "throttled_time_ms", "refused_time_ms")}
    print(f"durability.throttle {throttle}, log at {pace} bytes/s, limit {options.max_lag_ms} ms")
    print("  lag (ms), once a second:", *lags[::10])
    print("  writes: {taken} answered, {refused} refused; p50 {write_p50_us} us, p99 {write_p99_us} us".format(**seen))
    print("  reads: p50 {read_p50_us} us, p99 {read_p99_us} us".format(**seen))
    print("  ", *(f"{name} {value}" for name, value in grown.items()), flush=True)
    if throttle == "yes":
        return seen["refused"] == 0 and grown["refusals"] == 0 and max(lags) < options.max_lag_ms
    return seen["refused"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=50)
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=45, help="how long a round lasts")
    parser.add_argument("--rounds", type=int, default=2, help="how many of each kind")
    parser.add_argument("--max-lag-ms", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=1 / 3, help="the log's pace as a share of the writers'")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="throttle.") as directory:
        shard = PacedShard(pathlib.Path(directory), options.max_lag_ms)
        try:
            shard.start()
            _, free = shard.run(options.writers, options.readers, 5)
            pace = round(free["pace"] * options.share)
            print("without a limit: {taken} writes in 5 s, {pace} bytes/s; reads: p50 {read_p50_us} us, p99 {read_p99_us} us".format(**free))
            results = [round_of(shard, throttle, pace, options) for _ in range(options.rounds) for throttle in ("yes", "no")]
        finally:
            shard.kill()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


main()
