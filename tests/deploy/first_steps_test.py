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

    def start(self, page: str, start: str, name: str, port: int) -> subprocess.Popen:
        """Types a command of a page that runs scripts/run.sh."""
        command = self.pages.command(page, start).split()
        command = [str(ROOT / command[0]), *command[1:], "--port", str(port), "--dir", str(self.scratch / name)]
        environment = os.environ | {"PATH": f"{self.scratch}:{os.environ['PATH']}"}
        with (self.scratch / f"{name}.output").open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process: subprocess.Popen) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    def output(self, name: str) -> str:
        return (self.scratch / f"{name}.output").read_text()

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


def free_ports() -> int:
    """A first port for scripts/run.sh: nobody listens on those that it takes."""
    for port in range(5000, FIRST - 1100, 50):
        wanted = [port, port + 1, port + 2, *(port + 1000 + 10 * zone + more for zone in range(3) for more in range(3))]
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
