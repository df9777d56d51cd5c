"""The page in a real browser: a table is scored, a table becomes a model, models are compared."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path

import pytest
import xlsxwriter

from finetune.core.tables.files import read_table, write_table
from service import Classifier, ZeroShotClassifier, load
from service.batch.score_table import score

SECONDS = 120
TEXTS = ["a warm film, and funny", "awful", 'he said "no"', "=1+1", "", "the market"]


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(f"#{name.lower()}-link", state="visible")


def write_csv(file, rows):
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return file


def choose(page, field, option):
    page.click(f"{field} input")
    listed = page.get_attribute(f"{field} input", "aria-controls")
    page.click(f'#{listed} [role=option][aria-label="{option}"]')


def said(page, place, words):
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)", arg=[place, words]
    )


def upload(page, tab, file):
    page.set_input_files(f"#{tab}-upload input[type=file]", str(file))
    page.wait_for_selector(f"#{tab}-preview", state="visible")


def rows_of(content):
    return list(csv.DictReader(io.StringIO(content, newline="")))


def download(page):
    page.wait_for_selector("#batch-download", state="visible")
    with page.expect_download() as found:
        page.click("#batch-download")
    return found.value


def test_a_table_is_scored_as_the_command_line_scores_it(opened, workshop, tmp_path):
    table = write_csv(
        tmp_path / "my reviews.csv", [["id", "what"], *[[f"0012{n}", text] for n, text in enumerate(TEXTS)]]
    )
    page = opened(workshop.address)
    open_tab(page, "Batch")
    upload(page, "batch", table)
    assert "00123" in page.inner_text("#batch-preview")
    page.click("#batch-score")
    said(page, "#batch-problem", "Select the text column")
    choose(page, "#batch-column", "what")
    page.check("#batch-every input")
    page.click("#batch-score")
    got = download(page)
    assert got.suggested_filename.endswith("-scored.csv")
    said(page, "#batch-progress", f"{len(TEXTS)} rows in")
    said(page, "#batch-progress", "1 with an error")
    score(workshop.home / "models" / "sentiment", table, tmp_path / "out.csv", text="what", all_scores=True)
    found, wanted = (rows_of(file.read_text(encoding="utf-8")) for file in (got.path(), tmp_path / "out.csv"))
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        for key in row:
            if key.startswith("score") and other[key]:
                assert float(row[key]) == pytest.approx(float(other[key]), abs=0.01)
            else:
                assert row[key] == other[key]
    assert found[3]["what"] == "'=1+1" and "empty" in found[4]["error"]


def test_tables_of_other_formats_are_uploaded_and_downloaded(opened, workshop, tmp_path):
    page = opened(workshop.address)
    open_tab(page, "Batch")
    rows = [{"text": text, "id": f"0{n}"} for n, text in enumerate(("good", "bad", "fine"))]
    for name, kind in (("R.CSV.GZ", "Excel"), ("R.xlsx", "JSON"), ("r.json", "Arrow"), ("r.feather", "CSV")):
        write_table(tmp_path / name, rows)
        upload(page, "batch", tmp_path / name)
        page.check(f"#batch-kind label:has-text('{kind}') >> nth=0")
        page.click("#batch-score")
        said(page, "#batch-progress", "3 rows in")
        content = download(page)
        out = tmp_path / f"out-{content.suggested_filename}"
        content.save_as(out)
        assert [{"text": row["text"], "id": row["id"]} for row in read_table(out).rows] == rows
        page.click("#batch-upload button[aria-label='Clear']")
        page.wait_for_selector("#batch-preview", state="hidden")


def workbook(file, sheets):
    with xlsxwriter.Workbook(str(file)) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
    return file


def test_the_sheet_of_a_workbook_with_several_is_selected(opened, workshop, tmp_path):
    sheets = {"Notes": [["about"]], "2024": [["text"], ["a good film"], ["a bad film"]]}
    several = workbook(tmp_path / "several.xlsx", sheets)
    single = workbook(tmp_path / "single.xlsx", {"Only": [["text"], ["a fine film"]]})
    page = opened(workshop.address)
    open_tab(page, "Batch")
    assert page.locator("#batch-sheet").is_hidden()
    page.set_input_files("#batch-upload input[type=file]", str(several))
    page.wait_for_selector("#batch-sheet", state="visible")
    assert page.input_value("#batch-sheet input") == "Notes"
    said(page, "#batch-table-problem", "no rows (sheet 'Notes')")
    choose(page, "#batch-sheet", "2024")
    said(page, "#batch-preview", "a bad film")
    page.click("#batch-score")
    said(page, "#batch-progress", "2 rows in")
    assert [row["text"] for row in rows_of(download(page).path().read_text())] == ["a good film", "a bad film"]
    # another table does not keep the sheet of the one before
    page.click("#batch-upload button[aria-label='Clear']")
    page.wait_for_selector("#batch-sheet", state="hidden")
    upload(page, "batch", single)
    said(page, "#batch-preview", "a fine film")
    page.click("#batch-score")
    said(page, "#batch-progress", "1 rows in")
    assert page.locator("#batch-sheet").is_hidden()


def test_the_train_tab_reads_the_selected_sheet(opened, workshop, tmp_path):
    labeled = [[f"{('good', 'bad')[n % 2]} film {n}", ("yes", "no")[n % 2]] for n in range(30)]
    sheets = {"Other": [["id"], [1]], "007": [["text", "label"], *labeled]}
    page = opened(workshop.address)
    open_tab(page, "Train")
    upload(page, "train", workbook(tmp_path / "labeled.xlsx", sheets))
    page.wait_for_selector("#train-sheet", state="visible")
    choose(page, "#train-sheet", "007")
    page.wait_for_function("document.querySelector('#train-label input').value === 'label'")
    said(page, "#train-preview", "bad film 1")
    page.click("#train-recipe button")
    said(page, "#train-recipe-code", "--sheet 007")


def test_a_zero_shot_model_asks_for_labels_and_scores_into_json_lines(opened, workshop, tmp_path):
    texts = ["the match was great", "the market fell"]
    table = write_csv(tmp_path / "t.csv", [["text"], *[[text] for text in texts]])
    page = opened(workshop.address)
    open_tab(page, "Batch")
    assert page.locator("#batch-labels").is_hidden()
    upload(page, "batch", table)
    choose(page, "#batch-model", "topics")
    page.wait_for_selector("#batch-labels", state="visible")
    page.get_by_label("JSON Lines").check()
    page.click("#batch-score")
    rows = [json.loads(line) for line in download(page).path().read_text(encoding="utf-8").splitlines()]
    expected = ZeroShotClassifier(workshop.home / "models" / "topics")(
        texts, ["sports", "business", "science", "politics"]
    )
    assert [row["prediction"] for row in rows] == [one["labels"][0] for one in expected]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"text,label\nonly,one,cell,too,many\n", "not a well-formed table"),
        ("b.parquet", b"PAR1 is not all it takes", "b.parquet"),
        ("c.jsonl", b"[1, 2]\n", "c.jsonl"),
        ("d.csv", b"text\n", "the table has no rows"),
    ],
)
def test_a_table_that_cannot_be_read_gets_a_sentence_without_a_path(
    opened, workshop, tmp_path, name, content, sentence
):
    (tmp_path / name).write_bytes(content)
    page = opened(workshop.address)
    open_tab(page, "Batch")
    page.set_input_files("#batch-upload input[type=file]", str(tmp_path / name))
    page.wait_for_selector("#batch-table-problem [role=alert]")
    shown = page.inner_text("#batch-table-problem")
    assert sentence in shown and "/" not in shown


@pytest.mark.slow
def test_a_long_table_is_stopped_or_left_and_a_third_is_refused_meanwhile(opened, workshop, tmp_path):
    table = write_csv(tmp_path / "long.csv", [["text"], *[[f"a warm film number {row}"] for row in range(300_000)]])
    pages = [opened(workshop.address) for _ in range(3)]
    for page in pages:
        open_tab(page, "Batch")
        upload(page, "batch", table)
        page.click("#batch-score")
        if page is not pages[2]:
            said(page, "#batch-progress", "rows/s")
    said(pages[2], "#batch-problem", "Other tables are being scored")
    pages[0].click("#batch-stop")
    said(pages[0], "#batch-progress", "Stopped")
    pages[1].close()  # whoever leaves stops it, too
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pages[2].click("#batch-score")
        pages[2].wait_for_timeout(500)
        if "rows/s" in (pages[2].inner_text("#batch-progress") or ""):
            break
    said(pages[2], "#batch-progress", "rows/s")
    pages[2].click("#batch-stop")
    said(pages[2], "#batch-progress", "Stopped")


@pytest.mark.slow
def test_corrections_are_trained_on_and_never_shown(opened, workshop):
    row = {"text": "what somebody wrote", "label": "positive", "model": "sentiment"}
    with (workshop.home / "corrections.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    page = opened(workshop.address)
    open_tab(page, "Batch")
    page.click("#batch-offered input")
    assert page.get_by_text("corrections of").count() == 0
    page.keyboard.press("Escape")
    open_tab(page, "Train")
    page.click("#train-offered input")
    page.get_by_role("option").get_by_text("corrections of sentiment").click()
    page.wait_for_function("document.querySelector('#train-label input').value === 'label'")
    assert page.locator("#train-preview").is_hidden() and "somebody" not in page.inner_text("body")


@pytest.mark.slow
def test_a_table_becomes_a_model_which_is_in_the_other_tabs_then(opened, workshop):
    page = opened(workshop.address)
    open_tab(page, "Train")
    page.click("#train-start")
    said(page, "#train-problem", "There is no table yet: upload one")
    choose(page, "#train-offered", "films.csv")
    page.wait_for_selector("#train-report table", timeout=SECONDS * 1000)
    assert page.input_value("#train-text input") == "text" and page.input_value("#train-label input") == "label"
    page.wait_for_selector("#train-problem [role=alert]", state="hidden")
    report = page.inner_text("#train-report")
    assert re.search(r"no\s+29", report) and "58 training rows, 6 validation rows" in report.replace("\n", " ")
    page.click("#train-rank")
    page.wait_for_selector("#train-ranking table", timeout=SECONDS * 1000)
    recommended = page.input_value("#train-base input")
    assert f"Start from {recommended}" in page.inner_text("#train-ranking")
    page.click("#train-start")
    said(page, "#train-problem", "Enter a name for the new model")
    name = "#train-name textarea, #train-name input"
    page.fill(name, "sentiment")
    page.click("#train-start")
    said(page, "#train-problem", "There is a model 'sentiment' already")
    page.fill(name, "films")
    page.fill("#train-optim-epochs input", "2")
    page.click("#train-recipe button")
    said(page, "#train-recipe-code", "--epochs 2")
    page.click("#train-start")
    page.wait_for_selector("#train-stop", state="visible")
    page.close()  # and the run goes on
    again = opened(workshop.address)
    open_tab(again, "Train")
    again.wait_for_function(
        "document.querySelector('#train-status').innerText.includes('films is ready')", timeout=SECONDS * 1000
    )
    again.wait_for_selector("#train-losses", state="visible")
    again.wait_for_selector("#train-scores", state="visible")
    again.wait_for_selector("#train-stop", state="hidden")
    again.click("#train-gradients button")
    said(again, "#train-gradients", "embeddings")
    open_tab(again, "Sentiment")
    choose(again, "#sentiment-model", "films")
    again.fill("#sentiment-text textarea", "good film")
    again.click("#sentiment-classify")
    expected = Classifier(workshop.home / "models" / "films")("good film")[0]
    said(again, "#sentiment-scores", f"{expected['label']}")
    open_tab(again, "Models")
    said(again, "#models-cards", "films")


def test_every_tab_has_an_example_and_a_program(opened, workshop):
    page = opened(workshop.address)
    for tab, words in (
        ("batch", "rehead predict sentiment"),
        ("train", "/models/my-own"),
        ("models", "/models/topics"),
    ):
        open_tab(page, tab.capitalize())
        if tab == "train":
            page.fill("#train-name textarea, #train-name input", "my-own")
            page.click("#train-example")
            page.wait_for_function("document.querySelector('#train-label input').value === 'label'")
            said(page, "#train-preview", "positive")
        if tab == "models":
            choose(page, "#models-model", "topics")
        page.click(f"#{tab}-snippet button")
        said(page, f"#{tab}-code", words)
        page.locator(f"#{tab}-language").get_by_label("JavaScript").check()
        said(page, f"#{tab}-code", "await fetch(")
    assert '"candidate_labels"' in page.inner_text("#models-code")


@pytest.mark.slow
def test_a_run_can_be_stopped(opened, workshop):
    page = opened(workshop.address)
    open_tab(page, "Train")
    choose(page, "#train-offered", "films.csv")
    page.fill("#train-name textarea, #train-name input", "endless")
    page.fill("#train-optim-epochs input", "5000")
    page.click("#train-start")
    page.wait_for_function(
        "document.querySelector('#train-status').innerText.includes('update')", timeout=SECONDS * 1000
    )
    page.click("#train-stop")
    said(page, "#train-status", "was stopped")
    assert not (workshop.home / "models" / "endless").exists()


def test_training_is_off_until_the_operator_allows_it(page):
    for tab, name in (("Train", "train"), ("No labels", "no-labels")):
        page.get_by_role("tab", name=tab).click()
        said(page, f"#{name}-off", "rehead serve --allow-training")
        assert page.locator(f"#{name}-start").count() == 0


def test_what_trains_or_keeps_is_only_for_the_page_itself(workshop):
    import urllib.request

    def call(path, body):
        request = urllib.request.Request(
            f"{workshop.address}/gradio_api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    with urllib.request.urlopen(f"{workshop.address}/config", timeout=30) as answer:
        config = json.loads(answer.read())
    names = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
    before = (workshop.home / "corrections.jsonl").read_text()
    for button in (
        *("train-start", "train-stop", "no-labels-start", "no-labels-stop"),
        *("sentiment-right", "topics-keep"),
    ):
        (event,) = [
            one for one in config["dependencies"] if [names[button], "click"] in one["targets"] and one["inputs"]
        ]
        data = ["guessed", *[None] * (len(event["inputs"]) - 1)]
        call("queue/join", {"data": data, "fn_index": event["id"], "session_hash": button})
        with urllib.request.urlopen(
            f"{workshop.address}/gradio_api/queue/data?session_hash={button}", timeout=30
        ) as stream:
            messages = [
                json.loads(line[5:]) for line in stream.read().decode().splitlines() if line.startswith("data:")
            ]
        done = next(one for one in messages if one["msg"] == "process_completed")
        assert "Only the page itself may do this" in json.dumps(done["output"]), button
    assert (workshop.home / "corrections.jsonl").read_text() == before


def test_two_models_are_compared_on_the_same_texts_and_one_is_timed(opened, workshop):
    page = opened(workshop.address)
    open_tab(page, "Models")
    said(page, "#models-cards", "topics")
    choose(page, "#models-left", "sentiment")
    choose(page, "#models-right", "topics")
    texts = ["a warm film", "the match"]
    page.fill("#models-texts textarea", "\n".join(texts))
    page.click("#models-compare")
    said(page, "#models-table", "the match")
    shown = page.inner_text("#models-table")
    labels = ["sports", "business", "science", "politics"]
    first = load("sentiment", models_dir=workshop.home / "models")(texts)
    second = ZeroShotClassifier(workshop.home / "models" / "topics")(texts, labels)
    for text, one, other in zip(texts, first, second, strict=True):
        assert re.search(rf"{text}\s+{one['label']}\s+0\.\d+\s+{other['labels'][0]}\s+0\.\d+", shown), shown
    page.click("#models-measure")
    said(page, "#models-speed", "texts/s")


@pytest.mark.slow
def test_uploads_are_gone_with_the_server(start_server, tiny_models, tmp_path, monkeypatch):
    import urllib.request

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    running = start_server(tiny_models)
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\ntext\r\n--x--\r\n'
    request = urllib.request.Request(
        f"{running.address}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        (path,) = json.loads(answer.read())
    assert path.startswith(str(tmp_path)) and Path(path).read_text(encoding="utf-8") == "text"
    assert running.stop(15) == (0, "")
    assert not list(tmp_path.glob("rehead-*"))
