"""What README and docs tell people to type is typed, as it stands there, on a machine that has the addresses of the pages. Only what the pages
leave to the reader is filled in: tokens, names of keys, what stands for other flags.
"""

import datetime
import os
import pathlib
import re
import secrets
import time
import unittest

from built import ROOT
from child_process import wait_for
from machine import Machine
from pages import Pages, commands, pages
from units_test import install_valkey

LOG, ZONES = "10.0.0.5", ("10.0.1.5", "10.0.2.5", "10.0.3.5")
TOKENS = {"<token of the nodes>": secrets.token_hex(32), "<token of the applications>": secrets.token_hex(32)}
OPERATOR = secrets.token_hex(32)
NODE_CONF, LOG_START = "/root/node.conf", "logservice --dir /var/lib/logservice"
# Commands that are not run here, by page and beginning, and the test that runs them or looks at what they use.
ELSEWHERE = {
    ("README.md", "scripts/run.sh"): "tests/deploy/first_steps_test.py",
    ("README.md", "valkey-cli SET a 1"): "tests/deploy/first_steps_test.py",
    ("README.md", "valkey-cli GET a"): "tests/deploy/first_steps_test.py",
    ("README.md", "kill -9"): "tests/deploy/first_steps_test.py",
    ("docs/zones.md", "scripts/run.sh --zones 3"): "tests/deploy/first_steps_test.py",
    ("docs/cluster.md", "scripts/run.sh --shards 3"): "tests/deploy/first_steps_test.py",
    ("docs/cluster.md", "valkey-cli -p 7000 CLUSTER"): "tests/cluster/migration_test.py",
    ("docs/cluster.md", "valkey-cli --cluster"): "tests/cluster/migration_test.py",
    ("docs/install.md", "deploy/debian/build.sh"): "tests/deploy/packages_test.py",
    ("docs/install.md", "apt-get install"): "tests/deploy/units_test.py",
    ("docs/install.md", "editor"): "tests/deploy/units_test.py",
    ("docs/install.md", "install -m 640 -o root -g logservice tokens"): "tests/deploy/units_test.py",
    ("docs/install.md", "install -m 640 -o root -g valkey log-token"): "tests/deploy/units_test.py",
    ("docs/install.md", "cat /usr/share/doc"): "tests/deploy/units_test.py",
    ("docs/install.md", "systemctl"): "tests/deploy/units_test.py",
    # The build that all tests use.
    ("docs/install.md", "cargo build --release"): "scripts/test.sh",
    # Without Docker and Kubernetes here: the files are checked.
    ("docs/containers.md", "docker"): "tests/deploy/containers_test.py",
    ("docs/containers.md", "helm"): "tests/deploy/containers_test.py",
    ("docs/zones.md", "valkey-cli … LOG.CLUSTER INIT"): "tests/zones/growing_test.py",
    ("docs/zones.md", "valkey-cli … LOG.CLUSTER REPLACE"): "tests/zones/replacement_test.py",
    ("docs/zones.md", "valkey-cli … LOG.CLUSTER FORCE"): "tests/zones/operators_test.py",
    ("docs/bench/README.md", "scripts/bench.sh --report"): "tests/bench/report_test.py",
}


class Documents(unittest.TestCase):
    """In the order of the names: what one does, the next goes on with."""

    @classmethod
    def setUpClass(cls):
        cls.pages = Pages()
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)
        install_valkey(cls.machine)
        for address in (LOG, *ZONES):
            cls.machine.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        cls.machine.run("mkdir", "-p", "/root/src/target/release", "/etc/logservice", "/run/logservice", "/mnt/safe", "/srv/backups")
        for name, variable in (("logservice", "LOGSERVICE"), ("libvalkey_durability.so", "DURABILITY_SO")):
            cls.machine.put(pathlib.Path(os.environ[variable]), f"/root/src/target/release/{name}", 0o755)

    def run(self, result=None):
        result = super().run(result)
        # What the programs said, if this test found something wrong.
        if result is not None and any(test is self for test, _ in result.failures + result.errors):
            print(self.machine.run("journalctl", "--no-pager", "--lines=60"))
        return result

    def sh(self, command: str) -> str:
        """Types it, in the directory of the source."""
        return self.machine.run("sh", "-c", f"cd /root/src && PATH=/usr/local/bin:$PATH\n{command}")

    def cli(self, *words: str) -> str:
        return self.machine.try_run("valkey-cli", *words).stdout.strip()

    def start(self, unit: str, command: str) -> None:
        """As what goes on in a terminal of its own."""
        self.machine.run("systemd-run", "--quiet", f"--unit={unit}", "--property=WorkingDirectory=/root", "sh", "-c", f"exec {command}")

    def stop(self, *units: str) -> None:
        self.machine.try_run("systemctl", "stop", *units)
        self.machine.try_run("systemctl", "reset-failed", *units)

    def start_node(self, config: str) -> None:
        base = "dir /var/lib/valkey\nbind 127.0.0.1\nport 6379\n"
        self.machine.write(NODE_CONF, base + config)
        self.start("node", f"valkey-server {NODE_CONF}")
        wait_for("the node leads", lambda: "durability_role:leader" in self.cli("INFO", "durability"), 30)

    def node_conf(self) -> str:
        return self.pages.file("docs/install.md", "loadmodule ")

    def start_log(self, flags: str = "") -> None:
        self.start("log", self.pages.command("docs/install.md", LOG_START) + flags)

    def wait_until_run(self, what: str, command: str, seconds: float) -> None:
        """Types a command again and again, until it succeeds."""
        deadline = time.monotonic() + seconds
        while (done := self.machine.try_run("sh", "-c", f"PATH=/usr/local/bin:$PATH\n{command}")).returncode:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds} s: {done.stdout}{done.stderr}")
            time.sleep(0.5)

    def now(self) -> str:
        """A moment after all that is written, as --to takes it."""
        time.sleep(1.1)
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        time.sleep(1.1)
        return moment

    def test_1_installed_by_hand(self):
        self.sh(self.pages.command("docs/install.md", "install -m 755 target/release/logservice"))
        self.sh(self.pages.command("docs/install.md", "install -D -m 755 target/release/libvalkey_durability.so"))
        self.sh(self.pages.command("docs/install.md", "install -d -m 750 -o root -g valkey"))
        self.sh(self.pages.command("docs/install.md", "install -m 640 -o root -g valkey /dev/null"))
        nodes = {"<token of the nodes>": TOKENS["<token of the nodes>"]}
        self.sh(self.pages.command("docs/install.md", "printf", nodes))
        self.assertEqual(self.pages.file("README.md", "orders <token"), self.pages.file("docs/install.md", "orders <token"))
        tokens = self.pages.file("README.md", "orders <token", TOKENS) + f"orders {OPERATOR} operate\n* {OPERATOR} operate\n"
        self.machine.write("/etc/logservice/tokens", tokens)
        self.machine.run("chmod", "600", "/etc/logservice/tokens")
        self.assertEqual(self.pages.command("README.md", LOG_START), self.pages.command("docs/install.md", LOG_START))
        self.start_log()
        self.assertEqual(self.pages.file("README.md", "loadmodule"), self.node_conf())
        self.start_node(self.node_conf())
        status = self.sh(self.pages.command("docs/install.md", "valkey-cli DURABILITY.STATUS"))
        self.assertRegex(status, r"\nlink\nup\n(?s:.*)\nrole\nleader\n")
        self.assertRegex(self.sh(self.pages.command("docs/install.md", "valkey-cli -h", nodes)), r"state\nok\n")

    def test_2_snapshots_audits_and_looking_at_a_log(self):
        self.cli("EVAL", "for i=1,200 do redis.call('SET', 'key'..i, string.rep('x', 50)) end", "0")
        token = {"<token>": OPERATOR}
        self.assertRegex(self.sh(self.pages.command("docs/snapshots.md", "valkey-cli", token)), r"^\d+\n\d+\n")
        self.assertRegex(self.sh(self.pages.command("docs/audit.md", "valkey-cli", token)), r"differences\n0\n")
        moment = self.now()
        self.cli("FLUSHALL")
        self.sh(self.pages.command("docs/restore.md", "logservice restore", {"2026-11-21T17:09:59Z": moment}))
        self.assertIn("REDIS", self.sh("head -c 5 dump.rdb; rm dump.rdb").replace("VALKE", "REDIS"))
        self.assertIn("SET", self.sh(self.pages.command("docs/restore.md", "logservice dump", {"--from 1000": "--from 0"})))
        self.stop("node", "log")
        self.assertIn("orders", self.sh(self.pages.command("docs/restore.md", "logservice check")))

    def test_3_encrypted(self):
        self.sh(self.pages.command("docs/encryption.md", "printf"))
        self.start("log", self.pages.command("docs/encryption.md", "logservice", {"logservice …": self.pages.command("docs/install.md", LOG_START)}))
        self.start_node(self.node_conf())
        self.assertEqual(self.cli("SET", "a", "1"), "OK")
        self.assertRegex(self.cli("-h", LOG, "-p", "7379", "--pass", OPERATOR, "LOG.STATUS", "orders"), r"keys\n2026-11\n")
        self.stop("node", "log")
        self.machine.run("rm", "-r", "/var/lib/logservice")

    def test_4_by_tls(self):
        self.sh("cd /etc/logservice && " + self.pages.command("docs/tls.md", "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365"))
        names = "".join(f",IP:{address}" for address in ZONES)
        own = self.pages.command("docs/tls.md", "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90",
                                 {"DNS:log.example": f"DNS:log.example{names}"})
        self.sh(f"cd /etc/logservice && {own} && cp ca.crt /etc/valkey-durability/log-ca.crt")
        command = self.pages.command("docs/tls.md", "logservice", {"logservice …": self.pages.command("docs/install.md", LOG_START)})
        self.start("log", re.sub(r" \\\n *\[.*\]", "", command))
        tls, _, _ = self.pages.file("docs/tls.md", "durability.tls yes").partition("# Only if")
        self.start_node(self.node_conf() + tls)
        self.assertEqual(self.cli("SET", "a", "1"), "OK")
        self.stop("node", "log")
        self.machine.run("rm", "-r", "/var/lib/logservice")

    def test_5_backups_by_time(self):
        place = {"s3://bucket/prefix": "file:///srv/backups"}
        log = self.pages.command("docs/backups.md", "logservice --dir", {**place, " …": ""})
        self.start("log", self.pages.command("docs/install.md", LOG_START) + log.removeprefix(LOG_START))
        self.start_node(self.node_conf())
        self.assertEqual(self.cli("SET", "kept", "1"), "OK")
        there = f"-h {LOG} -p 7379 --no-auth-warning --pass {OPERATOR}"
        self.assertIn("before-migration", self.sh(self.pages.command("docs/backups.md", "valkey-cli", {"…": there})))
        moment = self.now()
        self.cli("DEL", "kept")
        self.sh(self.pages.command("docs/backups.md", "logservice restore --snapshots s3://bucket/prefix --shard orders --backup", place))
        self.assertIn("before-migration", self.sh(self.pages.command("docs/backups.md", "logservice backups --snapshots", place)))
        self.sh(self.pages.command("docs/backups.md", "logservice backups export", place))
        self.sh(self.pages.command("docs/backups.md", "logservice backups verify"))
        self.stop("node")
        self.machine.run("rm", "-rf", "/var/lib/valkey/dump.rdb")
        restore = self.pages.command("docs/backups.md", "logservice restore --snapshots s3://bucket/prefix --shard orders --to",
                                     {**place, "2026-11-21T17:09:59Z": moment})
        # What was written in the last minute is brought there within a minute.
        # As the page says: by the user of that directory, who may read an object store, and here the directory in its place.
        self.wait_until_run("the log is archived", f"chmod -R a+rX /srv/backups && runuser -u valkey -- {restore}", 90)
        self.machine.run("sh", "-c", f"echo 'orders-restored {TOKENS['<token of the nodes>']}' >> /etc/logservice/tokens && systemctl kill --signal=HUP log")
        node = self.pages.command("docs/backups.md", "valkey-server")
        self.start("restored", f"{node} auth-file /etc/valkey-durability/log-token")
        wait_for("the restored shard is led", lambda: "durability_role:leader" in self.cli("INFO", "durability"), 30)
        self.assertEqual(self.cli("GET", "kept"), "1")
        self.stop("restored", "log")
        self.machine.run("rm", "-r", "/var/lib/logservice")

    def test_6_three_zones(self):
        self.machine.run("sh", "-c", "umask 077 && echo what the services know of each other > /etc/logservice/peers")
        command = self.pages.command("docs/zones.md", "logservice")
        for number, (name, address) in enumerate(zip("abc", ZONES, strict=True), 1):
            own = re.sub(r"(--listen|--http) 10\.0\.1\.5", rf"\1 {address}", command)
            own = own.replace("--name a --zone zone-1", f"--name {name} --zone zone-{number}").replace("/var/lib/logservice", f"/var/lib/log-{name}")
            self.start(f"log-{name}", own)
        init = self.pages.command("docs/zones.md", "valkey-cli -h 10.0.1.5", {"<token>": OPERATOR})
        self.wait_until_run("the cluster is made", f'[ "$({init})" = OK ]', 30)
        config = re.sub(r"(?m)^durability\.log .*\n", "", self.node_conf()) + self.pages.file("docs/zones.md", "durability.log ")
        tls, _, _ = self.pages.file("docs/tls.md", "durability.tls yes").partition("# Only if")
        self.start_node(config + tls)
        self.assertEqual(self.cli("SET", "a", "1"), "OK")
        self.stop("log-a")
        self.assertEqual(self.cli("SET", "a", "2"), "OK")

    def test_7_every_command_is_run(self):
        asked = {command for _, command in self.pages.asked}
        for page in pages():
            for command in commands(page):
                with self.subTest(page=page, command=command):
                    tests = [test for (where, start), test in ELSEWHERE.items() if where == page and command.startswith(start)]
                    self.assertTrue(tests or command in asked, "run it in this file, or say where it is run")
                    self.assertTrue(all((ROOT / test).is_file() for test in tests), tests)

    def test_8_what_is_run_elsewhere_is_on_a_page(self):
        for page, start in ELSEWHERE:
            self.assertTrue(any(command.startswith(start) for command in commands(page)), f"{page} has no command {start}")
