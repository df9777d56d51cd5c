"""Regression targets of any scale: standardized in training, on their own scale everywhere else."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config.choice import Choice
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.model_folder import read
from finetune.core.scores import activate
from finetune.core.target_scale import TargetScale
from finetune.prepare import prepare
from finetune.run import train
from finetune.training.losses import FITS, LOSSES, loss_for

Make = Callable[..., TrainConfig]
NUMBER = {"task": "regression"}
REGRESSION_LOSSES = [name for name, fit in FITS.items() if "regression" in fit.tasks]


def numbers(reviews: list[dict[str, Any]], scale: float = 1.0, shift: float = 0.0) -> list[dict[str, Any]]:
    """Bad films are about 1 and good ones about 3, times `scale`."""
    return [
        {"text": row["text"], "label": (1 + 2 * (row["label"] == "yes") + index % 5 / 10) * scale + shift}
        for index, row in enumerate(reviews)
    ]


def test_training_does_not_depend_on_the_scale_of_the_numbers(config: Make, reviews: Any) -> None:
    settings = config(optim={"epochs": 4}, data=NUMBER, tfidf_baseline=False, overwrite=True)
    plain = train(settings, numbers(reviews)).metrics["r2"]
    assert plain > 0.8
    for scale, shift in ((1e-6, 0.0), (1e9, 0.0), (1.0, 2000.0)):
        assert train(settings, numbers(reviews, scale, shift)).metrics["r2"] == pytest.approx(plain, abs=1e-3)


def test_the_saved_model_gives_the_original_scale_in_plain_transformers(config: Make, reviews: Any) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import service

    rows = numbers(reviews, 1e5)
    folder = train(config(optim={"epochs": 4}, data=NUMBER, tfidf_baseline=False), rows).path
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [row["text"] for row in rows[:8]]
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].numpy()
    ours = [answer["score"] for answer in service.load(folder)(texts)]
    assert ours == pytest.approx(logits, rel=1e-5)
    assert np.abs(logits - [row["label"] for row in rows[:8]]).max() < 5e4  # and not on a scale of ones
    stored = read(folder).settings.target
    assert stored is not None and (stored.low, stored.high) == pytest.approx((1e5, 3.4e5))
    assert "from 100000 to 340000" in (folder / "README.md").read_text()


@pytest.mark.parametrize("head", ["stock", "mlp"])
def test_the_scale_is_written_into_every_kind_of_model(config: Make, reviews: Any, head: str) -> None:
    more = {"ema_decay": 0.9} if head == "mlp" else {}
    settings = {"optim": {"epochs": 4} | more, "model": {"head": head, "lora": {"rank": 2}}}
    result = train(config(**settings, data=NUMBER, tfidf_baseline=False), numbers(reviews, 1e4))
    assert 0 < result.metrics["mae"] < 8e3


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_a_loss_of_standardized_numbers_is_the_loss_of_the_numbers_up_to_a_factor(name: str, scale: float) -> None:
    """Mean squared, absolute and logarithmic errors keep their definition; Huber's delta keeps its unit."""
    target = TargetScale.fit(np.array([0.0, 1.0, 2.0, 7.0]) * scale)
    options = {"delta": 0.5 * scale} if name == "huber" else {}
    loss = loss_for("regression", Choice(name=name, **options), target=target)
    logits = torch.tensor([[-0.4], [0.3], [1.1], [2.0]], dtype=torch.float64)
    targets = torch.tensor([0.1, 0.4, 2.0, 9.0], dtype=torch.float64) * scale
    computed = loss(logits, torch.as_tensor((targets.numpy() - target.mean) / target.std))
    if name == "log_cosh":  # in standard deviations, by definition
        expected = LOSSES[name](logits, (targets - target.mean) / target.std)
    elif name == "mean_squared_logarithmic_error":
        raw = target.restore(logits[:, :1].numpy())
        predictions = activate(raw, "softplus", target=target)[:, 0]
        expected = torch.as_tensor((np.log1p(predictions) - np.log1p(targets.numpy())) ** 2)
    else:
        expected = LOSSES[name](logits * target.std + target.mean, targets, **options)
    ratio = computed / expected
    assert ratio == pytest.approx(ratio[0].item(), rel=1e-5)


def test_logarithms_are_learned_on_the_scale_of_the_numbers(config: Make, reviews: Any) -> None:
    for scale in (1e-6, 1e5):
        settings = config(
            loss="mean_squared_logarithmic_error",
            data=NUMBER,
            optim={"epochs": 6},
            tfidf_baseline=False,
            overwrite=True,
        )
        result = train(settings, numbers(reviews, scale))
        assert result.metrics["r2"] > 0.8
        assert "Plain transformers returns z" in (result.path / "README.md").read_text()


def test_predictions_are_clipped_to_the_bounds(config: Make, reviews: Any) -> None:
    import service

    rows = numbers(reviews)
    folder = train(
        config(data=NUMBER | {"bounds": [1.9, 2.1]}, optim={"epochs": 2}), [{**r, "label": 2.0} for r in rows]
    ).path
    stored = json.loads((folder / "classifier.json").read_text())
    assert stored["target"]["bounds"] == [1.9, 2.1]
    stored["target"]["bounds"] = [None, 0.5]
    (folder / "classifier.json").write_text(json.dumps(stored))
    assert [answer["score"] for answer in service.load(folder)(["good film", "bad film"])] == [0.5, 0.5]
    assert "clipped to at least 1.9 and at most 2.1" in (folder / "README.md").read_text()


def test_a_number_outside_the_bounds_is_refused_with_its_row(config: Make, reviews: Any) -> None:
    rows = numbers(reviews)
    rows[6]["label"] = 7.5
    with pytest.raises(DataError, match=r"row 7: the number 7.5 is outside data.bounds"):
        for seed in range(9):  # the row may fall to validation
            prepare(config(data={"bounds": [1, 5], "task": "regression"}, seed=seed), rows)
    with pytest.raises(ConfigError, match=r"data.bounds.*the lower bound first"):
        config(data={"bounds": [5, 1]})


def test_one_number_for_all_rows_is_no_division_by_zero(config: Make, reviews: Any) -> None:
    rows = [{"text": row["text"], "label": 0.1} for row in reviews]
    result = train(config(data={"task": "regression"}), rows)
    assert read(result.path).settings.target == TargetScale(pytest.approx(0.1), 1.0, 0.1, 0.1)


def test_numbers_that_a_saved_model_cannot_tell_apart_are_refused(config: Make, reviews: Any) -> None:
    seconds = numbers(reviews, 1.0, 1.7e9)
    with pytest.raises(ConfigError, match=r"from 1700000001 to 1700000003.*subtract a number near 170000000\d"):
        prepare(config(data=NUMBER), seconds)
    assert prepare(config(data=NUMBER), numbers(reviews, 1.0, 1e6)).splits.target is not None
    alike = [row | {"label": 1.7e9} for row in seconds]
    assert prepare(config(data=NUMBER), alike).splits.target is not None


def test_bfloat16_is_refused_where_its_three_digits_are_too_few(config: Make, reviews: Any) -> None:
    years = numbers(reviews, 1.0, 2000.0)
    with pytest.raises(ConfigError, match="save_dtype=bfloat16 keeps three digits"):
        prepare(config(save_dtype="bfloat16", data=NUMBER), years)
    assert prepare(config(save_dtype="bfloat16", data=NUMBER), numbers(reviews)).splits.target is not None


def test_a_server_computes_such_numbers_in_float32(config: Make, reviews: Any) -> None:
    from service.errors import BackendFailed
    from service.inference.backends import selection
    from service.settings import RuntimeSettings

    folder = read(train(config(data=NUMBER, tfidf_baseline=False), numbers(reviews, 1.0, 2000.0)).path)
    settings = RuntimeSettings.from_environment()
    automatic = selection.load(folder, settings.model_copy(update={"backend": "torch", "precision": "auto"}))
    assert automatic.precision == "float32"
    with pytest.raises(BackendFailed, match="predicts numbers from .* digits of bfloat16 cannot tell apart"):
        selection.load(folder, settings.model_copy(update={"backend": "torch", "precision": "bfloat16"}))
