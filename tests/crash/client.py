"""A connection that never sends anything twice."""

from valkey.asyncio.connection import Connection
from valkey.exceptions import ValkeyError

CLIENT_ERRORS = (ValkeyError, OSError)


class Client:
    """One connection. After an error it is of no use any more."""

    def __init__(self, host: str, port: int):
        self._connection = Connection(host=host, port=port, lib_name=None, lib_version=None)

    async def __aenter__(self) -> "Client":
        await self._connection.connect()
        return self

    async def __aexit__(self, *_) -> None:
        await self._connection.disconnect(nowait=True)

    async def call(self, *command):
        """Sends a command and returns its reply; raises the error that it answers."""
        return (await self.pipeline([command]))[0]

    async def pipeline(self, commands: list[tuple]) -> list:
        """Sends commands at once and returns their replies; raises the first error."""
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [await connection.read_response() for _ in commands]
