"""Clients that each send a command when the one before it is answered.

    closed_loop.py HOST PORT WRITERS READERS SECONDS

Writers send SET with 400 bytes, readers GET. The last line is a dict for Tcl: how many writes were answered with OK and how many were
refused, how many bytes the stream grew in a second, the greatest lag in milliseconds, and the median and 99th percentile of how long writes
and reads took, in microseconds. The line before it is the lag in milliseconds, ten times a second. A connection that ends, or an answer that is
neither, is an error.
"""

import random
import selectors
import socket
import sys
import time

KEYS = 1000
VALUE = b"v" * 400


class Client:
    def __init__(self, address, writes):
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.writes = writes
        self.times_us = []
        self.sent_at = 0.0

    def send(self):
        key = b"key:%04d" % random.randrange(KEYS)
        command = (b"SET", key, VALUE) if self.writes else (b"GET", key)
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in command)
        self.sent_at = time.perf_counter()
        self.socket.sendall(b"*%d\r\n%s" % (len(command), parts))

    def answer(self):
        answer = self.socket.recv(4096)
        if not answer:
            raise SystemExit("a connection has ended")
        self.times_us.append((time.perf_counter() - self.sent_at) * 1e6)
        return answer


class Looker:
    """Asks for figures on a connection of its own."""

    def __init__(self, address):
        self.socket = socket.create_connection(address)
        self.file = self.socket.makefile("rb")

    def lag_ms(self):
        self.socket.sendall(b"DURABILITY.LAG\r\n")
        return int(self.file.readline()[1:])

    def offset(self):
        self.socket.sendall(b"INFO replication\r\n")
        text = self.file.read(int(self.file.readline()[1:]) + 2)
        return int(text.partition(b"master_repl_offset:")[2].split()[0])


def percentile(times, share):
    return round(sorted(times)[int((len(times) - 1) * share)]) if times else 0


def main():
    address, (writers, readers) = (sys.argv[1], int(sys.argv[2])), map(int, sys.argv[3:5])
    seconds = float(sys.argv[5])
    looker = Looker(address)
    clients = [Client(address, number < writers) for number in range(writers + readers)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send()
    begin, first, taken, refused, lags = time.monotonic(), looker.offset(), 0, 0, []
    while time.monotonic() < begin + seconds:
        for key, _ in selector.select(0.05):
            client = key.data
            answer = client.answer()
            if not client.writes:
                if not answer.startswith(b"$"):
                    raise SystemExit(f"a read was answered {answer!r}")
            elif answer == b"+OK\r\n":
                taken += 1
            elif answer.startswith(b"-CLUSTERDOWN durability: writes are refused"):
                refused += 1
            else:
                raise SystemExit(f"a write was answered {answer!r}")
            client.send()
        if time.monotonic() >= begin + len(lags) / 10:
            lags.append(looker.lag_ms())
    pace = (looker.offset() - first) / (time.monotonic() - begin)
    print(*lags)
    figures = {"taken": taken, "refused": refused, "pace": round(pace), "max_lag_ms": max(lags)}
    for kind, writes in (("write", True), ("read", False)):
        times = [time_us for client in clients if client.writes == writes for time_us in client.times_us]
        figures |= {f"{kind}_p50_us": percentile(times, 0.5), f"{kind}_p99_us": percentile(times, 0.99)}
    print(*(word for pair in figures.items() for word in pair))


main()
