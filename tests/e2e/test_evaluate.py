"""`rehead evaluate` and `rehead compare`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_classifier
from click.testing import CliRunner

from finetune.core.errors import DataError
from finetune.core.tables.files import read_table, write_table
from service import Classifier
from service.commands import compare
from service.commands.evaluate import command
from service.evaluate import evaluate as rehead_evaluate

TEXTS = ["great film", "a good match", "awful movie", "the bank", "it was bad", "loved the planet"]


@pytest.fixture
def table(tmp_path: Path, tiny_sentiment: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return a table whose labels are the model's own answers, except the last."""
    answers = [answer["label"] for answer in Classifier(tiny_sentiment)(TEXTS)]
    other = next(name for name in Classifier(tiny_sentiment).labels if name != answers[-1])
    labels = [*answers[:-1], other]
    rows = [
        {"text": text, "label": label, "lang": "de" if index < 2 else "fr"}
        for index, (text, label) in enumerate(zip(TEXTS, labels, strict=True))
    ]
    write_table(tmp_path / "held.csv", rows)
    return tmp_path / "held.csv", rows


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_it_prints_every_metric_with_its_baseline_and_per_group(table: Any, tiny_sentiment: Path) -> None:
    file, _ = table
    done = evaluate(tiny_sentiment, file, "--by", "lang")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith(f"6 rows of {file}")
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert accuracy.split()[1] == f"{5 / 6:.4f}" and "baseline" in accuracy
    assert lines[lines.index("lang de (2 rows)") + 1].split()[:2] == ["accuracy", "1.0000"]
    assert lines[lines.index("lang fr (4 rows)") + 1].split()[:2] == ["accuracy", "0.7500"]


def test_tf_idf_is_compared_with_the_model_if_rows_are_enough(tmp_path: Path, tiny_sentiment: Path) -> None:
    rows = [{"text": f"{('good', 'bad')[i % 2]} film {i}", "label": ("positive", "negative")[i % 2]} for i in range(40)]
    write_table(tmp_path / "many.csv", rows)
    output = evaluate(tiny_sentiment, tmp_path / "many.csv").output
    assert next(line for line in output.splitlines() if line.startswith("accuracy")).endswith("TF-IDF 1.0000")
    assert "TF-IDF" not in evaluate(tiny_sentiment, tmp_path / "many.csv", "--no-tfidf").output


def test_its_report_holds_the_figures_the_plots_and_the_error(table: Any, tiny_sentiment: Path, tmp_path: Path) -> None:
    file, rows = table
    report = tmp_path / "report"
    done = evaluate(tiny_sentiment, file, "--by", "lang", "--report", report, "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.output)
    assert json.loads((report / "metrics.json").read_text()) == printed
    assert printed["metrics"]["accuracy"]["value"] == pytest.approx(5 / 6)
    assert set(printed["by"]) == {"de", "fr"}
    plots = {"confusion_matrix.png", "reliability.png", "precision_recall.png", "length_and_error.png"}
    assert {path.name for path in report.glob("*.png")} == plots
    worst = [row for row in read_table(report / "errors.csv").rows if row["kind"] == "worst"]
    assert [(row["text"], row["label"]) for row in worst] == [(TEXTS[-1], rows[-1]["label"])]


def test_weights_count_in_every_metric_and_a_row_of_weight_0_is_absent(
    table: Any, tiny_sentiment: Path, tmp_path: Path
) -> None:
    _, rows = table
    weights = [1, 1, 0, 1, 1, 4]  # the last answer is wrong
    weighted = [row | {"times": weight} for row, weight in zip(rows, weights, strict=True)]
    metrics = rehead_evaluate(tiny_sentiment, weighted, weight="times")
    assert metrics["metrics"]["accuracy"]["value"] == pytest.approx(4 / 8)
    assert metrics["weight"] == "times" and metrics["rows"] == 5 and metrics["data"]["zero_weights"] == 1
    absent = rehead_evaluate(tiny_sentiment, weighted[:2] + weighted[3:], weight="times")
    assert absent["metrics"] == metrics["metrics"] and absent["baseline"] == metrics["baseline"]

    write_table(tmp_path / "weighted.csv", weighted)
    done = evaluate(tiny_sentiment, tmp_path / "weighted.csv", "--weight", "times")
    assert done.exit_code == 0, done.output
    assert "weighted.csv, weighted by column times" in done.output.splitlines()[0]
    assert next(line for line in done.output.splitlines() if line.startswith("accuracy")).split()[1] == "0.5000"
    missing = evaluate(tiny_sentiment, tmp_path / "weighted.csv", "--weight", "time")
    assert "there is no column 'time' (--weight)" in str(missing.exception)
    nothing = [row | {"times": 0} for row in rows]
    with pytest.raises(DataError, match="the weights of all 6 rows are 0"):
        rehead_evaluate(tiny_sentiment, nothing, weight="times")


def test_a_report_folder_that_exists_is_refused_and_untouched(table: Any, tiny_sentiment: Path, tmp_path: Path) -> None:
    existing = tmp_path / "existing.txt"
    existing.write_text("mine")
    done = evaluate(tiny_sentiment, table[0], "--report", tmp_path)
    assert "exists already" in str(done.exception)
    assert existing.read_text() == "mine"
    assert not (tmp_path / "metrics.json").exists()


def test_two_models_are_compared_in_one_table_with_the_difference_and_its_interval(
    table: Any, tiny_sentiment: Path, tmp_path: Path
) -> None:
    labels = list(Classifier(tiny_sentiment).labels)
    other = save_classifier(tmp_path / "other", labels[::-1], seed=5)  # the labels in another order
    file, rows = table
    done = CliRunner().invoke(compare.command, [str(tiny_sentiment), str(other), str(file), "--json"])
    assert done.exit_code == 0, done.output
    comparison = json.loads(done.output)
    accuracies = {
        path: sum(answer["label"] == row["label"] for answer, row in zip(Classifier(path)(TEXTS), rows, strict=True))
        / 6
        for path in (tiny_sentiment, other)
    }
    assert [entry["metrics"]["accuracy"] for entry in comparison["models"]] == pytest.approx([*accuracies.values()])
    gap = comparison["models"][1]["difference"]["accuracy"]
    assert gap["value"] == pytest.approx(accuracies[other] - accuracies[tiny_sentiment])
    assert gap["low"] <= gap["value"] <= gap["high"]
    printed = CliRunner().invoke(compare.command, [str(tiny_sentiment), str(other), str(file)]).output
    assert f"difference from {tiny_sentiment.name}" in printed


def test_a_model_compared_with_itself_has_no_difference(table: Any, tiny_sentiment: Path) -> None:
    done = CliRunner().invoke(compare.command, [str(tiny_sentiment), str(tiny_sentiment), str(table[0]), "--json"])
    difference = json.loads(done.output)["models"][1]["difference"]["accuracy"]
    assert difference == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_models_with_other_labels_and_a_missing_model_are_refused(
    table: Any, tiny_sentiment: Path, tmp_path: Path
) -> None:
    other = save_classifier(tmp_path / "other", ["x", "y"])
    done = CliRunner().invoke(compare.command, [str(tiny_sentiment), str(other), str(table[0])])
    assert "only models with the same labels can be compared" in str(done.exception)
    done = CliRunner().invoke(compare.command, [str(tiny_sentiment), str(table[0])])
    assert "compare needs two models or more" in str(done.exception)
