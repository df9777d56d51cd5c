"""A model's metrics on a labeled table, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from finetune.config.data import DataConfig
from finetune.core.model_folder import ModelFolder
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.settings import RuntimeSettings

if TYPE_CHECKING:
    from finetune.core.labels import LabelSpace
    from finetune.evaluation.evaluate import Evaluation


def evaluate(
    model: str | PathLike[str],
    data: Any,
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    text_pair: str | None = None,
    label_names: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    by: str | None = None,
    tfidf: bool = False,
    device: str | None = None,
    models_dir: str | PathLike[str] | None = "models",
    sheet: str | None = None,
    weight: str | None = None,
) -> dict[str, Any]:
    """Return the metrics of a model on labeled rows, with 95% intervals and the majority (or mean) baseline.

    Args:
        model: a path, a served name, or a Hub id.
        data: a table file, a pandas or polars frame, a `datasets.Dataset`, or a list of dicts.
        text, label, text_pair: columns; found where they are obvious. The texts of several columns are joined. Several
            label columns hold 0 and 1 each.
        label_names: names for a label column of 0, 1, 2 ...
        metrics: further metrics by name.
        by: a column; the metrics are returned for each of its values too, under `by`.
        tfidf: also measure TF-IDF with logistic regression, cross-validated on the same rows.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; by default REHEAD_DEVICE, else `auto`.
        models_dir: the folder of served names.
        sheet: of an Excel file, by its name or its number from 1.
        weight: the column of the weight of each row, a number of at least 0: a row of weight 2 counts as two.

    Returns:
        `{"split", "rows", "metrics": {name: {"value", "low", "high"}}, "baseline", "data"}`, as in metrics.json.

    Raises:
        DataError: no usable rows, or a label that the model does not have; says where.
        ModelNotFound: there is no such model.
    """
    from finetune.reports.report import evaluation_json

    columns = {"text": text, "label": label, "text_pair": text_pair, "label_names": label_names}
    columns |= {"sheet": sheet, "weight": weight}
    config = DataConfig(**{name: value for name, value in columns.items() if value is not None})
    folder = resolve(model, models_dir)
    evaluation = evaluate_model(folder, data, config, metrics=metrics, by=by, tfidf=tfidf, device=device)
    return evaluation_json(str(data) if isinstance(data, str | PathLike) else "data", evaluation)


def evaluate_model(
    folder: ModelFolder,
    data: Any,
    columns: DataConfig,
    *,
    labels: LabelSpace | None = None,
    metrics: Sequence[str] = (),
    by: str | None = None,
    tfidf: bool = False,
    device: str | None = None,
) -> Evaluation:
    """Return the evaluation of a model, computed in the runtime whose scores are exact; arguments as in `evaluate`.

    `labels` are the model's own in another order; scores and thresholds are put in that order.
    """
    from finetune.evaluation.evaluate import evaluate as evaluate_scores

    labels = labels or folder.labels
    engine = Engine.load(folder, RuntimeSettings.from_environment(device=device).exact())
    thresholds = folder.settings.thresholds
    order = [folder.labels.names.index(name) for name in labels.names]

    def predict(texts: Any, pairs: Any) -> Any:
        return engine.scores(texts, pairs)[:, order]

    return evaluate_scores(
        predict,
        data,
        labels,
        columns=columns,
        thresholds=[thresholds[index] for index in order] if thresholds is not None else None,
        text_columns=folder.settings.text_columns,
        extra=metrics,
        by=by,
        tfidf=tfidf,
    )
