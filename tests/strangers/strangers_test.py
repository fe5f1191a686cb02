"""What a node and its clients notice of thousands of strangers at the ports of their log service.

A node leads with a lease, and a client writes, one write after the other. First undisturbed, then with strangers (crowd.py), all from
the node's own address, which is the worst case: they share its part of what strangers may hold. Meanwhile the lease is watched; then the node is
killed and started again, several times; at last undisturbed again. It fails if the node does not lead again within 2 s, a renewal was late, or the 99th
percentile of acknowledgements is more than 1.5 times what it was (and not within half a millisecond of it).

Says of each thread of the service and of the node how much of a core it took, and how long it waited for one each time that it was to run: where
time goes, on a machine that others use as well. And how uneven the slow acknowledgements are: a crowd that comes in waves is seen there.
"""

import argparse
import dataclasses
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from ports import HOST, free_port

HERE = pathlib.Path(__file__).parent
SHARD, TOKEN = "orders", "4f7a0c51e2b94d0fa5d1c7b3e8a26f90"
LEASE_MS = 3000
# It is renewed every third, and the log's clock and the node's may each be a little late.
LATE_BELOW_MS = LEASE_MS // 3
LEADS_WITHIN_S = 2.0
P99_FACTOR, P99_SLACK_MS = 1.5, 0.5
WAIT_S = 30.0
CROWD_PROCESSES = 4


class Client:
    """Speaks just enough RESP."""

    def __init__(self, port: int):
        self._socket = socket.create_connection((HOST, port), timeout=WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")

    def call(self, *arguments: str):
        command = f"*{len(arguments)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in arguments)
        self._socket.sendall(command.encode())
        return self._reply()

    def _reply(self):
        line = self._replies.readline().rstrip()
        if not line:
            raise ConnectionError("the connection is closed")
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self._replies.read(int(rest) + 2)[:-2].decode()
        if kind in b"*%":
            items = [self._reply() for _ in range(int(rest) * (2 if kind == b"%" else 1))]
            return dict(zip(items[::2], items[1::2])) if kind == b"%" else items
        return int(rest) if kind == b":" else line.decode()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


class Rig:
    """A log service and a node, as processes."""

    def __init__(self, directory: pathlib.Path, with_tls: bool):
        self._directory = directory
        self.log_port, self.http_port, self.port = free_port(), free_port(), free_port()
        tokens = directory / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{SHARD} {TOKEN}\n")
        self._log = [os.environ["LOGSERVICE"], "--dir", str(directory / "log"), "--listen", f"{HOST}:{self.log_port}"]
        self._log += ["--http", f"{HOST}:{self.http_port}", "--tokens", str(tokens)]
        self._log += ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server"]
        # Few, so that open files are left for connections that linger wherever 20,000 are allowed.
        self._log += ["--max-connections", "1000"]
        config = (
            f'bind {HOST}\nport {self.port}\ndir {directory}\nsave ""\nloadmodule {os.environ["DURABILITY_SO"]}\n'
            f"durability.log {HOST}:{self.log_port}\ndurability.shard {SHARD}\ndurability.auth {TOKEN}\n"
            f"durability.node-id n1\ndurability.announce {HOST}:{self.port}\n"
            f"durability.failover yes\ndurability.lease-ms {LEASE_MS}\ndurability.mode sync\n"
        )
        if with_tls:
            self._log += self._certificates()
            config += f"durability.tls yes\ndurability.tls-ca {directory}/ca.crt\n"
        (directory / "valkey.conf").write_text(config)
        self.log_process: subprocess.Popen | None = None
        self._node: subprocess.Popen | None = None

    def _certificates(self) -> list[str]:
        def openssl(arguments: str) -> None:
            command = ["openssl", *arguments.split()]
            subprocess.run(command, cwd=self._directory, check=True, stderr=subprocess.DEVNULL)

        key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9"
        openssl(f"req -x509 {key} -subj /CN=CA -keyout ca.key -out ca.crt")
        names = f"-addext subjectAltName=IP:{HOST} -addext basicConstraints=critical,CA:FALSE"
        openssl(f"req -x509 {key} -subj /CN=log -CA ca.crt -CAkey ca.key {names} -keyout log.key -out log.crt")
        return ["--tls-cert", str(self._directory / "log.crt"), "--tls-key", str(self._directory / "log.key")]

    def _start(self, name: str, command: list[str]) -> subprocess.Popen:
        with (self._directory / f"{name}.output").open("ab") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def start_log(self) -> None:
        self.log_process = self._start("log", self._log)

    def start_node(self) -> float:
        """Answers after how many seconds it acknowledged a write."""
        begun = time.monotonic()
        server = os.environ["VALKEY_BIN_DIR"] + "/valkey-server"
        self._node = self._start("node", [server, str(self._directory / "valkey.conf")])
        while time.monotonic() < begun + WAIT_S:
            try:
                client = Client(self.port)
                answer = client.call("SET", "started", "x")
                client.close()
                if answer == "+OK":
                    return time.monotonic() - begun
            except OSError:
                pass
            time.sleep(0.005)
        raise SystemExit(f"the node does not lead within {WAIT_S} s: see {self._directory}/node.output")

    def kill_node(self) -> None:
        if self._node is not None:
            self._node.kill()
            self._node.wait()
            self._node = None

    def processes(self) -> dict[str, subprocess.Popen]:
        return {name: one for name, one in (("service", self.log_process), ("node", self._node)) if one is not None}

    def stop(self) -> None:
        self.kill_node()
        if self.log_process is not None:
            self.log_process.kill()
            self.log_process.wait()


class Watch(threading.Thread):
    """Sees how low the lease becomes."""

    def __init__(self, port: int):
        super().__init__()
        self._client = Client(port)
        self._done = threading.Event()
        self.least_ms = LEASE_MS

    def run(self) -> None:
        while not self._done.wait(0.02):
            status = self._client.call("DURABILITY.STATUS")
            if isinstance(status, list):
                status = dict(zip(status[::2], status[1::2]))
            self.least_ms = min(self.least_ms, int(status["lease_left_ms"]))

    def end(self) -> int:
        self._done.set()
        self.join()
        self._client.close()
        return self.least_ms


class Threads:
    """What the threads of some processes have had of the machine since this was made."""

    def __init__(self, processes: dict[str, subprocess.Popen]):
        self._processes = processes
        self._begun = time.monotonic()
        self._before = self._read()

    def _read(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name, process in self._processes.items():
            for thread in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
                try:
                    key = f"{name} {(thread / 'comm').read_text().strip()}"
                    # ns that it ran, ns that it waited for a core, and how often it was to run.
                    values = [int(word) for word in (thread / "schedstat").read_text().split()]
                except OSError:
                    continue
                found[key] = [one + other for one, other in zip(found.get(key, [0, 0, 0]), values)]
        return found

    def lines(self) -> list[str]:
        seconds = time.monotonic() - self._begun
        lines = []
        for key, values in sorted(self._read().items()):
            ran, waited, turns = (max(0, one - other) for one, other in zip(values, self._before.get(key, [0, 0, 0])))
            if ran > 1e6 and turns > 0:
                lines.append(f"{key}: {ran / 1e9 / seconds:.3f} of a core, waited {waited / turns / 1e3:.0f} us each of {turns} times")
        return lines


@dataclasses.dataclass
class Measured:
    """Acknowledgements of writes that were made one after the other."""

    times_ms: list[float]
    # When each write began.
    at_s: list[float]
    least_lease_ms: int
    threads: list[str]

    def at(self, share: float) -> float:
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def figures(self) -> dict[str, float]:
        found = {"writes": len(self.times_ms), "p50_ms": self.at(0.5), "p99_ms": self.at(0.99), "most_ms": self.at(1)}
        return found | {"least_lease_ms": self.least_lease_ms}

    def slow_of_second(self) -> list[int]:
        """How many of the slowest hundredth each second has."""
        slow_ms, first = self.at(0.99), int(self.at_s[0])
        counts = [0] * (int(self.at_s[-1]) - first + 1)
        for at_s, time_ms in zip(self.at_s, self.times_ms):
            counts[int(at_s) - first] += time_ms >= slow_ms
        return counts


def measure(rig: Rig, seconds: float) -> Measured:
    """Writes one after the other."""
    watch, client, times_ms, at_s = Watch(rig.port), Client(rig.port), [], []
    threads = Threads(rig.processes())
    watch.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        begun = time.monotonic()
        answer = client.call("SET", "key", "x" * 100)
        assert answer == "+OK", answer
        times_ms.append((time.monotonic() - begun) * 1000)
        at_s.append(begun)
        # So that the figures are of acknowledgements and not of a queue.
        time.sleep(0.001)
    lines = threads.lines()
    client.close()
    return Measured(times_ms, at_s, watch.end(), lines)


def cpu_seconds(process: subprocess.Popen) -> float:
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(options: argparse.Namespace, directory: pathlib.Path) -> bool:
    rig = Rig(directory, options.tls)
    crowds: list[subprocess.Popen] = []
    try:
        rig.start_log()
        first_s = rig.start_node()
        before = measure(rig, options.seconds / 2)
        load = os.getloadavg()[0]
        # Long enough in any case; they are ended before.
        seconds = options.seconds + WAIT_S * (1 + options.restarts)
        for number in range(CROWD_PROCESSES):
            count = options.strangers // CROWD_PROCESSES
            command = [sys.executable, str(HERE / "crowd.py"), str(count), str(seconds)]
            command += [str(rig.log_port), str(rig.http_port)]
            crowds.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        # Until they have all tried.
        time.sleep(min(5.0, options.seconds / 3))
        before_s = cpu_seconds(rig.log_process)
        disturbed = measure(rig, options.seconds)
        cpu = (cpu_seconds(rig.log_process) - before_s) / options.seconds
        load_with = os.getloadavg()[0]
        starts_s = []
        for _ in range(options.restarts):
            rig.kill_node()
            starts_s.append(rig.start_node())
        is_there = [crowd.poll() is None for crowd in crowds]
        for crowd in crowds:
            crowd.terminate()
        strangers = [crowd.communicate()[0].split() for crowd in crowds]
        after = measure(rig, options.seconds / 2)
    finally:
        for crowd in crowds:
            crowd.kill()
            crowd.wait()
        rig.stop()
    shown = lambda times: ", ".join(f"{one:.2f}" for one in times)
    print(f"{options.strangers} strangers, {options.seconds} s, {'TLS' if options.tls else 'no TLS'}, lease {LEASE_MS} ms")
    print(f"at most {sum(int(one[0]) for one in strangers)} open at a time, {sum(int(one[1]) for one in strangers)} were closed")
    print(f"load (1 min) before {load:.1f}, with them {load_with:.1f}; the log service took {cpu:.2f} of a core")
    least_lease_ms = min(before.least_lease_ms, after.least_lease_ms)
    undisturbed = Measured(before.times_ms + after.times_ms, before.at_s + after.at_s, least_lease_ms, before.threads)
    both = (("undisturbed, before and after", undisturbed), ("with strangers", disturbed))
    for name, found in both:
        texts = [f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in found.figures().items()]
        print(f"{name}: {', '.join(texts)}")
    print(f"the node led after {first_s:.2f} s undisturbed, and after {shown(starts_s)} s with strangers")
    print(f"of the slowest hundredth with strangers, each second had {disturbed.slow_of_second()}")
    for name, found in both:
        print(f"{name}:", *found.threads, sep="\n  ")
    before_ms = undisturbed.at(0.99)
    limit_ms = max(before_ms * P99_FACTOR, before_ms + P99_SLACK_MS)
    verdicts = {
        "the strangers were there until the end": all(is_there),
        f"leads within {LEADS_WITHIN_S} s": all(one < LEADS_WITHIN_S for one in starts_s),
        f"no renewal is late (lease never below {LATE_BELOW_MS} ms)": disturbed.least_lease_ms > LATE_BELOW_MS,
        f"p99 at most {limit_ms:.2f} ms": disturbed.at(0.99) <= limit_ms,
    }
    for what, is_so in verdicts.items():
        print(f"{'ok' if is_so else 'NOT'}: {what}")
    return all(verdicts.values())


def set_priority(nice: int) -> None:
    """Of this process and all that it starts: where Linux schedules by sessions (autogroup), it is the session's that counts."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if nice != 0:
        os.setsid()
        pathlib.Path("/proc/self/autogroup").write_text(str(nice))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strangers", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--tls", action="store_true", help="both ports take TLS only")
    parser.add_argument("--nice", type=int, default=0, help="of the log service, the node and its client; strangers have 19")
    options = parser.parse_args()
    set_priority(options.nice)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="strangers."))
    is_right = run(options, directory)
    if is_right:
        shutil.rmtree(directory)
    else:
        print(f"what the processes said is in {directory}")
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
