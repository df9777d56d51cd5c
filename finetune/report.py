"""What a finished run leaves for people: metrics.json, pictures, the model card.

Knows: how figures are drawn and how a card is laid out.
Does not know: how anything was computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finetune.artifact import METRICS, ClassifierSettings, write_json
from finetune.config import TrainConfig
from finetune.data import Splits
from finetune.labels import LabelSpace
from finetune.metrics import Scored
from finetune.rows import Rows
from finetune.scores import decide

Measured = dict[str, tuple[Scored, Any]]
"""Split -> its metrics and its scores `[N, C]`."""

MOST_NAMED_CLASSES = 40
"""Confusion matrices of more classes than this carry no names on their axes."""


def write(
    folder: Path,
    config: TrainConfig,
    settings: ClassifierSettings,
    splits: Splits,
    measured: Measured,
    history: list[dict[str, Any]],
) -> None:
    """Write metrics.json, report/*.png and README.md into `folder`."""
    write_json(folder / METRICS, metrics_json(measured, splits))
    (folder / "report").mkdir()
    training_curve(history, folder / "report" / "training_curve.png")
    if splits.labels.task in ("binary", "multiclass"):
        references = splits.labels.encode(splits.validation.values)
        predictions = decide(measured["validation"][1], splits.labels.task)
        confusion_matrix(splits.labels, references, predictions, folder / "report" / "confusion_matrix.png")
    (folder / "README.md").write_text(model_card(config, settings, splits, measured), encoding="utf-8")


def metrics_json(measured: Measured, splits: Splits) -> dict[str, Any]:
    """The content of metrics.json: the validation split, and under `tests` the splits that were only reported on."""
    content = {"split": "validation"} | _part(measured["validation"][0]) | {"data": splits.counts}
    tests = {}
    for name, (scored, _) in measured.items():
        if name != "validation":
            rows = splits.tests[name]
            tests[name] = {"split": name} | _part(scored) | _origin(name, rows)
    return content | {"tests": tests}


def _part(scored: Scored) -> dict[str, Any]:
    return {
        "rows": scored.rows,
        "metrics": scored.metrics,
        "baseline": scored.baseline,
        "tfidf": scored.tfidf,
        "per_class": scored.per_class,
    }


def _origin(name: str, rows: Rows) -> dict[str, Any]:
    # rows drawn out of a training table are named one by one, so that anyone can check that they were kept out
    return {"row_numbers": rows.numbers} if name.endswith("_kept_out") else {}


def training_curve(history: list[dict[str, Any]], file: Path) -> None:
    """Loss and validation metrics over updates, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [entry["step"] for entry in history if "loss" in entry]
    axes.plot(steps, [entry["loss"] for entry in history if "loss" in entry], color="#4c72b0", label="training loss")
    evaluated = [entry for entry in history if "eval_loss" in entry]
    at = [entry["step"] for entry in evaluated]
    axes.plot(at, [entry["eval_loss"] for entry in evaluated], "o-", color="#c44e52", label="validation loss")
    axes.set_xlabel("update")
    axes.set_ylabel("loss")
    names = [
        key
        for key in (evaluated[0] if evaluated else {})
        if key.removeprefix("eval_") in ("accuracy", "micro_f1", "r2")
    ]
    if names:
        right = axes.twinx()
        right.plot(
            at, [entry[names[0]] for entry in evaluated], "s--", color="#55a868", label=names[0].removeprefix("eval_")
        )
        right.set_ylabel(names[0].removeprefix("eval_"))
    figure.legend(loc="outside upper center", ncols=3)  # above the axes, where it hides no curve
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def confusion_matrix(labels: LabelSpace, references: Any, predictions: Any, file: Path) -> None:
    """Rows are true labels and add up to 1; readable names up to MOST_NAMED_CLASSES, as a PNG."""
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix as count

    matrix = count(references, predictions, labels=list(range(len(labels)))).astype(float)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = min(max(4.0, 0.32 * len(labels) + 2), 18)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true label")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= MOST_NAMED_CLASSES:
        axes.set_xticks(range(len(labels)), labels.names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels.names)
    if len(labels) <= 12:
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    figure.savefig(file, dpi=110)


def model_card(config: TrainConfig, settings: ClassifierSettings, splits: Splits, measured: Measured) -> str:
    """README.md in the Hub's model card format."""
    labels = splits.labels
    zero_shot = settings.zero_shot is not None
    task = "zero-shot-classification" if zero_shot else "text-classification"
    name = Path(config.out).name
    head = ["---", "library_name: transformers", f"pipeline_tag: {task}", f"base_model: {config.base}"]
    head += ["tags:", "- rehead", "---", "", f"# {name}", ""]
    kind = labels.task.replace("_", "-")
    head += [f"`{config.base}` fine-tuned with rehead for {kind} classification."]
    if labels.task == "regression":
        head[-1] = f"`{config.base}` fine-tuned with rehead to predict a number."
    else:
        head += ["", "Labels: " + ", ".join(f"`{label}`" for label in labels.names)]
    parts = ["\n".join(head), "## Use\n\n" + _usage(name, zero_shot=zero_shot)]
    parts += ["## Scores\n\n" + _score_table(measured)]
    if labels.task != "regression" and len(labels) <= 200:
        parts += ["Per label, on the validation split:\n\n" + _class_table(measured["validation"][0])]
    pictures = "![training curve](report/training_curve.png)"
    if labels.task in ("binary", "multiclass"):
        pictures += "\n\n![confusion matrix](report/confusion_matrix.png)"
    parts += [pictures, "## Data\n\n" + _data(splits)]
    parts += [
        "## Training\n\nThe whole configuration is in `train_config.yaml`; this repeats the run:\n\n"
        f"```\nrehead finetune --config train_config.yaml --out {name}\n```"
    ]
    return "\n\n".join(parts) + "\n"


def _usage(name: str, *, zero_shot: bool) -> str:
    if zero_shot:
        call = f'ZeroShotClassifier("{name}")("Shares fell sharply.", ["sports", "business"])'
        return f"```python\nfrom service import ZeroShotClassifier\n\n{call}\n```"
    return (
        f'```python\nfrom service import load\n\nload("{name}")(["a text"])\n```\n\nor without rehead:\n\n'
        f'```python\nfrom transformers import pipeline\n\npipeline("text-classification", "{name}")(["a text"])\n```'
    )


def _score_table(measured: Measured) -> str:
    compared = any(scored.tfidf for scored, _ in measured.values())
    head = ["split", "rows", "metric", "value", "95% interval", "baseline", *(["TF-IDF"] if compared else [])]
    lines = [_line(head), _line(["---"] * len(head))]
    for split, (scored, _) in measured.items():
        for metric, entry in scored.metrics.items():
            interval = f"{entry['low']:.3f} to {entry['high']:.3f}" if "low" in entry else ""
            others = [scored.baseline, *([scored.tfidf] if compared else [])]
            beside = [f"{other[metric]:.3f}" if metric in other else "" for other in others]
            lines.append(_line([split, str(scored.rows), metric, f"{entry['value']:.3f}", interval, *beside]))
    lines += [
        "",
        "The baseline always gives the commonest label of the training rows (or their mean), with their shares as",
    ]
    lines[-1] += " scores." + (" TF-IDF is logistic regression (ridge) on words and word pairs." if compared else "")
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _class_table(scored: Scored) -> str:
    lines = ["| label | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    for name, row in scored.per_class.items():
        shares = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {name.replace('|', '/')} | {shares} | {row['support']} |")
    return "\n".join(lines)


def _data(splits: Splits) -> str:
    lines = ["| | rows |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {count} |" for name, count in splits.counts.items()]
    return "\n".join(lines)
