#!/usr/bin/env bash
# Measures what many shards cost one log service: threads, memory and open files when nobody uses them, and how long after a
# kill -9 until all are served again. Builds what is missing.
#
#   scripts/shards.sh [--shards N] [--dir DIR]
#
# Each shard has a leader in its manifest and some log, in a segment of 2 MiB.
source "$(dirname "$0")/lib.sh"

shards=1500
directory=
while [ $# -gt 0 ]; do
    case $1 in
        --shards) shards=$2; shift 2 ;;
        --dir) directory=$2; shift 2 ;;
        *) die "unknown argument $1" ;;
    esac
done
if [ -z "${LOGSERVICE:-}" ]; then
    need_rust
    (cd "$ROOT" && cargo build --quiet --release -p logservice)
    LOGSERVICE=${CARGO_TARGET_DIR:-$ROOT/target}/release/logservice
fi
work=$(mktemp -d "${directory:-/tmp}/shards.XXXXXX")
trap 'rm -rf "$work"' EXIT
PYTHONPATH=$ROOT/tests/python PYTHONDONTWRITEBYTECODE=1 python3 - "$LOGSERVICE" "$work" "$shards" <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import time

from ports import free_port

program, work, shards = sys.argv[1], sys.argv[2], int(sys.argv[3])


port = free_port()


class Client:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.replies = self.socket.makefile("rb")

    def send(self, *arguments):
        out = b"*%d\r\n" % len(arguments)
        for argument in arguments:
            argument = argument if isinstance(argument, bytes) else str(argument).encode()
            out += b"$%d\r\n%s\r\n" % (len(argument), argument)
        self.socket.sendall(out)

    def reply(self):
        line = self.replies.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2]
        if not kind:
            raise RuntimeError("the connection was closed")
        return rest

    def call(self, *arguments):
        self.send(*arguments)
        return self.reply()


def start():
    begun = time.monotonic()
    flags = ["--dir", work, "--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0", "--segment-mb", "2",
             "--snapshot-log-mb", "0", "--max-shards", str(shards), "--log-level", "error"]
    process = subprocess.Popen([program, *flags])
    while True:
        try:
            return process, begun, Client()
        except ConnectionRefusedError:
            time.sleep(0.005)


def figures(pid):
    with open(f"/proc/{pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    names = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as comm:
            name = comm.read().strip()
        names[name] = names.get(name, 0) + 1
    top = sorted(names.items(), key=lambda item: -item[1])[:6]
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return f"{lines['Threads'].strip()} threads {dict(top)}, {int(lines['VmRSS'].split()[0]) // 1024} MB resident, {files} open files"


process, _, client = start()
for at in range(shards):
    shard = f"shard-{at}"
    client.call("LOG.CHECK", shard, "n1", "host:1", "-")
    client.call("LOG.ACQUIRE", shard, "n1", "host:1", 0, 0)
    client.call("LOG.BEGIN", shard, 1, "a" * 40, 0)
    # One connection appends to 64 shards at most.
    if at % 50 == 0:
        appender = Client()
    appender.call("LOG.APPEND", shard, 1, 0, b"x" * 4096)
print(f"made {shards} shards: {figures(process.pid)}", flush=True)
process.send_signal(signal.SIGKILL)
process.wait()
process, begun, client = start()
for at in range(shards):
    client.send("LOG.STATUS", f"shard-{at}")
for at in range(shards):
    status = client.reply()
    assert status[status.index(b"end") + 1] == b"4096", status
print(f"after kill -9: all served after {time.monotonic() - begun:.2f} s: {figures(process.pid)}", flush=True)
time.sleep(15)
print(f"15 s later: {figures(process.pid)}", flush=True)
# Every shard appends at once.
clients = []
begun = time.monotonic()
for at in range(shards):
    if at % 50 == 0:
        clients.append(Client())
    clients[-1].send("LOG.APPEND", f"shard-{at}", 1, 4096, b"x" * 4096)
for at in range(shards):
    clients[at // 50].reply()
print(f"an append to each at once took {time.monotonic() - begun:.2f} s: {figures(process.pid)}", flush=True)
time.sleep(8)
print(f"8 s later: {figures(process.pid)}", flush=True)
process.terminate()
process.wait()
PYTHON
