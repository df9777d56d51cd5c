"""`rehead predict`, `zero-shot` and `models`, as a user types them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.core.tables.files import read_table, write_table
from service import Classifier, ZeroShotClassifier, cli

LABELS = ["sports", "business", "food, drink"]


def test_a_trimmed_model_answers_as_the_whole_one(rehead):
    write_table("texts.csv", [{"text": "good film"}, {"text": "a bad planet"}])
    assert rehead("trim-vocab", "sentiment", "texts.csv", "-o", "models/small")[0] == 0
    answers = [rehead("predict", model, "a good planet", "--json")[1] for model in ("sentiment", "small")]
    whole, small = (json.loads(answer)[0]["predictions"] for answer in answers)
    assert [entry["label"] for entry in whole] == [entry["label"] for entry in small]
    assert [entry["score"] for entry in whole] == pytest.approx([entry["score"] for entry in small], abs=1e-6)
    code, _, error = rehead("trim-vocab", "sentiment", "texts.csv", "-o", "models/small")
    assert code == 2 and error.startswith("error: models/small already holds a model: ")
    assert rehead("trim-vocab", "sentiment", "texts.csv", "-o", "models/small", "--overwrite")[0] == 0


@pytest.fixture
def rehead(tiny_models, tmp_path, capsys, monkeypatch):
    """Return a function that runs a command in an empty folder, in this process: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    monkeypatch.setattr("finetune.core.model_folder.shipped_dir", lambda: tmp_path / "none")
    shutil.copytree(tiny_models, tmp_path / "models")
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(list(arguments))
        printed = capsys.readouterr()
        return exit_info.value.code, printed.out, printed.err

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def table(tmp_path):
    write_table(
        tmp_path / "in.csv", [{"id": "007", "text": "great film", "label": "x"}, {"id": "8", "text": "NA", "label": ""}]
    )
    return tmp_path / "in.csv"


def test_a_text_is_shown_with_all_its_labels_as_bars(rehead, tiny_sentiment):
    code, out, err = rehead("predict", "sentiment", "I loved it.")
    best, other = Classifier(tiny_sentiment)("I loved it.", top_k=None)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "I loved it."
    assert lines[1].split()[:2] == [best["label"], f"{best['score']:.3f}"] and "█" in lines[1]
    assert lines[2].split()[0] == other["label"]


def test_several_texts_are_printed_one_per_line(rehead, tiny_sentiment):
    texts = ["great film", "the match\nwas long"]
    code, out, _ = rehead("predict", "sentiment", *texts)
    expected = Classifier(tiny_sentiment)(texts)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == [answer["label"] for answer in expected]
    assert out.splitlines()[1].endswith("the match was long")


def test_json_has_every_text_with_its_predictions(rehead, tiny_sentiment):
    code, out, _ = rehead("predict", "sentiment", "great film", "NA", "--json")
    entries = json.loads(out)
    assert code == 0 and [entry["text"] for entry in entries] == ["great film", "NA"]
    expected = Classifier(tiny_sentiment)(["great film", "NA"], top_k=None)
    assert [entry["predictions"][0]["label"] for entry in entries] == [row[0]["label"] for row in expected]
    (entry,) = json.loads(rehead("predict", "sentiment", "great film", "--json", "--top-k", "1")[1])
    assert len(entry["predictions"]) == 1 and entry["truncated"] is False


def test_a_table_is_scored_into_a_table(rehead, table, tiny_sentiment):
    code, out, err = rehead("predict", "sentiment", "in.csv", "-o", "out.csv")
    assert (code, out) == (0, "") and "wrote out.csv: 2 rows, with new columns prediction, score, error" in err
    rows = read_table("out.csv").rows
    assert list(rows[0]) == ["id", "text", "label", "prediction", "score", "error"]
    assert rows[0]["id"] == "007" and rows[1]["text"] == "NA"
    for row, answer in zip(rows, Classifier(tiny_sentiment)(["great film", "NA"]), strict=True):
        assert row["prediction"] == answer["label"] and float(row["score"]) == pytest.approx(answer["score"], abs=2e-6)
    code, _, err = rehead("predict", "sentiment", "in.csv", "-o", "out.csv")
    assert code == 2 and "exists already" in err
    assert rehead("predict", "sentiment", "in.csv", "-o", "out.csv", "--overwrite", "--text", "id")[0] == 0


def test_a_table_without_an_output_is_shown(rehead, table):
    code, out, _ = rehead("predict", "sentiment", "in.csv")
    assert code == 0 and len(out.splitlines()) == 2 and out.splitlines()[0].endswith("great film")


def test_a_file_with_one_text_per_line_is_read_and_skipped_lines_are_reported(rehead, tmp_path):
    (tmp_path / "t.txt").write_text("great film\n\nawful\n")
    code, out, err = rehead("predict", "sentiment", "t.txt")
    assert code == 0 and [line.split("  ")[-1] for line in out.splitlines()] == ["great film", "awful"]
    assert err == "t.txt: one text a line: 2 texts, 1 blank lines skipped\n"
    code, _, err = rehead("predict", "sentiment", "t.txt", "-o", "out.csv")
    assert code == 0 and "2 rows (one text a line: 2 texts, 1 blank lines skipped)" in err
    assert [row["text"] for row in read_table("out.csv").rows] == ["great film", "awful"]


def test_standard_input_is_read_as_one_text_per_line_even_if_a_line_is_a_file_name(rehead, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in.csv\n\ngreat film\n")))
    code, out, err = rehead("predict", "sentiment", "-", "--json")
    assert (code, err) == (0, "") and [entry["text"] for entry in json.loads(out)] == ["in.csv", "great film"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--label", "sports", "--label", "business", "--label", "food, drink"],
        ["--labels", "sports,business", "--label", "food, drink"],
        ["--labels", "@labels.txt"],
    ],
)
def test_labels_can_be_passed_in_three_ways(rehead, tmp_path, tiny_topics, flags):
    (tmp_path / "labels.txt").write_text("sports\n\nbusiness\r\nfood, drink\n", encoding="utf-8")
    code, out, err = rehead("zero-shot", "the match", *flags, "--json")
    expected = ZeroShotClassifier(tiny_topics)("the match", LABELS)
    assert (code, err) == (0, "")
    scores = {entry["label"]: entry["score"] for entry in json.loads(out)[0]["predictions"]}
    assert scores == {
        label: pytest.approx(score, abs=2e-6)
        for label, score in zip(expected["labels"], expected["scores"], strict=True)
    }


def test_zero_shot_flags_are_followed(rehead, tiny_topics):
    flags = ["--multi-label", "--template", "It is {}.", "--scorer", "nli", "--attention", "ordinary"]
    code, out, _ = rehead("zero-shot", "the match", "--labels", "sports,business", *flags, "--json")
    options = {"multi_label": True, "hypothesis_template": "It is {}.", "scorer": "nli", "attention": "ordinary"}
    expected = ZeroShotClassifier(tiny_topics)("the match", ["sports", "business"], **options)
    assert code == 0
    predictions = json.loads(out)[0]["predictions"]
    assert [entry["score"] for entry in predictions] == pytest.approx(expected["scores"], abs=2e-6)


def test_several_labels_of_a_table_row_are_a_list(rehead, table):
    arguments = [
        "zero-shot",
        "in.csv",
        "--labels",
        "sports,business",
        "--multi-label",
        "--all-scores",
        "-o",
        "out.jsonl",
    ]
    assert rehead(*arguments)[0] == 0
    row = read_table("out.jsonl").rows[0]
    labels = [name for name in ("sports", "business") if row[f"score_{name}"] >= 0.5]
    assert sorted(row["prediction"]) == sorted(labels)


def test_models_are_listed_with_what_each_is_for(rehead, tmp_path):
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "config.json").write_text("{}")
    code, out, err = rehead("models")
    assert code == 0 and out.splitlines()[0].split() == ["name", "task", "labels", "base", "size", "metric"]
    assert "any that you name" in out and "negative, positive" in out
    assert "broken cannot be used" in err and "model.safetensors is missing" in err
    entries = {entry["name"]: entry for entry in json.loads(rehead("models", "--json")[1])}
    assert entries["sentiment"]["task"] == "binary" and "error" in entries["broken"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "sentimental", "a", "--models", "nowhere"], "no model 'sentimental'"),
        (["predict", "sentiment", "nowhere.csv"], "there is no file nowhere.csv"),
        (["predict", "sentiment", "nowhere.txt"], "there is no file nowhere.txt"),
        (["predict", "sentiment", "topics.json"], "topics.json: the table has no rows"),
        (["predict", "sentiment", "topics.docx"], "cannot be read: predict and zero-shot read .csv, .tsv, .jsonl,"),
        (["predict", "sentiment", "nowhere.csv.gz"], "there is no file nowhere.csv.gz"),
        (["predict", "sentiment", "a text", "in.csv"], "there are 2 arguments: pass one file alone"),
        (["predict", "sentiment", "models"], "models is a folder"),
        (["predict", "sentiment", "gap.csv", "--text", "text"], "gap.csv, row 2, column 'text': the text is empty"),
        (["zero-shot", "nowhere.xlsx", "--labels", "a,b"], "there is no file nowhere.xlsx"),
        (["zero-shot", "a text", "--labels", "labels.txt"], "write --labels @labels.txt to read its labels"),
        (["zero-shot", "a text", "--labels", "['a', 'b']"], "are a list written as text"),
        (["zero-shot", "a text", "--labels", "a,b", "--template", "It is {{}}."], "no other brace"),
        (["zero-shot", "a text", "--labels", "a,b", "--templat", "{}"], "--template"),
        (["predict", "sentiment", "in.csv", "--text", "body"], "has no column 'body': it has id, text, label"),
        (["predict", "sentiment", "in.csv", "-o", "in.csv", "--overwrite"], "is the input itself"),
        (["predict", "sentiment", "a text", "-o", "out.csv"], "need a FILE"),
        (["predict", "sentiment", " "], "text 1 of 1 is empty"),
        (["predict", "sentiment"], "Missing argument"),
        (["predict", "topics", "a text"], "use rehead zero-shot"),
        (["predict", "sentiment", "a", "--top-k", "0"], "--top-k"),
        (["zero-shot", "a text"], "there are no labels: pass --labels"),
        (["zero-shot", "a text", "--labels", "@nowhere.txt"], "there is no label file nowhere.txt"),
        (["zero-shot", "a text", "--labels", "a,b", "--template", "x"], "exactly one {}"),
        (["zero-shot", "a text", "--labels", "a,a"], "'a' is given twice"),
        (["zero-shot", "a text", "--labels", "a,b", "--model", "sentiment"], "labels of your own"),
        (["serve", "--default", "nope", "--port", "0"], "no model 'nope' is served"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(rehead, table, tmp_path, arguments, sentence):
    (tmp_path / "topics.json").write_text("[]")
    (tmp_path / "topics.docx").touch()
    (tmp_path / "gap.csv").write_text("id,text\n1,a\n2,\n")
    code, out, err = rehead(*arguments)
    assert code == 2 and out == "" and sentence in err and "Traceback" not in err
    assert err.startswith("Usage:") or err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_sentence(tiny_models):
    command = [sys.executable, "-m", "service.cli", "predict", "sentiment", "a film", "--models", str(tiny_models)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "could not be written (No space left on device): make room" in done.stderr


def test_a_real_process_prints_the_answer_and_nothing_else(tiny_models):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "service.cli",
            "predict",
            "sentiment",
            "I loved it.",
            "--json",
            "--models",
            str(tiny_models),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)[0]["text"] == "I loved it."


@pytest.mark.parametrize("command", [("predict", "sentiment"), ("zero-shot",)])
def test_encoding_separator_and_header_are_flags_of_what_reads_a_table(rehead, tmp_path, command):
    (tmp_path / "in.csv").write_bytes("příliš dlouhý^a\nžluťoučký^b\n".encode("cp1250"))
    labels = () if command[0] == "predict" else ("--labels", "sports,business")
    flags = ("--encoding", "cp1250", "--separator", "^", "--no-header", "--text", "1")
    code, out, err = rehead(*command, "in.csv", *labels, *flags)
    assert code == 0 and "příliš dlouhý" in out and "žluťoučký" in out, err
    code, _, err = rehead(*command, "in.csv", *labels, *flags, "-o", "out.csv")
    assert code == 0 and [row["column_2"] for row in read_table("out.csv").rows] == ["a", "b"], err
    code, _, err = rehead(*command, "in.csv", *labels, "--encoding", "cp12500")
    assert code == 2 and "no text encoding 'cp12500' (--encoding)" in err and err.count("\n") == 1
    code, _, err = rehead(*command, "a text", *labels, "--encoding", "cp1250")
    assert code == 2 and "need a FILE" in err


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_labeled_table_is_read_with_the_flags_too(rehead, tmp_path, tiny_sentiment, command):
    names = Classifier(tiny_sentiment).labels
    rows = "".join(f"příliš {n}^{names[n % 2]}\n" for n in range(12))
    (tmp_path / "in.csv").write_bytes(rows.encode("cp1250"))
    models = ("sentiment",) if command == "evaluate" else ("sentiment", "sentiment")
    flags = ("--encoding", "cp1250", "--separator", "^", "--no-header", "--text", "column_1", "--label", "2")
    code, out, err = rehead(command, *models, "in.csv", *flags)
    assert code == 0 and "12 rows of in.csv" in out, err
