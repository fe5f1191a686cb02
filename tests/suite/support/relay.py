"""Listens on a TCP port and passes every connection on to a unix socket, a TCP port, or a TLS port.

    relay.py PORT unix PATH
    relay.py PORT tcp HOST PORT [FROM]
    relay.py PORT late HOST PORT SECONDS
    relay.py PORT holds HOST PORT WORD FILE
    relay.py PORT tls HOST PORT CA-FILE [CERTIFICATE-FILE KEY-FILE]

FROM is the address from which it connects; SECONDS is how late what it passes on arrives, either way. What comes with WORD in it is held
until there is a FILE; FILE.held says that it came. With this the test framework's client, which speaks TCP, reaches the server by
other ways.
"""

import asyncio
import os
import ssl
import sys


async def copy(reader, writer, wait):
    try:
        while data := await reader.read(1 << 16):
            await wait(data)
            writer.write(data)
            await writer.drain()
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
        if kind in ("tcp", "late", "holds"):
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
        await asyncio.gather(copy(reader, far_writer, wait), copy(far_reader, writer, wait))

    server = await asyncio.start_server(relay, "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
