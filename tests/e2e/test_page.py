"""The page in a real browser: both tabs are used, and what they show is looked at."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from service import Classifier, ZeroShotClassifier

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PATIENCE_MS = 30_000


def find_chromium(playwright) -> str | None:
    own = playwright.chromium.executable_path
    if own and os.path.exists(own):  # noqa: PTH110 (playwright gives a string)
        return own
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    if not os.environ.get("REHEAD_REQUIRE_BROWSER"):
        pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            reason = f"no Chromium was found (looked for playwright's own and {', '.join(NAMES)})"
            if os.environ.get("REHEAD_REQUIRE_BROWSER"):
                pytest.fail(f"{reason}, and REHEAD_REQUIRE_BROWSER forbids skipping")
            pytest.skip(reason)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser.new_context(viewport={"width": 1280, "height": 900})  # its pages share a cache
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, freshly opened; every request it makes must stay on the server."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(server.address)
    page.wait_for_selector("#sentiment-text textarea")
    yield page
    page.close()
    strangers = [url for url in requested if not url.startswith((server.address, "data:", "blob:"))]
    assert requested and not strangers


def shown_bars(page, place):
    """What the bars say: percent by label, in their order."""
    page.wait_for_selector(f"{place} dd")
    rows = page.locator(f"{place} .confidence-set").all_inner_texts()
    return {row.split("\n")[0]: int(re.search(r"(\d+)%", row)[1]) for row in rows}


def as_percent(result):
    return {label: round(score * 100) for label, score in result}


def open_topics(page):
    page.get_by_role("tab", name="Topics").click()
    page.wait_for_selector("#topics-text textarea", state="visible")


def test_the_sentiment_tab_shows_the_models_scores_as_bars(page, tiny_sentiment):
    text = "a warm and funny film"
    page.fill("#sentiment-text textarea", text)
    page.click("#sentiment-classify")
    expected = Classifier(tiny_sentiment)(text, top_k=None)
    found = shown_bars(page, "#sentiment-scores")
    assert list(found) == [one["label"] for one in expected]
    for one in expected:
        assert found[one["label"]] == pytest.approx(100 * one["score"], abs=1)


def test_an_example_fills_the_text_and_is_classified_at_once(page, tiny_sentiment):
    page.get_by_text("Two hours of my life").first.click()
    page.wait_for_function("document.querySelector('#sentiment-text textarea').value.startsWith('Two hours')")
    text = page.input_value("#sentiment-text textarea")
    assert next(iter(shown_bars(page, "#sentiment-scores"))) == Classifier(tiny_sentiment)(text)[0]["label"]
    open_topics(page)
    page.get_by_text("My card was charged").first.click()
    assert sorted(shown_bars(page, "#topics-scores")) == ["billing", "customer service", "delivery"]
    assert page.is_checked("#topics-several input")


def test_many_lines_become_a_table(page, tiny_sentiment):
    texts = ["great film", "awful film", "the match"]
    page.click("#sentiment-many button")
    page.fill("#sentiment-lines textarea", "\n\n".join(texts))
    page.click("#sentiment-classify-lines")
    page.wait_for_function("document.querySelector('#sentiment-table').innerText.includes('the match')")
    shown = page.inner_text("#sentiment-table")
    for text, one in zip(texts, Classifier(tiny_sentiment)(texts), strict=True):
        assert re.search(rf"{one['label']}\s+{one['score']:.2f}\d\s+{text}", shown)


def test_the_topics_tab_shows_scores_for_labels_of_ones_own(page, tiny_topics):
    open_topics(page)
    page.fill("#topics-text textarea", "the match was great")
    page.fill("#topics-labels textarea, #topics-labels input", "sports, the market, space")
    page.click("#topics-classify")
    expected = ZeroShotClassifier(tiny_topics)("the match was great", ["sports", "the market", "space"])
    found = shown_bars(page, "#topics-scores")
    assert list(found) == expected["labels"]
    assert list(found.values()) == pytest.approx([100 * score for score in expected["scores"]], abs=1)
    assert 98 <= sum(found.values()) <= 102


def test_several_labels_at_once_and_a_template_of_ones_own_are_followed(page, tiny_topics):
    open_topics(page)
    page.fill("#topics-text textarea", "the match")
    page.fill("#topics-labels textarea, #topics-labels input", "sports, space")
    page.fill("#topics-template textarea, #topics-template input", "It is {}!")
    page.check("#topics-several input")
    page.click("#topics-classify")
    knobs = {"multi_label": True, "hypothesis_template": "It is {}!"}
    expected = ZeroShotClassifier(tiny_topics)("the match", ["sports", "space"], **knobs)
    found = shown_bars(page, "#topics-scores")
    assert list(found.values()) == pytest.approx([100 * score for score in expected["scores"]], abs=1)


def test_an_empty_text_is_answered_with_a_sentence(page):
    page.click("#sentiment-classify")
    page.wait_for_selector("#sentiment-problem [role=alert]")
    assert "There is no text yet: type one, or pick an example" in page.inner_text("#sentiment-problem")


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("labels", "sports", "One label leaves nothing to choose"),
        ("labels", "sports, sports", "'sports' is given twice"),
        ("labels", "", "There is no label"),
        ("template", "no blank", "needs exactly one {} where the label goes"),
    ],
)
def test_a_question_that_cannot_be_answered_gets_a_sentence_that_goes_once_it_can(page, place, value, sentence):
    open_topics(page)
    page.fill("#topics-text textarea", "the match")
    field = f"#topics-{place} textarea, #topics-{place} input"
    good = page.input_value(field)
    page.fill(field, value)
    page.click("#topics-classify")
    page.wait_for_selector("#topics-problem [role=alert]")
    assert sentence in page.inner_text("#topics-problem")
    page.fill(field, good)
    page.click("#topics-classify")
    assert shown_bars(page, "#topics-scores")
    page.wait_for_selector("#topics-problem [role=alert]", state="hidden")


def test_a_models_report_is_shown_with_its_figures_and_pictures(browser, start_server, tiny_base, tmp_path):
    from finetune import TrainConfig, train

    rows = [{"text": f"{('good', 'bad')[i % 2]} film {i}", "label": ("yes", "no")[i % 2]} for i in range(60)]
    config = {
        "base": str(tiny_base),
        "out": str(tmp_path / "models" / "films"),
        "optim": {"epochs": 1, "batch_size": 8},
    }
    result = train(TrainConfig(**config), rows)
    server = start_server(tmp_path / "models", "--default", "films")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(server.address)
    page.click("#sentiment-report button")
    page.wait_for_selector("#sentiment-figures td")
    shown = page.inner_text("#sentiment-figures")
    assert f"{result.metrics['accuracy']:.3f}" in shown and "TF-IDF" in shown and "On 6 rows" in shown
    drawn = len(list((result.path / "report").glob("*.png")))
    page.wait_for_function(
        "least => { const all = [...document.querySelectorAll('#sentiment-pictures img')];"
        " return all.length >= least && all.every(one => one.naturalWidth > 100); }",
        arg=drawn,
    )
    page.close()
    server.stop()
