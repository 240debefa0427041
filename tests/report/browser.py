"""A headless Chromium spoken to through a pipe: what a page asks for, says, and how wide it is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def binary() -> str | None:
    """Return where a browser is; None where there is none."""
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


AS_THREE_AND_FOUR = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A program that runs another with the pipes where it expects them."""


class Browser:
    """One page of a browser.

    Attributes:
        events: what it told of itself, in order.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = os.fdopen(reading, "rb")
        self._writing = os.fdopen(writing, "wb")
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Let go of the pipes."""
        self._writing.close()
        self._reading.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something, and wait until it is done."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._writing.write(json.dumps(message).encode() + b"\0")
        self._writing.flush()
        while True:
            answer = self._heard()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _heard(self) -> dict[str, Any]:
        parts = bytearray()
        while (byte := self._reading.read(1)) != b"\0":
            assert byte, "the browser has gone"
            parts += byte
        return dict(json.loads(parts))

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Show a file at a width in pixels, and hear all that it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._heard())

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return told["result"].get("value")

    def requests(self) -> list[str]:
        """Return all addresses that the page asked for."""
        asked = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [str(each["params"]["request"]["url"]) for each in asked]

    def complaints(self) -> list[str]:
        """Return what was said on the console, and what went wrong."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        said = [each for each in self.events if each.get("method") in kinds]
        return [json.dumps(each["params"]) for each in said]


@contextmanager
def running() -> Iterator[Browser]:
    """Start a browser, and end it after the block."""
    program = binary()
    assert program is not None
    to_read, their_writing = os.pipe()
    their_reading, to_write = os.pipe()

    # Processes of the browser's may outlive it by a moment, and write into its profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                AS_THREE_AND_FOUR,
                str(their_reading),
                str(their_writing),
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
            ],
            pass_fds=(their_reading, their_writing),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_reading)
        os.close(their_writing)
        browser = Browser(to_read, to_write)
        try:
            yield browser
        finally:
            browser.close()
            process.terminate()
            process.wait(timeout=30)
