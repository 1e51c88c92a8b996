"""The built page in Chromium, from a server of its own; `make web` builds it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

WEB = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    assert (WEB / "dist" / "index.html").is_file(), "the page is not built: run `make web`"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=WEB / "dist")) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "the page is tested in Chromium: `apt-get install chromium`"
    with sync_playwright() as playwright:
        # Without its sandbox, which root may not use and containers seldom allow.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, server: str) -> Iterator[Page]:
    """The page, loaded. The test fails where the console tells of an error or it asks elsewhere."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if bad(message.type) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    context.on("request", lambda one: wrong.append(one.url) if elsewhere(one.url, server) else None)
    page.goto(server)
    page.get_by_text("Ready for a photo.").wait_for()
    yield page
    assert wrong == []


def bad(kind: str) -> bool:
    return kind in ("error", "warning")


def elsewhere(url: str, server: str) -> bool:
    return not url.startswith((server, "blob:", "data:"))


@pytest.fixture
def upload(page: Page) -> Callable[[Path], None]:
    """Choose one photo and wait for its mask."""

    def choose(path: Path) -> None:
        page.set_input_files("#file", path)
        page.get_by_text(f"Outlined {path.name}.").wait_for()

    return choose


@pytest.fixture
def saved(page: Page, tmp_path: Path) -> Callable[[str], Path]:
    """Press a button that saves; the file."""

    def press(button: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    return press


@pytest.fixture
def numbers(saved: Callable[[str], Path]) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads(saved("Save numbers").read_bytes())
