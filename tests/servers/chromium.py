"""Debian's Chromium, driven over its DevTools pipe: what a page does in a real browser, without further packages.

    with Chromium(profile) as browser:
        browser.open("http://127.0.0.1:8000/")
        browser.press("ArrowLeft")
        browser.value("document.title")

Messages are JSON, each ended by a zero byte, on the browser's file descriptors 3 (in) and 4 (out).
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT_SECONDS = 120.0  # a loaded machine is slow, not wrong
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "u": 85}


def find_chromium() -> str | None:
    """The browser's program, if there is one."""
    return shutil.which("chromium")


class LedAwayError(AssertionError):
    """The page went elsewhere while it was asked something."""


class Chromium:
    """One browser with one page."""

    def __init__(self, profile: Path, *flags: str) -> None:
        program = find_chromium()
        assert program is not None
        read_by_browser, self._to = os.pipe()
        self._from, written_by_browser = os.pipe()
        # Through a shell, because the pipe's ends must be 3 and 4.
        command = f'exec "$0" "$@" 3<&{read_by_browser} 4>&{written_by_browser}'
        arguments = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", *flags, "about:blank",
        )  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *arguments],
            pass_fds=(read_by_browser, written_by_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        self._number, self._buffer = 0, b""
        self._events: deque[dict[str, Any]] = deque()
        self._session: str | None = None
        self.requests: list[str] = []  # every address that the page asked for, whatever became of it
        self.dialogs: list[str] = []
        self.errors: list[str] = []  # what the console says of refused scripts, styles and connections

    def __enter__(self) -> "Chromium":
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_SECONDS)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise LedAwayError(method)
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._events.append(answer)

    def open(self, address: str) -> None:
        """Goes to an address and waits until its page is loaded."""
        self._events.clear()
        self.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")

    def press(self, key: str, repeats: bool = False) -> None:
        """A key goes down (again, where it `repeats`) and up."""
        text = {"text": key} if len(key) == 1 else {}
        known = {"key": key, "code": key, "windowsVirtualKeyCode": KEY_CODES[key]}
        down = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=down, autoRepeat=repeats, **known, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def press_and_wait(self, key: str) -> None:
        """Presses a key that leads to another page."""
        self._events.clear()
        self.press(key)
        self.wait_for("Page.loadEventFired")

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next event of that name."""
        while True:
            message = self._events.popleft() if self._events else self._receive()
            if message.get("method") == event:
                return message

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screen(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Sets the size of the window in CSS pixels, the colour scheme, and whether it is a touch screen."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        if phone:
            features += [{"name": "hover", "value": "none"}, {"name": "pointer", "value": "coarse"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """What is seen now, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._from, 65536) if ready else b""
            assert chunk, "the browser ended or says nothing"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(parameters["message"])
            self._number += 1
            close = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self._to, json.dumps({**close, "sessionId": self._session}).encode() + b"\0")
