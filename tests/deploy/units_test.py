"""The units: what systemd-analyze says of them, and what a systemd makes of them on a machine on which both packages are installed, with
Debian's own unit of valkey-server."""

import pathlib
import re
import secrets
import shutil
import subprocess
import unittest

from built import ROOT, packages, run, scratch, unpacked, valkey
from child_process import wait_for
from machine import Machine

# What systemd-analyze security may find at most, in tenths (0 is best): its rating of each unit, as it is.
MOST_EXPOSED = {"logservice.service": 15, "valkey-server.service": 15}
TOKENS = {holder: secrets.token_hex(32) for holder in ("nodes", "applications", "monitoring", "operators")}


def debian_units() -> pathlib.Path:
    """Debian's files for valkey-server, as its source package makes them."""
    source = pathlib.Path(run(ROOT / "scripts" / "valkey.sh", "--source").strip())
    directory = scratch() / "debian-valkey"
    if not directory.exists():
        shutil.copytree(source / "debian", directory / "debian")
        run(directory / "debian" / "bin" / "generate-systemd-service-files", cwd=directory)
        shutil.copy(source / "valkey.conf", directory)
    return directory


def tree() -> pathlib.Path:
    """What both packages and Debian's valkey-server bring, in one directory."""
    root = scratch() / "tree"
    if not root.exists():
        for package in unpacked().values():
            shutil.copytree(package, root, dirs_exist_ok=True)
        units = root / "usr/lib/systemd/system"
        shutil.copy(debian_units() / "debian" / "valkey-server.service", units)
        for program in ("usr/bin/valkey-server", "usr/bin/kill", "bin/kill"):
            (root / program).parent.mkdir(exist_ok=True)
            shutil.copy("/usr/bin/kill", root / program)
        # What units of every machine are.
        for name in ("basic", "sysinit", "shutdown", "network", "network-online", "multi-user"):
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    return root


class Units(unittest.TestCase):
    def test_systemd_finds_nothing_wrong(self):
        for unit in MOST_EXPOSED:
            done = subprocess.run(["systemd-analyze", "verify", f"--root={tree()}", "--man=no", "--recursive-errors=yes", unit],
                                  capture_output=True, text=True)
            found = [line for line in (done.stdout + done.stderr).splitlines() if "durability" in line or "logservice" in line]
            self.assertEqual((done.returncode, found), (0, []), done.stderr)

    def test_units_are_hardened(self):
        for unit, most in MOST_EXPOSED.items():
            text = run("systemd-analyze", "security", "--offline=true", f"--root={tree()}", "--no-pager", f"--threshold={most}", unit)
            self.assertIn("Overall exposure level", text)

    def test_an_unknown_line_is_found(self):
        # The check above is one that fails.
        broken = scratch() / "broken"
        shutil.copytree(tree(), broken)
        unit = broken / "usr/lib/systemd/system/logservice.service"
        unit.write_text(unit.read_text().replace("RestrictNamespaces=user net", "RestrictNamespaces=user net\nProtectEverything=yes"))
        done = subprocess.run(["systemd-analyze", "verify", f"--root={broken}", "--man=no", unit.name], capture_output=True, text=True)
        self.assertIn("ProtectEverything", done.stderr)


class OnAMachine(unittest.TestCase):
    """In the order of the names: the machine is booted once."""

    @classmethod
    def setUpClass(cls):
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)
        install_valkey(cls.machine)
        # Debian 12 has no valkey-server; on a machine that has, it is a recommended package.
        for path in packages().values():
            cls.machine.put(path, f"/root/{path.name}")
        cls.machine.run("dpkg", "--install", *(f"/root/{path.name}" for path in packages().values()))

    def run(self, result=None):
        result = super().run(result)
        # What the units said, if this test found something wrong.
        if result is not None and any(test is self for test, _ in result.failures + result.errors):
            print(self.machine.run("journalctl", "--no-pager", "--lines=60"))
        return result

    def cli(self, *words: str) -> str:
        return self.machine.run("valkey-cli", "-p", "6379", *words).strip()

    def log_cli(self, *words: str) -> str:
        return self.machine.run("valkey-cli", "-p", "7379", "--no-auth-warning", "--pass", TOKENS["operators"], *words).strip()

    def test_1_a_service_starts_with_its_tokens_only(self):
        machine = self.machine
        self.assertNotEqual(machine.try_run("systemctl", "is-enabled", "logservice").returncode, 0, "started by the installation")
        example = machine.run("cat", "/usr/share/doc/logservice/examples/tokens")
        machine.write("/etc/logservice/tokens", example)
        machine.run("chgrp", "logservice", "/etc/logservice/tokens")
        machine.run("chmod", "640", "/etc/logservice/tokens")
        flags = "--tokens /etc/logservice/tokens --encrypt-key-file /etc/logservice/keys --encrypt-scratch-dir /run/logservice"
        machine.write("/etc/default/logservice", f'LOGSERVICE_FLAGS="{flags} --engine-isolation require"\n')
        machine.run("install", "-m", "600", "-o", "logservice", "/dev/null", "/etc/logservice/keys")
        machine.write("/etc/logservice/keys", f"first {secrets.token_hex(32)}\n")
        # The example holds places for tokens, and no token. The service says which line it cannot use, and is tried again.
        machine.try_run("systemctl", "start", "--no-block", "logservice")
        wait_for("the refusal", lambda: "/etc/logservice/tokens" in machine.journal("logservice"))
        self.assertRegex(machine.journal("logservice"), r"logservice: .*/etc/logservice/tokens.*line \d+")
        tokens = example
        for holder, token in TOKENS.items():
            tokens = tokens.replace(f"<token of the {holder}>", token)
        machine.write("/etc/logservice/tokens", tokens)
        # systemctl returns when the ports are open, as the service says itself.
        machine.run("systemctl", "restart", "logservice")
        self.assertEqual(self.log_cli("LOG.SHARDS"), "")
        self.assertIn("StatusText=RESP on 127.0.0.1:7379", machine.run("systemctl", "show", "--property=StatusText", "logservice"))
        self.assertNotIn("can use it", machine.journal("logservice"), "a warning of a file that is open to others")

    def test_2_a_node_is_durable(self):
        machine = self.machine
        machine.run("install", "-m", "640", "-o", "root", "-g", "valkey", "/dev/null", "/etc/valkey-durability/log-token")
        machine.write("/etc/valkey-durability/log-token", TOKENS["nodes"] + "\n")
        lines = machine.run("cat", "/usr/share/doc/valkey-durability/examples/valkey.conf")
        lines = re.sub(r"<10\.0\.0\.5:7379>", "127.0.0.1:7379", re.sub(r"(?m)^(durability\.shard) <orders>", r"\1 orders", lines))
        machine.run("sh", "-c", "cat >> /etc/valkey/valkey.conf", stdin=lines)
        machine.run("systemctl", "start", "valkey-server")
        wait_for("the node leads", lambda: "durability_role:leader" in self.try_cli("INFO", "durability"))
        self.assertIn("durability_self_test:passed", self.cli("INFO", "durability"))
        self.assertEqual(self.cli("SET", "a", "1"), "OK")
        before = machine.run("systemctl", "show", "--property=MainPID", "valkey-server")
        machine.run("systemctl", "kill", "--signal=KILL", "valkey-server")
        machine.run("systemctl", "kill", "--signal=KILL", "logservice")
        wait_for("both are started again", lambda: self.try_cli("GET", "a") == "1")
        self.assertNotEqual(machine.run("systemctl", "show", "--property=MainPID", "valkey-server"), before)

    def test_3_snapshots_are_made_inside_the_fences(self):
        self.assertEqual(self.cli("SET", "b", "2"), "OK")
        self.log_cli("LOG.SNAPSHOT", "orders")
        flat = self.log_cli("LOG.STATUS", "orders").splitlines()
        status = dict(zip(flat[::2], flat[1::2]))
        self.assertEqual((status["snapshots"], status["snapshot_error"], status["keys"]), ("1", "", "first"))

    def test_4_it_is_reloaded_and_restarted(self):
        machine = self.machine
        tokens = machine.run("cat", "/etc/logservice/tokens").replace(TOKENS["operators"], secrets.token_hex(32))
        machine.write("/etc/logservice/tokens", tokens)
        machine.run("systemctl", "reload", "logservice")
        wait_for("the token is gone", lambda: "NOAUTH" in self.try_log_cli("LOG.SHARDS"))
        machine.run("systemctl", "restart", "logservice")
        self.assertEqual(self.cli("SET", "c", "3"), "OK")
        state = machine.run("systemctl", "show", "--property=ActiveState,NRestarts,Result", "logservice")
        self.assertIn("ActiveState=active", state)
        # CONFIG REWRITE leaves one loadmodule line, with which the server starts again.
        self.assertEqual(self.cli("CONFIG", "REWRITE"), "OK")
        machine.run("systemctl", "restart", "valkey-server")
        wait_for("the node serves", lambda: self.try_cli("GET", "c") == "3")

    def test_5_modes_survive_a_boot(self):
        # What systemd does at every boot. Debian's own line gives everything in /etc/valkey one mode, so the token is elsewhere.
        self.machine.run("sh", "-c", "touch /etc/valkey/secret && chmod 600 /etc/valkey/secret && systemd-tmpfiles --create --boot || true")
        modes = self.machine.run("stat", "--format=%a %U %G", "/etc/valkey/secret", "/etc/valkey-durability/log-token",
                                 "/etc/logservice/tokens", "/var/lib/logservice", "/run/logservice").splitlines()
        self.assertEqual(modes, ["2770 valkey valkey", "640 root valkey", "640 root logservice", "700 logservice logservice",
                                 "700 logservice logservice"])

    def test_6_removing_stops_the_service_and_keeps_the_log(self):
        self.machine.run("systemctl", "stop", "valkey-server")
        self.machine.run("dpkg", "--remove", "logservice")
        self.assertNotEqual(self.machine.try_run("systemctl", "is-active", "logservice").returncode, 0)
        self.machine.run("dpkg", "--purge", "logservice")
        self.assertIn("shards", self.machine.run("ls", "/var/lib/logservice"))

    def try_cli(self, *words: str) -> str:
        return self.machine.try_run("valkey-cli", "-p", "6379", *words).stdout.strip()

    def try_log_cli(self, *words: str) -> str:
        return self.machine.try_run("valkey-cli", "-p", "7379", "--no-auth-warning", "--pass", TOKENS["operators"], *words).stdout


def install_valkey(machine: Machine) -> None:
    """As Debian's packages valkey-server and valkey-tools do, with the server that the tests run."""
    debian = debian_units()
    machine.put(valkey("valkey-server"), "/usr/bin/valkey-check-rdb", 0o755)
    machine.run("ln", "-sf", "valkey-check-rdb", "/usr/bin/valkey-server")
    machine.put(valkey("valkey-cli"), "/usr/bin/valkey-cli", 0o755)
    machine.put(debian / "debian" / "valkey-tools.sysusers", "/usr/lib/sysusers.d/valkey.conf")
    for package in ("valkey-server", "valkey-tools"):
        machine.put(debian / "debian" / f"{package}.tmpfiles", f"/usr/lib/tmpfiles.d/{package}.conf")
    machine.put(debian / "debian" / "valkey-server.service", "/usr/lib/systemd/system/valkey-server.service")
    # Debian's file is for a systemd that knows locked users ("u!").
    machine.run("sed", "-i", "s/^u!/u/", "/usr/lib/sysusers.d/valkey.conf")
    machine.run("systemd-sysusers", "valkey.conf")
    machine.run("systemd-tmpfiles", "--create", "valkey-server.conf", "valkey-tools.conf")
    machine.put(debian / "valkey.conf", "/etc/valkey/valkey.conf", 0o640)
    machine.run("chown", "valkey:valkey", "/etc/valkey/valkey.conf")
    # This server may be built without libsystemd: then it cannot say that it is ready.
    machine.run("mkdir", "-p", "/etc/systemd/system/valkey-server.service.d")
    machine.write("/etc/systemd/system/valkey-server.service.d/type.conf", "[Service]\nType=exec\n")
