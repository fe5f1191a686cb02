"""Ports for programs under test. Found by PYTHONPATH, see tests/binaries.sh."""

import socket

HOST = "127.0.0.1"
# Below the ports that the system gives to outgoing connections: one of those could otherwise take the port of a program that is about
# to listen, or that is being restarted.
FIRST, END, BLOCK = 10000, 20000, 100


def _listener(port: int) -> socket.socket | None:
    """A socket that holds the port; none if it is taken."""
    listener = socket.socket()
    try:
        listener.bind((HOST, port))
        # A bound socket alone would let another process bind the port with SO_REUSEADDR.
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener


class _Blocks:
    """The ports of this process. It holds the first one of each of its blocks for as long as it lives, so no other process has that block."""

    def __init__(self):
        self._guards: list[socket.socket] = []
        self._next = self._end = 0

    def _take_block(self) -> None:
        for first in range(FIRST, END, BLOCK):
            guard = _listener(first)
            if guard is not None:
                self._guards.append(guard)
                self._next, self._end = first + 1, first + BLOCK
                return
        raise AssertionError(f"all ports from {FIRST} to {END - 1} are taken")

    def take(self) -> int:
        while True:
            if self._next == self._end:
                self._take_block()
            port = self._next
            self._next += 1
            # Whoever had the block before may have left a program behind.
            probe = _listener(port)
            if probe is not None:
                probe.close()
                return port


_blocks = _Blocks()


def free_port() -> int:
    """A port that nobody listens on, and that no other test is given for as long as this process lives."""
    return _blocks.take()
