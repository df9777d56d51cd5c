"""A training run fits its scores on the validation rows, measures them on others, and writes all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.config.loading import build
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.events import Event, Info
from finetune.run import train

WORDS = {"yes": "good great loved", "no": "bad awful hated"}


def rows(count: int, seed: int = 0, labels: tuple[str, ...] = ("no", "yes")) -> list[dict[str, Any]]:
    """Return texts whose label is right four times in five."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        true, said = rng.choice(labels), rng.choice(labels)
        words = " ".join(rng.choice(WORDS[str(true)].split(), 3))
        found.append({"text": f"{words} film {number} {seed}", "label": str(said if rng.random() < 0.4 else true)})
    return found


def config(base: Path, out: Path, **more: Any) -> Any:
    quick = {"epochs": 2, "batch_size": 16, "lr": 5e-3}
    fixed = {"optim": quick, "precision": "float32", "tfidf_baseline": False, "data": {"validation_size": 120}}
    return build({"base": str(base), "out": str(out), **fixed, **more})


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Return a model that was trained with a test table, and the events of its run."""
    out, events = tmp_path_factory.mktemp("trained") / "model", []
    settings = config(tiny_base, out, coverage=0.8, thresholds={"recall": 0.9})
    train(settings, data={"train": rows(400), "test": rows(200, seed=1)}, on_event=events.append)
    return out, events


def test_what_was_fitted_is_measured_on_the_test_rows(trained: tuple[Path, list[Event]]) -> None:
    out, events = trained
    content = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["calibration"]

    assert (content["fitted_on"], content["rows"]) == ("validation", 120)
    assert (content["measured_on"], content["measured_rows"]) == ("test", 200)
    assert set(content["before"]) == set(content["after"]) == {"calibration_error", "brier", "log_loss"}
    assert content["thresholds"]["labels"]["yes"]["recall"]["low"] < 0.95
    assert 0.6 < content["prediction_sets"]["coverage"]["value"] <= 1
    said = [event.text for event in events if isinstance(event, Info)]
    assert any("Prediction sets with a coverage of 0.8" in text for text in said)


def test_the_folder_and_the_card_hold_it(trained: tuple[Path, list[Event]]) -> None:
    out, _ = trained
    settings = model_folder.read(out, check_hashes=True).settings
    card = (out / "README.md").read_text(encoding="utf-8")

    assert settings.prediction_sets is not None and settings.prediction_sets.rows == 120
    assert settings.thresholds is not None and sum(settings.thresholds) == pytest.approx(1)
    assert "Thresholds are tuned for a recall of 0.9" in card and "yes is predicted from" in card
    assert (out / "report" / "reliability.png").is_file()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"calibration": "platt"}, "could change which label"),
        ({"thresholds": {"name": "f1", "label": "maybe"}}, "no label 'maybe'"),
        ({"thresholds": "f3"}, "unknown thresholds 'f3'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(
    tiny_base: Path, tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config(tiny_base, tmp_path / "model", **setting), data=rows(300), on_event=lambda event: None)
