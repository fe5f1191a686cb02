#!/usr/bin/env python3
"""Writes that outlast an outage of the log: refused writes are sent again, and no write is applied twice.

    python3 -m pip install valkey
    python3 examples/retry.py [port]

While it runs, stop the log service (kill -STOP), and after a while let it go on (kill -CONT).
"""
import random
import sys
import time
import uuid

import valkey


class NoAnswer(Exception):
    """The write got no answer: it may have been applied, and may be durable."""


def is_refused(error):
    """Whether the server did not run the command, and says so."""
    # EXECABORT: nothing of the transaction ran.
    if isinstance(error, (valkey.exceptions.BusyLoadingError, valkey.exceptions.ExecAbortError)):
        return True
    # Between MULTI and EXEC, the text stands in the middle of another error.
    return "durability: writes are refused" in str(error)


def write(command, may_repeat=False, seconds=60):
    """Calls `command` until the server takes it, for about `seconds` at most. Then raises the last error.

    A refused write was not applied, so it is always sent again. A write without an answer is sent again only if it `may_repeat`.
    `command` sends one command, one script or one transaction. Of a plain pipeline, a part may have been applied.
    """
    deadline, pause = time.monotonic() + seconds, 0.05
    while True:
        try:
            return command()
        except (valkey.ConnectionError, valkey.TimeoutError, valkey.ResponseError) as error:
            if not is_refused(error):
                if isinstance(error, valkey.ResponseError):
                    raise
                if not may_repeat:
                    raise NoAnswer from error
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        # Random, so that clients do not all come at the same moment; and less often each time.
        time.sleep(min(random.uniform(pause / 2, pause), left))
        pause = min(2 * pause, 2)


# Counts a payment once, however often it is sent: one script writes its id together with what it changes.
PAY = """
if redis.call('SET', KEYS[2], 1, 'NX', 'EX', 86400) then redis.call('INCRBY', KEYS[1], ARGV[1]) end
return tonumber(redis.call('GET', KEYS[1]))
"""


def main():
    # valkey-py sends nothing twice by itself. In sync mode a write waits for the log, and the timeout bounds the wait.
    client = valkey.Valkey(port=int(sys.argv[1]) if len(sys.argv) > 1 else 6379, socket_timeout=5)
    pay = client.register_script(PAY)
    while True:
        started = time.monotonic()
        payment = f"payment:{uuid.uuid4()}"
        balance = write(lambda: pay(keys=["balance", payment], args=[10]), may_repeat=True)
        try:
            visits = write(lambda: client.incr("visits"))
        except NoAnswer:
            visits = "counted, or not"
        print(f"balance {balance}, visits {visits}, after {time.monotonic() - started:.2f} s", flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
