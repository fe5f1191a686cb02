"""The server and the log service under test."""

import asyncio
import os
import pathlib
import time

from child_process import HOST, POLL_S, ChildProcess, free_port
from client import Client, CLIENT_ERRORS

SHARD = "crash"
START_TIMEOUT_S = 20.0


class NotReady(Exception):
    """A process did not come to serve in time."""


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
        self.server = ChildProcess([server, str(config)], directory / "server.output")
        self.log = ChildProcess(
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
