"""The status page in a real browser, over three real log services and two real nodes. Each test brings about one state, and the page has to
say so, to be free of what axe-core finds against WCAG AA, and to fit a phone.

    page_test.py [test...]
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest
import urllib.request

import counted_tests
import valkey
from browser import Browser, Page
from child_process import wait_for
from log_services import LogServices
from ports import HOST
from server_node import ServerNode

SHARD = "orders"
NODES = "the-token-of-the-nodes-0123456789abcdef"
OPERATOR = "the-token-of-the-operator-0123456789abc"
WATCHER = "the-token-of-the-watcher-0123456789abcd"
FINDER = "the-token-of-the-finder-0123456789abcde"
LEASE_MS = 1500
MAX_LAG_MS = 8000
PHONE = {"width": 390, "height": 844}
NEWEST_SNAPSHOT = r"Newest snapshot\s+(.*\d\d:\d\d.*), [\d.]+ m?s ago"
# The pictures in docs/status-page/.
KEPT = ["healthy-light", "lagging-light", "refusing-dark", "copy-lost-phone-light", "no-leader-phone-dark"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@functools.cache
def axe() -> str:
    """The source of axe-core, which a Python package brings."""
    directory = next(path for path in sys.path if pathlib.Path(path, "axe_playwright_python").is_dir())
    return pathlib.Path(directory, "axe_playwright_python", "axe.min.js").read_text()


class OnThePage(unittest.TestCase):
    """What a reader does and sees."""

    page: Page

    @staticmethod
    def address(service) -> str:
        return f"http://{HOST}:{service.http_port}/"

    @classmethod
    def open_browser(cls) -> None:
        cls.browser = Browser(cls.directory)
        cls.addClassCleanup(cls.browser.kill)
        cls.browser.start()
        cls.page = Page(cls.browser)
        cls.addClassCleanup(cls.page.close)
        cls.page.show_as()

    def problems(self) -> dict[str, str]:
        """The level of each problem that the shard's card shows, by its alert."""
        script = f"Array.from(document.querySelectorAll('#shard-{SHARD} .problems li'), (line) => [line.dataset.alert, line.className])"
        return dict(self.page.run(script))

    def wait_for_problem(self, alert: str, level: str, seconds: float = 60) -> None:
        wait_for(f"{alert} is {level}", lambda: self.problems().get(alert) == level, seconds)

    def wait_until_gone(self, alert: str) -> None:
        wait_for(f"{alert} is gone", lambda: alert not in self.problems(), 60)

    def wait_until_well(self) -> None:
        self.page.wait_for_text("All is well", "#overall")
        self.page.wait_for_text("All well", f"#shard-{SHARD} .badge")

    def assert_unmistakable(self, text: str) -> None:
        """A red state is said at the top, at the shard and in the title, in words and in red."""
        self.assertIn(text, self.page.text("#overall"))
        self.assertIn(text, self.page.text(f"#shard-{SHARD} .problems"))
        self.assertIn("Problem", self.page.text(f"#shard-{SHARD} .badge"))
        self.assertTrue(self.page.run("document.title").startswith("✖"))
        self.assertEqual(self.page.run("document.querySelector('#overall').className"), "banner red")
        self.assertIn(text, self.page.run("document.querySelector('#problems').textContent"))
        self.assertRegex(self.page.run("document.querySelector('#announcement').textContent"), r"✖ \d+ problem")

    def look(self, name: str) -> None:
        """As different readers see it: axe-core finds nothing, and nothing is wider than a phone."""
        views = [(size, scheme) for size in ({}, PHONE) for scheme in ("light", "dark")]
        # First, as a state may pass.
        for size, scheme in views:
            self.keep(f"{name}{'-phone' if size else ''}-{scheme}", size, scheme)
        self.page.run(axe() + ";0")
        for size, scheme in views:
            with self.subTest(name, scheme=scheme, **size):
                self.page.show_as(scheme=scheme, **size)
                run = f"axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}})"
                found = self.page.run(run + ".then(({violations, passes}) => ({violations, passed: passes.length}))")
                wrong = [(it["id"], [node["html"] for node in it["nodes"]]) for it in found["violations"]]
                self.assertEqual(wrong, [])
                self.assertGreater(found["passed"], 10)
                wide = self.page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                self.assertLessEqual(wide, 0)
        self.page.show_as()
        self.assertEqual(self.page.errors, [])

    def keep(self, name: str, size: dict, scheme: str) -> None:
        """A picture, if it is wanted."""
        if directory := os.environ.get("SCREENSHOTS"):
            self.page.show_as(scheme=scheme, **size)
            if name in KEPT:
                pathlib.Path(directory, f"{name}.webp").write_bytes(self.page.screenshot("webp"))
            if every := os.environ.get("EVERY_SCREENSHOT"):
                pathlib.Path(every, f"{name}.png").write_bytes(self.page.screenshot("png"))


class OverThreeServices(OnThePage):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="status-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        tokens = cls.directory / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"* {NODES}\n* {OPERATOR} operate\n* {WATCHER} observe\n{SHARD} {FINDER} discover\n")
        cls.logs = LogServices(cls.directory, 3, SHARD, ["--tokens", str(tokens), "--enable-debug-command"], password=NODES)
        cls.addClassCleanup(cls.logs.kill)
        cls.logs.start()
        cls.logs.form()
        more = f"durability.auth {NODES}\ndurability.max-lag-ms {MAX_LAG_MS}\n"
        cls.nodes = [ServerNode(cls.directory, name, cls.logs.addresses, SHARD, LEASE_MS, more) for name in ("n1", "n2")]
        for node in cls.nodes:
            cls.addClassCleanup(node.kill)
            node.start()
        wait_for("a node leads", lambda: "leader" in [node.role() for node in cls.nodes], 60)
        wait_for("the other follows", lambda: "follower" in [node.role() for node in cls.nodes], 60)
        cls.leader = next(node for node in cls.nodes if node.role() == "leader")
        with cls.leader.connect(20) as client:
            for number in range(500):
                client.set(f"key{number}", "x" * 1000)
        with cls.decider().connect(30, password=NODES) as client:
            client.execute_command("LOG.SNAPSHOT", SHARD)
        cls.open_browser()

    @classmethod
    def decider(cls):
        return wait_for("a service decides", cls.logs.decider, 30)

    @classmethod
    def open_with_token(cls) -> None:
        """Opens the page of the service that decides, as a reader does who has a token."""
        service = cls.decider()
        cls.page.open(cls.address(service))
        if cls.page.text("#login"):
            cls.page.type(WATCHER)
            cls.page.press("Enter")
        cls.page.wait_for_text(SHARD, "#shards")

    def test_1_a_token_is_asked_for_and_kept_for_the_tab(self):
        self.page.open(self.address(self.decider()))
        self.page.wait_for_text("A token is needed")
        self.assertEqual(self.page.run("document.activeElement.id"), "token")
        self.look("token")
        self.page.type("wrong")
        self.page.press("Enter")
        self.page.wait_for_text("NOAUTH")
        self.page.type(FINDER)
        self.page.press("Enter")
        self.page.wait_for_text("needs a token with the role observe")
        # What the browser says itself of the two answers.
        self.assertEqual([re.search(r"status of (\d+)", error)[1] for error in self.page.errors], ["401", "403"])
        self.page.errors.clear()
        self.page.type(WATCHER)
        self.page.press("Enter")
        self.page.wait_for_text("All is well")
        self.page.open(self.address(self.decider()))
        self.page.wait_for_text("All is well")
        self.assertEqual(self.page.run("localStorage.length + document.cookie.length"), 0)
        self.page.run("document.getElementById('forget').click()")
        self.page.wait_for_text("A token is needed")
        self.assertEqual(self.page.run("sessionStorage.length"), 0)
        self.assertNotIn(SHARD, self.page.run("document.body.textContent"))

    def test_2_healthy(self):
        self.open_with_token()
        self.wait_until_well()
        self.page.wait_for_text("B/s", f"#shard-{SHARD} .facts")
        card = self.page.text(f"#shard-{SHARD}")
        self.assertRegex(card, rf"Leader\s+{self.leader.name}, {HOST}:{self.leader.port}")
        self.assertRegex(card, r"Mode\s+sync")
        self.assertRegex(card, r"Lag\s+\d+ ms of at most 8.0 s")
        self.assertRegex(card, r"Durable offset\s+[\d,]{6,}")
        self.assertRegex(card, NEWEST_SNAPSHOT)
        for service in self.logs.list:
            self.assertRegex(card, rf"{service.name}\s+{service.name.replace('log', 'zone')}\s+nothing\s+(decides|in touch)")
        self.assertEqual(self.page.run("document.querySelectorAll('#services tbody tr').length"), 3)
        wait_for("the past is drawn", lambda: len(self.page.run("document.querySelector('path.lag').getAttribute('d')")) > 50)
        self.assertIn("M0 ", self.page.run("document.querySelector('path.limit').getAttribute('d')"))
        self.assertIn("limit 8.0 s", self.page.names("image")[0])
        self.assertIn(f"Lag of {SHARD} over the last ten minutes", self.page.names("image")[0])
        self.look("healthy")

    def test_3_times_are_those_of_the_reader(self):
        self.open_with_token()
        shown = {}
        for zone in ("Asia/Tokyo", "America/New_York"):
            self.page.show_as(zone=zone)
            self.open_with_token()
            self.page.wait_for_text(zone, "footer")
            shown[zone] = re.search(NEWEST_SNAPSHOT, self.page.text(f"#shard-{SHARD}"))[1]
        self.assertEqual(len(set(shown.values())), 2, shown)
        self.page.show_as(zone="UTC")

    def test_4_it_can_be_used_with_the_keyboard(self):
        self.open_with_token()
        reached = []
        for _ in range(4):
            self.page.press("Tab")
            reached.append(self.page.run("document.activeElement.className || document.activeElement.id || document.activeElement.textContent"))
            visible = self.page.run("getComputedStyle(document.activeElement).outlineStyle !== 'none'")
            self.assertTrue(visible, reached)
        others = [service.name for service in self.logs.list if self.address(service) != self.page.run("location.href")]
        self.assertEqual(reached, ["skip", "forget", *others])

    def test_5_it_is_made_of_nothing_from_elsewhere(self):
        address = self.address(self.decider())
        self.page.requests.clear()
        self.open_with_token()
        self.wait_until_well()
        self.assertEqual([url for url in self.page.requests if not url.startswith((address, "data:"))], [])
        self.assertEqual(self.page.errors, [])
        with urllib.request.urlopen(address, timeout=10) as answer:
            policy = answer.headers["Content-Security-Policy"]
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertNotIn(SHARD, answer.read().decode())
        self.assertIn("default-src 'none'; script-src 'sha256-", policy)
        self.assertNotIn("unsafe", policy)
        # The policy is in force: a script that is put in does not run.
        self.page.run("document.body.append(Object.assign(document.createElement('img'), {src: 'http://192.0.2.1/x.png'})); 0")
        wait_for("the policy forbids it", lambda: any("Content Security Policy" in error for error in self.page.errors + [self.page.run("''")]))
        self.page.errors.clear()
        self.assertRaisesRegex(AssertionError, "TrustedHTML", self.page.run, "document.body.innerHTML = '<b>no</b>'")
        self.page.errors.clear()

    def test_6_lagging_then_refusing(self):
        self.open_with_token()
        with self.leader.connect(20) as client, self.decider().connect(20, password=NODES) as log:
            client.execute_command("DURABILITY.MODE", "async")
            self.page.wait_for_text("async", f"#shard-{SHARD} .facts")
            log.execute_command("LOG.DEBUG", "FREEZE-ACKS", SHARD)
            self.addCleanup(client.execute_command, "DURABILITY.MODE", "sync")
            try:
                client.set("a", "1")
                self.wait_for_problem("LagNearLimit", "amber")
                self.assertIn("Nothing is broken", self.page.text("#overall"))
                self.assertIn("of what the node", self.page.text(f"#shard-{SHARD} .problems"))
                self.look("lagging")
                wait_for("a write is refused", lambda: self.is_refused(client), 30)
                self.wait_for_problem("WritesRefused", "red")
                self.assert_unmistakable(f"The node {self.leader.name} of {SHARD} refuses writes")
                self.assertIn("writes are refused", self.page.text(f"#shard-{SHARD} .facts"))
                self.look("refusing")
                self.assertTrue(self.page.run("document.querySelector('path.refused').getAttribute('d')"))
            finally:
                log.execute_command("LOG.DEBUG", "RESUME-ACKS", SHARD)
            self.wait_until_gone("WritesRefused")
            client.set("a", "2")

    @staticmethod
    def is_refused(client: valkey.Valkey) -> bool:
        try:
            client.set("a", "1")
        except valkey.ResponseError as error:
            return "durability" in str(error)
        return False

    def test_7_a_copy_is_lost(self):
        self.open_with_token()
        lost = next(service for service in self.logs.list if service is not self.decider())
        lost.kill()
        self.addCleanup(self.logs.start)
        self.wait_for_problem("CopyAway", "red")
        self.assert_unmistakable(f"The copy of {SHARD} at the log service {lost.name} is away")
        self.page.wait_for_text(f"not connected with {lost.name}", "#overall")
        self.look("copy-lost")
        lost.start()
        self.wait_until_gone("CopyAway")

    def test_8_no_node_leads(self):
        self.open_with_token()
        for node in self.nodes:
            node.kill()
        self.wait_for_problem("ShardWithoutLeader", "red")
        self.assert_unmistakable(f"No node leads {SHARD}")
        self.assertRegex(self.page.text(f"#shard-{SHARD}"), r"Leader\s+nobody")
        self.look("no-leader")
        for node in self.nodes:
            node.start()
        self.wait_until_gone("ShardWithoutLeader")

    def test_9_the_service_is_silent_or_gone(self):
        self.open_with_token()
        service = self.decider()
        with contextlib.ExitStack() as thawed:
            service.freeze()
            thawed.callback(service.thaw)
            self.page.wait_for_text("No contact with the log service", "#lost")
            self.assertIn("as of", self.page.text(f"#shard-{SHARD} .badge"))
            self.assertEqual(self.page.text("#overall"), "")
            self.look("no-contact")
        self.page.wait_for_text("Live", "#link")
        # Another service decides now, and this one's page leads to it.
        self.page.wait_for_text("This service follows", f"#shard-{SHARD}")
        service.kill()
        self.addCleanup(self.logs.start)
        self.page.wait_for_text("the connection failed", "#lost")
        service.start()
        self.page.wait_for_text("Live", "#link")
        self.page.wait_for_text(SHARD, "#shards")
        self.page.errors.clear()


class OverOneService(OnThePage):
    """A single log service without tokens, whose engine does not start, and with a place for one stream."""

    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="status-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        cls.logs = LogServices(cls.directory, 1, SHARD, ["--snapshot-log-mb", "1", "--max-http-connections", "8"])
        cls.service = cls.logs.list[0]
        cls.service.set_engine("/bin/false")
        cls.addClassCleanup(cls.logs.kill)
        cls.logs.start()
        cls.node = ServerNode(cls.directory, "n1", cls.logs.addresses, SHARD, LEASE_MS)
        cls.addClassCleanup(cls.node.kill)
        cls.node.start()
        wait_for("the node leads", lambda: cls.node.role() == "leader", 60)
        cls.open_browser()

    def test_1_a_snapshot_is_overdue(self):
        self.page.open(self.address(self.service))
        self.wait_until_well()
        self.assertIn("the only copy", self.page.text(f"#shard-{SHARD}"))
        self.assertEqual(self.page.text("#services"), "")
        with self.node.connect(20) as client:
            for number in range(6):
                client.set(f"key{number}", "x" * (1 << 20))
        self.wait_for_problem("SnapshotOverdue", "red")
        self.wait_for_problem("SnapshotsFail", "amber")
        self.assert_unmistakable(f"The newest snapshot of {SHARD} is")
        self.look("snapshot-overdue")

    def test_2_a_page_without_a_stream_asks(self):
        self.page.open(self.address(self.service))
        self.page.wait_for_text("Live", "#link")
        other = Page(self.browser)
        self.addCleanup(other.close)
        other.open(self.address(self.service))
        other.wait_for_text("Asking every few seconds", "#link")
        other.wait_for_text(SHARD, "#shards")
        self.page.open("about:blank")
        other.wait_for_text("Live", "#link")


if __name__ == "__main__":
    sys.exit(counted_tests.run(OverThreeServices, OverOneService))
