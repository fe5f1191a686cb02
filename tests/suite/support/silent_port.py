"""Listens on a TCP port of 127.0.0.1 as something that is no log service.

    silent_port.py PORT full      Connecting never comes to an end: there is no room for another connection.
    silent_port.py PORT hangs-up  Each connection is closed at once. Prints a line for each.
"""

import signal
import socket
import sys

port, kind = int(sys.argv[1]), sys.argv[2]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
if kind == "hangs-up":
    listener.listen()
    while True:
        connection, _ = listener.accept()
        connection.close()
        print("hung up", flush=True)
listener.listen(0)
waiting = []
while True:
    client = socket.socket()
    client.settimeout(1)
    waiting.append(client)
    try:
        client.connect(("127.0.0.1", port))
    except TimeoutError:
        break
print("full", flush=True)
signal.pause()
