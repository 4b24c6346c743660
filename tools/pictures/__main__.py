"""Take the pictures that the documents show: python -m tools.pictures [--out models/demo]

page.png is the server's page on the embedded pair, with a question at three lams; report.png is the top of the
report that `pa-lite demo` writes. Requires the extras `browser` and `serve`, Chromium, and pngquant if it is installed
(smaller files).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import pa_lite
from pa_lite.api.server import running_server

QUESTION = "One word only: what does Kani do?"
_FLAGS = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]


def take_page(browser: Any, target: Path) -> None:
    """Ask at three lams on a running server, and save what the page shows."""
    with running_server("demo", pa_lite.ServeOptions(port=0)) as server:
        tab = browser.new_page(viewport={"width": 1120, "height": 900}, color_scheme="light")
        tab.goto(server.url)
        tab.wait_for_selector("#examples button")
        tab.check("input[name=columns][value='3']", force=True)
        tab.locator("#lam-1").fill("0.7")
        tab.fill("#question", QUESTION)
        tab.click("#send")
        tab.wait_for_selector("#stop", state="hidden")
        tab.wait_for_selector("#send", state="visible", timeout=60_000)
        tab.evaluate("window.scrollTo(0, 0)")
        tab.screenshot(path=str(target))
        tab.close()


def take_report(browser: Any, target: Path) -> None:
    """Save the top of the embedded pair's report."""
    with tempfile.TemporaryDirectory() as folder:
        report = pa_lite.demo(Path(folder) / "demo").report
        tab = browser.new_page(viewport={"width": 1120, "height": 800}, color_scheme="light")
        tab.goto(report.as_uri())
        tab.wait_for_selector("#curves .scatterlayer .trace")
        tab.screenshot(path=str(target))
        tab.close()


def main() -> None:
    """Take both pictures, and make them smaller where pngquant is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/demo"), help="folder (default: models/demo)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: Chromium was not found.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        take_page(browser, options.out / "page.png")
        take_report(browser, options.out / "report.png")
        browser.close()
    if quantise := shutil.which("pngquant"):
        for name in ("page.png", "report.png"):
            subprocess.run([quantise, "--force", "--ext", ".png", "128", str(options.out / name)], check=True)


if __name__ == "__main__":
    main()
