"""The Review tab in a real browser: answered by keyboard, by two reviewers, and retrained."""

from __future__ import annotations

import csv
import io
import json

import pytest

KEYS = {"positive": ("great", "good"), "negative": ("awful", "bad")}


def write_table(file, rows=120):
    words = [word for pair in zip(*KEYS.values(), strict=True) for word in pair]
    file.write_text("text\n" + "".join(f"a {words[row % 4]} film {row} of {rows}\n" for row in range(rows)))
    return file


def start(page, table, reviewer, rows=60):
    page.get_by_role("tab", name="Review").click()
    page.wait_for_selector("#review-link", state="visible")
    page.set_input_files("#review-upload input[type=file]", str(table))
    page.wait_for_selector("#review-preview", state="visible")
    page.fill("#review-reviewer input, #review-reviewer textarea", reviewer)
    page.fill("#review-rows input", str(rows))
    page.click("#review-start")
    page.wait_for_selector("#review-question blockquote", state="visible")


def text_of(page):
    return page.inner_text("#review-question blockquote")


def wait_for_other(page, text):
    page.wait_for_function(
        "text => document.querySelector('#review-question blockquote')?.innerText !== text", arg=text
    )


def wait_for_text(page, place, words):
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)", arg=[place, words]
    )


def press(page, key):
    """Press a key that answers the row, and wait for the next one."""
    before = text_of(page)
    page.keyboard.press(key)
    wait_for_other(page, before)


def key_of(page, label):
    buttons = page.locator("[id^=review-label-]:visible").all_inner_texts()
    return next(text.split()[0] for text in buttons if label in text)


def answers_of(workshop, text):
    """Return the lines of the review that has this text."""
    for file in (workshop.home / "models" / ".review").glob("*/answers.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if any(line["text"] == text for line in lines):
            return lines
    return []


def rows_of(download):
    return list(csv.DictReader(io.StringIO(download.path().read_text(encoding="utf-8"), newline="")))


@pytest.mark.slow
def test_the_keyboard_alone_answers_undoes_skips_and_adds_a_label(opened, workshop, tmp_path):
    page = opened(workshop.address)
    start(page, write_table(tmp_path / "keys.csv", 121), "Ann Lee")
    texts = [text_of(page)]
    press(page, key_of(page, "negative"))
    texts.append(text_of(page))
    page.keyboard.press("u")
    page.wait_for_function(
        "text => document.querySelector('#review-question blockquote')?.innerText === text", arg=texts[0]
    )
    wait_for_text(page, "#review-question", "Undone")
    press(page, key_of(page, "positive"))
    press(page, "n")
    press(page, "s")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.closest('#review-other') !== null")
    page.keyboard.type("unsure1")
    before = text_of(page)
    page.keyboard.press("Enter")
    wait_for_text(page, "#review-problem", "There is no label 'unsure1': press Enter again to add it")
    assert text_of(page) == before
    page.keyboard.press("Enter")
    wait_for_other(page, before)
    wait_for_text(page, "#review-question", "Last answer: unsure1")
    page.wait_for_function("document.activeElement.closest('#review-other') === null")
    assert "unsure1" in " ".join(page.locator("[id^=review-label-]:visible").all_inner_texts())
    lines = answers_of(workshop, texts[0])
    assert [line["action"] for line in lines] == ["label", "undo", "label", "none_of_these", "skip", "label"]
    assert [line.get("label") for line in lines] == ["negative", None, "positive", None, None, "unsure1"]
    assert {line["reviewer"] for line in lines} == {"Ann Lee"}
    assert [line["text"] for line in lines[:2]] == [texts[0]] * 2 and lines[1]["undoes"] == lines[0]["id"]
    assert all(line["shown"]["model"] == "sentiment" and line["shown"]["labels"] for line in lines)


@pytest.mark.slow
def test_a_key_that_is_pressed_twice_answers_one_row(opened, workshop, tmp_path):
    page = opened(workshop.address)
    start(page, write_table(tmp_path / "twice.csv", 122), "Ann")
    first = text_of(page)
    page.evaluate("for (const _ of [1, 2]) document.getElementById('review-label-1').click()")
    wait_for_other(page, first)
    page.wait_for_timeout(1500)
    assert len(answers_of(workshop, first)) == 1


@pytest.mark.slow
def test_two_reviewers_share_a_review_and_lose_no_answer(opened, workshop, tmp_path):
    table = write_table(tmp_path / "both.csv", 123)
    pages = {name: opened(workshop.address) for name in ("Ann", "Bob")}
    for name, page in pages.items():
        start(page, table, name)
    first = {text_of(page) for page in pages.values()}
    assert len(first) == 2
    for _ in range(8):
        for page in pages.values():
            press(page, "1")
    wait_for_text(pages["Bob"], "#review-measures", "rows answered")
    lines = answers_of(workshop, next(iter(first)))
    assert sorted(line["reviewer"] for line in lines) == ["Ann"] * 8 + ["Bob"] * 8
    pages["Ann"].click("#review-files")
    pages["Ann"].wait_for_selector("#review-answers", state="visible")
    with pages["Ann"].expect_download() as download:
        pages["Ann"].click("#review-answers")
    assert [json.loads(line) for line in download.value.path().read_text().splitlines()] == lines
    with pages["Ann"].expect_download() as download:
        pages["Ann"].click("#review-labeled")
    rows = rows_of(download.value)
    assert {row["text"] for row in rows} == {line["text"] for line in lines if not line["held_out"]}


@pytest.mark.slow
def test_answers_retrain_the_model_and_the_tab_shows_what_they_bought(opened, workshop, tmp_path):
    page = opened(workshop.address)
    start(page, write_table(tmp_path / "curve.csv", 124), "Ann")
    for _ in range(36):
        label = "positive" if any(word in text_of(page) for word in KEYS["positive"]) else "negative"
        press(page, key_of(page, label))
    page.set_default_timeout(480_000)
    wait_for_text(page, "#review-measures", "The labels shown are those of the model retrained on")
    page.wait_for_selector("#review-curve", state="visible")
    assert "Too few held-out answers to tell" in page.inner_text("#review-measures")
    page.fill("#review-name input, #review-name textarea", "sentiment")
    page.click("#review-save")
    wait_for_text(page, "#review-problem", "There is a model 'sentiment' already")
    page.fill("#review-name input, #review-name textarea", "sentiment-reviewed")
    page.click("#review-save")
    wait_for_text(page, "#review-saved", "sentiment-reviewed is ready to use in the other tabs")
    assert (workshop.home / "models" / "sentiment-reviewed" / "manifest.json").is_file()


@pytest.mark.slow
def test_labels_of_a_table_are_checked(opened, workshop, tmp_path):
    pytest.importorskip("cleanlab")
    words = ("great", "good", "awful", "bad")
    rows = [[f"a {words[row % 4]} film {row}", "positive" if row % 4 < 2 else "negative"] for row in range(80)]
    rows[9][1] = "negative"
    table = tmp_path / "labeled.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "label"], *rows])
    page = opened(workshop.address)
    page.get_by_role("tab", name="Review").click()
    page.set_input_files("#review-upload input[type=file]", str(table))
    page.wait_for_selector("#review-preview", state="visible")
    page.fill("#review-reviewer input, #review-reviewer textarea", "Ann")
    page.click("#review-how button")
    page.click("#review-strategy input")
    listbox = page.get_attribute("#review-strategy input", "aria-controls")
    page.click(f'#{listbox} [role=option][aria-label="label_errors"]')
    page.click("#review-start")
    page.wait_for_selector("#review-question blockquote", state="visible")
    assert text_of(page) == "a good film 9" and "label in the table: negative" in page.inner_text("#review-question")
    page.keyboard.press(key_of(page, "positive"))
    wait_for_text(page, "#review-measures", "0 confirmed, 1 changed")
    page.click("#review-files")
    page.wait_for_selector("#review-labeled", state="visible")
    with page.expect_download() as download:
        page.click("#review-labeled")
    fixed = rows_of(download.value)
    assert len(fixed) == 80 and fixed[9]["label"] == "positive"


@pytest.mark.slow
def test_what_cannot_be_reviewed_gets_a_sentence(opened, workshop, tmp_path):
    page = opened(workshop.address)
    page.get_by_role("tab", name="Review").click()
    page.click("#review-start")
    wait_for_text(page, "#review-problem", "Enter your name")
    page.fill("#review-reviewer input, #review-reviewer textarea", "Ann")
    page.click("#review-start")
    wait_for_text(page, "#review-problem", "There is no table yet")
    page.click("#review-model input")
    listbox = page.get_attribute("#review-model input", "aria-controls")
    options = page.locator(f"#{listbox} [role=option]").all_inner_texts()
    page.keyboard.press("Escape")
    assert any("sentiment" in option for option in options) and not any("topics" in option for option in options)


def test_the_tab_is_off_where_training_is(opened, server):
    page = opened(server.address)
    page.get_by_role("tab", name="Review").click()
    page.wait_for_selector("#review-off", state="visible")
