"""Take the screenshots of docs/review.md: `python docs/review_pictures.py finetune/recipes/sentiment_everyday.csv`.

The table has the columns `text` and `label`. A first model is trained on some of its rows; a real browser then answers
others on the Review tab of a real server, with the labels of the table, which the server does not see.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from page_pictures import TIMEOUT_S, served, take_screenshot, wait_for_text

PICTURES = Path(__file__).parent / "pictures" / "review"
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 800}
NAME = "messages"
FIRST_ROWS, FIRST_ANSWERS = 60, 6
"""Rows that the first model is trained on, and answers before the first screenshot."""


def start(page: Any, table: Path, reviewer: str, rows: int) -> None:
    """Begin a review of a table as a person would."""
    page.get_by_role("tab", name="Review").click()
    page.set_input_files("#review-upload input[type=file]", str(table))
    page.wait_for_selector("#review-preview", state="visible", timeout=TIMEOUT_S * 1000)
    page.fill("#review-reviewer input, #review-reviewer textarea", reviewer)
    page.fill("#review-rows input", str(rows))
    page.click("#review-start")
    page.wait_for_selector("#review-question blockquote", state="visible", timeout=TIMEOUT_S * 1000)


def answer(page: Any, labels: dict[str, str], count: int) -> None:
    """Answer rows by keyboard with the right labels."""
    for _ in range(count):
        text = page.inner_text("#review-question blockquote")
        label = labels[" ".join(text.split())]
        buttons = page.locator("[id^=review-label-]:visible").all_inner_texts()
        key = next((button.split()[0] for button in buttons if label in button), None)
        if key is not None:
            page.keyboard.press(key)
        else:
            page.keyboard.press("/")
            page.keyboard.type(label)
            page.keyboard.press("Enter")
        page.wait_for_function(
            "text => document.querySelector('#review-question blockquote')?.innerText !== text",
            arg=text,
            timeout=TIMEOUT_S * 1000,
        )


def main() -> None:
    """Start a server, review a table and take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="labeled table")
    parser.add_argument("--rows", type=int, default=2000, help="rows of the table under review")
    parser.add_argument("--answers", type=int, default=110, help="answers until the held-out curve is shown")
    args = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with args.table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    random.Random(0).shuffle(rows)
    rows = rows[: args.rows + FIRST_ROWS]
    labels = {" ".join(row["text"].split()): row["label"] for row in rows}
    with tempfile.TemporaryDirectory() as home:
        first, texts = Path(home) / "first.csv", Path(home) / "texts.csv"
        for file, part, columns in (
            (first, rows[:FIRST_ROWS], ("text", "label")),
            (texts, rows[FIRST_ROWS:], ("text",)),
        ):
            with file.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([columns, *([row[name] for name in columns] for row in part)])
        train = ["finetune", str(first), "--base", "topics", "--epochs", "8", "--out", f"{home}/models/{NAME}"]
        subprocess.run([sys.executable, "-m", "service.cli", *train, "--set", "plots=false"], check=True)
        with served("--models", f"{home}/models", "--allow-training", "--default", NAME) as (browser, address):
            pages = {}
            for name, size, theme in (("desktop-light", DESKTOP, "light"), ("phone-dark", PHONE, "dark")):
                page = browser.new_context(viewport=size, color_scheme=theme).new_page()
                page.set_default_timeout(TIMEOUT_S * 1000)
                page.goto(address)
                page.wait_for_selector("#sentiment-text textarea")
                start(page, texts, {"desktop-light": "Ann", "phone-dark": "Bob"}[name], args.answers)
                answer(page, labels, FIRST_ANSWERS)
                take_screenshot(page, f"question-{name}", PICTURES)
                pages[name] = page
            answer(pages["desktop-light"], labels, args.answers - 2 * FIRST_ANSWERS - 2)
            wait_for_text(pages["desktop-light"], "#review-measures", "The labels shown are those")
            pages["desktop-light"].wait_for_timeout(5000)
            for name, page in pages.items():
                page.wait_for_selector("#review-curve", state="visible")
                take_screenshot(page, f"curve-{name}", PICTURES)


if __name__ == "__main__":
    main()
