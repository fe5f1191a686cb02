"""The server and the log services under test."""

import asyncio
import os
import pathlib
import random
import time

from child_process import POLL_S, ChildProcess
from client import Client, CLIENT_ERRORS
from log_services import LogService, LogServices
from ports import HOST, free_port

SHARD = "crash"
START_TIMEOUT_S = 20.0


class NotReady(Exception):
    """A process did not come to serve in time."""


class Cluster:
    """Log services, one or three, and a server that ships to them, in one directory."""

    def __init__(self, directory: pathlib.Path, mode: str, has_failpoints: bool = False, services: int = 1):
        self.directory = directory
        self.port = free_port()
        # Small enough that snapshots are made while everything is killed, and what comes back starts from them; and that segments end
        # often, with everything that can fail then.
        more = ["--enable-debug-command", "--segment-mb", "2", "--snapshot-log-mb", "1"]
        program = os.environ["LOGSERVICE_FAILPOINTS" if has_failpoints else "LOGSERVICE"]
        self.log = LogServices(directory, services, SHARD, more, program)
        data = directory / "server"
        data.mkdir()
        config = directory / "valkey.conf"
        config.write_text(
            f'bind {HOST}\nport {self.port}\ndir {data}\nunixsocket {data}/socket\nsave ""\n'
            f'loadmodule {os.environ["DURABILITY_SO"]}\n'
            f"durability.log {self.log.addresses}\ndurability.shard {SHARD}\ndurability.mode {mode}\n"
        )
        server = os.path.join(os.environ["VALKEY_BIN_DIR"], "valkey-server")
        self.server = ChildProcess([server, str(config)], directory / "server.output")

    def start(self) -> None:
        self.log.start()
        self.log.form()
        self.server.start()

    def kill(self) -> None:
        self.server.kill()
        self.log.kill()

    def connect(self) -> Client:
        return Client(HOST, self.port)

    def some_services(self, choices: random.Random) -> list[LogService]:
        """Of three log services the one that decides, another one, or both."""
        decider = self.log.decider() or self.log.list[0]
        other = choices.choice([service for service in self.log.list if service is not decider])
        return choices.choice([[decider], [decider], [other], [decider, other]])

    async def log_state(self) -> str:
        """Whether the log of this shard is served by all services: ok, nospace, failed or damaged."""
        states = []
        for service in self.log.list:
            async with Client(HOST, service.port) as client:
                fields = await client.call("LOG.STATUS", SHARD)
            states.append(dict(zip(fields[::2], fields[1::2]))[b"state"].decode())
        return next((state for state in states if state != "ok"), "ok")

    async def debug_log(self, *command) -> None:
        """LOG.DEBUG, on this shard."""
        action, *arguments = command
        for service in self.log.list:
            async with Client(HOST, service.port) as client:
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
