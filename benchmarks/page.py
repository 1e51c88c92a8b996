"""Measure the built page in Chromium and add a row to page.jsonl; `make docs` shows it.

It is served meanwhile, as docs/web.md says: python benchmarks/page.py http://127.0.0.1:8000/
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from egeunet.environment import environment
from egeunet.evaluation.results_store import append_result

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "src" / "egeunet" / "serve" / "page"
VISITS, RUNS = 5, 20


def main() -> None:
    """Visit the page several times, each with an empty cache, and run the sample on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", help="where the page is served")
    parser.add_argument("--shared", action="store_true", help="others computed here meanwhile")
    given = parser.parse_args()
    ready, first, runs = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(VISITS):
            page = browser.new_page()
            start = time.perf_counter()
            page.goto(given.url)
            page.get_by_text("Ready. Choose a photo.").wait_for()
            ready.append(time.perf_counter() - start)
            first.append(segment(page)[0])
            runs += [segment(page)[1] for _ in range(RUNS)]
            page.context.close()
        version = browser.version
    sizes = {path.suffix: path.stat().st_size for path in PAGE.rglob("*.*")}
    row = {
        "benchmark": "page",
        "browser": f"Chromium {version}",
        "visits": VISITS,
        "runs": RUNS,
        "page_kb": sum(path.stat().st_size for path in PAGE.rglob("*.*")) / 1000,
        "engine_kb": sizes[".wasm"] / 1000,
        "weights_kb": sizes[".egeu"] / 1000,
        "ready_s": statistics.median(ready),
        "first_mask_s": statistics.median(first),
        "run_ms": statistics.median(runs),
        "run_ms_least": min(runs),
        "shared": given.shared,
        **environment(),
    }
    append_result(ROOT / "research" / "results" / "page.jsonl", row)
    print(row)


def segment(page: Page) -> tuple[float, int]:
    """Press the button for the sample; seconds to its mask, and ms of the network as told."""
    start = time.perf_counter()
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_text("Outlined sample.jpg.").wait_for()
    told = re.search(r"\d+", page.locator("#runs").inner_text())
    assert told
    return time.perf_counter() - start, int(told[0])


if __name__ == "__main__":
    main()
