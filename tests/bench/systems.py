"""What is compared: plain Valkey in several setups, and durable Valkey. Each is a server on the same disk, with what it needs beside it."""

import os
import pathlib
import subprocess

import valkey
from child_process import ChildProcess, wait_for
from log_services import LogServices
from ports import HOST, free_port

# A snapshot that is made, or an AOF that is rewritten, at some time in some of the measurements is noise. Neither happens here.
LOG_FLAGS = ["--snapshot-log-mb", "0", "--enable-debug-command"]
AOF = "appendonly yes\nauto-aof-rewrite-percentage 0\nappendfsync "


class System:
    """A server that is measured."""

    # Whether LOG.DEBUG can delay its acknowledgements.
    has_log = False

    def __init__(self, directory: pathlib.Path, name: str, title: str, config: str = ""):
        self.name, self.title = name, title
        self._directory = directory
        self.port = free_port()
        self.processes: dict[str, ChildProcess] = {"server": self._server(name, self.port, config)}

    def _server(self, name: str, port: int, config: str) -> ChildProcess:
        home = self._directory / name
        home.mkdir()
        file = home / "valkey.conf"
        file.write_text(f'bind {HOST}\nport {port}\ndir {home}\nsave ""\n{config}')
        return ChildProcess([os.environ["VALKEY_BIN_DIR"] + "/valkey-server", str(file)], self._directory / f"{name}.output")

    def start(self) -> None:
        for process in self.processes.values():
            if not process.is_running():
                process.start()
        wait_for(f"{self.title} answers", self.is_ready)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()

    def connect(self) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, socket_timeout=30, decode_responses=True)

    def info(self, section: str) -> dict:
        with self.connect() as client:
            return client.info(section)

    def is_ready(self) -> bool:
        try:
            return self.info("persistence")["loading"] == 0
        except valkey.ValkeyError:
            return False

    def is_settled(self) -> bool:
        """Whether nothing that was written is still on its way somewhere: the next measurement would pay for it."""
        return True

    def delay(self, delay_ms: float) -> None:
        """Each acknowledgement of the log is so late from now on."""
        if delay_ms:
            raise ValueError(f"{self.title} has no log")

    def check(self) -> None:
        """Fails if what was measured does not count."""
        for label, process in self.processes.items():
            if not process.is_running():
                raise AssertionError(f"{self.title}: {label} has ended:\n{process.output()}")


class Replicated(System):
    """Plain Valkey with an ordinary replica."""

    def __init__(self, directory: pathlib.Path):
        super().__init__(directory, "replicated", "plain, one replica", "repl-diskless-sync-delay 0\nclient-output-buffer-limit replica 0 0 0\n")
        self.processes["replica"] = self._server("replica", free_port(), f"replicaof {HOST} {self.port}\n")

    def is_ready(self) -> bool:
        return super().is_ready() and self.info("replication").get("slave0", {}).get("state") == "online"

    def is_settled(self) -> bool:
        replication = self.info("replication")
        return replication.get("slave0", {}).get("offset") == replication["master_repl_offset"]

    def check(self) -> None:
        super().check()
        if self.info("stats")["sync_full"] != 1:
            raise AssertionError("the replica has lost its primary")


class Durable(System):
    """A server with the module, and its log service or services. Several systems may share those."""

    has_log = True

    def __init__(self, directory: pathlib.Path, name: str, title: str, mode: str, logs: LogServices):
        config = (f'loadmodule {os.environ["DURABILITY_SO"]}\ndurability.log {logs.addresses}\ndurability.shard {name}\n'
                  f"durability.mode {mode}\n")
        super().__init__(directory, name, title, config)
        self._logs = logs
        several = len(logs.list) > 1
        self.processes |= {f"log service {number}" if several else "log service": log for number, log in enumerate(logs.list)}

    def is_ready(self) -> bool:
        return super().is_ready() and self.info("durability")["durability_role"] == "leader"

    def is_settled(self) -> bool:
        return self.info("durability")["durability_pending_bytes"] == 0

    def _status(self, log) -> dict[str, str]:
        with log.connect(timeout_s=30) as client:
            flat = client.execute_command("LOG.STATUS", self.name)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def delay(self, delay_ms: float) -> None:
        decides = next(log for log in self._logs.list if self._status(log)["standing"] in ("alone", "decides"))
        command = ("DELAY-ACKS", self.name, delay_ms) if delay_ms else ("RESUME-ACKS", self.name)
        with decides.connect(timeout_s=30) as client:
            client.execute_command("LOG.DEBUG", *command)

    def check(self) -> None:
        super().check()
        info = self.info("durability")
        if info["durability_refusals"] or info["durability_log_reconnects"]:
            raise AssertionError(f"{self.title}: writes were refused, or the log was lost: {info}")


class Systems:
    """All of them, on a directory of their own."""

    def __init__(self, directory: pathlib.Path):
        self._one = self._logs(directory / "one", 1)
        self._three = self._logs(directory / "three", 3)
        self.list: list[System] = [
            System(directory, "plain", "plain"),
            Replicated(directory),
            System(directory, "always", "appendfsync always", AOF + "always\n"),
            System(directory, "everysec", "appendfsync everysec", AOF + "everysec\n"),
            Durable(directory, "async", "async", "async", self._one),
            Durable(directory, "sync", "sync", "sync", self._one),
            Durable(directory, "zones", "sync, three zones", "sync", self._three),
        ]

    @staticmethod
    def _logs(directory: pathlib.Path, count: int) -> LogServices:
        directory.mkdir(parents=True)
        snapshots = ["--snapshots", f"file://{directory}/snapshots"] if count > 1 else []
        (directory / "snapshots").mkdir()
        return LogServices(directory, count, "sync", [*LOG_FLAGS, *snapshots])

    def start(self) -> None:
        for logs in (self._one, self._three):
            logs.start()
            logs.form()
        for system in self.list:
            system.start()

    def kill(self) -> None:
        for system in self.list:
            system.kill()
        for logs in (self._one, self._three):
            logs.kill()


def settle(system: System, directory: pathlib.Path) -> None:
    """Waits until all that was written is where it is to be, the disk included."""
    wait_for(f"{system.title} has settled", system.is_settled, 60)
    subprocess.run(["sync", "-f", str(directory)], check=True)
