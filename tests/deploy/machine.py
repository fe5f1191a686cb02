"""A machine with a systemd of its own, in namespaces: its files are this machine's, and what it writes is gone with it."""

import os
import pathlib
import shutil
import signal
import subprocess

from built import scratch
from child_process import wait_for

HERE = pathlib.Path(__file__).resolve().parent
NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]


class Machine:
    """Boots when it is made. Needs root."""

    def __init__(self):
        if os.geteuid() != 0:
            raise AssertionError("only root can make a machine of namespaces: run tests/deploy/run.sh as root")
        self._directory = scratch() / "machine"
        self._directory.mkdir()
        # A control group of its own, below which its systemd puts everything.
        self._group = _control_groups() / f"deploy-test-{os.getpid()}"
        self._group.mkdir()
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", HERE / "boot.sh", self._directory]
        enter = f"echo $$ > {self._group}/cgroup.procs && exec \"$@\""
        self._output = scratch() / "machine.output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(["sh", "-c", enter, "sh", *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self._first = wait_for("the machine begins", self._first_process)
            wait_for("the machine has booted", self._is_up)
        except AssertionError as error:
            self.close()
            raise AssertionError(f"{error}\n{self._output.read_text()}") from error

    def _first_process(self) -> str | None:
        if self._process.poll() is not None:
            raise AssertionError("it ended")
        children = pathlib.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        # Before boot.sh has become systemd, the files are not there yet.
        is_systemd = children and pathlib.Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd"
        return children[0] if is_systemd else None

    def _is_up(self) -> bool:
        return self.try_run("systemctl", "is-active", "basic.target").returncode == 0

    def try_run(self, *command, stdin: str = "") -> subprocess.CompletedProcess:
        """Runs a command on it."""
        # The root and the working directory are the first process's.
        enter = ["nsenter", "--target", self._first, *NAMESPACES, "--root", "--wd"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run([*enter, *map(str, command)], input=stdin, capture_output=True, text=True, env=environment)

    def run(self, *command, stdin: str = "") -> str:
        """What a command on it prints. It has to succeed."""
        done = self.try_run(*command, stdin=stdin)
        if done.returncode:
            words = " ".join(map(str, command))
            raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def put(self, source: pathlib.Path, path: str, mode: int = 0o644) -> None:
        """Copies a file of this machine to it."""
        there = pathlib.Path(f"/proc/{self._first}/root{path}")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, there)
        there.chmod(mode)

    def write(self, path: str, text: str) -> None:
        """Writes a file, with the mode and the owner that it has if it is there."""
        self.run("sh", "-c", f"cat > {path}", stdin=text)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)

    def close(self) -> None:
        """Ends all its processes, by ending the first."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        wait_for("its processes are gone", lambda: "populated 0" in (self._group / "cgroup.events").read_text(), 60)
        for group in sorted(self._group.rglob("*/"), reverse=True):
            group.rmdir()
        self._group.rmdir()
        shutil.rmtree(self._directory)


def _control_groups() -> pathlib.Path:
    """Where the control groups are that systemd 252 and later use."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(path)
    raise AssertionError("no cgroup2 is mounted on this machine, which a systemd needs")
