"""A crowd of clients that all want to write at one address, and come again at once when they are turned away.

    crowd.py HOST PORT CLIENTS

Prints the time in milliseconds since 1970 at which a write was first answered with OK, and ends.
"""

import selectors
import socket
import sys
import time

COMMAND = b"*3\r\n$3\r\nSET\r\n$5\r\ncrowd\r\n$1\r\nx\r\n"


def connect(selector: selectors.BaseSelector, address: tuple[str, int]) -> None:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(address)
    selector.register(client, selectors.EVENT_WRITE)


def go_on(selector: selectors.BaseSelector, client: socket.socket, events: int) -> bool:
    """Whether its write was acknowledged. Raises OSError if the client has to come again."""
    if events & selectors.EVENT_WRITE:
        client.sendall(COMMAND)
        selector.modify(client, selectors.EVENT_READ)
        return False
    answer = client.recv(4096)
    if answer.startswith(b"+OK"):
        return True
    # Refused: it stays, and asks again.
    if not answer or b"max number" in answer:
        raise ConnectionResetError
    selector.modify(client, selectors.EVENT_WRITE)
    return False


def main() -> None:
    address, clients = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    selector = selectors.DefaultSelector()
    missing = clients
    while True:
        for _ in range(missing):
            connect(selector, address)
        missing = 0
        for key, events in selector.select(0.1):
            try:
                if go_on(selector, key.fileobj, events):
                    print(time.time_ns() // 1_000_000, flush=True)
                    return
            except OSError:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                missing += 1
        # A crowd, not an attack: the server has this core as well.
        time.sleep(0.002)


main()
