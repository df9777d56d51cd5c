"""The No labels tab in a real browser: texts and names of labels become a model that answers over HTTP."""

from __future__ import annotations

import csv
import json
import re
import urllib.request

import pytest

from tests.e2e.test_page_tables import choose, said, upload, write_csv

pytestmark = pytest.mark.slow
SECONDS = 480
LABELS = ("sports", "business", "science")
WORDS = {"sports": "football match goal", "business": "market money bank", "science": "space planet science"}
NAME_FIELD = "#no-labels-name textarea, #no-labels-name input"


def texts_of(count):
    """Return short distinct texts with their labels."""
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        first, second, third = WORDS[label].split()
        rows.append((f"the {first} and the {second} of {third} {number}", label))
    return rows


def open_tab(page):
    page.get_by_role("tab", name="No labels").click()
    page.wait_for_selector("#no-labels-link", state="visible")


def name_labels(page, *labels):
    page.click("#no-labels-labels input")
    page.keyboard.type(", ".join(labels))
    page.keyboard.press("Enter")
    page.wait_for_function(
        "count => document.querySelectorAll('#no-labels-labels .token').length === count", arg=len(labels)
    )


def finished(page, name):
    page.wait_for_function(
        "name => document.querySelector('#no-labels-status').innerText.includes(`${name} is ready`)",
        arg=name,
        timeout=SECONDS * 1000,
    )


def post(address, path, body):
    request = urllib.request.Request(
        f"{address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_texts_and_labels_become_a_model_that_answers(opened, workshop, tmp_path):
    rows = [["text"], *([text] for text, _ in texts_of(60))]
    page = opened(workshop.address)
    open_tab(page)
    page.click("#no-labels-start")
    said(page, "#no-labels-problem", "There is no table yet: upload one")
    upload(page, "no-labels", write_csv(tmp_path / "texts.csv", rows))
    page.wait_for_function("document.querySelector('#no-labels-text input').value === 'text'")
    page.wait_for_selector("#no-labels-problem [role=alert]", state="hidden")
    said(page, "#no-labels-report", "Name two labels or more")
    page.click("#no-labels-start")
    said(page, "#no-labels-problem", "Name two labels or more")
    name_labels(page, *LABELS)
    said(page, "#no-labels-report", "60 of 60 rows will be scored")
    said(page, "#no-labels-report", "accuracy will be unknown")
    assert re.search(r"Scoring takes about \d+ s on this server", page.inner_text("#no-labels-report"))
    page.click("#no-labels-start")
    said(page, "#no-labels-problem", "Enter a name for the new model")
    page.fill(NAME_FIELD, "sentiment")
    page.click("#no-labels-start")
    said(page, "#no-labels-problem", "There is a model 'sentiment' already")
    page.fill(NAME_FIELD, "short-news")
    page.wait_for_selector("#no-labels-problem [role=alert]", state="hidden")
    page.click("#no-labels-start")
    page.wait_for_selector("#no-labels-stop", state="visible")
    page.close()  # and the run goes on

    again = opened(workshop.address)
    open_tab(again)
    finished(again, "short-news")
    again.wait_for_selector("#no-labels-stop", state="hidden")
    result = again.inner_text("#no-labels-result")
    assert "Accuracy is unknown: no row was labeled by a person" in result
    assert re.search(r"Of 60 texts, \d+ were trained on\. Teacher and refined labels agree on [\d.]+%", result)
    assert all(re.search(rf"{label}\s+[\d.]+% \(\d+\)", result) for label in LABELS)
    again.locator("#no-labels-result summary").first.click()
    said(again, "#no-labels-result details[open]", "most confident")
    with again.expect_download() as content:
        again.click("#no-labels-download")
    listed = list(csv.DictReader(content.value.path().read_text(encoding="utf-8").splitlines()))
    assert len(listed) == 50 and set(listed[0]) == {"row", "text", "label", "prediction", "chosen"}
    assert all(row["text"] == rows[int(row["row"])][0] for row in listed)

    (answers,) = post(workshop.address, "models/short-news", {"inputs": ["the football match"]})
    assert {answer["label"] for answer in answers} == set(LABELS)
    again.click("#no-labels-snippet button")
    again.fill(NAME_FIELD, "short-news")
    with again.context.expect_page() as popup:
        again.click("#no-labels-result a")
    other = popup.value
    other.wait_for_function("document.querySelector('#sentiment-model input')?.value === 'short-news'")
    other.fill("#sentiment-text textarea", "the football match")
    other.click("#sentiment-classify")
    said(other, "#sentiment-scores", answers[0]["label"])
    other.close()


def test_rows_labeled_by_people_measure_teacher_and_student(opened, workshop, tmp_path):
    rows = [[text, label if number < 30 else ""] for number, (text, label) in enumerate(texts_of(90))]
    page = opened(workshop.address)
    open_tab(page)
    upload(page, "no-labels", write_csv(tmp_path / "some.csv", [["text", "topic"], *rows]))
    name_labels(page, *LABELS[:2])
    page.click("#no-labels-people button")
    choose(page, "#no-labels-label-column", "topic")
    said(page, "#no-labels-data-problem", "a label by people is none of the labels")
    assert "/" not in page.inner_text("#no-labels-data-problem")
    page.click("#no-labels-labels input")
    page.keyboard.type("science: planets, stars")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#no-labels-labels .token').length === 4")
    page.locator("#no-labels-labels .token .token-remove").last.click()
    page.wait_for_function("document.querySelectorAll('#no-labels-labels .token').length === 3")
    page.wait_for_selector("#no-labels-data-problem [role=alert]", state="hidden")
    said(page, "#no-labels-report", "Accuracy will be measured on 30 rows that people labeled")
    page.fill(NAME_FIELD, "measured-news")
    page.click("#no-labels-start")
    finished(page, "measured-news")
    result = page.inner_text("#no-labels-result")
    assert re.search(r"(student may replace|student should not replace|is open)", result)
    for stage in ("teacher", "refined labels", "student"):
        assert re.search(rf"{stage}\s+[01]\.\d+ \([01]\.\d+ to [01]\.\d+\)", result), result
    assert "On 30 rows that people labeled, none of them trained on" in result
