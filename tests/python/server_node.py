"""A server with the module, as a process that can be killed. Needs the package valkey, see python_packages in tests/binaries.sh."""

import os
import pathlib

import valkey
from child_process import ChildProcess
from ports import HOST, free_port


class ServerNode(ChildProcess):
    """One of several nodes of a shard, in sync mode."""

    def __init__(self, directory: pathlib.Path, name: str, log: str, shard: str, lease_ms: int, more: str = ""):
        """`log` is the value of durability.log, `more` whole lines of the configuration."""
        self.port = free_port()
        self.home = directory / name
        self.home.mkdir()
        config = self.home / "valkey.conf"
        config.write_text(
            f'bind {HOST}\nport {self.port}\ndir {self.home}\nsave ""\nloadmodule {os.environ["DURABILITY_SO"]}\n'
            f"durability.log {log}\ndurability.shard {shard}\ndurability.node-id {name}\n"
            f"durability.announce {HOST}:{self.port}\ndurability.failover yes\ndurability.lease-ms {lease_ms}\n"
            f"durability.mode sync\n{more}"
        )
        super().__init__([os.environ["VALKEY_BIN_DIR"] + "/valkey-server", str(config)], directory / f"{name}.output")

    def connect(self, timeout_s: float = 2) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.port, socket_timeout=timeout_s, decode_responses=True)

    def role(self) -> str:
        """What it says that it is; none if it does not answer."""
        try:
            with self.connect() as client:
                return client.info("durability")["durability_role"]
        except valkey.ValkeyError:
            return "none"
