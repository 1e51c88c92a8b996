"""How the page comes to the visitor: from the service, or from any server of files."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import BrowserContext, Page

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "src" / "egeunet" / "serve" / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".egeu": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


def test_every_file_has_its_type_and_is_kept_as_long_as_it_may(server: str) -> None:
    for file in filter(Path.is_file, PAGE.rglob("*")):
        path = file.relative_to(PAGE).as_posix()
        with urlopen(server + path) as answer:
            assert answer.headers["content-type"] == TYPES[file.suffix]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
            hashed = path.startswith("assets/")
            assert ("immutable" in answer.headers["cache-control"]) == hashed
            assert (answer.headers["cache-control"] == "no-cache") != hashed
            assert answer.read() == file.read_bytes()


def test_the_worker_has_the_whole_page_and_leaves_the_service_alone(
    page: Page, server: str
) -> None:
    scope = page.evaluate("navigator.serviceWorker.ready.then(({scope}) => scope)")
    assert scope == server
    page.reload()  # from now on through the worker
    page.get_by_text("Ready. Choose a photo.").wait_for()
    assert page.evaluate("navigator.serviceWorker.controller !== null")
    asked = "fetch('v1/models').then((answer) => answer.json())"
    assert page.evaluate(asked)[0]["name"] == "isic2018"


def test_a_wheel_without_the_page_says_how_to_get_it(unpack_wheel, serving, tmp_path) -> None:
    project = tmp_path / "project"
    shutil.copytree(
        PROJECT,
        project,
        ignore=shutil.ignore_patterns("page", ".*", "web", "runs", "results", "docs", "tests"),
    )
    shutil.copy(PROJECT / ".gitignore", project)
    site = unpack_wheel(project, tmp_path / "wheel")
    with serving(site) as url, urlopen(url) as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        assert "make web" in answer.read().decode()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[str]:
    """The page as files, under a path of a host that has other pages too."""
    shutil.copytree(PAGE, tmp_path / "some" / "where")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/some/where/"
        http.shutdown()


def test_any_host_of_files_will_do_under_any_path(context: BrowserContext, hosted: str) -> None:
    page = context.new_page()
    page.goto(hosted)
    assert page.evaluate("navigator.serviceWorker.ready.then(({scope}) => scope)") == hosted
    context.set_offline(True)
    page.reload()
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_text("Outlined sample.jpg.").wait_for()
    assert re.search(r"\d % of the photo", page.locator("#area").inner_text())
