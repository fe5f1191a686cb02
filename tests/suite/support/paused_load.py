"""Increments keys through several connections, one after another on each, until a file exists. Then prints the number of increments
that were acknowledged, the longest that one waited in milliseconds, and each error.

    paused_load.py HOST PORT DATABASE CONNECTIONS FILE
"""

import os
import socket
import sys
import threading
import time

host, port, database, connections, end_file = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
results = []


def load(number: int) -> None:
    command, acknowledged, longest = f"INCR paused:{number}\r\n".encode(), 0, 0.0
    with socket.create_connection((host, port)) as client:
        replies = client.makefile("rb")
        client.sendall(f"SELECT {database}\r\n".encode())
        replies.readline()
        while not os.path.exists(end_file):
            began = time.monotonic()
            client.sendall(command)
            reply = replies.readline()
            longest = max(longest, time.monotonic() - began)
            if reply != b":%d\r\n" % (acknowledged + 1):
                results.append((acknowledged, longest, f"paused:{number} after {acknowledged}: {reply!r}"))
                return
            acknowledged += 1
    results.append((acknowledged, longest, ""))


threads = [threading.Thread(target=load, args=(number,)) for number in range(connections)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
errors = [error for _, _, error in results if error]
print(sum(count for count, _, _ in results), round(1000 * max(longest for _, longest, _ in results)), *errors)
