"""Clients that end their sending just as the log acknowledges some of what they wrote. Prints how many were not answered to the end, and
what was answered wrongly.

    half_closer_rounds.py COUNT tcp HOST PORT
    half_closer_rounds.py COUNT unix PATH
"""

import random
import socket
import sys
import time


def play(number, connection, chance):
    """Some writes, with something of a content that no other one has behind each; small and large ones. What is answered, and what should be."""
    expected = b""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        for step in range(chance.randrange(2, 7)):
            text = f"{number}:{step}:" + "x" * chance.choice([1, 10, 30000, 200000])
            connection.sendall(f"SET half:{number}:{step} v\r\n".encode())
            connection.sendall(f"*2\r\n$4\r\nECHO\r\n${len(text)}\r\n{text}\r\n".encode())
            expected += f"+OK\r\n${len(text)}\r\n{text}\r\n".encode()
            time.sleep(chance.random() * 0.003)
        connection.shutdown(socket.SHUT_WR)
        answered = b""
        while chunk := connection.recv(1 << 16):
            answered += chunk
    return answered, expected


def connect(kind, *address):
    if kind == "tcp":
        return socket.create_connection((address[0], int(address[1])))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address[0])
    return connection


def main(count, *target):
    chance = random.Random(1)
    cut = 0
    for number in range(int(count)):
        answered, expected = play(number, connect(*target), chance)
        cut += answered != expected
        if not expected.startswith(answered):
            same = next((at for at, pair in enumerate(zip(answered, expected)) if pair[0] != pair[1]), len(expected))
            print(f"round {number}: {len(answered)} bytes instead of {len(expected)}, the same up to {same}", flush=True)
    print(cut)


main(*sys.argv[1:])
