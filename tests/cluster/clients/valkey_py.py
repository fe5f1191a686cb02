"""valkey-py's ValkeyCluster: writes to keys of each tag at a time, until it is ended.

valkey_py.py HOST PORT,... NAME TAG...

Each key is written once: NAME{TAG}:1, then NAME{TAG}:2 and so on. Prints a line of JSON for each: {"tag", "write": N} when the write was
answered, {"tag", "error", "text"} when it failed, with the class and the text of the error; as the other clients do. The client is made
once for each tag, and never again.
"""

import json
import sys
import threading
import time

from valkey.cluster import ClusterNode, ValkeyCluster

host, ports, name, *tags = sys.argv[1:]


def say(**what) -> None:
    # In one piece, as several threads print.
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def write(tag: str) -> None:
    client = ValkeyCluster(startup_nodes=[ClusterNode(host, int(port)) for port in ports.split(",")], socket_timeout=2)
    number = 0
    while True:
        number += 1
        try:
            client.set(f"{name}{{{tag}}}:{number}", number)
        except Exception as error:  # noqa: BLE001: of any class, as the test judges it
            say(tag=tag, error=type(error).__name__, text=str(error))
            time.sleep(0.05)
        else:
            say(tag=tag, write=number)
            time.sleep(0.02)


threads = [threading.Thread(target=write, args=(tag,)) for tag in tags]
for thread in threads:
    thread.start()
