"""The page in a real browser: Sentiment and Topics are used, and what they show is looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from service import Classifier, ZeroShotClassifier


def shown_bars(page, place):
    """What the bars say: percent by label, in their order."""
    page.wait_for_selector(f"{place} dd")
    rows = page.locator(f"{place} .confidence-set").all_inner_texts()
    return {row.split("\n")[0]: int(re.search(r"(\d+)%", row)[1]) for row in rows}


def open_topics(page):
    page.get_by_role("tab", name="Topics").click()
    page.wait_for_selector("#topics-text textarea", state="visible")


def set_labels(page, labels):
    """Put chips in place of those that are there."""
    field = page.locator("#topics-labels input")
    field.click()
    while page.locator("#topics-labels .token").count():
        field.press("Backspace")
    field.fill(labels)
    field.press("Enter")
    field.press("Escape")


def chips(page):
    return [one.strip() for one in page.locator("#topics-labels .token").all_inner_texts()]


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
    page.wait_for_function("document.querySelector('#sentiment-table')?.innerText.includes('the match')")
    shown = page.inner_text("#sentiment-table")
    for text, one in zip(texts, Classifier(tiny_sentiment)(texts), strict=True):
        assert re.search(rf"{one['label']}\s+{one['score']:.2f}\d\s+{text}", shown)


def test_the_topics_tab_shows_scores_for_labels_of_ones_own(page, tiny_topics):
    open_topics(page)
    page.fill("#topics-text textarea", "the match was great")
    set_labels(page, "sports, the market, space")
    page.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 3")
    assert chips(page) == ["sports", "the market", "space"]
    page.click("#topics-classify")
    expected = ZeroShotClassifier(tiny_topics)("the match was great", ["sports", "the market", "space"])
    found = shown_bars(page, "#topics-scores")
    assert list(found) == expected["labels"]
    assert list(found.values()) == pytest.approx([100 * score for score in expected["scores"]], abs=1)
    assert 98 <= sum(found.values()) <= 102


def test_new_labels_are_sent_a_few_times_and_then_no_more(page):
    open_topics(page)
    calls = []
    page.on("request", lambda request: calls.append(request.url) if "queue/join" in request.url else None)
    set_labels(page, "sports, space")
    page.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    page.wait_for_function("document.querySelector('#topics-preview').innerText.includes('space')")
    page.wait_for_timeout(1500)
    assert 1 < len(calls) < 16  # handlers of one `change` once called each other: 25 to 66
    settled = len(calls)
    page.wait_for_timeout(1000)
    assert len(calls) == settled


def test_several_labels_at_once_and_a_template_of_ones_own_are_followed(page, tiny_topics):
    open_topics(page)
    page.fill("#topics-text textarea", "the match")
    set_labels(page, "sports, space")
    page.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    page.fill("#topics-template textarea, #topics-template input", "It is {}!")
    page.check("#topics-several input")
    page.click("#topics-classify")
    options = {"multi_label": True, "hypothesis_template": "It is {}!"}
    expected = ZeroShotClassifier(tiny_topics)("the match", ["sports", "space"], **options)
    found = shown_bars(page, "#topics-scores")
    assert list(found.values()) == pytest.approx([100 * score for score in expected["scores"]], abs=1)


def test_an_empty_text_is_answered_with_a_sentence(page):
    page.click("#sentiment-classify")
    page.wait_for_selector("#sentiment-problem [role=alert]")
    assert "There is no text yet: type one, or pick an example" in page.inner_text("#sentiment-problem")


def test_a_question_that_cannot_be_answered_gets_a_sentence_that_goes_once_it_can(page):
    open_topics(page)
    page.fill("#topics-text textarea", "the match")
    template = "#topics-template textarea, #topics-template input"
    good = page.input_value(template)
    for labels, written, sentence in (
        ("sports", good, "One label leaves nothing to choose"),
        ("", good, "There is no label"),
        ("sports, space", "no blank", "needs exactly one {} where the label goes"),
    ):
        set_labels(page, labels)
        page.fill(template, written)
        page.click("#topics-classify")
        page.wait_for_function(
            "said => document.querySelector('#topics-problem')?.innerText.includes(said)", arg=sentence
        )
    page.fill(template, good)
    page.click("#topics-classify")
    assert shown_bars(page, "#topics-scores")
    page.wait_for_selector("#topics-problem [role=alert]", state="hidden")


def test_an_error_goes_when_its_cause_goes(page):
    page.click("#sentiment-classify")
    page.wait_for_function("document.querySelector('#sentiment-problem')?.innerText.includes('There is no text yet')")
    page.fill("#sentiment-text textarea", "a warm film")
    page.wait_for_selector("#sentiment-problem [role=alert]", state="hidden")
    assert page.locator("#sentiment-scores dd").count() == 0


def test_on_a_phone_the_answer_comes_into_view(opened, browser, server):
    phone = browser.browser.new_context(viewport={"width": 390, "height": 500})
    try:
        page = opened(server.address, phone)
        for tab in ("sentiment", "topics"):
            page.get_by_role("tab", name=tab.capitalize()).click()
            page.fill(f"#{tab}-text textarea", "a warm film")
            page.evaluate("scrollTo(0, 0)")
            page.click(f"#{tab}-classify")
            page.wait_for_selector(f"#{tab}-scores dd")
            page.wait_for_function(
                """tab => {
                    const box = document.querySelector(`#${tab}-scores`).getBoundingClientRect();
                    return box.top >= 0 && box.top < innerHeight - 100;
                }""",
                arg=tab,
            )
    finally:
        phone.close()


def test_the_sentences_that_will_be_tested_are_shown_while_they_are_typed(page):
    open_topics(page)
    template = "#topics-template textarea, #topics-template input"
    set_labels(page, "<b>sports</b>, space, a, b, c, d, e")
    page.fill(template, "Is it {}?")  # as a paste: no key is pressed
    page.wait_for_function("document.querySelector('#topics-preview').innerText.includes('Is it space?')")
    shown = page.inner_text("#topics-preview")
    assert "Is it <b>sports</b>?" in shown and "and 2 more" in shown
    page.fill(template, "Is it?")
    page.wait_for_function("document.querySelector('#topics-preview').innerText.includes('needs exactly one')")
    page.fill(template, "")
    page.locator(template).press_sequentially("About {}")
    page.wait_for_function("document.querySelector('#topics-preview').innerText.includes('About space')")
    page.locator(template).press("Backspace")
    page.wait_for_function("document.querySelector('#topics-preview').innerText.includes('needs exactly one')")


def test_label_sets_are_kept_in_the_browser_by_name(opened, server):
    page = opened(server.address)
    open_topics(page)
    set_labels(page, "red, green")
    page.click("#topics-sets button")
    page.fill("#topics-set-name textarea, #topics-set-name input", "colors")
    page.click("#topics-set-keep")
    page.wait_for_function("document.querySelector('#topics-set input').value === 'colors'")
    page.close()
    again = opened(server.address)  # the same browser, another visit
    open_topics(again)
    assert chips(again) == ["sports", "business", "science", "politics"]
    again.click("#topics-sets button")
    again.click("#topics-set input")
    again.get_by_role("option", name="colors").click()
    again.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    assert chips(again) == ["red", "green"]
    again.click("#topics-set-delete")
    again.wait_for_function("document.querySelector('#topics-set input').value === ''")


def test_the_words_that_decided_are_those_whose_loss_changes_the_score(page, tiny_sentiment):
    text = "a warm <i>funny</i> film"
    page.fill("#sentiment-text textarea", text)
    page.click("#sentiment-why")
    page.wait_for_selector("#sentiment-words .rehead-word")
    classifier = Classifier(tiny_sentiment)
    label = classifier(text)[0]["label"]
    shown = page.locator("#sentiment-words .rehead-word").all()
    assert [one.inner_text() for one in shown] == text.split()
    for number, one in enumerate(shown):
        rest = " ".join(word for place, word in enumerate(text.split()) if place != number)
        without = next(found["score"] for found in classifier(rest, top_k=None) if found["label"] == label)
        told = re.fullmatch(rf"without this word, the score of {label} is ([0-9.]+)", one.get_attribute("title"))
        assert float(told[1]) == pytest.approx(without, abs=0.02)


@pytest.mark.slow
def test_a_link_brings_the_tab_and_its_fields_back_and_the_server_never_sees_them(opened, server):
    page = opened(server.address)
    open_topics(page)
    text = 'a "match" & more # of it'
    page.fill("#topics-text textarea", text)
    set_labels(page, "red, green")
    page.check("#topics-several input")
    page.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    page.click("#topics-link")
    page.wait_for_selector("#topics-address", state="visible")
    address = "document.querySelector('#topics-address textarea, #topics-address input')"
    page.wait_for_function(f"{address}.value === location.href")
    link = page.url
    assert link.startswith(f"{server.address}/#tab=topics")
    again = opened(link)
    again.wait_for_selector("#topics-text textarea", state="visible")
    # each field is filled on its own
    again.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    again.wait_for_function("text => document.querySelector('#topics-text textarea').value === text", arg=text)
    again.wait_for_function("document.querySelector('#topics-several input').checked")
    assert chips(again) == ["red", "green"]
    assert not [line for line in server.log if "match" in line]
    broken = opened(f"{server.address}/#tab=sentiment&text=%7Bnot-json&model=%22no-such%22")
    assert broken.input_value("#sentiment-text textarea") == ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_snippet_is_a_program_that_gives_the_pages_answer(page):
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    text = 'it\'s a "warm" film'
    page.fill("#sentiment-text textarea", text)
    page.click("#sentiment-classify")
    expected = shown_bars(page, "#sentiment-scores")
    page.click("#sentiment-snippet button")

    def shown(language):
        page.get_by_label(language, exact=True).locator("visible=true").check()
        page.wait_for_function(
            "word => document.querySelector('#sentiment-code .cm-content')?.innerText.includes(word)",
            arg={"curl": "curl", "Python": "InferenceClient", "JavaScript": "fetch"}[language],
        )
        return page.inner_text("#sentiment-code .cm-content")

    for language, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        run = {"capture_output": True, "text": True, "timeout": 60, "check": False, "env": environment}
        done = subprocess.run([*command, shown(language)], **run)
        assert done.returncode == 0, done.stderr
        found = dict(re.findall(r"""label['"]?[=:]\s*['"](\w+)['"],\s*['"]?score['"]?[=:]\s*([0-9.]+)""", done.stdout))
        assert {label: round(100 * float(score)) for label, score in found.items()} == expected, done.stdout
    assert json.dumps(text) in shown("JavaScript")


def test_a_correction_is_kept_for_the_text_that_was_answered(opened, workshop):
    page = opened(workshop.address)
    assert page.locator("#sentiment-corrections").is_hidden()
    page.fill("#sentiment-text textarea", "a film that was answered")
    page.click("#sentiment-classify")
    best = next(iter(shown_bars(page, "#sentiment-scores")))
    page.fill("#sentiment-text textarea", "and edited since")
    page.click("#sentiment-wrong")
    page.click("#sentiment-correct-label input")
    right = next(one for one in ("negative", "positive") if one != best)
    page.get_by_role("option", name=right).click()
    page.click("#sentiment-keep")
    page.wait_for_function("document.querySelector('#sentiment-kept')?.innerText.includes('Saved')")
    row = json.loads((workshop.home / "corrections.jsonl").read_text().splitlines()[-1])
    assert (row["text"], row["label"], row["predicted"]) == ("a film that was answered", right, best)
    assert not [line for line in workshop.log if "answered" in line]


def test_the_page_asks_for_no_corrections_where_nobody_wants_them(page):
    page.fill("#sentiment-text textarea", "a film")
    page.click("#sentiment-classify")
    assert shown_bars(page, "#sentiment-scores")
    assert page.locator("#sentiment-corrections").count() == 0
