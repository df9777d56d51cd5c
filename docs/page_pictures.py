"""Take the screenshots of docs/page.md: `python docs/page_pictures.py REVIEWS NEW`, two tables with a column `text`.

Runs the walkthrough of that page with a real server and a real browser. REVIEWS also has a column `label`: a model is
trained on it in the web UI, and NEW is scored with that model. `--only no-labels` takes the screenshots of
docs/no_labels.md alone, with the example table of that tab.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

PICTURES = Path(__file__).parent / "pictures" / "page"
NO_LABELS = PICTURES.with_name("no_labels")
FLAGS = ["--no-sandbox", "--disable-gpu"]
WIDTHS = {"desktop": (1200, 800), "phone": (390, 800)}
TABS = ("Sentiment", "Topics", "Batch", "Train", "Models")
COLORS = 128
TIMEOUT_S = 900
NAME = "reviews"


def take_screenshot(page: Any, name: str, folder: Path = PICTURES) -> None:
    """Write a screenshot of the whole page, with few colors so that the file is small."""
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(900)
    file = folder / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)


@contextmanager
def served(*flags: str) -> Iterator[tuple[Any, str]]:
    """Start a server with these flags and a browser; give the browser and the server's address."""
    from playwright.sync_api import sync_playwright

    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        address = next(match[0] for line in server.stdout if (match := re.search(r"http://\S+", line)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            yield browser, address
            browser.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def wait_for_text(page: Any, selector: str, text: str) -> None:
    """Wait until an element contains a text."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=TIMEOUT_S * 1000,
    )


def train(page: Any, table: Path) -> None:
    """Train a model on a table in the Train tab."""
    page.get_by_role("tab", name="Train").click()
    page.set_input_files("#train-upload input[type=file]", str(table))
    wait_for_text(page, "#train-report", "training rows")
    page.fill("#train-name textarea, #train-name input", NAME)
    take_screenshot(page, "train-data")
    page.click("#train-start")
    wait_for_text(page, "#train-status", "about")
    page.wait_for_selector("#train-scores", state="visible", timeout=TIMEOUT_S * 1000)
    take_screenshot(page, "train-progress")
    wait_for_text(page, "#train-status", "is ready")


def fill_tab(page: Any, tab: str, new: Path) -> None:
    """Use a tab as a person would, so that it displays results."""
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
        listbox = page.get_attribute("#batch-model input", "aria-controls")
        page.click("#batch-model input")
        page.click(f'#{listbox} [role=option][aria-label="{NAME}"]')
        page.click("#batch-score")
        page.wait_for_selector("#batch-result", state="visible", timeout=TIMEOUT_S * 1000)
    elif tab == "Models":
        page.click("#models-measure")
        page.wait_for_selector("#models-speed", state="visible")
        page.click("#models-compare")
        wait_for_text(page, "#models-table", "central bank")


def distill(browser: Any, address: str) -> None:
    """Distill the example table of the No labels tab, and take screenshots of its result."""
    NO_LABELS.mkdir(parents=True, exist_ok=True)
    for (width, theme), done in ((("desktop", "light"), False), (("phone", "dark"), True)):
        wide, high = WIDTHS[width]
        context = browser.new_context(viewport={"width": wide, "height": high}, color_scheme=theme)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.goto(address)
        page.get_by_role("tab", name="No labels").click()
        if not done:
            page.click("#no-labels-example")
            wait_for_text(page, "#no-labels-report", "will be scored")
            page.click("#no-labels-people button")
            page.click("#no-labels-label-column input")
            page.get_by_role("option", name="topic").click()
            wait_for_text(page, "#no-labels-report", "Accuracy will be measured")
            page.fill("#no-labels-name textarea, #no-labels-name input", "my-topics")
            page.click("#no-labels-start")
        wait_for_text(page, "#no-labels-status", "is ready")
        page.locator("#no-labels-result summary").first.click()
        take_screenshot(page, f"{width}-{theme}", NO_LABELS)
        context.close()


def main() -> None:
    """Start a server, run the walkthrough and take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reviews", type=Path, nargs="?", help="labeled table to train on")
    parser.add_argument("new", type=Path, nargs="?", help="table to score")
    parser.add_argument("--only", choices=["no-labels"], help="take the screenshots of this tab alone")
    args = parser.parse_args()
    if args.new is None and args.only is None:
        parser.error("name the tables REVIEWS and NEW")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        models, corrections = f"{home}/models", f"{home}/corrections.jsonl"
        with served("--models", models, "--allow-training", "--feedback", corrections) as (browser, address):
            if args.only == "no-labels":
                distill(browser, address)
            else:
                walk_through(browser, address, args.reviews, args.new)


def walk_through(browser: Any, address: str, reviews: Path, new: Path) -> None:
    """Train a model, fill in every tab and take its screenshots, in each size and theme."""
    trained = False
    for width, (wide, high) in WIDTHS.items():
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": wide, "height": high}, color_scheme=theme)
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector("#sentiment-text textarea")
            if not trained:
                begin = time.monotonic()
                train(page, reviews)
                print(f"trained in {time.monotonic() - begin:.0f} s", page.inner_text("#train-status"))
                trained = True
            for tab in TABS:
                fill_tab(page, tab, new)
                take_screenshot(page, f"{tab.lower()}-{width}-{theme}")
                if tab == "Batch" and (width, theme) == ("desktop", "light"):
                    with page.expect_download() as download:
                        page.click("#batch-download")
                    download.value.save_as(new.with_name("scored.csv"))
            context.close()


if __name__ == "__main__":
    main()
