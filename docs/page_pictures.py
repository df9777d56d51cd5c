"""Take the screenshots of docs/page.md: `python docs/page_pictures.py REVIEWS NEW`, two tables with a column `text`.

REVIEWS has a column `label` as well: the page trains a model on it, and scores NEW with that model.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent / "pictures" / "page"
FLAGS = ["--no-sandbox", "--disable-gpu"]
WIDTHS = {"desktop": (1200, 800), "phone": (390, 800)}
TABS = ("Sentiment", "Topics", "Batch", "Train", "Models")
COLORS = 128
SECONDS = 900
NAME = "reviews"


def taken(page: Any, name: str) -> None:
    """Save a screenshot of the whole page, in few colors."""
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(900)
    file = HERE / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)


def said(page: Any, place: str, words: str) -> None:
    """Wait until an element contains these words."""
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)",
        arg=[place, words],
        timeout=SECONDS * 1000,
    )


def train(page: Any, table: Path) -> None:
    """Train a model on a table."""
    page.get_by_role("tab", name="Train").click()
    page.set_input_files("#train-upload input[type=file]", str(table))
    said(page, "#train-report", "training rows")
    page.fill("#train-name textarea, #train-name input", NAME)
    taken(page, "story-table")
    page.click("#train-start")
    said(page, "#train-status", "about")
    page.wait_for_selector("#train-scores", state="visible", timeout=SECONDS * 1000)
    taken(page, "story-running")
    said(page, "#train-status", "is ready")


def shown(page: Any, tab: str, new: Path) -> None:
    """Have a tab show what a person would have it show."""
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(800)
    if tab == "Sentiment":
        page.get_by_text("Two hours of my life").first.click()
        page.wait_for_selector("#sentiment-scores dd")
        page.click("#sentiment-why")
        page.wait_for_selector("#sentiment-words .rehead-word")
    elif tab == "Topics":
        page.get_by_text("My card was charged").first.click()
        page.wait_for_selector("#topics-scores dd")
    elif tab == "Batch":
        page.set_input_files("#batch-upload input[type=file]", str(new))
        page.wait_for_selector("#batch-preview", state="visible")
        listed = page.get_attribute("#batch-model input", "aria-controls")
        page.click("#batch-model input")
        page.click(f'#{listed} [role=option][aria-label="{NAME}"]')
        page.click("#batch-score")
        page.wait_for_selector("#batch-result", state="visible", timeout=SECONDS * 1000)
    elif tab == "Models":
        page.click("#models-measure")
        page.wait_for_selector("#models-speed", state="visible")
        page.click("#models-compare")
        said(page, "#models-table", "central bank")


def main() -> None:
    """Start a server, use the page, take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    HERE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--models", f"{home}/models"]
        command += ["--allow-training", "--feedback", f"{home}/corrections.jsonl"]
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            assert server.stdout is not None
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            trained = False
            for width, (wide, high) in WIDTHS.items():
                for theme in ("light", "dark"):
                    context = browser.new_context(viewport={"width": wide, "height": high}, color_scheme=theme)
                    page = context.new_page()
                    page.goto(address)
                    page.wait_for_selector("#sentiment-text textarea")
                    if not trained:
                        begin = time.monotonic()
                        train(page, args.reviews)
                        print(f"trained in {time.monotonic() - begin:.0f} s", page.inner_text("#train-status"))
                        trained = True
                    for tab in TABS:
                        shown(page, tab, args.new)
                        taken(page, f"{tab.lower()}-{width}-{theme}")
                        if tab == "Batch" and (width, theme) == ("desktop", "light"):
                            with page.expect_download() as found:
                                page.click("#batch-download")
                            found.value.save_as(args.new.with_name("scored.csv"))
                    context.close()
        finally:
            browser.close()
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
