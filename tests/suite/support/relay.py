"""Listens on a TCP port and passes every connection on to a unix socket, a TCP port, or a TLS port.

    relay.py PORT unix PATH
    relay.py PORT tcp HOST PORT [FROM]
    relay.py PORT tls HOST PORT CA-FILE [CERTIFICATE-FILE KEY-FILE]

FROM is the address from which it connects. With it the test framework's client, which speaks TCP, reaches the server by other ways.
"""

import asyncio
import ssl
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def main(port, kind, *target):
    def connect():
        if kind == "unix":
            return asyncio.open_unix_connection(target[0])
        if kind == "tcp":
            own = (target[2], 0) if len(target) > 2 else None
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
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
