"""Measure the web UI in a real browser: `python benchmarks/page.py --rounds 20`.

Reports the time to the first paint, and the time until an answer is displayed compared with the API's own.

A round opens the page in a browser with an empty cache, then classifies texts alternately through the page (from the
click to the changed scores) and through the API (from the same page, with fetch).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TEXTS_PER_ROUND = 10

SHOWN = """async (text) => {
  const field = document.querySelector("#sentiment-text textarea");
  field.value = text;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  await new Promise((done) => setTimeout(done, 50));
  const begin = performance.now();
  const shown = new Promise((done) => {
    const seen = new MutationObserver(() => {
      if (document.querySelector("#sentiment-scores dd")) { seen.disconnect(); done(); }
    });
    seen.observe(document.body, {subtree: true, childList: true, characterData: true});
  });
  document.querySelector("#sentiment-classify").click();
  await shown;
  return performance.now() - begin;
}"""

FETCHED = """async (text) => {
  const begin = performance.now();
  const answer = await fetch("/models/sentiment", {method: "POST", body: JSON.stringify({inputs: text}),
    headers: {"content-type": "application/json"}});
  await answer.json();
  return performance.now() - begin;
}"""

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
CLEARED = """async () => {
  const field = document.querySelector("#sentiment-text textarea");
  field.value = "";
  field.dispatchEvent(new Event("input", {bubbles: true}));
  await new Promise((done) => setTimeout(done, 300));
  document.querySelector("#sentiment-classify").click();
}"""


@contextmanager
def served(*options: str) -> Iterator[str]:
    """Serve the models that ship; yield the address."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", *options]
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        yield next(match[0] for line in server.stdout if (match := re.search(r"http://\S+", line)))
    finally:
        server.terminate()
        server.wait()


def measure(browser: Any, address: str, number: int) -> tuple[float, float, list[float], list[float]]:
    """Return the milliseconds to the first paint and to a usable field, of displayed and of fetched answers."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#sentiment-text textarea")
    ready = page.evaluate("performance.now()")
    painted = page.evaluate(PAINTED)
    page.wait_for_timeout(1000)
    shown, fetched = [], []
    for turn in range(TEXTS_PER_ROUND):
        text = f"A warm and funny film, number {number * TEXTS_PER_ROUND + turn}."
        shown.append(page.evaluate(SHOWN, text))
        page.evaluate(CLEARED)
        page.wait_for_selector("#sentiment-problem [role=alert]")
        page.wait_for_timeout(300)
        fetched.append(page.evaluate(FETCHED, f"{text} Once more."))
    context.close()
    return painted, ready, shown, fetched


def main() -> None:
    """Measure the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often the page is opened")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with served("--allow-training") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        measure(browser, address, 0)
        rounds = [measure(browser, address, number + 1) for number in range(args.rounds)]
        browser.close()
    shown, fetched = ([value for row in rounds for value in row[place]] for place in (2, 3))
    rows = {
        "first paint, empty cache": [row[0] for row in rounds],
        "a field to type in": [row[1] for row in rounds],
        "answer shown, from the click": shown,
        "the same by the API, from the page": fetched,
        "shown later than the API answers": [ui - api for ui, api in zip(shown, fetched, strict=True)],
    }
    print("| ms | p50 | p95 | worst |\n|---|---|---|---|")
    for title, values in rows.items():
        late = quantiles(values, n=20, method="inclusive")[-1]
        print(f"| {title} | {median(values):.0f} | {late:.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
