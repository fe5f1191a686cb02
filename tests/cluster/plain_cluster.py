"""The same cluster without the module and without logs: what clients see of a plain Valkey cluster is the measure."""

from child_process import wait_for
from shards import SLOTS, Cluster, Node, flags, newest_by_port

# As long as the lease of a durable shard is: after that time the nodes of either cluster miss a leader.
NODE_TIMEOUT_MS = 2000


class PlainNode(Node):
    """A node without the module, until it takes that."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.leave_out_module()
        config = self.home / "valkey.conf"
        config.write_text(f"{config.read_text()}cluster-node-timeout {NODE_TIMEOUT_MS}\n")


class PlainCluster(Cluster):
    """Its shards' leaders are elected by the nodes."""

    node_class = PlainNode

    def start(self, slots: int = SLOTS) -> None:
        for node in self.nodes:
            node.start()
        self.meet()
        # Until then all nodes are leaders.
        for number, nodes in enumerate(self.shards.values()):
            self.add_slots(nodes[0], number, slots)
            primary = nodes[0].ask("CLUSTER", "MYID")
            for replica in nodes[1:]:
                wait_for("it knows its primary", lambda replica=replica: primary in [line[0] for line in replica.view() if line[8:]])
                replica.ask("CLUSTER", "REPLICATE", primary)
        self.wait_until_settled()

    def why_not_settled(self) -> str:
        """Why the cluster is not as it should be; empty if each shard has a leader, whom all nodes know, and the others follow it. Once the nodes
        have the module, that of any cluster."""
        if all(node.has_module() for node in self.nodes):
            return super().why_not_settled()
        slots_by_node = []
        for node in self.nodes:
            by_port = newest_by_port(node.view())
            if node.cluster_info().get("cluster_state") != "ok":
                return f"{node.name} says that the cluster is not ok"
            for shard, nodes in self.shards.items():
                lines = [by_port.get(other.port) for other in nodes]
                if None in lines or any({"fail", "fail?"} & flags(line) for line in lines):
                    return f"{node.name} does not know all of {shard}: {lines}"
                primaries = [line[0] for line in lines if "master" in flags(line)]
                if len(primaries) != 1 or any("slave" in flags(line) and line[3] != primaries[0] for line in lines):
                    return f"{node.name} does not know who leads {shard}: {lines}"
            slots_by_node.append({port: line[8:] for port, line in by_port.items()})
            replication = node.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return f"{node.name} has no link to its primary"
        return "" if slots_by_node.count(slots_by_node[0]) == len(slots_by_node) else f"the nodes differ: {slots_by_node}"
