"""The object store, the log service and the server under test."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import boto3
import valkey
from child_process import ChildProcess, wait_for
from ports import HOST, free_port

SHARD = "s3"
# A node waits for a full copy for so long, and a little longer, before it is tried again to give it one.
LEADING_S = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
# Of other programs; none of the log service's business.
OTHER_VARIABLES = {"TOKEN": "other", "REGION": "nowhere", "BUCKET": "other", "TIMEOUT": "soon", "ENDPOINT": "http://127.0.0.1:1"}


def answers(client: valkey.Valkey) -> bool:
    try:
        return bool(client.ping())
    except valkey.exceptions.BusyLoadingError:
        return True
    except valkey.exceptions.ConnectionError:
        return False


class ObjectStore:
    """moto's server. It keeps everything in memory: killed, it has lost it."""

    def __init__(self, directory: pathlib.Path):
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
        self.process = ChildProcess(command, directory / "moto.output")
        self.process.start()
        wait_for("the object store starts", lambda: _connects(port))
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_REGION"],
        )

    def names(self, bucket: str) -> list[str]:
        return sorted(item["Key"] for item in self.s3.list_objects_v2(Bucket=bucket).get("Contents", []))

    def read(self, bucket: str, name: str) -> bytes:
        return self.s3.get_object(Bucket=bucket, Key=name)["Body"].read()


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


class Relay:
    """Passes connections on to the object store, until it is closed: then they are refused. Or silent: then nothing passes. With a
    `refusal`, such as "403 Forbidden", that is the answer to whatever would be stored. With `bytes_per_second` it is slow to take."""

    refusal: str | None = None
    bytes_per_second: int | None = None

    def __init__(self, target: str):
        self._target = (HOST, int(target.rsplit(":", 1)[1]))
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._passes = threading.Event()
        self._passes.set()
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server((HOST, self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    @contextlib.contextmanager
    def silent(self):
        """It takes connections and requests, and nobody is answered. What was sent meanwhile arrives at the end."""
        self._passes.clear()
        try:
            yield
        finally:
            self._passes.set()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._connections += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._passes.wait()
                if self.refusal and data.startswith((b"PUT ", b"POST ")):
                    body = "<Error><Code>Refused</Code><Message>by the test</Message></Error>"
                    source.sendall(f"HTTP/1.1 {self.refusal}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
                    # What else comes of it is taken, so that the answer arrives.
                    while source.recv(1 << 16):
                        pass
                    break
                if self.bytes_per_second:
                    time.sleep(len(data) / self.bytes_per_second)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class LogService:
    """A log service that keeps its snapshots at a URL."""

    def __init__(self, directory: pathlib.Path, url: str, endpoint: str, *arguments: str):
        self.directory = directory / "log"
        self.url = url
        self.port = free_port()
        self.environment = CREDENTIALS | OTHER_VARIABLES | {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}
        self.engine = os.environ["VALKEY_BIN_DIR"] + "/valkey-server"
        command = [os.environ["LOGSERVICE"], "--dir", str(self.directory), "--listen", f"{HOST}:{self.port}"]
        command += ["--http", f"{HOST}:{free_port()}", "--snapshots", url, "--valkey-server", self.engine, *arguments]
        self.process = ChildProcess(command, directory / "log.output", self.environment)
        self.client = valkey.Valkey(HOST, self.port)

    def start(self) -> None:
        self.process.start()
        wait_for("the log service starts", lambda: answers(self.client))

    def status(self) -> dict[str, str]:
        fields = [field.decode() for field in self.client.execute_command("LOG.STATUS", SHARD)]
        return dict(zip(fields[::2], fields[1::2]))

    def snapshot(self) -> int:
        """Has one made; answers its offset."""
        return self.client.execute_command("LOG.SNAPSHOT", SHARD)[0]

    def run(self, *arguments: str) -> tuple[int, str]:
        """Another command of the program; answers its exit code and all that it printed."""
        command = [os.environ["LOGSERVICE"], *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | self.environment, timeout=120)
        return done.returncode, done.stdout + done.stderr


class Node:
    """A server with the module."""

    def __init__(self, directory: pathlib.Path, log: LogService):
        self.port = free_port()
        home = directory / "node"
        home.mkdir(parents=True)
        command = [log.engine, "--port", str(self.port), "--dir", str(home), "--save", "", "--enable-debug-command", "yes"]
        command += ["--loadmodule", os.environ["DURABILITY_SO"], "log", f"{HOST}:{log.port}", "shard", SHARD]
        self.process = ChildProcess(command, directory / "node.output")
        self.client = valkey.Valkey(HOST, self.port)

    def start(self) -> None:
        self.process.start()
        wait_for("the server starts", lambda: answers(self.client))

    def role(self) -> str:
        return self.client.info("durability")["durability_role"]

    def last_error(self) -> str:
        # Not by INFO, of which the client takes commas for lists.
        fields = self.client.execute_command("DURABILITY.STATUS")
        return dict(zip(fields[::2], fields[1::2]))[b"last_error"].decode()

    def wait_until_leading(self) -> None:
        wait_for("the node leads", lambda: self.role() == "leader", LEADING_S)

    def wait_until_durable(self) -> None:
        wait_for("everything is durable", lambda: self.client.info("durability")["durability_pending_bytes"] == 0)

    def digest(self) -> str:
        return self.client.execute_command("DEBUG", "DIGEST").decode()


class PlainServer:
    """A server without the module that has loaded an RDB."""

    def __init__(self, directory: pathlib.Path, file: pathlib.Path):
        port = free_port()
        command = [os.environ["VALKEY_BIN_DIR"] + "/valkey-server", "--port", str(port), "--dir", str(file.parent)]
        command += ["--dbfilename", file.name, "--save", "", "--enable-debug-command", "yes"]
        self.process = ChildProcess(command, directory / "plain.output")
        self.process.start()
        self.client = valkey.Valkey(HOST, port)
        wait_for("the server starts", lambda: answers(self.client))
