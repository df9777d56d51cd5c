"""A model folder that rehead 0.1.0 wrote, with settings under the names of that time (tests/fixtures/model_0_1_0)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune.core import model_folder
from finetune.run import validation_rows
from service.pipelines import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/fixtures/model_0_1_0"
SCORES = {
    "a great film": ("positive", 0.9991693571956057),
    "good bad film": ("positive", 0.9991334664012379),
    "an awful movie": ("negative", 0.9983271485067617),
    "i hated it": ("negative", 0.9983159813679036),
}
"""Text -> label and score, as 0.1.0 predicted them."""


def test_a_model_folder_of_0_1_0_still_loads() -> None:
    folder = model_folder.read(FOLDER, check_hashes=True)
    assert (folder.labels.task, folder.labels.names) == ("binary", ("negative", "positive"))
    assert folder.headline is not None and folder.headline[0] == "accuracy"
    answers = load(FOLDER)(list(SCORES))
    for answer, (label, score) in zip(answers, SCORES.values(), strict=True):
        assert (answer["label"], answer["score"]) == (label, pytest.approx(score, abs=2e-6))


def test_its_validation_rows_are_found_through_settings_with_old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = yaml.safe_load((FOLDER / "train_config.yaml").read_text(encoding="utf-8"))
    assert recorded["model"]["initialiser"] == {"name": "glorot_uniform"} and recorded["optim"]["average"] == 0.9
    assert recorded["gradients"]["remedy"] == "auto" and recorded["data"]["train"][0]["keep_out"] == 2
    monkeypatch.chdir(ROOT)  # the path of the table is relative
    rows = validation_rows(FOLDER)
    assert rows.numbers == [3, 7, 10, 16, 17, 19]
    assert rows.texts[0] == "we loved this movie"
