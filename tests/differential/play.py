"""Plays a sequence at a server, action by action, and keeps all that each connection received."""

import select
import socket
import time
from dataclasses import dataclass, field

from nodes import Node, NotReady
from resp import encode
from sequences import CLIENTS, Action

LIMIT_S = 60


@dataclass
class Client:
    """A connection, and what became of it."""

    id: int
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    sent: int = 0
    # What is to be sent before anything else.
    rest: bytes = b""
    # Everything was received.
    has_ended: bool = False
    # The server has freed it.
    is_gone: bool = False
    # By what another one did, or by closing before all was received: it may have received less than it was written.
    was_cut_off: bool = False

    def receive(self) -> None:
        """What is there."""
        while not self.has_ended and select.select([self.socket], [], [], 0)[0]:
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            self.received += data
            self.has_ended = not data

    def receive_all(self) -> None:
        """Until the server closes the connection."""
        deadline = time.monotonic() + LIMIT_S
        while not self.has_ended:
            if time.monotonic() > deadline:
                raise NotReady(f"client {self.id} is not closed; received {bytes(self.received)!r}")
            select.select([self.socket], [], [], 1)
            self.receive()


class Play:
    """One sequence at one server. `script`: what a plain server made of it, which the others follow."""

    def __init__(self, node: Node, script: list | None = None):
        self.node, self.script = node, script
        self.slots: list[Client | None] = [None] * CLIENTS
        self.clients: list[Client] = []
        # Per action: whether its client had to connect first, and who was gone after it.
        self.done: list[tuple[bool, list[int]]] = []
        # Whom others are to kill: one of them may get to it in an action of the client itself.
        self.targets: set[int] = set()
        self.most_held = self.most_half_closed = 0

    def run(self, actions: list[Action]) -> list[Client]:
        try:
            for number, action in enumerate(actions):
                self._act(number, action)
            self.node.freeze(False)
            self.node.must("CLIENT", "UNPAUSE")
            for client in self.clients:
                if not client.is_gone:
                    self._end_sending(client)
                client.receive_all()
            self.node.wait_until_durable()
        finally:
            for client in self.clients:
                client.socket.close()
        return self.clients

    def _act(self, number: int, action: Action) -> None:
        if action.what in ("freeze", "resume"):
            self.node.freeze(action.what == "freeze")
            self.done.append((False, []))
            return
        client = self.slots[action.client]
        connects = self.script[number][0] if self.script else client is None or client.is_gone
        if connects:
            client = self.slots[action.client] = self._connect()
        there = [client for client in self.clients if not client.is_gone]
        self._send(client, action)
        self._settle(client)
        if action.what != "send":
            client.receive()
            if action.what == "half-close":
                self._end_sending(client)
            else:
                client.was_cut_off = client.has_ended = True
                client.socket.close()
            self._settle(client, is_leaving=True)
        for other in there:
            other.was_cut_off |= other.is_gone and (other is not client or other.id in self.targets)
        if self.script:
            self._let_leave([other for other in there if other.id in self.script[number][1]])
        self.done.append((connects, [other.id for other in there if other.is_gone]))

    def _connect(self) -> Client:
        connection = socket.create_connection(("127.0.0.1", self.node.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"CLIENT ID\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            line += connection.recv(100)
        client = Client(int(line[1:]), connection, sent=len("CLIENT ID\r\n"))
        self.clients.append(client)
        return client

    def _send(self, client: Client, action: Action) -> None:
        ids = {"{id%d}" % slot: str(other.id if other else 0) for slot, other in enumerate(self.slots)}
        data = b""
        for command in action.commands:
            if not isinstance(command, bytes):
                command = [ids.get(word, word) for word in command]
                if command[:3] == ["CLIENT", "KILL", "ID"] and command[3] not in ("x", str(client.id)):
                    self.targets.add(int(command[3]))
                command = encode(command)
            data += command
        cut = int(len(data) * action.share)
        data, client.rest = client.rest + data[:cut], data[cut:]
        client.receive()
        if client.is_gone or client.has_ended:
            return
        view = memoryview(data)
        while view and not client.has_ended:
            # The server may want to be read before it reads.
            _, writable, _ = select.select([], [client.socket], [], 0.01)
            client.receive()
            if writable:
                try:
                    sent = client.socket.send(view)
                except ConnectionError:
                    return
                client.sent += sent
                view = view[sent:]

    @staticmethod
    def _end_sending(client: Client) -> None:
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            # The server has closed it.
            pass

    def _settle(self, client: Client, is_leaving: bool = False) -> None:
        """Returns when the server has read and run all that was sent, and the client is gone if it leaves."""

        def is_settled(listed):
            if not self.script and any(found.is_closing for found in listed.values()):
                return False
            return client.is_gone or not is_leaving and listed[client.id].received >= client.sent

        # Once more after it looked so: a command that was read may wait for the end of that round.
        self._wait(is_settled)
        self._wait(is_settled)
        self._look_at_holding()

    def _let_leave(self, leaving: list[Client]) -> None:
        """Until they are gone, as they are at a plain server. Who has said QUIT stays until its replies have left."""
        is_gone = lambda _=None: all(client.is_gone for client in leaving)
        is_frozen = self.node.is_frozen
        if is_frozen and not is_gone():
            self.node.freeze(False)
        self._wait(is_gone)
        if is_frozen and not self.node.is_frozen:
            self.node.freeze(True)

    def _wait(self, holds) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            listed = self.node.listed([client.id for client in self.clients if not client.is_gone])
            for client in self.clients:
                client.receive()
                client.is_gone |= client.id not in listed
            if holds(listed):
                return
            if time.monotonic() > deadline:
                raise NotReady(f"{self.node.name} does not settle: {listed}")
            # The server's threads need the processor as well.
            time.sleep(0.0002)

    def _look_at_holding(self) -> None:
        if self.node.is_frozen and self.node.mode == "sync":
            self.most_held = max(self.most_held, int(self.node.figure("held_clients") or 0))
            self.most_half_closed = max(self.most_half_closed, int(self.node.figure("half_closed_clients") or 0))
