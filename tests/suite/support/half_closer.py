"""A client that sends its standard input, ends its sending, and writes all that it is answered to its standard output.

    half_closer.py tcp HOST PORT
    half_closer.py unix PATH
    half_closer.py tls HOST PORT CA-FILE
    half_closer.py reset HOST PORT        by TCP; resets the connection once it is told to go on by SIGUSR1
"""

import signal
import socket
import ssl
import struct
import sys


def by_tls(address, ca_file, data):
    """Ends the sending by close_notify alone: Python's own sockets would not let a client read after that."""
    context = ssl.create_default_context(cafile=ca_file)
    context.check_hostname = False
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(received, to_send)
    with socket.create_connection(address) as connection:

        def step(action, *arguments):
            while True:
                try:
                    return action(*arguments)
                except ssl.SSLWantReadError:
                    connection.sendall(to_send.read())
                    if not (chunk := connection.recv(1 << 16)):
                        return b""
                    received.write(chunk)

        step(session.do_handshake)
        session.write(data)
        connection.sendall(to_send.read())
        try:
            session.unwrap()
        except ssl.SSLWantReadError:
            pass
        connection.sendall(to_send.read())
        while chunk := step(session.read, 1 << 16):
            yield chunk


def by_socket(connection, data):
    with connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(1 << 16):
            yield chunk


def reset(connection, data):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    signal.sigwait([signal.SIGUSR1])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return []


def main(kind, *target):
    data = sys.stdin.buffer.read()
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target[0])
        answers = by_socket(connection, data)
    elif kind == "tls":
        answers = by_tls((target[0], int(target[1])), target[2], data)
    else:
        connection = socket.create_connection((target[0], int(target[1])))
        answers = (reset if kind == "reset" else by_socket)(connection, data)
    for answer in answers:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


main(*sys.argv[1:])
