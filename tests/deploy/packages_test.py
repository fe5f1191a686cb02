"""The Debian packages: what they hold, and what installing, removing and purging them does to a directory."""

import hashlib
import pathlib
import re
import stat
import subprocess
import tempfile
import unittest

from built import DEPLOY, build, packages, run, scratch, unpacked

# Each file of the packages, but for the documents: its mode, and the package.
FILES = {
    "usr/lib/valkey/libvalkey_durability.so": (0o755, "valkey-durability"),
    "usr/lib/systemd/system/valkey-server.service.d/50-durability.conf": (0o644, "valkey-durability"),
    "usr/lib/systemd/system/valkey-server@.service.d/50-durability.conf": (0o644, "valkey-durability"),
    "usr/lib/tmpfiles.d/valkey-durability.conf": (0o644, "valkey-durability"),
    "usr/bin/logservice": (0o755, "logservice"),
    "usr/lib/systemd/system/logservice.service": (0o644, "logservice"),
    "usr/lib/sysusers.d/logservice.conf": (0o644, "logservice"),
    "usr/lib/tmpfiles.d/logservice.conf": (0o644, "logservice"),
    "etc/default/logservice": (0o644, "logservice"),
}


class Packages(unittest.TestCase):
    def test_each_file_is_where_it_belongs(self):
        for path, (mode, package) in FILES.items():
            file = unpacked()[package] / path
            self.assertEqual(oct(stat.S_IMODE(file.stat().st_mode)), oct(mode), path)
        found = {str(file.relative_to(root)) for root in unpacked().values() for file in root.rglob("*") if file.is_file()}
        documents = {path for path in found if path.startswith("usr/share/doc/")}
        self.assertEqual(found - documents, set(FILES))
        for package in packages():
            for name in ("copyright", "changelog.gz", "install.md"):
                self.assertIn(f"usr/share/doc/{package}/{name}", documents)

    def test_fields_are_filled_in(self):
        for name, path in packages().items():
            fields = run("dpkg-deb", "--field", path)
            self.assertNotIn("@", re.sub(r"<[^>]*>", "", fields))
            self.assertRegex(fields, r"(?m)^Depends: .*libc6 \(>= [\d.]+\)")
            self.assertRegex(fields, r"(?m)^Version: \d+\.\d+\.\d+")
            self.assertRegex(fields, r"(?m)^Installed-Size: \d{4,}")
            self.assertEqual(run("dpkg-deb", "--field", path, "Package").strip(), name)
            owners = {line.split()[1] for line in run("dpkg-deb", "--contents", path).splitlines()}
            self.assertEqual(owners, {"root/root"})

    def test_the_same_commit_gives_the_same_packages(self):
        with tempfile.TemporaryDirectory(dir=scratch()) as again:
            for name, path in build(pathlib.Path(again)).items():
                self.assertEqual(_digest(path), _digest(packages()[name]), name)

    def test_they_are_installed_removed_and_purged(self):
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            root = pathlib.Path(directory)
            _prepare(root)
            _dpkg(root, "--install", *packages().values())
            self.assertIn("logservice", (root / "etc/passwd").read_text())
            self.assertEqual(oct(stat.S_IMODE((root / "etc/logservice").stat().st_mode)), "0o750")
            self.assertEqual(oct(stat.S_IMODE((root / "etc/valkey-durability").stat().st_mode)), "0o750")
            run(root / "usr/bin/logservice", "--version")
            # What the operator wrote survives an upgrade and a removal, and data and secrets survive purging.
            flags, token, data = root / "etc/default/logservice", root / "etc/logservice/tokens", root / "var/lib/logservice/log"
            flags.write_text('LOGSERVICE_FLAGS="--max-shards 7"\n')
            data.parent.mkdir(parents=True)
            for file in (token, data):
                file.write_text("the operator's\n")
            _dpkg(root, "--install", *packages().values())
            self.assertIn("--max-shards 7", flags.read_text())
            _dpkg(root, "--remove", "logservice", "valkey-durability")
            self.assertTrue(flags.exists())
            self.assertFalse((root / "usr/bin/logservice").exists())
            _dpkg(root, "--purge", "logservice", "valkey-durability")
            self.assertFalse(flags.exists())
            self.assertTrue(token.exists() and data.exists())
            self.assertFalse((root / "etc/valkey-durability").exists(), "an empty directory stays")

    def test_without_binaries_nothing_is_built(self):
        answer = subprocess.run([DEPLOY / "debian" / "build.sh", scratch() / "none"], env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere",
                                "DURABILITY_SO": "/nowhere/module.so", "LOGSERVICE": "/nowhere/logservice"}, capture_output=True, text=True)
        self.assertEqual(answer.returncode, 1)
        self.assertIn("/nowhere/module.so is missing: build it with cargo build --release", answer.stderr)


def _prepare(root: pathlib.Path) -> None:
    """What there has to be for dpkg, and the group of the server."""
    for directory in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nvalkey:x:901:901::/var/lib/valkey:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nvalkey:x:901:\n")


def _dpkg(root: pathlib.Path, *words) -> None:
    """What the packages depend on is not in that directory. Their scripts run outside it, and are told of it by DPKG_ROOT."""
    run("dpkg", f"--root={root}", "--force-depends", "--force-confold", "--force-script-chrootless", *words)


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
