"""A connection that never sends anything twice."""

from valkey.asyncio.connection import Connection
from valkey.exceptions import ConnectionError as ConnectionEnded
from valkey.exceptions import ResponseError, ValkeyError

CLIENT_ERRORS = (ValkeyError, OSError)
CONNECTION_ERRORS = (ConnectionEnded, OSError)


class Client:
    """One connection. Of no use any more after an error that is not the answer to a command."""

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
        """Sends commands at once and returns their replies; raises the last error among them."""
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies, failure = [], None
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                failure = error
        if failure is not None:
            raise failure
        return replies
