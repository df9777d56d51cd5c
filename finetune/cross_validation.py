"""k-fold cross-validation of a config: every training row is scored once, by a model that has not seen it.

Each fold is a run of its own on the other folds; its checkpoint is chosen on validation rows set aside from those, so
that the rows of the fold decide nothing. Results are beside the model, in `OUT.folds/`; the models are not kept.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.training import TrainConfig
from finetune.core.disk_space import full_disk_explained
from finetune.core.errors import ConfigError, DataError
from finetune.core.event_printer import EventPrinter
from finetune.core.events import Info, Listener, Saved, Warned
from finetune.core.labels import LabelSpace
from finetune.core.launch import require_one_process
from finetune.core.model_folder import write_json
from finetune.core.quiet import quiet_transformers
from finetune.core.scores import decide
from finetune.core.tables.files import write_table
from finetune.data.load import Splits, load_splits
from finetune.data.rows import Rows, without_texts
from finetune.data.splits import folds_of, split, target_scale_of
from finetune.evaluation import label_errors
from finetune.evaluation.evaluate import ScoredSplit, scored_rows
from finetune.reports.report import part
from finetune.run import measured_run
from finetune.training import run_lock

PREDICTIONS, METRICS, FOLD = "predictions.csv", "metrics.json", "fold"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class CrossValidation:
    """The result of a cross-validation.

    Attributes:
        path: the folder with `predictions.csv` and `metrics.json`.
        metrics: name -> `mean` over the folds, `low` and `high` (Student's t over the folds, 95%), `folds` (the value
            of each), and `pooled` (of all rows' predictions together).
        scores: `[N, C]`, of each row by the model that has not seen it.
        rows: the rows, in the order of the tables.
        folds: fold of each row, from 1.
    """

    path: Path
    metrics: dict[str, dict[str, Any]]
    scores: npt.NDArray[Any]
    rows: Rows
    folds: list[int]


def cross_validate(
    config: TrainConfig, folds: int, data: Any = None, on_event: Listener | None = None, *, progress: bool = True
) -> CrossValidation:
    """Train and score a model for each fold, and write the predictions and metrics to `OUT.folds/`.

    Args:
        folds: their number, 2 or more.
        data, on_event, progress: as in `train`.

    Raises:
        FinetuneError: as `train` does; too few rows or groups; the folder exists and `overwrite` is off.
    """
    require_one_process("cross-validation")
    if folds < 2:
        raise ConfigError(f"--folds {folds}: give 2 folds or more")
    if config.thresholds is not None or config.coverage is not None:
        raise ConfigError("--folds measures scores, without thresholds and coverage of each fold: leave them out")
    if config.base == "auto":
        raise ConfigError("--folds with --base auto would choose the base by rows of the folds: name a base")
    out = Path(config.out).with_name(f"{Path(config.out).name}.folds")
    with ExitStack() as stack:
        stack.enter_context(run_lock.locked(out))
        stack.enter_context(full_disk_explained())
        stack.enter_context(quiet_transformers())
        emit = on_event or (stack.enter_context(EventPrinter()) if progress else lambda event: None)
        if out.exists() and not config.overwrite:
            raise ConfigError(f"{out} exists already: choose another --out, or pass --overwrite to replace it")
        if any(source.recast is not None for source in config.data.train):
            raise ConfigError("--folds scores labeled rows, and a recast source has none: leave out `recast`")
        whole = load_splits(config.data, seed=config.seed, data=data, whole=True)
        for sentence in (*whole.notes, *whole.warnings):
            emit(Warned(sentence) if sentence in whole.warnings else Info(sentence))
        parts = folds_of(whole.train, folds, whole.labels, config.seed)
        work = out.with_name(f".{out.name}.run")
        shutil.rmtree(work, ignore_errors=True)  # of a run that was ended
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        measured = list(_measured(config, whole, parts, work, emit))
        result = _joined(config, whole, parts, measured, out)
        _write(result, whole.labels, work / "finished")
        likely = label_errors.write(work / "finished", whole.labels, result.scores, result.rows)
        if likely is not None:
            emit(Info(likely))
        shutil.rmtree(out, ignore_errors=True)
        (work / "finished").replace(out)
        emit(Saved(str(out)))
        return result


def _measured(
    config: TrainConfig, whole: Splits, parts: Sequence[Sequence[int]], work: Path, emit: Listener
) -> Iterator[ScoredSplit]:
    """Yield the scores and metrics of each fold."""
    for number, part_rows in enumerate(parts, start=1):
        splits = _fold_splits(config, whole, part_rows)
        sizes = f"trained on {len(splits.train)} rows, validated on {len(splits.validation)}, {len(part_rows)} scored"
        emit(Info(f"fold {number} of {len(parts)}: {sizes}"))
        alone: dict[str, Any] = {"resume": False, "allow_changed": (), "report_to": (), "tfidf_baseline": False}
        if whole.labels.task == "multi_label":
            alone["calibration"] = "none"  # each fold would have thresholds of its own, and pooled scores have none
        run = config.model_copy(update=alone)
        folder = work / f"{FOLD}-{number}"
        yield measured_run(run.model_copy(update={"out": str(folder)}), splits, folder / "checkpoints", emit)[FOLD]
        shutil.rmtree(folder, ignore_errors=True)


def _fold_splits(config: TrainConfig, whole: Splits, places: Sequence[int]) -> Splits:
    """Return the splits of one fold: its rows as a test table, and the others to train and validate on."""
    inside, labels = set(places), whole.labels
    scored = whole.train.take(places)
    train = whole.train.take([place for place in range(len(whole.train)) if place not in inside])
    train, validation = without_texts(train, scored.identities, Counter(), FOLD), whole.validation
    if not len(validation):
        train, validation = split(train, config.data.validation_size, labels, config.seed)
        train = without_texts(train, validation.identities, Counter(), FOLD)
    if labels.task in ("binary", "multiclass") and len({str(value) for value in train.values}) < 2:
        raise DataError("a fold leaves one label only to train on: lower --folds, or add rows", file=train.source)
    target = target_scale_of(train, config.data.bounds) if labels.task == "regression" else None
    return replace(whole, train=train, validation=validation, tests={FOLD: scored}, target=target)


def _joined(
    config: TrainConfig,
    whole: Splits,
    parts: Sequence[Sequence[int]],
    measured: Sequence[ScoredSplit],
    out: Path,
) -> CrossValidation:
    scores = np.zeros((len(whole.train), measured[0].scores.shape[1]), dtype=measured[0].scores.dtype)
    folds = [0] * len(whole.train)
    for number, (places, fold) in enumerate(zip(parts, measured, strict=True), start=1):
        scores[list(places)] = fold.scores
        for place in places:
            folds[place] = number
    pooled = part(scored_rows(whole.labels, scores, whole.train, None, extra=config.metrics))["metrics"]
    values = [fold.scored.values() for fold in measured]
    metrics = {
        name: {**mean_interval([fold.get(name, math.nan) for fold in values]), "pooled": entry}
        for name, entry in pooled.items()
    }
    return CrossValidation(out, metrics, scores, whole.train, folds)


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of values over folds, with the 95% interval of Student's t.

    A value that is undefined in a fold (ROC-AUC of a single label) is left out. The folds share training rows, so the
    interval is approximate.
    """
    from scipy.stats import t

    known = np.asarray([value for value in values if math.isfinite(value)])
    entry: dict[str, Any] = {"folds": [value if math.isfinite(value) else None for value in values]}
    if len(known):
        entry["mean"] = float(known.mean())
    if len(known) > 1:
        reach = t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
        entry |= {"low": float(known.mean() - reach), "high": float(known.mean() + reach)}
    return entry


def _write(result: CrossValidation, labels: LabelSpace, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_table(folder / PREDICTIONS, _predictions(result, labels))
    sizes = Counter(result.folds)
    write_json(
        folder / METRICS,
        {
            "rows": len(result.rows),
            "folds": [sizes[number] for number in sorted(sizes)],
            "metrics": result.metrics,
        },
    )


def _predictions(result: CrossValidation, labels: LabelSpace) -> Iterator[dict[str, Any]]:
    """Yield each row once: where it stands, its fold, its text and label, and its prediction."""
    rows, decisions = result.rows, decide(result.scores, labels.task)
    for place, (text, value, number) in enumerate(zip(rows.texts, rows.values, rows.numbers, strict=True)):
        file = rows.origin.cells(place)[0] if rows.origin is not None else rows.source
        row: dict[str, Any] = {"file": file, "row": number, "fold": result.folds[place], "text": text}
        row |= {"text_pair": rows.pairs[place]} if rows.pairs is not None else {}
        row |= {"label": value if isinstance(value, str | float | list) else str(value)}
        scores = result.scores[place].tolist()
        if labels.task == "regression":
            yield row | {"prediction": float(decisions[place])}
            continue
        best = int(np.argmax(scores))
        if labels.task == "multi_label":
            row |= {"prediction": [name for name, is_set in zip(labels.names, decisions[place], strict=True) if is_set]}
        else:
            row |= {"prediction": labels.names[best], "score": scores[best]}
        yield row | {f"score_{name}": score for name, score in zip(labels.names, scores, strict=True)}
