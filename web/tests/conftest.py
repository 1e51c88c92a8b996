"""The built page in Chromium, as the service of a wheel gives it; `make web` builds it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from egeunet.serve import Client

WEB = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

Serving = Callable[[Path], AbstractContextManager[str]]


def unpack_wheel(project: Path, folder: Path) -> Path:
    """Build a wheel of a project and unpack it, as an installer does."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(project)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Run `egeunet serve` of an unpacked wheel; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    process = subprocess.Popen(
        [sys.executable, "-m", "egeunet", "serve", "--port", str(port)],
        cwd=site,
        env=os.environ | {"PYTHONPATH": str(site)},
        stderr=subprocess.DEVNULL,
    )
    try:
        Client(url, retries=9).models()
        yield url
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(name="unpack_wheel", scope="session")
def give_unpack_wheel() -> Callable[[Path, Path], Path]:
    return unpack_wheel


@pytest.fixture(name="serving", scope="session")
def give_serving() -> Serving:
    return serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = unpack_wheel(WEB.parent, tmp_path_factory.mktemp("wheel"))
    assert (site / "egeunet/serve/page/index.html").is_file(), "build the page: run `make web`"
    with serving(site) as url:
        yield url


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Browser]]:
    """Start a browser with options of its command line; its sandbox is one root may not use."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "the page is tested in Chromium: `apt-get install chromium`"
    with sync_playwright() as playwright:
        yield lambda *options: playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", *options]
        )


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Browser]) -> Iterator[Browser]:
    with launch() as browser:
        yield browser


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
    page.get_by_text("Ready. Choose a photo.").wait_for()
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
        page.wait_for_timeout(300)  # Chromium may drop a download 0.1 s after another
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    return press


@pytest.fixture
def numbers(saved: Callable[[str], Path]) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads(saved("Save measurements").read_bytes())
