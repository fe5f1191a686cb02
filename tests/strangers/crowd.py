"""Strangers that connect to the ports of a log service, say a part of what they should, and wait. Whoever is closed connects again at once.

    crowd.py COUNT SECONDS RESP_PORT HTTP_PORT

Of four one connects and says nothing, one begins a TLS handshake, one begins a login, and one begins the head of an HTTP request. Prints how many
connections were open at most, and how many were closed. Without a certificate or a token it needs nothing of the service.
"""

import errno
import os
import pathlib
import selectors
import signal
import socket
import sys
import time

HOST = "127.0.0.1"
# A record of a handshake of 512 bytes, of which a few come.
HALF_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
# To which port, and what.
KINDS = ((0, b""), (0, HALF_HANDSHAKE), (0, b"*3\r\n$4\r\nAUTH\r\n"), (1, b"GET /shards HTTP/1.1\r\nHost: x\r\n"))
RETRY_S = 0.05


class Ended(Exception):
    """Somebody has seen enough."""


def end(*_) -> None:
    raise Ended


class Crowd:
    def __init__(self, ports: tuple[int, int]):
        self._ports = ports
        self._selector = selectors.DefaultSelector()
        self._waiting: list[int] = []
        self.open = self.most_open = self.closed = 0

    def connect(self, kind: int) -> None:
        port, _ = KINDS[kind]
        stranger = socket.socket()
        stranger.setblocking(False)
        error = stranger.connect_ex((HOST, self._ports[port]))
        if error not in (0, errno.EINPROGRESS):
            stranger.close()
            self._waiting.append(kind)
            return
        self._selector.register(stranger, selectors.EVENT_WRITE, kind)

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        retry_at = 0.0
        while time.monotonic() < deadline:
            for key, events in self._selector.select(RETRY_S):
                stranger, kind = key.fileobj, key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        stranger.send(KINDS[kind][1])
                        self._selector.modify(stranger, selectors.EVENT_READ, kind)
                        self.open += 1
                        self.most_open = max(self.most_open, self.open)
                        continue
                    if stranger.recv(4096):
                        continue
                except OSError:
                    pass
                if events & selectors.EVENT_READ:
                    self.open -= 1
                self._selector.unregister(stranger)
                stranger.close()
                self.closed += 1
                self.connect(kind)
            if self._waiting and time.monotonic() > retry_at:
                retry_at = time.monotonic() + RETRY_S
                waiting, self._waiting = self._waiting, []
                for kind in waiting:
                    self.connect(kind)


def give_way() -> None:
    """What is measured is what they cost the service; what they cost themselves they would pay on machines of their own. Where Linux
    schedules by sessions (autogroup), it is the session's priority that counts: this process has one of its own."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    autogroup = pathlib.Path("/proc/self/autogroup")
    if autogroup.exists() and os.getsid(0) == os.getpid():
        autogroup.write_text("19")


def main() -> None:
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    crowd = Crowd((int(sys.argv[3]), int(sys.argv[4])))
    give_way()
    signal.signal(signal.SIGTERM, end)
    for number in range(count):
        crowd.connect(number % len(KINDS))
    try:
        crowd.run(seconds)
    except Ended:
        pass
    print(crowd.most_open, crowd.closed)


if __name__ == "__main__":
    main()
