"""A headless Chromium, spoken with by its DevTools protocol. Needs the package websockets, see run.sh."""

import base64
import itertools
import json
import pathlib
import re

from child_process import ChildProcess, wait_for
from websockets.sync.client import connect

# The program itself: what the package puts on the PATH is a script, whose end would not end it.
PROGRAM = "/usr/lib/chromium/chromium-headless-shell"
# How long it may take to answer, in seconds: other tests may run beside this one.
PATIENCE_S = 60


class Browser(ChildProcess):
    """The process, with no page yet."""

    def __init__(self, directory: pathlib.Path):
        command = [PROGRAM, "--remote-debugging-port=0", f"--user-data-dir={directory / 'profile'}", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB", "about:blank"]
        super().__init__(command, directory / "chromium.output")

    def endpoint(self) -> str:
        """Where it can be spoken with, once it has started."""
        found = wait_for("the browser listens", lambda: re.search(r"DevTools listening on (ws://\S+)", self.output()), PATIENCE_S)
        return found[1]


class Page:
    """A page of its own, with nothing kept from others. What goes wrong in it, and what it requests, is noted."""

    def __init__(self, browser: Browser):
        self._numbers = itertools.count(1)
        self._socket = connect(browser.endpoint(), max_size=None, open_timeout=PATIENCE_S)
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        context = self._call("Target.createBrowserContext")["browserContextId"]
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        match message.get("method"), message.get("params"):
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.errors.append(json.dumps(details))
            case "Log.entryAdded", {"entry": {"level": "error"} as entry}:
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            case "Network.requestWillBeSent", {"request": request}:
                self.requests.append(request["url"])

    def open(self, url: str) -> None:
        self.run("window.isThePageBefore = true")
        answer = self._call("Page.navigate", url=url)
        if "errorText" in answer:
            raise AssertionError(f"{url}: {answer['errorText']}")
        loaded = "!window.isThePageBefore && document.readyState === 'complete'"
        wait_for("the page is loaded", lambda: self.run(loaded), PATIENCE_S)

    def run(self, script: str):
        """The value of an expression; that of a promise once it has one."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script[:200]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str = "main") -> str:
        """What a reader sees of the element; empty if there is none, or it is hidden."""
        script = f"(element => element?.checkVisibility() ? element.innerText : '')(document.querySelector({json.dumps(selector)}))"
        return self.run(script)

    def wait_for_text(self, text: str, selector: str = "main", seconds: float = PATIENCE_S) -> None:
        try:
            wait_for(f"the page shows '{text}'", lambda: text in self.text(selector), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, but\n{self.text('body')}") from None

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self._call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Presses a key: Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **(more if kind == "keyDown" else {}))

    def names(self, role: str) -> list[str]:
        """What a screen reader calls the elements with that role."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] == role]
        return [node.get("name", {}).get("value", "") for node in shown]

    def show_as(self, width: int = 1000, height: int = 800, scheme: str = "light", zone: str = "") -> None:
        """The size in CSS pixels, light or dark, and the zone in which the reader is."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        if zone:
            self._call("Emulation.setTimezoneOverride", timezoneId=zone)

    def screenshot(self, kind: str) -> bytes:
        """What is seen, as png or webp."""
        quality = {"quality": 85} if kind == "webp" else {}
        return base64.b64decode(self._call("Page.captureScreenshot", format=kind, **quality)["data"])

    def close(self) -> None:
        self._socket.close()
