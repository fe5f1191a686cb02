"""What the README has people try first: scripts/run.sh, the processes killed, and started again. All of the script runs but the builds, which
were made before."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from built import ROOT, run, valkey
from child_process import wait_for
from pages import Pages
from ports import FIRST, HOST


class FirstSteps(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._scratch = tempfile.TemporaryDirectory(prefix="first-steps.")
        cls.addClassCleanup(cls._scratch.cleanup)
        cls.scratch = pathlib.Path(cls._scratch.name)
        # There is nothing to build: what the tests run was built.
        cargo = cls.scratch / "cargo"
        version = run("cargo", "--version").strip()
        cargo.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}"\nexit 0\n')
        cargo.chmod(0o755)
        cls.pages = Pages()

    def start(self, page: str, start: str, name: str, port: int, more: str = "") -> subprocess.Popen:
        """Types a command of a page that runs scripts/run.sh, with `more` behind it."""
        command = (self.pages.command(page, start) + more).split()
        command = [str(ROOT / command[0]), *command[1:], "--port", str(port), "--dir", str(self.scratch / name)]
        environment = os.environ | {"PATH": f"{self.scratch}:{os.environ['PATH']}"}
        with (self.scratch / f"{name}.output").open("ab") as output:
            # What runs in the background ignores Ctrl-C, and so would all that it starts.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                                       preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process: subprocess.Popen) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    def output(self, name: str) -> str:
        return (self.scratch / f"{name}.output").read_text()

    def last_words(self, name: str) -> str:
        """The last lines of the script's output, and of each server's log."""
        files = [self.scratch / f"{name}.output", *sorted((self.scratch / name).glob("*.out"))]
        return "\n".join(f"-- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-20:]) for file in files)

    def cli(self, port: int, command: str) -> str:
        """Types a command for valkey-cli, at that port."""
        program, *words = command.split()
        self.assertEqual(program, "valkey-cli")
        done = subprocess.run([valkey("valkey-cli"), "-h", HOST, "-p", str(port), *words], capture_output=True, text=True)
        return done.stdout.strip()

    def test_what_is_answered_survives_both_processes(self):
        port = free_ports()
        first = self.start("README.md", "scripts/run.sh", "one", port)
        wait_for("it says what to try", lambda: "Try this:" in self.output("one"), 60)
        self.assertEqual(self.cli(port, self.pages.command("README.md", "valkey-cli SET a 1")), "OK")
        pids = re.findall(r"kill -9 (\d+) (\d+)", self.output("one"))[-1]
        kill = self.pages.command("README.md", "kill -9 PID PID").replace("PID PID", " ".join(pids))
        run(*kill.split())
        first.wait(60)
        self.assertEqual(self.cli(port, "valkey-cli GET a"), "")
        self.start("README.md", "scripts/run.sh", "one", port)
        wait_for("it says so again", lambda: self.output("one").count("Try this:") == 2, 60)
        self.assertEqual(self.cli(port, self.pages.command("README.md", "valkey-cli GET a")), "1")

    def test_three_nodes_and_three_zones(self):
        port = free_ports()
        self.start("docs/zones.md", "scripts/run.sh --zones 3 --nodes 3", "three", port)
        wait_for("it says how to break it", lambda: "Break it:" in self.output("three"), 60)
        roles = re.findall(r"(?m)^  node-\d  (\w+)  port (\d+)  pid (\d+)", self.output("three"))
        self.assertEqual(sorted(role for role, _, _ in roles), ["follower", "follower", "leader"])
        _, leader, pid = next(node for node in roles if node[0] == "leader")
        self.assertEqual(self.cli(int(leader), "valkey-cli SET a 1"), "OK")
        os.kill(int(pid), signal.SIGKILL)
        others = [int(node) for role, node, _ in roles if role == "follower"]
        wait_for("another one leads", lambda: any(self.cli(node, "valkey-cli SET a 2") == "OK" for node in others), 30)


    def test_a_cluster_of_three_shards(self):
        port = free_ports()
        for more in ("", " --zones 3"):
            with self.subTest(more=more):
                self.check_cluster(port, f"cluster{len(more)}", more)

    def check_cluster(self, port: int, name: str, more: str) -> None:
        def start(times: int) -> tuple[subprocess.Popen, list[tuple[str, str, int, int]]]:
            """Shard, role, port and process of each node."""
            process = self.start("docs/cluster.md", "scripts/run.sh --shards 3 --nodes 2", name, port, more)
            try:
                wait_for("it says how to stop it", lambda: self.output(name).count("Ctrl-C stops all.") == times, 90)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.last_words(name)}") from error
            shown = self.output(name).rpartition("A durable Valkey cluster")[2]
            shards = re.findall(r"(?m)^  (shard-\d), slots \d+-\d+\n((?:  node.*\n)+)", shown)
            nodes = [(shard, *node) for shard, lines in shards for node in re.findall(r"  node-\d  (\w+)  port (\d+)  pid (\d+)", lines)]
            return process, [(shard, role, int(own), int(pid)) for shard, role, own, pid in nodes]

        def set_all(value: str) -> bool:
            return all(self.cli(port + number % 6, f"valkey-cli -c SET key{number} {value}{number}") == "OK" for number in range(30))

        def ids() -> set[str]:
            return {line.split()[0] for line in self.cli(port, "valkey-cli CLUSTER NODES").splitlines()}

        process, nodes = start(1)
        self.assertEqual([own for _, _, own, _ in nodes], list(range(port, port + 6)))
        for shard in ("shard-1", "shard-2", "shard-3"):
            self.assertEqual(sorted(role for of, role, _, _ in nodes if of == shard), ["follower", "leader"])
        self.assertTrue(set_all("a"))
        # As it says: the leaders of two shards die at a time. Not the first node, which is asked below.
        victims = [pid for shard, role, own, pid in nodes if role == "leader" and own != port][:2]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        living = next(own for _, _, own, pid in nodes if pid not in victims)
        wait_for("the others take over",
                 lambda: all(self.cli(living, f"valkey-cli -c SET key{number} b{number}") == "OK" for number in range(30)), 30)
        before = ids()
        self.stop(process)
        process, nodes = start(2)
        self.assertEqual(sorted(role for _, role, _, _ in nodes), ["follower"] * 3 + ["leader"] * 3)
        self.assertEqual(ids(), before)
        self.assertEqual([self.cli(port + number % 6, f"valkey-cli -c GET key{number}") for number in range(30)],
                         [f"b{number}" for number in range(30)])
        self.stop(process)
        other = self.start("docs/zones.md", "scripts/run.sh --zones 3", name, port)
        self.assertNotEqual(other.wait(60), 0)
        self.assertIn("3 shards of 2 nodes each", self.output(name).splitlines()[-1])


def free_ports() -> int:
    """A first port for scripts/run.sh: nobody listens on those that it takes."""
    for port in range(5000, FIRST - 1100, 50):
        nodes = range(port, port + 6)
        wanted = [*nodes, *(node + 10000 for node in nodes), *(port + 1000 + 10 * zone + more for zone in range(3) for more in range(3))]
        if all(_is_free(one) for one in wanted):
            return port
    raise AssertionError("no ports are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
