"""Headless Chromium and the built book, for tests."""

import os
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
NAMES = ["chromium", "chromium-browser", "google-chrome"]
# No host but this machine can be reached. Without the last five Chromium
# itself asks for updates and lists from outside.
ARGS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium():
    """Yield a Playwright browser; skip where none is installed.

    On CI a missing browser is a failure: there the pages must be seen.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = (
            f"no browser found (looked for {', '.join(NAMES)}): install "
            "one, such as Debian's package `chromium`, to test the pages"
        )
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=ARGS
        )
        yield browser
        browser.close()


@contextmanager
def served():
    """Serve the built book; yield the address of its root."""
    if not (HTML / "index.html").exists():
        pytest.fail("no book in _build/html: run `make book`", pytrace=False)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing: pytest shows what went wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
