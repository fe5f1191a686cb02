"""Writes through several connections, by pipelines of INCR, until each is closed. Then prints a line for each: the key, how
many writes were acknowledged, and how many were sent.

    write_load.py HOST PORT DATABASE CONNECTIONS
"""

import socket
import sys
import threading

PIPELINE = 20

host, port, database, connections = sys.argv[1], *map(int, sys.argv[2:])
lines = []


def write(number: int) -> None:
    key, acknowledged, sent = f"load:{number}", 0, 0
    pipeline = f"INCR {key}\r\n".encode() * PIPELINE
    try:
        with socket.create_connection((host, port)) as client:
            replies = client.makefile("rb")
            client.sendall(f"SELECT {database}\r\n".encode())
            replies.readline()
            while True:
                sent += PIPELINE
                client.sendall(pipeline)
                for _ in range(PIPELINE):
                    reply = replies.readline()
                    if not reply.endswith(b"\n"):
                        raise ConnectionError
                    acknowledged += 1
                    if reply != b":%d\r\n" % acknowledged:
                        sys.exit(f"{key}: {reply!r} instead of {acknowledged}")
    except ConnectionError:
        lines.append(f"{key} {acknowledged} {sent}")


threads = [threading.Thread(target=write, args=(number,)) for number in range(connections)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("\n".join(lines))
