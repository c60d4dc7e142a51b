"""One headless Chromium driven over its DevTools protocol: pages opened from disk, network off."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClientConnection, websocket_connect

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-port=0",
)


@dataclass
class Tab:
    """One tab; `troubles` are console errors, exceptions and failed loads since `open`."""

    loop: IOLoop
    socket: WebSocketClientConnection
    troubles: list[str] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)
    loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and read events until its answer."""
        number = next(self.ids)
        message = json.dumps({"id": number, "method": method, "params": parameters})
        self.loop.run_sync(lambda: self.socket.write_message(message))
        while (answer := self._read()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str, width: int = 1280) -> None:
        """Open a page in a window of that width and wait until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.troubles.clear()
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._read()
        self.run("new Promise(done => setTimeout(done, 50))")  # what scripts do after loading

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _read(self) -> dict[str, Any]:
        text = self.loop.run_sync(self.socket.read_message, timeout=60)
        assert text is not None, "the browser went away"
        event = json.loads(text)
        method, details = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(str(details["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
            self.troubles.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.troubles.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
        elif method == "Network.loadingFailed" and not details.get("canceled"):
            self.troubles.append(f"not loaded: {details['errorText']}")
        elif method == "Network.requestWillBeSent":
            address = details["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "about:")):
                self.troubles.append(f"asks for {address}")
        return event


@contextmanager
def open_tab(browser: str, folder: Path) -> Iterator[Tab]:
    """A tab of a new browser whose profile lies in `folder`; the browser ends with the context."""
    command = [browser, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort")
        with urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        loop = IOLoop(make_current=False)
        connect = lambda: websocket_connect(target["webSocketDebuggerUrl"])  # noqa: E731
        tab = Tab(loop, loop.run_sync(connect))
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        process.terminate()
        process.wait(timeout=30)


def _port(file: Path) -> int:
    for _ in range(600):
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.1)
    raise TimeoutError("the browser did not start within a minute")
