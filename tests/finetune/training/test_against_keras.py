"""Losses, initializers and activations against Keras 3 and against their definitions in float64; poolings by hand.

What `keras_reference` counts as moderate is compared with Keras. Keras clips probabilities, so extreme logits are
compared with the definition, which is itself held against Keras on the moderate ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from keras_reference import (
    INITIALIZER_OPTIONS,
    KERAS,
    OPTIONS,
    defined_loss,
    defined_spread,
    deviation,
    extreme,
    keras_activation,
    keras_loss,
    keras_weight,
    moderate,
)
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config.choice import Choice
from finetune.core.errors import ConfigError
from finetune.core.task import Task
from finetune.modeling.activations import ACTIVATIONS
from finetune.modeling.initializers import INITIALIZERS, constant, initialize
from finetune.modeling.poolings import POOLINGS
from finetune.training.losses import DEFAULT_SOFT_LABEL_LOSS, FITS, LOSSES, loss_for

pytestmark = pytest.mark.fast

TASKS: tuple[Task, ...] = get_args(Task)
CASES = [
    pytest.param(
        name,
        task,
        soft_labels,
        options,
        id="-".join([name, task, *["soft"] * soft_labels, *map(str, options.values())]),
    )
    for name, fit in FITS.items()
    for task in fit.tasks
    for soft_labels in ([False, True] if fit.soft_labels else [False])
    for options in OPTIONS.get(name, [{}])
]
OF_KERAS = [case for case in CASES if case.values[0] in KERAS]
LABELED = [(name, task) for name, fit in FITS.items() for task in fit.tasks if task != "regression"]
SINGLE = [(name, task) for name, task in LABELED if task != "multi_label"]
TAKE_SOFT_LABELS = [(name, task) for name, fit in FITS.items() if fit.soft_labels for task in fit.tasks]
POSITIVE = [name for name, fit in FITS.items() if "multi_label" in fit.tasks]

SINGLE_PRECISION = 0.1
"""Where a loss in float32 is smaller than this, its error is that of the logits in it, and no longer relative."""


def double(targets: Tensor) -> Tensor:
    return targets if targets.dtype == torch.int64 else targets.double()


# losses: moderate inputs


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), OF_KERAS)
def test_a_loss_is_that_of_keras_on_moderate_inputs(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = moderate(task, soft_labels=soft_labels)
    expected = keras_loss(name, logits, targets, **options)
    assert expected.std() > 0.01  # rows differ: a constant would be no comparison
    assert deviation(LOSSES[name](logits, targets, **options), expected, floor=SINGLE_PRECISION) < 1e-5
    assert deviation(LOSSES[name](logits.double(), double(targets), **options), expected, floor=1e-3) < 1e-5


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), OF_KERAS)
def test_the_definition_is_that_of_keras_on_moderate_inputs(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = moderate(task, soft_labels=soft_labels)
    defined = defined_loss(name, logits, targets, **options)
    assert deviation(defined, keras_loss(name, logits, targets, **options), floor=1e-3) < 1e-5


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), CASES)
def test_a_loss_is_its_definition_on_moderate_inputs(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = moderate(task, soft_labels=soft_labels)
    expected = defined_loss(name, logits, targets, **options)
    assert deviation(LOSSES[name](logits, targets, **options), expected, floor=SINGLE_PRECISION) < 1e-5
    assert deviation(LOSSES[name](logits.double(), double(targets), **options), expected, floor=1e-9) < 1e-6


@pytest.mark.parametrize("name", [name for name, fit in FITS.items() if fit.tasks == ("regression",)])
def test_a_loss_of_numbers_keeps_its_digits_where_the_error_is_small(name: str) -> None:
    size = torch.logspace(-4, 0, 200)
    logits, targets = torch.cat([size, -size])[:, None], torch.zeros(400)
    assert deviation(LOSSES[name](logits, targets), defined_loss(name, logits, targets), floor=1e-12) < 1e-5


@pytest.mark.parametrize("name", POSITIVE)
def test_pos_weight_multiplies_only_the_part_of_labels_that_hold(name: str) -> None:
    logits, targets = moderate("multi_label")
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 10.0])
    expected = defined_loss(name, logits, targets, pos_weight=weights.numpy())
    assert deviation(LOSSES[name](logits, targets, pos_weight=weights), expected, floor=SINGLE_PRECISION) < 1e-5


# losses: extreme inputs


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), CASES)
def test_a_loss_is_its_definition_on_extreme_inputs(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = extreme(task, soft_labels=soft_labels)
    losses = LOSSES[name](logits, targets, **options)
    assert deviation(losses, defined_loss(name, logits, targets, **options), floor=SINGLE_PRECISION) < 1e-6


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), CASES)
def test_gradients_are_finite_on_extreme_inputs(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = extreme(task, soft_labels=soft_labels)
    logits.requires_grad_()
    LOSSES[name](logits, targets, **options).sum().backward()
    assert logits.grad is not None
    rows = torch.isfinite(logits.grad).all(dim=1)
    assert rows.all(), [(logits[row].tolist(), targets[row].tolist()) for row in (~rows).nonzero()[:, 0]]


def test_a_number_far_below_zero_is_zero_to_the_logarithmic_error() -> None:
    targets = torch.tensor([0.0, 1.0, 1e4])
    losses = LOSSES["mean_squared_logarithmic_error"](torch.full((3, 1), -1e4), targets)
    assert deviation(losses, np.log1p(targets.double().numpy()) ** 2, floor=SINGLE_PRECISION) < 1e-6


def test_a_text_with_no_label_and_one_with_all_are_no_special_case() -> None:
    logits, targets = torch.tensor([[1e4, -1e4, 0.0]] * 2), torch.tensor([[0.0] * 3, [1.0] * 3])
    losses = LOSSES["binary_crossentropy"](logits, targets)
    assert losses.tolist() == pytest.approx([(1e4 + np.log(2)) / 3] * 2, rel=1e-6)


@pytest.mark.parametrize(("name", "task", "soft_labels", "options"), CASES)
def test_logits_in_bfloat16_give_losses_in_float32(
    name: str, task: Task, soft_labels: bool, options: dict[str, Any]
) -> None:
    logits, targets = moderate(task, soft_labels=soft_labels)
    half = logits.bfloat16()
    losses = LOSSES[name](half, targets, **options)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, LOSSES[name](half.float(), targets, **options))


# the loss of a task


def choice(name: str, **options: Any) -> Choice:
    return Choice.model_validate({"name": name, **options})


def refused(task: Task, name: str, *, soft_labels: bool = False) -> list[str]:
    """The losses that a refusal offers instead."""
    with pytest.raises(ConfigError) as caught:
        loss_for(task, choice(name), soft_labels=soft_labels)
    said = re.fullmatch(
        rf"loss '{name}' does not fit task {task.replace('_', '-')}\b.*: choose one of (.+)", str(caught.value)
    )
    assert said, str(caught.value)
    return said[1].split(", ")


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_that_does_not_fit_a_task_is_refused_and_all_that_do_are_named(task: Task) -> None:
    fitting = [name for name, fit in FITS.items() if task in fit.tasks]
    assert 0 < len(fitting) < len(LOSSES)
    for name in LOSSES:
        if name in fitting:
            logits, targets = moderate(task)
            assert torch.equal(loss_for(task, choice(name))(logits, targets), LOSSES[name](logits, targets))
        else:
            assert refused(task, name) == fitting


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_soft_labels_with_a_loss_that_takes_none_are_refused_and_those_that_do_are_named(task: Task) -> None:
    fitting = [name for name, fit in FITS.items() if task in fit.tasks and fit.soft_labels]
    assert {"categorical_crossentropy", "kullback_leibler_divergence"} <= set(fitting) < set(LOSSES)
    for name in set(LOSSES) - set(fitting):
        assert refused(task, name, soft_labels=True) == fitting


def test_soft_labels_have_a_default_loss() -> None:
    logits, targets = moderate("multiclass", soft_labels=True)
    found = loss_for("multiclass", None, soft_labels=True)(logits, targets)
    assert torch.equal(found, LOSSES[DEFAULT_SOFT_LABEL_LOSS](logits, targets))


@pytest.mark.parametrize(("name", "task"), LABELED)
def test_label_weights_of_one_change_nothing(name: str, task: Task) -> None:
    logits, targets = moderate(task)
    weights = np.ones(logits.shape[1], dtype=np.float32)
    found = loss_for(task, choice(name), class_weights=weights)(logits, targets)
    assert torch.equal(found, loss_for(task, choice(name))(logits, targets))


@pytest.mark.parametrize(("name", "task"), SINGLE)
def test_a_row_counts_as_much_as_the_weight_of_its_label(name: str, task: Task) -> None:
    logits, targets = moderate(task)
    weights = np.array([3.0, 0.5, 0.0, 1.0, 20.0][: logits.shape[1]], dtype=np.float32)
    found = loss_for(task, choice(name), class_weights=weights)(logits, targets)
    expected = [
        float(weights[label]) * loss for label, loss in zip(targets, LOSSES[name](logits, targets), strict=True)
    ]
    assert deviation(found, expected, floor=1e-9) < 1e-6


@pytest.mark.parametrize(("name", "task"), TAKE_SOFT_LABELS)
def test_a_row_of_soft_labels_counts_as_much_as_their_mean_weight(name: str, task: Task) -> None:
    logits, targets = moderate(task, soft_labels=True)
    weights = np.array([3.0, 0.5, 0.0, 1.0, 20.0][: logits.shape[1]], dtype=np.float32)
    found = loss_for(task, choice(name), soft_labels=True, class_weights=weights)(logits, targets)
    means = np.average(np.tile(weights, (len(targets), 1)), axis=1, weights=targets.numpy())
    assert deviation(found, means * LOSSES[name](logits, targets).numpy(), floor=1e-3) < 1e-5


def test_a_class_weight_of_multi_label_counts_only_where_the_label_holds_as_in_torch() -> None:
    logits, targets = moderate("multi_label")
    weights = torch.tensor([3.0, 0.5, 0.0, 1.0, 20.0])
    found = loss_for("multi_label", None, class_weights=weights.numpy())(logits, targets)
    peer = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none").mean(dim=1)
    assert deviation(found, peer, floor=1e-3) < 1e-5
    assert not torch.allclose(found, LOSSES["binary_crossentropy"](logits, targets))


@pytest.mark.parametrize("name", POSITIVE)
def test_class_weights_multiply_pos_weight(name: str) -> None:
    logits, targets = moderate("multi_label")
    weights = np.array([3.0, 0.5, 0.0, 1.0, 20.0], dtype=np.float32)
    found = loss_for("multi_label", choice(name, pos_weight=2.0), class_weights=weights)(logits, targets)
    assert torch.equal(found, LOSSES[name](logits, targets, pos_weight=torch.from_numpy(2 * weights)))


# initializers

FILLS = [(name, options) for name in INITIALIZERS for options in INITIALIZER_OPTIONS.get(name, [{}])]
SHAPES = [(300, 200), (200, 300)]
ALIKE = {"zeros", "ones", "constant"}


def filled(name: str, shape: tuple[int, int], seed: int = 0, **options: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    torch.manual_seed(seed)
    weight = torch.full(shape, torch.nan)
    INITIALIZERS[name](weight, **options)
    return weight.double().numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), FILLS)
def test_a_weight_has_the_mean_spread_and_bounds_of_its_definition(
    name: str, options: dict[str, float], shape: tuple[int, int]
) -> None:
    weight, spread = filled(name, shape, **options), defined_spread(name, *shape, **options)
    # 60,000 draws leave 0.4 % of a standard deviation to the mean and 0.3 % to the deviation; the wrong side of the
    # weight, or a cut that is not made up for, is 8 % or more
    assert weight.mean() == pytest.approx(spread.mean, abs=0.02 * spread.std + 1e-8)
    assert weight.std() == pytest.approx(spread.std, rel=0.015, abs=1e-8)
    slack = 1e-6 * max(abs(spread.low), abs(spread.high))
    assert weight.min() >= spread.low - slack
    assert weight.max() <= spread.high + slack
    if np.isfinite(spread.high) and name != "orthogonal":  # the bounds are reached, not only kept
        half = (spread.high - spread.low) / 2
        assert weight.min() <= spread.low + 0.01 * half + slack
        assert weight.max() >= spread.high - 0.01 * half - slack


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), FILLS)
def test_a_weight_is_distributed_as_that_of_keras(name: str, options: dict[str, float], shape: tuple[int, int]) -> None:
    ours, theirs = filled(name, shape, **options), keras_weight(name, *shape, **options)
    assert theirs.shape == ours.shape
    if name in ALIKE:
        assert np.allclose(ours, theirs, rtol=1e-7)
        return
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    # two samples of 60,000 of one distribution are further apart once in a thousand times
    assert ks_2samp(ours.ravel(), theirs.ravel()).statistic < 0.0113


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_an_orthogonal_weight_keeps_lengths_as_that_of_keras_does(shape: tuple[int, int], gain: float) -> None:
    for weight in (filled("orthogonal", shape, gain=gain), keras_weight("orthogonal", *shape, gain=gain)):
        short = weight if shape[0] < shape[1] else weight.T
        assert np.abs(short @ short.T - gain**2 * np.eye(min(shape))).max() < 1e-5


@pytest.mark.parametrize(("name", "options"), FILLS)
def test_a_seed_gives_one_weight_and_another_seed_another(name: str, options: dict[str, float]) -> None:
    first, again, other = (filled(name, (30, 20), seed, **options) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in ALIKE)


def test_a_head_gets_its_weights_filled_its_biases_zeroed_and_its_norms_left_alone() -> None:
    head = nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3))
    )
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters(), 1):
            parameter.fill_(-number)
    norm = {key: value.clone() for key, value in head[1].state_dict().items()}
    initialize(head, partial(constant, value=0.3))
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert (layer.weight == 0.3).all()
        assert layer.bias is None or (layer.bias == 0).all()
    assert all(torch.equal(value, norm[key]) for key, value in head[1].state_dict().items())
    assert all(parameter.requires_grad for parameter in head.parameters())


# activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_keras(name: str) -> None:
    # -10 to 10 and far beyond; softmax over rows of 7
    grid = torch.cat(
        [torch.linspace(-10, 10, 201), torch.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4, 1e4, 0.0])]
    )
    grid = grid.reshape(30, 7)
    expected = keras_activation(name, grid)
    assert deviation(ACTIVATIONS[name]()(grid), expected, floor=SINGLE_PRECISION) < 1e-5
    assert deviation(ACTIVATIONS[name]()(grid.double()), expected, floor=1e-9) < 1e-6


def test_the_slope_of_leaky_relu_is_that_of_keras() -> None:
    grid = torch.linspace(-10, 10, 201)
    expected = keras_activation("leaky_relu", grid, slope=0.3)
    assert expected[0] == pytest.approx(-3.0)
    assert deviation(ACTIVATIONS["leaky_relu"](slope=0.3)(grid), expected, floor=SINGLE_PRECISION) < 1e-5


# poolings

LENGTHS = (5, 3, 1)
WIDTH = 4


def states_of_three_layers() -> tuple[list[Tensor], Tensor]:
    """States `[3, 5, 4]` of each layer, and a mask of 5, 3 and 1 tokens; all states are below 0, as padding is not."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(3, 5, WIDTH, generator=generator) - 10 for _ in range(3)]
    return layers, torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def by_scores(pooling: Any, tokens: Any) -> Any:
    scores = tokens @ pooling.score.weight.detach().double().numpy()[0] + pooling.score.bias.item()
    shares = np.exp(scores) / np.exp(scores).sum()
    return sum(share * token for share, token in zip(shares, tokens, strict=True))


BY_HAND: dict[str, Callable[[Any, Any, Any], Any]] = {
    "cls": lambda pooling, first, last: last[0],
    "mean": lambda pooling, first, last: sum(last) / len(last),
    "max": lambda pooling, first, last: [max(token[unit] for token in last) for unit in range(WIDTH)],
    "first_last_mean": lambda pooling, first, last: (sum(first) + sum(last)) / (2 * len(last)),
    "attention": lambda pooling, first, last: by_scores(pooling, last),
}
"""Pooling -> its vector of one text, from the first and the last layer's states of the text's tokens alone."""


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_is_what_a_computation_by_hand_over_the_texts_own_tokens_gives(name: str) -> None:
    torch.manual_seed(1)
    pooling, (layers, mask) = POOLINGS[name](WIDTH), states_of_three_layers()
    first, last = layers[0].double().numpy(), layers[-1].double().numpy()
    expected = [BY_HAND[name](pooling, first[row, :n], last[row, :n]) for row, n in enumerate(LENGTHS)]
    assert deviation(pooling(layers, mask).detach(), expected, floor=SINGLE_PRECISION) < 1e-5


@pytest.mark.parametrize("name", POOLINGS)
def test_padding_never_matters_to_a_pooling(name: str) -> None:
    torch.manual_seed(1)
    pooling, (layers, mask) = POOLINGS[name](WIDTH), states_of_three_layers()
    before = pooling(layers, mask)
    for value in (0.0, 1e6, -1e6):
        padded = [torch.where(mask[..., None], states, torch.tensor(value)) for states in layers]
        longer = [F.pad(states, (0, 0, 0, 2), value=value) for states in padded]
        assert torch.equal(pooling(padded, mask), before)
        assert torch.allclose(pooling(longer, F.pad(mask, (0, 2))), before, rtol=1e-6)
    changed = [states + mask[..., None] for states in layers]
    assert not torch.allclose(pooling(changed, mask), before)
