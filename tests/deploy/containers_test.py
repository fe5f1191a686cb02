"""What containers are made of: the files are linted, and what compose.yaml starts is started, as processes of this machine. No image is
built here: there is no registry to fetch the base images from."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import valkey
import yaml
from child_process import ChildProcess, wait_for
from ports import HOST, free_port

from built import DEPLOY, ROOT, run, scratch

DOCKER = DEPLOY / "docker"
KUBERNETES = DEPLOY / "kubernetes"


class ContainerFiles(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        program = next(pathlib.Path(path) / "bin" / "hadolint" for path in sys.path if (pathlib.Path(path) / "bin" / "hadolint").exists())
        run(program, DOCKER / "Dockerfile")

    def test_the_dockerfile_takes_files_that_exist(self):
        text = (DOCKER / "Dockerfile").read_text()
        for source in re.findall(r"(?m)^COPY (?!--from)(?:--\S+ )*(\S+) ", text):
            self.assertTrue((DEPLOY.parent / source).exists(), source)
        targets = set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", text))
        compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        used = {service["build"]["target"] for service in compose["services"].values() if "build" in service}
        self.assertEqual(targets - {"build"}, used)

    def test_rust_is_as_new_as_the_crates_need(self):
        metadata = json.loads(run("cargo", "metadata", "--format-version=1", "--locked", "--manifest-path", ROOT / "Cargo.toml"))
        packages = {package["id"]: package for package in metadata["packages"]}
        edges = {node["id"]: [need["pkg"] for need in node["deps"] if any(kind["kind"] != "dev" for kind in need["dep_kinds"])]
                 for node in metadata["resolve"]["nodes"]}
        # What users build, and all that it needs.
        todo, needed = list(metadata["workspace_default_members"]), set()
        while todo:
            package = todo.pop()
            if package not in needed:
                needed.add(package)
                todo += edges[package]
        others = (packages[package] for package in needed if packages[package]["source"])
        newest = max(_version(other["rust_version"] or "1") for other in others)
        said = re.search(r'(?m)^rust-version = "(\S+)"$', (ROOT / "Cargo.toml").read_text())[1]
        self.assertEqual(_version(said)[:2], newest[:2])
        self.assertGreaterEqual(_version(re.search(r"rust:([\d.]+)-", (DOCKER / "Dockerfile").read_text())[1]), newest[:2])
        for page in ("CONTRIBUTING.md", "docs/install.md"):
            self.assertEqual(set(re.findall(r"Rust (\d[\d.]*\d) or newer", (ROOT / page).read_text())), {said}, page)

    def test_compose_follows_the_specification(self):
        run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")

    def test_kubernetes_takes_the_resources(self):
        program = [sys.executable, "-c", "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())", "--strict"]
        run(*program, KUBERNETES / "logservice.yaml")

    def test_the_values_are_those_of_the_chart(self):
        # The names of the chart's values of version 1.0 that the example sets, with their kinds.
        kinds = {"image": dict, "replica": dict, "persistence": dict, "deploymentStrategy": str, "extraInitContainers": list,
                 "extraVolumes": list, "extraVolumeMounts": list, "extraConfig": str, "readinessProbe": dict}
        values = yaml.safe_load((KUBERNETES / "valkey-values.yaml").read_text())
        self.assertEqual({name: type(value) for name, value in values.items()}, kinds)
        mounts = {mount["name"] for mount in values["extraVolumeMounts"]}
        self.assertEqual(mounts, {volume["name"] for volume in values["extraVolumes"]})
        # The addresses of the log services are the same in both files.
        logs = re.search(r"(?m)^durability\.log (\S+)$", values["extraConfig"])[1].split(",")
        announced = "$(POD_NAME).logservice.default.svc.cluster.local:7379"
        self.assertIn(f"--announce={announced}", (KUBERNETES / "logservice.yaml").read_text())
        self.assertEqual(logs, [announced.replace("$(POD_NAME)", f"logservice-{number}") for number in range(3)])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


class Compose(unittest.TestCase):
    """What compose.yaml starts, with addresses of this machine in place of the names of containers."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=scratch()))
        self.services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
        self.names = {f"{name}:{port}": f"{HOST}:{free_port()}" for name in ("log-a", "log-b", "log-c") for port in (7379, 7380, 7381)}
        self.ports = {name: free_port() for name in self.services if name.startswith("node-")}
        self.children = {}

    def words(self, name: str) -> list[str]:
        """The command of a service, as it can be run here."""
        words = []
        for word in self.services[name]["command"]:
            for container, here in self.names.items():
                word = word.replace(container, here)
            for node, port in self.ports.items():
                word = word.replace(f"{node}:6379", f"{HOST}:{port}")
            for port in (7379, 7380):
                word = word.replace(f"0.0.0.0:{port}", self.names.get(f"{name}:{port}", ""))
            word = word.replace("/secrets/", f"{self.directory}/").replace("$$", "$")
            words.append(word.replace("/usr/lib/valkey/libvalkey_durability.so", os.environ["DURABILITY_SO"]))
        return words

    def start(self, name: str, words: list[str]) -> None:
        self.children[name] = ChildProcess(words, self.directory / f"{name}.output")
        self.addCleanup(self.children[name].kill)
        self.children[name].start()

    def role(self, node: str) -> str:
        try:
            with self.connect(node) as client:
                return client.info("durability")["durability_role"]
        except valkey.ValkeyError:
            return "none"

    def connect(self, node: str) -> valkey.Valkey:
        return valkey.Valkey(HOST, self.ports[node], socket_timeout=5, decode_responses=True)

    def test_what_it_starts_is_durable(self):
        setup = DOCKER / "setup.sh"
        run(setup, self.directory, f"{os.getuid()}:{os.getgid()}")
        secrets = {path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}
        self.assertEqual({oct(path.stat().st_mode & 0o777) for path in secrets}, {"0o600"})
        self.assertIn("are there", run(setup, self.directory, f"{os.getuid()}:{os.getgid()}"))
        self.assertEqual({path: path.read_bytes() for path in secrets}, secrets)

        programs = f"{os.environ['VALKEY_BIN_DIR']}:{os.environ['PATH']}"
        for name in ("log-a", "log-b", "log-c"):
            words = [os.environ["LOGSERVICE"], "--dir", str(self.directory / name / "data"), *self.words(name)]
            self.start(name, words + ["--valkey-server", os.environ["VALKEY_BIN_DIR"] + "/valkey-server"])
        # The words by which the cluster is made know the names only by which containers reach each other.
        host, port = self.names["log-a:7379"].split(":")
        [script] = self.words("cluster")
        script = script.replace("-h log-a -p 7379", f"-h {host} -p {port}")
        subprocess.run(["sh", "-c", script], check=True, timeout=30, env=os.environ | {"PATH": programs}, stderr=subprocess.DEVNULL)
        for node, port in self.ports.items():
            program, *words = self.words(node)
            home = self.directory / node
            home.mkdir()
            self.start(node, [f"{os.environ['VALKEY_BIN_DIR']}/{program}", *words, "--port", str(port), "--dir", str(home)])
        leader = wait_for("a node leads", lambda: next((node for node in self.ports if self.role(node) == "leader"), None), 30)
        with self.connect(leader) as client:
            self.assertTrue(client.set("a", "1"))
        # A zone is lost: the node that leads, and the log service of its zone.
        zone = leader.replace("node-", "")
        for name in (leader, f"log-{'abc'[int(zone) - 1]}"):
            self.children[name].kill()
        others = [node for node in self.ports if node != leader]
        other = wait_for("another node leads", lambda: next((node for node in others if self.role(node) == "leader"), None), 30)
        with self.connect(other) as client:
            self.assertEqual(client.get("a"), "1")
            self.assertTrue(client.set("b", "2"))
