"""Measures the page in a real browser: `python benchmarks/page.py --rounds 20`.

Knows: when something is first painted, how long an answer takes to be shown beside the API's own.
Does not know: how the page works.

A round opens the page in a browser that has nothing in its cache, then asks for texts by turns through the page (from
the click to the changed scores) and through the API (from the same page, by fetch).
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
ASKED = 10

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
    """The address of a server of the models that ship."""
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
        yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
    finally:
        server.terminate()
        server.wait()


def measured(browser: Any, address: str, number: int) -> tuple[float, float, list[float], list[float]]:
    """Milliseconds to the first paint, to a field one can type in, of answers shown and of answers fetched."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#sentiment-text textarea")
    ready = page.evaluate("performance.now()")
    painted = page.evaluate(PAINTED)
    page.wait_for_timeout(1000)
    shown, fetched = [], []
    for turn in range(ASKED):
        text = f"A warm and funny film, number {number * ASKED + turn}."
        shown.append(page.evaluate(SHOWN, text))
        page.evaluate(CLEARED)
        page.wait_for_selector("#sentiment-problem [role=alert]")
        page.wait_for_timeout(300)
        fetched.append(page.evaluate(FETCHED, f"{text} Once more."))
    context.close()
    return painted, ready, shown, fetched


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    found = []
    with served("--allow-training") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        measured(browser, address, 0)
        found = [measured(browser, address, number + 1) for number in range(args.rounds)]
        browser.close()
    shown, fetched = ([one for row in found for one in row[place]] for place in (2, 3))
    rows = {
        "first paint, empty cache": [row[0] for row in found],
        "a field to type in": [row[1] for row in found],
        "answer shown, from the click": shown,
        "the same by the API, from the page": fetched,
        "shown later than the API answers": [one - other for one, other in zip(shown, fetched, strict=True)],
    }
    print("| ms | p50 | p95 | worst |\n|---|---|---|---|")
    for title, values in rows.items():
        late = quantiles(values, n=20, method="inclusive")[-1]
        print(f"| {title} | {median(values):.0f} | {late:.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
