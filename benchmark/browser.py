"""onnxruntime-web in headless Chromium: a process that serves a page on loopback, opens it, and asks it.

`python -P -m benchmark.browser SETTINGS` is that process: a JSON line in, a JSON line out. The page is cross-origin
isolated, as WebAssembly threads and a fine clock need. A browser that crashes ends the process, which the caller is
told of; the next request starts another.
"""

from __future__ import annotations

import json
import mimetypes
import os
import queue
import shutil
import subprocess
import sys
import threading
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmark.channel import ProcessChannel, check_feeds, count_cores
from benchmark.host import host_fingerprint
from benchmark.node import INSTALL, Inputs, find_package, fingerprint, js_folder, modules_folder
from benchmark.types import TIMED, Target

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--disable-gpu", "--disable-dev-shm-usage", "--disable-background-timer-throttling")
WINDOW_S = 1.5  # of a throttled browser, whose pauses come in chunks: shorter means are unsound
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-store",
}
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}


class BrowserChannel(ProcessChannel):
    """A browser driven by a process of its own; what it is asked carries the inputs."""

    def __init__(self, threads: int, batch: int, slowdown: float, feeds: Path | None):
        settings = {"threads": threads, "slowdown": slowdown, "browser": find_browser()}
        super().__init__([sys.executable, "-P", "-m", "benchmark.browser", json.dumps(settings)])
        self._inputs, self._slowdown = Inputs(batch, feeds), slowdown

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        if self._slowdown > 1 and do == "time":
            do, request = "windows", {**request, "window_s": WINDOW_S}
        return super().ask(do, model, **self._inputs.add(model, request))

    def host(self) -> dict[str, Any]:
        facts = {
            "machine": host_fingerprint(),
            "browser": browser_version(str(find_browser())),
            "onnxruntime-web": find_package("onnxruntime-web"),
            "slowdown": self._slowdown,
        }
        return {"fingerprint": fingerprint(facts), **facts}


def open_browser(target: Target, feeds: Path | None) -> BrowserChannel:
    """The channel of `browser`; options `threads`, `batch`, `slowdown`. ValueError for feeds it cannot read."""
    if feeds is not None:
        check_feeds(feeds)
    options = target.options
    threads, batch = int(options.get("threads", 1)), int(options.get("batch", 1))
    return BrowserChannel(threads, batch, float(options.get("slowdown", 1)), feeds)


def find_browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def flags() -> list[str]:
    """How it is started; root's Chromium has no sandbox."""
    return [*FLAGS] if os.name != "posix" or os.geteuid() else [*FLAGS, "--no-sandbox"]


@cache
def browser_version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def find_meter(target: Target) -> str:
    """Only means over a long window are sound where the browser is slowed down."""
    return "direct" if target.options.get("slowdown") else "paired"


def find_answers(target: Target) -> frozenset[str]:
    """The limits that may be asked for."""
    return TIMED - {"latency_p95_ms"} if target.options.get("slowdown") else TIMED


def find_missing(target: Target) -> str | None:
    """Why no browser can measure here, with the command that helps."""
    if find_browser() is None:
        return "it needs a Chromium: sudo apt-get install chromium"
    if find_spec("playwright") is None:
        return "it needs playwright: pip install 'student-family[browser]'"
    if find_package("onnxruntime-web") is None:
        return f"it needs onnxruntime-web: {INSTALL}"
    return count_cores(target)


def provenance(target: Target) -> str:
    return "measured:host-throttled" if float(target.options.get("slowdown", 1)) > 1 else "measured:host-browser"


class Pages(BaseHTTPRequestHandler):
    """The page, our scripts, the runtime's files, and those models that were asked about."""

    def __init__(self, models: set[str], *given: Any):
        self._models = models
        super().__init__(*given)

    def do_GET(self) -> None:
        path = self.find(urlsplit(self.path))
        if path is None or not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def find(self, asked: Any) -> Path | None:
        room, _, name = asked.path.strip("/").partition("/")
        if room == "model":
            model = parse_qs(asked.query).get("path", [""])[0]
            return Path(model) if model in self._models else None
        rooms = {"js": js_folder(), "ort": modules_folder() / "node_modules" / "onnxruntime-web" / "dist"}
        return rooms[room] / Path(name).name if room in rooms else None

    def log_message(self, *_: Any) -> None:
        """Nothing: standard output carries the answers."""


def read_requests(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the browser's driver sees its pipe close, and ends the browser


def main() -> None:
    from playwright.sync_api import sync_playwright

    settings = json.loads(sys.argv[1])
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    models: set[str] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, models))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=settings["browser"], args=flags())
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/js/page.html?threads={settings['threads']}")
        page.wait_for_function("window.answer !== undefined")
        if settings["threads"] > 1 and not page.evaluate("window.facts.isolated"):
            raise RuntimeError("the page is not cross-origin isolated, so it has one thread")
        if settings["slowdown"] > 1:
            session = page.context.new_cdp_session(page)
            session.send("Emulation.setCPUThrottlingRate", {"rate": settings["slowdown"]})
        while True:
            request = json.loads(requests.get())
            models.update(path for path in (request["model"], *request.get("references", [])) if path)
            print(json.dumps(page.evaluate("request => window.answer(request)", request)), flush=True)


if __name__ == "__main__":
    main()
