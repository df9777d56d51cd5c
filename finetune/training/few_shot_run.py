"""Train on few rows: cross-validate the ways of FEW_SHOT within the training rows, and train the best on all of them.

The number of updates is fixed: no checkpoint is chosen on a handful of rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config.choice import Choice
from finetune.config.model import ModelConfig
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.events import Info
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.model_folder import Location
from finetune.core.number_format import figure
from finetune.core.registry import pick
from finetune.data.rows import Rows
from finetune.data.splits import folds_of
from finetune.evaluation.intervals import wilson
from finetune.training.few_shot import AUTO, FEW_SHOT, FewRows, Learner, is_entailment_base

if TYPE_CHECKING:
    from finetune.training.fit import AttemptInputs, TrainedModel

FOLDS = 2
"""Folds of the cross-validation within the training rows; each more costs a training of every way that is left."""

ENOUGH = 20
"""Rows of the first fold from which a way that is right on all of them ends the search."""

MOST_ROWS = 100
"""Mean rows of a label above which they are not few, and `auto` is ordinary fine-tuning."""

HEAD = ModelConfig(head=Choice(name="linear", dropout=0.0), pooling="mean", dropout=0.0, keep_head=False)
"""The head that every way ends with."""


@dataclass(frozen=True)
class TriedWay:
    """An entry of FEW_SHOT on training rows: accuracy with its 95% interval, each row by a model of the other folds;
    the seconds that took, and the number of rows: not all where it was left out after a fold."""

    name: str
    value: float
    low: float
    high: float
    seconds: float
    rows: int

    def __str__(self) -> str:
        """Return a line of the table."""
        interval = f"[{figure(self.low)}, {figure(self.high)}]"
        return f"{self.name:<12} accuracy {figure(self.value)} {interval} on {self.rows} rows, {self.seconds:.1f} s"


def are_few(rows: Rows, labels: LabelSpace) -> bool:
    """Return whether there are at most MOST_ROWS rows of a label on average."""
    return len(rows) <= MOST_ROWS * len(labels)


def fit(config: TrainConfig, inputs: AttemptInputs, rows: Rows, *, held_out: bool) -> TrainedModel:
    """Train a classifier as `config.few_shot` says, on all rows.

    Args:
        rows: those of `inputs.train`.
        held_out: also return the logits of each row by a model of the other folds.

    Raises:
        ConfigError: as `ways_of`.
        TrainingError: the loss is not finite.
    """
    from transformers import set_seed

    from finetune.modeling.build import build_model
    from finetune.training.fit import TrainedModel

    assert config.few_shot is not None
    set_seed(config.seed)
    labels = inputs.objective.labels
    model = build_model(inputs.base, labels, config.model).model
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    options: dict[str, Any] = {"seed": config.seed, "precision": config.precision, "device": config.device}
    learner = Learner(inputs.base, model, labels, inputs.encoder, **options)
    texts = list(rows.texts)
    few = FewRows(texts, list(inputs.train.tokens), np.asarray(inputs.train.targets), inputs.train.weights)
    names = ways_of(config.few_shot, inputs.base, labels, rows)
    tried: list[TriedWay] = []
    held: dict[str, Any] = {}
    if len(names) > 1 or held_out:
        folds = folds_of(rows, min(FOLDS, len(rows)), labels, config.seed)
        title = f"few-shot, {len(folds)} folds"
        for way, logits in _cross_validated(learner, start, config.few_shot, names, few, folds):
            inputs.say(Info(f"{title}: {way}"))
            tried.append(way)
            if logits is not None:
                held[way.name] = logits
        tried.sort(key=lambda way: names.index(way.name))
    best = max(held, key=lambda name: _correct(held[name], few).sum()) if held else names[0]
    if len(names) > 1:
        inputs.say(Info(f"few-shot: {best} is best on the held-out rows; it is trained on all {len(rows)} rows"))
    learner.updates = 0
    _train(learner, start, config.few_shot, best, few)
    chosen = config.model_copy(update={"few_shot": Choice(name=best, **_options(config.few_shot))})
    return TrainedModel(
        learner.model, chosen, [], [], learner.updates, held.get(best) if held_out else None, tuple(tried)
    )


def ways_of(wanted: Choice, base: Location, labels: LabelSpace, rows: Rows) -> list[str]:
    """Return the entries of FEW_SHOT to try.

    Raises:
        ConfigError: more than one label a text; `nli` with another base, or with pairs.
    """
    if labels.task not in ("binary", "multiclass") or any(isinstance(value, SoftLabels) for value in rows.values):
        raise ConfigError("few_shot is for exactly one label a text: leave it out")
    possible = {"nli": is_entailment_base(base) and rows.pairs is None}
    if wanted.name == AUTO:
        return [name for name in FEW_SHOT if possible.get(name, True)]
    if not possible.get(wanted.name, True):
        raise ConfigError(
            f"few_shot=nli needs single texts and an entailment model as the base, such as topics: {base.name} "
            "is none, or the table has pairs"
        )
    return [wanted.name]


def _options(wanted: Choice) -> dict[str, Any]:
    return wanted.options if wanted.name != AUTO else {}


def _train(learner: Learner, start: dict[str, Any], wanted: Choice, name: str, rows: FewRows) -> None:
    """Train the learner's model from its first weights on these rows."""
    learner.model.load_state_dict(start)
    pick(FEW_SHOT, name, _options(wanted), what="few_shot")(learner, rows)


def _cross_validated(
    learner: Learner,
    start: dict[str, Any],
    wanted: Choice,
    names: Sequence[str],
    rows: FewRows,
    folds: Sequence[Sequence[int]],
) -> Iterator[tuple[TriedWay, Any]]:
    """Yield each way's accuracy once it is known, with the logits `[N, C]` of each row by a model of the other folds;
    None for a way that is left out after a fold, being behind the best one (`_is_behind`)."""
    from finetune.training.trainer import predict

    shape = len(rows.targets), len(learner.labels)
    logits = {name: np.zeros(shape, dtype=np.float32) for name in names}
    seconds = dict.fromkeys(names, 0.0)
    scored: dict[str, list[int]] = {name: [] for name in names}
    left = list(names)

    def tried(name: str) -> TriedWay:
        correct, count = int(_correct(logits[name], rows, scored[name]).sum()), len(scored[name])
        return TriedWay(name, correct / count, *wilson(correct, count), seconds[name], count)

    for number, fold in enumerate(folds, 1):
        others = sorted(set(range(shape[0])).difference(fold))
        for name in left:
            begin = time.perf_counter()
            _train(learner, start, wanted, name, rows.take(others))
            logits[name][list(fold)] = predict(learner.model, learner.encoder, rows.take(fold).tokens, shared=False)
            scored[name] += fold
            seconds[name] += time.perf_counter() - begin
            if number == len(folds):
                yield tried(name), logits[name]
            if number == 1 and len(fold) >= ENOUGH and _correct(logits[name], rows, fold).all():
                break  # no other way can be told to be better, and those that follow take longer
        left = [name for name in left if scored[name]]
        if number < len(folds):
            right = {name: _correct(logits[name], rows, scored[name]) for name in left}
            best = max(left, key=lambda name: right[name].sum())
            for name in [name for name in left if _is_behind(right[name], right[best])]:
                yield tried(name), None
                left.remove(name)


def _correct(logits: Any, rows: FewRows, places: Sequence[int] | None = None) -> Any:
    """Return whether each row, or each of those at `places`, is answered right."""
    right = logits.argmax(axis=1) == rows.targets
    return right if places is None else right[list(places)]


def _is_behind(right: Any, of_best: Any) -> bool:
    """Return whether a way is behind the best one by more than the standard error of their paired difference."""
    lost, won = int((of_best & ~right).sum()), int((right & ~of_best).sum())
    return lost - won > math.sqrt(lost + won)


def table_json(trained: TrainedModel) -> dict[str, Any]:
    """Return the entry of metrics.json."""
    return {
        "strategy": trained.config.few_shot.name if trained.config.few_shot is not None else None,
        "folds": FOLDS,
        "cross_validated": {
            way.name: {
                "value": way.value,
                "low": way.low,
                "high": way.high,
                "rows": way.rows,
                "seconds": round(way.seconds, 3),
            }
            for way in trained.tried
        },
    }


def sentence_of(trained: TrainedModel) -> str:
    """Return Markdown for the model card: which way was taken, and what the others reached."""
    name = trained.config.few_shot.name if trained.config.few_shot is not None else ""
    lines = [f"Trained on few rows by `few_shot: {name}`, with a fixed number of updates."]
    if len(trained.tried) > 1:
        lines = [
            f"{lines[0]} It was chosen by accuracy in cross-validation ({FOLDS} folds) within the training rows:",
            "| few_shot | accuracy | 95% interval | rows | seconds |\n|---|---|---|---|---|\n"
            + "\n".join(
                f"| {way.name} | {figure(way.value)} | {figure(way.low)} to {figure(way.high)} | {way.rows} "
                f"| {way.seconds:.1f} |"
                for way in trained.tried
            ),
        ]
    if trained.held_out is not None:
        chosen = ", among which this way was chosen, so that they are somewhat optimistic"
        lines.append(
            "There is no validation split: the validation scores are those of each training row by a model of the "
            f"other folds{chosen if len(trained.tried) > 1 else ''}."
        )
    return "\n\n".join(lines)
