"""A connection to a server, fast enough for thousands of short sequences a minute."""

import select
import socket


class ReplyError(str):
    """An error that a command was answered with."""


def encode(command) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        if isinstance(argument, str):
            argument = argument.encode("utf-8", "surrogateescape")
        elif not isinstance(argument, bytes):
            argument = str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    return b"".join(parts)


class Connection:
    """RESP2. Raises OSError when the other side is gone or does not answer for `timeout_s`."""

    def __init__(self, port: int, timeout_s: float = 30.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.at = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, *commands) -> None:
        self.socket.sendall(b"".join(map(encode, commands)))

    def call(self, *command):
        """One command and its reply; an error is returned as a ReplyError."""
        self.socket.sendall(encode(command))
        return self.read()

    def run(self, commands) -> list:
        """Sends commands at once and returns their replies."""
        self.socket.sendall(b"".join(map(encode, commands)))
        return [self.read() for _ in commands]

    def has_reply(self) -> bool:
        return self.at < len(self.buffer) or bool(select.select([self.socket], [], [], 0)[0])

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer = self.buffer[self.at:] + data
        self.at = 0

    def _line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n", self.at)) < 0:
            self._more()
        line = self.buffer[self.at:end]
        self.at = end + 2
        return line

    def read(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            length = int(rest)
            if length < 0:
                return None
            while len(self.buffer) - self.at < length + 2:
                self._more()
            value = self.buffer[self.at:self.at + length]
            self.at += length + 2
            return value
        if kind == b"*":
            length = int(rest)
            return None if length < 0 else [self.read() for _ in range(length)]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest.decode("utf-8", "replace"))
        raise ConnectionError(f"not RESP2: {line!r}")
