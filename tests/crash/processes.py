"""The server and the log service under test, as processes that can be killed and started again."""

import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import time

from client import Client, CLIENT_ERRORS

HOST = "127.0.0.1"
SHARD = "crash"
START_TIMEOUT_S = 20.0
POLL_S = 0.01


class NotReady(Exception):
    """A process did not come to serve in time."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


class Process:
    """A program with an output file of its own."""

    def __init__(self, name: str, command: list[str], output: pathlib.Path):
        self.name = name
        self._command = command
        self._output = output
        self._child: subprocess.Popen | None = None

    def start(self, environment: dict[str, str] | None = None) -> None:
        with self._output.open("ab") as output:
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                           env=os.environ | (environment or {}))

    def kill(self) -> None:
        """As a crash: kill -9. Returns when it is gone."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def freeze(self) -> None:
        """It stands still until it is killed or thawed."""
        if self._child is not None:
            self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)

    def output(self) -> str:
        """Everything it has written so far."""
        return self._output.read_text(errors="replace")

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None


class Cluster:
    """A log service and a server that ships to it, in one directory."""

    def __init__(self, directory: pathlib.Path, mode: str, has_failpoints: bool = False):
        self.directory = directory
        self.port = free_port()
        self.log_port = free_port()
        data = directory / "server"
        data.mkdir()
        config = directory / "valkey.conf"
        config.write_text(
            f'bind {HOST}\nport {self.port}\ndir {data}\nunixsocket {data}/socket\nsave ""\n'
            f'loadmodule {os.environ["DURABILITY_SO"]}\n'
            f"durability.log {HOST}:{self.log_port}\ndurability.shard {SHARD}\ndurability.mode {mode}\n"
        )
        server = os.path.join(os.environ["VALKEY_BIN_DIR"], "valkey-server")
        self.server = Process("server", [server, str(config)], directory / "server.output")
        self.log = Process(
            "log service",
            [
                os.environ["LOGSERVICE_FAILPOINTS" if has_failpoints else "LOGSERVICE"],
                "--dir", str(directory / "log"),
                "--listen", f"{HOST}:{self.log_port}",
                "--http", f"{HOST}:{free_port()}",
                "--enable-debug-command",
                # Small enough that snapshots are made while everything is killed, and what comes back starts from them; and
                # that segments end often, with everything that can fail then.
                "--segment-mb", "2",
                "--snapshot-log-mb", "1",
                "--valkey-server", server,
            ],
            directory / "log.output",
        )

    def start(self) -> None:
        self.log.start()
        self.server.start()

    def kill(self) -> None:
        self.server.kill()
        self.log.kill()

    def connect(self) -> Client:
        return Client(HOST, self.port)

    async def log_state(self) -> str:
        """Whether the log of this shard is served: ok, nospace, failed or damaged."""
        async with Client(HOST, self.log_port) as client:
            fields = await client.call("LOG.STATUS", SHARD)
        return dict(zip(fields[::2], fields[1::2]))[b"state"].decode()

    async def debug_log(self, *command) -> None:
        """LOG.DEBUG, on this shard."""
        action, *arguments = command
        async with Client(HOST, self.log_port) as client:
            await client.call("LOG.DEBUG", action, SHARD, *arguments)

    async def wait_until_leading(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        seen: object = "nothing"
        while time.monotonic() < deadline:
            try:
                async with self.connect() as client:
                    seen = await client.call("INFO", "durability")
                if b"durability_role:leader" in seen:
                    return
            except CLIENT_ERRORS as error:
                seen = error
            await asyncio.sleep(POLL_S)
        raise NotReady(f"the server does not lead after {START_TIMEOUT_S:.0f} s; last seen: {seen!r}")
