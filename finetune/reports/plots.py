"""The plots of a report, each written to a PNG file; report.py chooses the plots of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.labels import LabelSpace
from finetune.evaluation.metrics import CALIBRATION_BINS, LOWER_IS_BETTER, confidences
from finetune.training.gradient_monitor import GradientSnapshot

DPI, POINTS_PER_INCH = 110, 72
MOST_INCHES = 18
"""Largest side of a confusion matrix."""

MOST_CURVES = 8
"""Most labels with a precision-recall curve of their own."""

BLUE, RED, GREEN = "#4c72b0", "#c44e52", "#55a868"


def training_curve(history: list[dict[str, Any]], file: Path) -> None:
    """Plot the training loss, the validation loss and a validation metric over updates."""
    figure, axes = _figure()
    steps = [entry["step"] for entry in history if "loss" in entry]
    axes.plot(steps, [entry["loss"] for entry in history if "loss" in entry], color=BLUE, label="training loss")
    evaluated = [entry for entry in history if "eval_loss" in entry]
    at = [entry["step"] for entry in evaluated]
    axes.plot(at, [entry["eval_loss"] for entry in evaluated], "o-", color=RED, label="validation loss")
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
            at, [entry[names[0]] for entry in evaluated], "s--", color=GREEN, label=names[0].removeprefix("eval_")
        )
        right.set_ylabel(names[0].removeprefix("eval_"))
    figure.legend(loc="outside upper center", ncols=3)  # above the axes, where it hides no curve
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=DPI)


def trials(tried: Sequence[tuple[int, float | None, str]], metric: str, file: Path) -> None:
    """Plot a search's validation score by trial `(number, score or None, state)`, and the best so far."""
    figure, axes = _figure()
    complete = [(number, score) for number, score, state in tried if state == "complete" and score is not None]
    pruned = [(number, score) for number, score, state in tried if state == "pruned" and score is not None]
    if complete:
        numbers, scores = zip(*complete, strict=True)
        axes.plot(numbers, scores, "o", color=BLUE, label="trial")
        better = np.minimum if metric in LOWER_IS_BETTER else np.maximum
        axes.step(numbers, better.accumulate(scores), where="post", color=GREEN, label="best so far")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color=RED, label="pruned")
    for place, number in enumerate(number for number, _, state in tried if state == "fail"):
        axes.axvline(number, color=RED, linestyle=":", linewidth=1, label="diverged" if place == 0 else None)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlim(0.5, max(1, len(tried)) + 0.5)
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if tried:
        figure.legend(loc="outside upper center", ncols=4)
    figure.savefig(file, dpi=DPI)


def gradients(snapshots: Sequence[GradientSnapshot], file: Path) -> None:
    """Plot the gradients' norms and the update-to-weight ratios, layers by updates, on a logarithmic scale."""
    from matplotlib.colors import LogNorm

    parts = list(snapshots[-1].gradient)
    figure, (left, right) = _figure(11, max(2.6, 0.32 * len(parts) + 1.4), columns=2)
    for axes, title, values in (
        (left, "gradient norm", [[snapshot.gradient.get(part, 0.0) for snapshot in snapshots] for part in parts]),
        (right, "update / weight", [[snapshot.ratios.get(part, 0.0) for snapshot in snapshots] for part in parts]),
    ):
        shown = np.ma.masked_less_equal(np.asarray(values), 0.0)
        norm = LogNorm(shown.min(), max(shown.max(), shown.min() * 10)) if shown.count() else None
        image = axes.imshow(shown, aspect="auto", origin="lower", cmap="viridis", norm=norm, interpolation="nearest")
        figure.colorbar(image, ax=axes)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(parts)), parts, fontsize=8)
        ticks = sorted({round(at) for at in np.linspace(0, len(snapshots) - 1, min(5, len(snapshots)))})
        axes.set_xticks(ticks, [snapshots[at].update_number for at in ticks])
        axes.set_xlabel("update")
    figure.savefig(file, dpi=DPI)


def confusion_matrix(labels: LabelSpace, references: Any, predictions: Any, file: Path) -> None:
    """Plot a confusion matrix with every label named; rows are true labels and sum to 1."""
    from sklearn.metrics import confusion_matrix as count

    matrix = count(references, predictions, labels=list(range(len(labels)))).astype(float)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = min(max(4.0, 0.32 * len(labels) + 2), MOST_INCHES)
    figure, axes = _figure(size + 1, size)
    points = min(10.0, POINTS_PER_INCH * 0.7 * size / len(labels))
    image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="proportion of the true label")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    names = [_short(name) for name in labels.names]
    turned = {"rotation": 90 if len(names) > 40 else 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, fontsize=points, **turned)
    axes.set_yticks(range(len(names)), names, fontsize=points)
    if len(labels) <= 12:
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    figure.savefig(file, dpi=DPI)


def learning_rate(history: list[dict[str, Any]], file: Path) -> None:
    """Plot the learning rate over updates."""
    figure, axes = _figure(8, 3)
    logged = [entry for entry in history if "learning_rate" in entry]
    axes.plot([entry["step"] for entry in logged], [entry["learning_rate"] for entry in logged], color=BLUE)
    axes.set_xlabel("update")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=DPI)


def reliability(scores: Any, references: Any, file: Path, *, before: Any = None) -> None:
    """Plot how often answers with a score are correct, beside the diagonal of a calibrated model, and how many there
    are.

    Args:
        before: the scores before calibration, for a curve of their own.
    """
    from sklearn.calibration import calibration_curve

    confidence, correct = confidences(scores, references)
    observed, expected = calibration_curve(correct, confidence, n_bins=CALIBRATION_BINS)
    figure, axes = _figure(5.5, 5)
    axes.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    if before is not None:
        curve = calibration_curve(*reversed(confidences(before, references)), n_bins=CALIBRATION_BINS)
        axes.plot(curve[1], curve[0], "s:", color=RED, label="before calibration", clip_on=False)
    axes.plot(expected, observed, "o-", color=BLUE, label="model", clip_on=False)
    axes.set_xlabel("score of the answer")
    axes.set_ylabel("proportion correct")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    counts = axes.twinx()
    counts.hist(confidence, bins=np.linspace(0, 1, CALIBRATION_BINS + 1), color=BLUE, alpha=0.15)
    counts.set_ylabel("answers")
    axes.legend(loc="upper left")
    figure.savefig(file, dpi=DPI)


def precision_recall(labels: LabelSpace, scores: Any, references: Any, file: Path) -> None:
    """Plot precision against recall for the most frequent labels, and for all decisions together."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    truth = references if references.ndim == 2 else np.eye(len(labels), dtype=int)[references]
    frequent = [int(index) for index in np.argsort(-truth.sum(axis=0), kind="stable") if truth[:, index].any()]
    figure, axes = _figure(7, 5)
    for index in frequent[:MOST_CURVES]:
        precision, recall, _ = precision_recall_curve(truth[:, index], scores[:, index])
        area = average_precision_score(truth[:, index], scores[:, index])
        axes.plot(recall, precision, label=f"{_short(labels.names[index])} ({area:.2f})")
    precision, recall, _ = precision_recall_curve(truth.ravel(), scores.ravel())
    area = average_precision_score(truth.ravel(), scores.ravel())
    axes.plot(recall, precision, "--", color="black", label=f"all decisions ({area:.2f})")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", title="average precision", fontsize=8)
    figure.savefig(file, dpi=DPI)


def residuals(predictions: Any, references: Any, file: Path) -> None:
    """Plot the predicted minus the true number against the true number."""
    figure, axes = _figure(7, 4.5)
    axes.axhline(0, color="gray", linestyle="--")
    axes.scatter(references, predictions - references, s=9, alpha=0.4, color=BLUE)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted - true")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=DPI)


def lengths(counts: Any, limit: int, truncated: float, file: Path) -> None:
    """Plot the lengths of the training texts in tokens, and where they are truncated.

    Args:
        truncated: proportion of the texts that are truncated.
    """
    counts = np.asarray(counts)
    figure, axes = _figure(8, 3.2)
    longest = int(counts.max())
    step = max(1, (longest + 2) // 60)
    axes.hist(counts, bins=np.arange(0, longest + step + 1, step), color=BLUE, alpha=0.8)
    if longest >= limit:
        axes.axvline(limit, color=RED, linestyle="--")
    axes.set_title(f"truncated to {limit} tokens: {truncated:.1%} of the texts", fontsize=10)
    axes.set_xlabel("tokens")
    axes.set_ylabel("training texts")
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(file, dpi=DPI)


def length_and_error(lengths: Any, unit: str, errors: Any, what: str, file: Path) -> None:
    """Plot the mean error of texts by their length in `unit`s, in groups of equal size."""
    lengths, errors = np.asarray(lengths), np.asarray(errors, dtype=float)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, 9)))
    group = np.digitize(lengths, edges[1:-1])
    groups = [index for index in range(max(1, len(edges) - 1)) if (group == index).any()]
    names = [f"{lengths[group == i].min()}-{lengths[group == i].max()}\n({(group == i).sum()})" for i in groups]
    figure, axes = _figure(8, 4)
    axes.bar(names, [errors[group == index].mean() for index in groups], color=BLUE, alpha=0.8)
    axes.set_xlabel(f"{unit} (texts)")
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(file, dpi=DPI)


def _figure(width: float = 8, height: float = 4.5, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _short(name: str, limit: int = 32) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
