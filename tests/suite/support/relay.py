"""Listens on a TCP port and passes every connection on to a unix socket, a TCP port, or a TLS port.

    relay.py PORT unix PATH
    relay.py PORT tcp HOST PORT [FROM]
    relay.py PORT late HOST PORT SECONDS
    relay.py PORT holds HOST PORT WORD FILE
    relay.py PORT paced HOST PORT FILE
    relay.py PORT tls HOST PORT CA-FILE [CERTIFICATE-FILE KEY-FILE]

FROM is the address from which it connects; SECONDS is how late what it passes on arrives, either way. What comes with WORD in it is held
until there is a FILE; FILE.held says that it came. By `paced`, FILE holds how many bytes of each connection are passed on
in a second, from the side that connects; without it there is no limit. With this the test framework's client, which speaks TCP, reaches the server by
other ways.
"""

import asyncio
import os
import ssl
import sys
import time

# How often in a second something is passed on at a limited pace.
STEPS = 100


async def copy(reader, writer, wait):
    try:
        while data := await reader.read(1 << 16):
            await wait(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


def pace_of(file):
    """Bytes in a second; `None` without a limit."""
    try:
        with open(file) as opened:
            return int(opened.read() or 0)
    except FileNotFoundError:
        return None


async def copy_paced(reader, writer, file):
    due = time.monotonic()
    try:
        while data := await reader.read(1 << 16):
            while data:
                pace = pace_of(file)
                if pace == 0:
                    await asyncio.sleep(1 / STEPS)
                    continue
                part = data if pace is None else data[: max(1, pace // STEPS)]
                if pace is not None:
                    # What was not used for more than a moment is lost.
                    due = max(due, time.monotonic() - 5 / STEPS) + len(part) / pace
                    await asyncio.sleep(due - time.monotonic())
                writer.write(part)
                await writer.drain()
                data = data[len(part) :]
    except OSError:
        pass
    writer.close()


async def main(port, kind, *target):
    async def wait(data):
        if kind == "late":
            await asyncio.sleep(float(target[2]))
        if kind == "holds" and target[2].encode() in data:
            open(f"{target[3]}.held", "w").close()
            while not os.path.exists(target[3]):
                await asyncio.sleep(0.01)

    def connect():
        if kind == "unix":
            return asyncio.open_unix_connection(target[0])
        if kind in ("tcp", "late", "holds", "paced"):
            own = (target[2], 0) if kind == "tcp" and len(target) > 2 else None
            return asyncio.open_connection(target[0], int(target[1]), local_addr=own)
        context = ssl.create_default_context(cafile=target[2])
        context.check_hostname = False
        if len(target) > 3:
            context.load_cert_chain(target[3], target[4])
        return asyncio.open_connection(target[0], int(target[1]), ssl=context)

    async def relay(reader, writer):
        try:
            far_reader, far_writer = await connect()
        except OSError:
            writer.close()
            return
        there = copy_paced(reader, far_writer, target[2]) if kind == "paced" else copy(reader, far_writer, wait)
        await asyncio.gather(there, copy(far_reader, writer, wait))

    server = await asyncio.start_server(relay, "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
