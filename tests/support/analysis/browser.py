"""A headless Chromium, driven over the DevTools protocol: one page, its console, scripts and
screenshots.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.trials import PATIENCE

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--window-size=1280,1600",
)


class Browser:
    """One tab. complaints collects uncaught errors and everything that the console was told as an
    error.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.ids, self.complaints = socket, itertools.count(1), []

    async def ask(self, method: str, **params: Any) -> Any:
        number = next(self.ids)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = json.loads((await asyncio.wait_for(self.socket.receive(), PATIENCE)).data)
            if answer.get("method") == "Runtime.exceptionThrown" or (
                answer.get("method") == "Log.entryAdded"
                and answer["params"]["entry"]["level"] == "error"
            ):
                self.complaints.append(answer["params"])
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def open(self, page: Path, fragment: str = "") -> None:
        for domain in ("Runtime", "Log", "Page"):
            await self.ask(f"{domain}.enable")
        await self.ask("Page.navigate", url="about:blank")
        await self.ask("Page.navigate", url=page.as_uri() + fragment)
        await self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await self.run(condition):
            assert time.monotonic() < deadline, condition
            await asyncio.sleep(0.1)

    async def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text="\r" * (code == 13),
            )

    async def look(self, path: Path) -> bytes:
        """A screenshot, kept at path."""
        picture = base64.b64decode((await self.ask("Page.captureScreenshot"))["data"])
        path.write_bytes(picture)
        return picture


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """Chromium with an empty profile, ended by its own process when the block is left."""
    process = subprocess.Popen(
        [str(PROGRAM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert process.poll() is None, "chromium has ended"
            assert time.monotonic() < deadline, "chromium does not answer"
            await asyncio.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                (tab,) = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
