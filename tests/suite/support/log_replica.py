"""Stands before a log service as one of several that replicate its log, and decides over the log or not, as a file says.

    log_replica.py PORT HOST PORT FILE

The file has one word, and may change at any time:

    decides             Everything is passed on.
    HOST:PORT, or -     Another one decides: each command that needs the one that decides is refused with NOTLEADER and this word. So are
                        those that were passed on and not answered yet, whatever comes of them.

What any service answers is passed on in either case: logins, LOG.STATUS, and the stream of a replica.
"""

import asyncio
import sys
from collections import deque

ANY_ANSWERS = {b"AUTH", b"PING", b"LOG.STATUS", b"REPLCONF", b"PSYNC", b"SENTINEL", b"INFO"}
LOOK_INTERVAL = 0.005

port, host, far_port, state_file = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]


def end_of(data, at=0):
    """Where the frame that begins there ends; None if it is not whole."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, rest, end = data[at:at + 1], data[at + 1:line_end], line_end + 2
    if kind == b"$":
        end += int(rest) + 2 if int(rest) >= 0 else 0
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(int(rest)):
            end = end_of(data, end)
            if end is None:
                return None
    return end


def frames(data):
    """Takes all whole frames out of data, a bytearray."""
    whole, begin = [], 0
    while begin < len(data) and (end := end_of(data, begin)) is not None:
        whole.append(bytes(data[begin:end]))
        begin = end
    del data[:begin]
    return whole


def word(frame):
    """The name of a command."""
    return frame.split(b"\r\n", 3)[2].upper()


class Asked:
    """A command: whether only the one that decides answers it, and what it is answered."""

    def __init__(self, needs_decider, answer=None):
        self.needs_decider, self.answer = needs_decider, answer


class Connection:
    def __init__(self, writer, far_writer):
        self.writer, self.far_writer = writer, far_writer
        self.asked, self.passed_on = deque(), deque()
        self.is_stream = False

    def command(self, frame):
        needs_decider = word(frame) not in ANY_ANSWERS
        if needs_decider and refusal:
            self.asked.append(Asked(True, refusal))
            return self.send()
        self.is_stream = word(frame) == b"PSYNC"
        asked = Asked(needs_decider)
        self.asked.append(asked)
        self.passed_on.append(asked)
        self.far_writer.write(frame)

    def answer(self, frame):
        asked = self.passed_on.popleft()
        asked.answer = asked.answer or frame
        self.send()

    def refuse(self):
        for asked in self.asked:
            if asked.needs_decider and refusal:
                asked.answer = asked.answer or refusal
        self.send()

    def send(self):
        while self.asked and self.asked[0].answer:
            self.writer.write(self.asked.popleft().answer)


connections = set()
refusal = None


def look():
    global refusal
    with open(state_file) as file:
        state = file.read().strip()
    if state:
        refusal = None if state == "decides" else f"-NOTLEADER {state} decides over the log of this shard\r\n".encode()


async def watch():
    while True:
        before = refusal
        look()
        if refusal != before:
            print(f"now {refusal}", flush=True)
            for connection in connections:
                connection.refuse()
        await asyncio.sleep(LOOK_INTERVAL)


async def copy(reader, each, raw, connection, other):
    data = bytearray()
    try:
        while read := await reader.read(1 << 16):
            data += read
            if not connection.is_stream:
                for frame in frames(data):
                    each(frame)
            if connection.is_stream:
                raw.write(bytes(data))
                data.clear()
            await raw.drain()
    except OSError:
        pass
    other.close()


async def serve(reader, writer):
    try:
        far_reader, far_writer = await asyncio.open_connection(host, far_port)
    except OSError:
        writer.close()
        return
    connection = Connection(writer, far_writer)
    connections.add(connection)
    await asyncio.gather(
        copy(reader, connection.command, far_writer, connection, far_writer),
        copy(far_reader, connection.answer, writer, connection, writer),
    )
    connections.discard(connection)


async def main():
    look()
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    watcher = asyncio.create_task(watch())
    await server.serve_forever()
    await watcher


asyncio.run(main())
