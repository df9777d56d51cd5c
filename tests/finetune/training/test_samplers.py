"""Which rows make a batch, and how many updates that is."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.config.model import ModelConfig
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.modeling.build import build_model
from finetune.prepare import prepare
from finetune.run import train
from finetune.training.batch_plan import bytes_for_backward, rows_that_fit
from finetune.training.samplers import Batches, even_weights

LENGTHS = np.random.default_rng(0).integers(4, 90, 1000)

Make = Callable[..., TrainConfig]


def padding(batches: list[list[int]]) -> float:
    """Share of computed tokens that are padding."""
    computed = sum(int(LENGTHS[batch].max()) * len(batch) for batch in batches)
    return 1 - int(LENGTHS.sum()) / computed


@pytest.mark.parametrize("tokens", [None, 700])
def test_each_row_comes_once_an_epoch_and_epochs_differ(tokens: int | None) -> None:
    batches = Batches(LENGTHS, 32, tokens=tokens, seed=1, epochs=5)
    drawn = []
    for epoch in range(5):
        batches.set_epoch(epoch)
        drawn.append(list(batches))
        assert sorted(row for batch in drawn[-1] for row in batch) == list(range(1000))
        assert len(drawn[-1]) == len(batches)
    assert drawn[0] != drawn[1]
    batches.set_epoch(0)
    assert list(batches) == drawn[0] == list(Batches(LENGTHS, 32, tokens=tokens, seed=1, epochs=5))
    assert drawn[0] != list(Batches(LENGTHS, 32, tokens=tokens, seed=2, epochs=5))


def test_like_lengths_come_together_the_longest_first_and_else_in_no_order() -> None:
    grouped, mixed = list(Batches(LENGTHS, 16, seed=3)), list(Batches(LENGTHS, 16, group=False, seed=3))
    assert padding(grouped) < 0.05 < 0.3 < padding(mixed)
    longest = [int(LENGTHS[batch].max()) for batch in grouped]
    assert longest[0] == max(longest)
    assert abs(np.corrcoef(longest[1:], range(len(longest) - 1))[0, 1]) < 0.3


def test_a_token_budget_is_kept_unless_one_row_is_longer() -> None:
    batches = list(Batches(LENGTHS, 32, tokens=300, seed=0))
    assert all(int(LENGTHS[batch].max()) * len(batch) <= 300 for batch in batches)
    assert padding(batches) < 0.05
    assert [len(batch) for batch in Batches(np.array([50, 50]), 32, tokens=10)] == [1, 1]


def test_even_weights_draw_every_label_as_often() -> None:
    targets = np.array([0] * 900 + [1] * 90 + [2] * 10)
    drawn = Counter(targets[[row for batch in Batches(LENGTHS, 32, weights=even_weights(targets)) for row in batch]])
    assert all(250 < drawn[label] < 420 for label in range(3))
    several = np.zeros((1000, 3))
    several[:900, 0], several[895:, 1] = 1, 1
    weights = even_weights(several)
    assert weights[:895].sum() == pytest.approx(895 / 900) and weights[899] == pytest.approx(1 / 105)


@pytest.mark.parametrize(
    ("optim", "each"),
    [
        ({"batch_size": 1}, 54),
        ({"batch_size": 8}, 7),
        ({"batch_size": 8, "accumulation": 4}, 2),
        ({"batch_size": 8, "effective_batch": 20}, 3),
        ({"batch_size": "full"}, 1),
        ({"batch_size": "auto"}, 1),
        ({"batch_size": 8, "batch_tokens": 100}, None),
        ({"sampler": "balanced", "batch_size": 8}, 7),
    ],
)
def test_the_number_of_updates_is_known_beforehand(config: Make, reviews: Any, optim: Any, each: int | None) -> None:
    wanted = config(optim=optim | {"epochs": 2}, tfidf_baseline=False)
    plan = prepare(wanted, reviews).batch_plan
    heard: list[Any] = []
    result = train(wanted, reviews, heard.append)
    assert result.updates == plan.updates == 2 * plan.updates_per_epoch
    assert each in (None, plan.updates_per_epoch)
    assert any(f"{plan.updates} in all" in event.text for event in heard if isinstance(event, events.Info))
    [started] = [event for event in heard if isinstance(event, events.Started)]
    assert started.updates == plan.updates


def test_settings_that_cannot_be_are_refused(config: Make, reviews: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size' is 0: give a number of rows from 1 up, `full` or `auto`"):
        config(optim={"batch_size": 0})
    numbers = [{"text": row["text"], "label": index / 7} for index, row in enumerate(reviews)]
    with pytest.raises(ConfigError, match="sampler=balanced requires labels, and the task is regression"):
        prepare(config(optim={"sampler": "balanced"}), numbers)


def test_auto_takes_what_memory_gives(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    model = build_model(find(str(tiny_base)), LabelSpace("binary", ("a", "b")), ModelConfig(dropout=0)).model
    one = bytes_for_backward(model, 64)
    assert 1.9 < bytes_for_backward(model, 128) / one < 4.1  # at most the square, where attention is kept
    available = psutil.virtual_memory()._replace(available=one * 40)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    assert rows_that_fit(model, 64) in (8, 16)
