"""A Valkey cluster of several shards, with log services that keep the logs of all of them, as processes that can be killed."""

import contextlib
import pathlib
import subprocess

import valkey
from child_process import wait_for
from log_services import LogService, LogServices, pairs
from ports import HOST, free_port
from server_node import ServerNode

SLOTS = 16384
# How many nodes each shard has.
NODES = (3, 2, 2)
LEASE_MS = 2000
# Far above what a busy machine delays a ping by. Nobody waits for it: the lease decides.
NODE_TIMEOUT_MS = 5000


def flags(line: list[str]) -> set[str]:
    """Of a line of CLUSTER NODES."""
    return set(line[2].split(","))


def newest_by_port(view: list[list[str]]) -> dict[int, list[str]]:
    """The lines of CLUSTER NODES by the nodes' ports. A node that has lost its nodes.conf stays listed by the id that it had; then the line
    counts that does not say that it failed."""
    known = [line for line in view if not {"noaddr", "handshake"} & flags(line)]
    known.sort(key=lambda line: bool({"fail", "fail?"} & flags(line)), reverse=True)
    return {int(line[1].split("@")[0].rsplit(":", 1)[1]): line for line in known}


class Certificate:
    """One of a CA of its own, for servers on this machine."""

    def __init__(self, directory: pathlib.Path):
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.crt", "tls.crt", "tls.key"))
        ca_key = directory / "ca.key"
        self._make("ca", self.ca, ca_key)
        self._make(HOST, self.certificate, self.key, "-CA", str(self.ca), "-CAkey", str(ca_key), "-addext", f"subjectAltName=IP:{HOST}",
                   "-addext", "basicConstraints=critical,CA:FALSE")

    @staticmethod
    def _make(name: str, certificate: pathlib.Path, key: pathlib.Path, *more: str) -> None:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *more], check=True, capture_output=True)


class Node(ServerNode):
    """A node of the cluster."""

    def __init__(self, directory: pathlib.Path, shard: str, number: int, log: LogServices, tls: Certificate | None, more: str):
        """With a certificate, bus and log are reached by TLS. `more` are whole lines of the configuration."""
        self.shard = shard
        self._of_module: list[str] = []
        more += (f"cluster-enabled yes\ncluster-port {free_port()}\ncluster-node-timeout {NODE_TIMEOUT_MS}\n"
                "enable-debug-command local\nenable-module-command local\n")
        if tls:
            more += (f"tls-port {free_port()}\ntls-cluster yes\ntls-auth-clients no\ntls-cert-file {tls.certificate}\n"
                     f"tls-key-file {tls.key}\ntls-ca-cert-file {tls.ca}\ndurability.tls yes\ndurability.tls-ca {tls.ca}\n")
        super().__init__(directory, f"{shard}-{number}", log.addresses, shard, LEASE_MS, more)
        (line,) = [line for line in more.splitlines() if line.startswith("cluster-port")]
        self.bus_port = int(line.split()[1])

    def leave_out_module(self) -> None:
        """Makes it a plain server from its next start on."""
        config = self.home / "valkey.conf"
        lines = config.read_text().splitlines(keepends=True)
        self._of_module += [line for line in lines if line.startswith(("loadmodule", "durability."))]
        config.write_text("".join(line for line in lines if line not in self._of_module))

    def take_module(self) -> None:
        """Undoes that."""
        with (self.home / "valkey.conf").open("a") as config:
            config.writelines(self._of_module)
        self._of_module.clear()

    def has_module(self) -> bool:
        return not self._of_module

    def role(self) -> str:
        """What it says that it is; of a plain server in the same words. none if it does not answer."""
        if self.has_module():
            return super().role()
        try:
            return {"master": "leader", "slave": "follower"}[self.info("replication")["role"]]
        except valkey.ValkeyError:
            return "none"

    def ask(self, *words: str | int):
        with self.connect(timeout_s=5) as client:
            # Without the client's own reading of such answers.
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def view(self) -> list[list[str]]:
        """The lines of CLUSTER NODES, by words; none if it does not answer."""
        try:
            return [line.split() for line in self.ask("CLUSTER", "NODES").splitlines()]
        except valkey.ValkeyError:
            return []

    def info(self, section: str) -> dict:
        with self.connect(timeout_s=5) as client:
            return client.info(section)

    def cluster_info(self) -> dict[str, str]:
        """CLUSTER INFO; empty if it does not answer."""
        try:
            return dict(line.split(":", 1) for line in self.ask("CLUSTER", "INFO").splitlines() if ":" in line)
        except valkey.ValkeyError:
            return {}

    def lose_cluster(self) -> None:
        """While it does not run: it forgets what it knows of the cluster."""
        (self.home / "nodes.conf").unlink()


class Cluster:
    """Shards of several nodes each."""

    node_class = Node

    def __init__(self, directory: pathlib.Path, services: int, is_tls: bool, counts: tuple[int, ...] = NODES, more: str = "",
                 program: str | None = None, log_environment: dict[str, str] | None = None):
        """`counts` says how many nodes each shard has; `more` are whole lines of their configuration. The log services are `program`, if that
        is given, with more variables in their environment."""
        self.tls = Certificate(directory) if is_tls else None
        words, self._log_options = [], {}
        if self.tls:
            words = ["--tls-cert", str(self.tls.certificate), "--tls-key", str(self.tls.key)]
            words += ["--peer-ca", str(self.tls.ca)] if services > 1 else []
            self._log_options = {"ssl": True, "ssl_ca_certs": str(self.tls.ca)}
        self.log = LogServices(directory, services, "s0", words, program, **self._log_options)
        self.log_environment = log_environment
        self.shards = {f"s{shard}": [self.node_class(directory, f"s{shard}", number, self.log, self.tls, more) for number in range(count)]
                       for shard, count in enumerate(counts)}

    def connect_log(self, service: LogService, timeout_s: float) -> valkey.Valkey:
        return service.connect(timeout_s, **self._log_options)

    @property
    def nodes(self) -> list[Node]:
        return [node for nodes in self.shards.values() for node in nodes]

    def start(self, slots: int = SLOTS) -> None:
        """Starts everything, and makes the nodes a cluster in which each shard has an equal part of that many slots, the first ones."""
        self.log.start(self.log_environment)
        self.log.form()
        for node in self.nodes:
            node.start()
        self.meet()
        for number, shard in enumerate(self.shards):
            self.add_slots(self.wait_for_leader(shard), number, slots)
        self.wait_until_settled()

    def add_slots(self, leader: Node, number: int, slots: int) -> None:
        """Gives to the leader of that shard an equal part of that many slots, the first ones."""
        first, end = number * slots // len(self.shards), (number + 1) * slots // len(self.shards)
        leader.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)

    def meet(self) -> None:
        """Makes nodes that do not know each other a cluster."""
        first = self.nodes[0]
        for node in self.nodes:
            wait_for(f"{node.name} answers", lambda node=node: node.role() != "none")
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", HOST, first.port, first.bus_port)

    def kill(self) -> None:
        for process in [*self.nodes, self.log]:
            process.kill()

    def leader(self, shard: str) -> Node | None:
        return next((node for node in self.shards[shard] if node.role() == "leader"), None)

    def wait_for_leader(self, shard: str) -> Node:
        return wait_for(f"a node leads {shard}", lambda: self.leader(shard))

    def follower(self, shard: str) -> Node:
        """A node that follows and serves reads."""
        return wait_for(f"a node follows {shard}",
                        lambda: next((node for node in self.shards[shard] if node.role() == "follower"), None))

    def status(self, shard: str) -> dict[str, str]:
        """LOG.STATUS of the service that decides over the shard's log."""
        def status() -> dict[str, str]:
            for service in self.log.list:
                # One that is being killed, or that has just come, decides nothing.
                with contextlib.suppress(valkey.ValkeyError), self.connect_log(service, 5) as client:
                    status = pairs(client.execute_command("LOG.STATUS", shard))
                    if status["standing"] in ("alone", "decides"):
                        return status
            return {}

        return wait_for(f"a service decides over {shard}", status)

    def stored_slots(self, shard: str) -> tuple[int, str]:
        """The config epoch and the slots that the log has stored."""
        found = self.status(shard)
        return int(found["config_epoch"]), found["slots"]

    def why_not_settled(self) -> str:
        """Why the cluster is not as it should be; empty if each shard has a leader, which all nodes know as the primary of exactly the slots
        that its log has stored, and all other nodes of the shard as its replicas."""
        for shard, nodes in self.shards.items():
            roles = [node.role() for node in nodes]
            if sorted(roles) != ["follower"] * (len(nodes) - 1) + ["leader"]:
                return f"roles in {shard} are {roles}"
        leaders = {shard: self.leader(shard) for shard in self.shards}
        for node in self.nodes:
            by_port = newest_by_port(node.view())
            if node.cluster_info().get("cluster_state") != "ok":
                return f"{node.name} says that the cluster is not ok"
            for shard, nodes in self.shards.items():
                leader = leaders[shard]
                known = by_port.get(leader.port) if leader else None
                if not known or {"master", "fail", "fail?"} & flags(known) != {"master"}:
                    return f"{node.name} does not know that {leader and leader.name} leads {shard}: {known}"
                slots = ",".join(word for word in known[8:] if not word.startswith("["))
                config_epoch, stored = self.stored_slots(shard)
                if slots != stored or int(known[6]) != config_epoch:
                    return f"{node.name} gives {slots} in epoch {known[6]} to {leader.name}, the log of {shard} {stored} in {config_epoch}"
                for other in nodes:
                    line = by_port.get(other.port)
                    is_replica = line and {"slave", "fail", "fail?"} & flags(line) == {"slave"} and line[3] == known[0] and not line[8:]
                    if other is not leader and not is_replica:
                        return f"{node.name} does not know that {other.name} is a replica of {leader.name}: {line}"
        return ""

    def wait_until_settled(self, seconds: float = 30) -> None:
        why = "nothing was looked at"

        def is_settled() -> bool:
            nonlocal why
            why = self.why_not_settled()
            return not why

        try:
            wait_for("the cluster is settled", is_settled, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {why}") from None
