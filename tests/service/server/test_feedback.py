"""Corrected answers: what is written, that training reads it, what is refused."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from finetune.config.training import DataConfig
from finetune.data.load import load_splits
from service.errors import BadRequest, Overloaded
from service.server.admission import Admission
from service.server.feedback import Feedback
from service.settings import ServeSettings
from service.ui import table_upload, upload_folder

pytestmark = pytest.mark.fast

SAID = {"model": "sentiment", "predicted": "positive", "score": 0.61234}


def test_corrections_are_rows_that_training_reads(tmp_path):
    kept = Feedback(tmp_path / "corrections.jsonl", 100)
    for number in range(20):
        label = ("negative", "positive")[number % 2]
        assert kept.add(f"line one\nline {number} \u2028 é", label, **SAID) == number + 1
    first = json.loads((tmp_path / "corrections.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first["text"].startswith("line one\nline 0") and first["predicted"] == "positive"
    splits = load_splits(DataConfig(train=str(tmp_path / "corrections.jsonl")), seed=1)
    assert set(splits.labels.names) == {"negative", "positive"} and len(splits.train) + len(splits.validation) == 20


def test_the_file_is_capped_also_after_a_restart_and_from_many_threads(tmp_path):
    file = tmp_path / "corrections.jsonl"
    kept = Feedback(file, 50)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: kept.add(f"text {number}", "a", **SAID), range(50)))
    assert len({json.loads(line)["text"] for line in file.read_text().splitlines()}) == 50
    for again in (kept, Feedback(file, 50)):
        with pytest.raises(BadRequest, match="the file holds 50 corrections, which is the limit"):
            again.add("one more", "a", **SAID)
    assert Feedback(file, 51).add("one more", "a", **SAID) == 51


def test_a_file_that_cannot_be_used_is_said_when_the_server_starts(tmp_path):
    with pytest.raises(BadRequest, match=r"should end in \.jsonl"):
        Feedback(tmp_path / "corrections.csv", 10)
    with pytest.raises(BadRequest, match="cannot hold corrections"):
        Feedback(tmp_path / "no" / "folder.jsonl", 10)


def test_a_line_that_was_not_ended_and_a_text_that_is_no_unicode_harm_nothing(tmp_path):
    file = tmp_path / "corrections.jsonl"
    file.write_text('{"text": "before", "label": "a", "model": "m"}\nnot json', encoding="utf-8")
    kept = Feedback(file, 10)
    assert kept.add("half \ud800", "b", **SAID) == 3
    assert kept.by_model() == {"m": 1, "sentiment": 1}
    (row,) = [json.loads(line) for line in kept.rows_of("sentiment").decode().splitlines()]
    assert (row["text"], row["label"]) == ("half \ufffd", "b")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_only_its_owner_can_read_a_new_file_and_an_old_one_keeps_its_mode(tmp_path):
    Feedback(tmp_path / "new.jsonl", 10).add("a", "b", **SAID)
    (old := tmp_path / "old.jsonl").touch(0o640)
    Feedback(old, 10).add("a", "b", **SAID)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new.jsonl", "old.jsonl")] == [0o600, 0o640]


def test_the_page_copies_corrections_once_with_a_bound_and_only_to_train_on_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    upload_folder._folder.cache_clear()
    feedback = Feedback(tmp_path / "corrections.jsonl", 10)
    feedback.add("a film", "b", **SAID)
    admission = Admission(None, ServeSettings(max_upload_bytes=1024), None)
    page = SimpleNamespace(jobs=object(), feedback=feedback, admission=admission)
    name = f"{table_upload.CORRECTIONS}sentiment (1)"
    try:
        for _ in range(30):
            assert table_upload.file_name(None, name) == "corrections-of-sentiment.jsonl"
        assert [file.name for file in upload_folder.folder().iterdir()] == []
        first = table_upload.path_of(page, None, name)
        assert json.loads(first.read_text())["text"] == "a film" and first.name == "corrections-of-sentiment.jsonl"
        assert {table_upload.path_of(page, None, name) for _ in range(30)} == {first}
        monkeypatch.setattr("service.server.admission.UPLOADS_STORED", 1)
        feedback.add("another film", "b", **SAID)
        with pytest.raises(Overloaded, match="upload storage is full"):
            table_upload.path_of(page, None, name)
    finally:
        admission.close()
        upload_folder.delete_folder()
