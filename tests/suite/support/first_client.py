"""Connects as soon as a port opens, sends one inline command, and prints the milliseconds that its reply took, and the reply.

    first_client.py HOST PORT WORD...
"""

import socket
import sys
import time

host, port, *words = sys.argv[1:]
deadline = time.monotonic() + 20
while True:
    try:
        client = socket.create_connection((host, int(port)), timeout=20)
        break
    except ConnectionRefusedError:
        if time.monotonic() > deadline:
            sys.exit("the port does not open")
        time.sleep(0.001)
started = time.monotonic()
client.sendall(" ".join(words).encode() + b"\r\n")
reply = client.makefile("rb").readline()
print(round((time.monotonic() - started) * 1000), reply.decode().strip())
