"""Programs under test, as processes that can be killed and started again. Found by PYTHONPATH, see tests/binaries.sh."""

import os
import pathlib
import signal
import subprocess
import time

WAIT_S = 20.0
POLL_S = 0.01


def wait_for(what: str, condition, seconds: float = WAIT_S):
    """Waits until the condition holds, and returns its answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(POLL_S)


class ChildProcess:
    """A program whose output goes to a file."""

    def __init__(self, command: list[str], output: pathlib.Path, environment: dict[str, str] | None = None):
        self._command = command
        self._output = output
        self._environment = os.environ | (environment or {})
        self._child: subprocess.Popen | None = None

    @property
    def name(self) -> str:
        """What its output is named after."""
        return self._output.stem

    def start(self, environment: dict[str, str] | None = None) -> None:
        """Starts it, with more variables in its environment if some are given."""
        with self._output.open("ab") as output:
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                           env=self._environment | (environment or {}))

    def kill(self) -> None:
        """As a crash: kill -9. Returns when it is gone."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def terminate(self) -> None:
        """As an operator: SIGTERM. Returns when it has ended."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()
            self._child = None

    def freeze(self) -> None:
        """Stops it until it is killed or thawed."""
        if self._child is not None:
            self._child.send_signal(signal.SIGSTOP)
            # The signal is only sent so far: on a busy machine, threads may go on for a while.
            os.waitid(os.P_PID, self._child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)

    def output(self) -> str:
        """Everything that it has written so far."""
        return self._output.read_text(errors="replace")

    def pid(self) -> int:
        """Of the running process."""
        assert self._child is not None
        return self._child.pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None
