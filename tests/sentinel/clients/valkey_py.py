"""valkey-py: writes to the leader and reads from a follower, until it is ended.

valkey_py.py HOST PORT,... SHARD TOKEN KEY

Prints "write N" when SET KEY N was answered, "read ROLE" with the role of who answered a read, and "error TEXT"; as the other
clients do.
"""

import sys
import time

import valkey
from valkey.sentinel import Sentinel

host, ports, shard, token, key = sys.argv[1:]
sentinel = Sentinel(
    [(host, int(port)) for port in ports.split(",")],
    sentinel_kwargs={"username": shard, "password": token, "socket_timeout": 2},
    socket_timeout=2,
    decode_responses=True,
)
leader = sentinel.master_for(shard)


def read() -> str:
    with sentinel.slave_for(shard) as follower:
        follower.get(key)
        return follower.execute_command("ROLE")[0]


number = 0
while True:
    number += 1
    while True:
        try:
            leader.set(key, number)
            break
        except valkey.ValkeyError as error:
            print("error", repr(error), flush=True)
            time.sleep(0.05)
    print("write", number, flush=True)
    if number % 10 == 0:
        try:
            print("read", read(), flush=True)
        except valkey.ValkeyError as error:
            print("error", repr(error), flush=True)
    time.sleep(0.01)
