"""The model card: README.md in the Hub's format, with the metadata and evaluation results that the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.config.training import TrainConfig
from finetune.core.model_folder import ClassifierSettings
from finetune.core.number_format import figure
from finetune.data.load import Splits
from finetune.data.tokenizer_report import TokenizerReport
from finetune.evaluation.evaluate import ScoredSplit
from finetune.evaluation.intervals import INTERVALS, Scored
from finetune.evaluation.metrics import METRICS_OF_TASK
from finetune.modeling.heads import STOCK
from finetune.reports.run_warnings import Verdict

MOST_LABELS_LISTED = 200
"""Labels up to which the card has a table of metrics by label."""

SOFTPLUS = (
    "Predictions p are at least 0: p = {std:.6g} * softplus(z / {std:.6g}) of the model's output z. Plain transformers "
    "returns z, which is nearly the same for numbers well above {std:.6g}."
)

BASELINE = (
    "The baseline always answers the most frequent label of the training rows (or their mean), with the class "
    "proportions as scores."
)
PLAIN = "Plain transformers returns scores without this calibration."
TFIDF = " TF-IDF is logistic regression (ridge) on words and word pairs."


def model_card(
    config: TrainConfig,
    settings: ClassifierSettings,
    splits: Splits,
    fit: TokenizerReport,
    measured: Mapping[str, ScoredSplit],
    plots: list[str],
    verdict: Verdict | None = None,
    error_columns: str = "",
    calibration: Sequence[str] = (),
    origin: str = "",
) -> str:
    """Return the model card of a finished run: metadata, use, scores, plots, data, training.

    Args:
        plots: file names in the folder `report`.
        verdict: warnings and notes about the run.
        error_columns: a description of the table of errors, if there is one.
        calibration: sentences about what was fitted on the validation rows.
        origin: sentences about what is kept of the base's head, or how few rows were trained on.
    """
    from huggingface_hub import ModelCard

    labels = splits.labels
    zero_shot = settings.zero_shot is not None
    name = Path(config.out).name
    purpose = (
        "to predict a number" if labels.task == "regression" else f"for {labels.task.replace('_', '-')} classification"
    )
    verdict = verdict or Verdict()
    parts = [f"# {name}", *(f"**Warning: {sentence}.**" for sentence in verdict.warnings)]
    parts += [f"`{config.base}` fine-tuned with rehead {purpose}."]
    parts += [f"{origin[0].upper()}{origin[1:]}{'' if origin.endswith('.') else '.'}"] if origin else []
    if labels.task != "regression":
        parts += ["Labels: " + ", ".join(f"`{label}`" for label in labels.names)]
    parts += [
        "## Use",
        _usage(name, zero_shot=zero_shot, custom=config.model.head.name != STOCK),
        "## Scores",
        _score_table(measured),
        f"The 95% intervals are {INTERVALS}.",
        *([" ".join(calibration)] if calibration else []),
        *([PLAIN] if settings.temperature != 1 or settings.scaling is not None else []),
        *([f"{verdict.chosen[0].upper()}{verdict.chosen[1:]}."] if verdict.chosen else []),
    ]
    if labels.task != "regression" and len(labels) <= MOST_LABELS_LISTED:
        parts += ["Per label, on the validation split:", _class_table(measured["validation"].scored)]
    parts += [f"![{_title(plot)}](report/{plot})" for plot in plots]
    parts += [error_columns] if error_columns else []
    sentence = str(fit)
    parts += ["## Data", _data(splits), f"{sentence[0].upper()}{sentence[1:]}."]
    if splits.target is not None:
        scale = str(splits.target)
        parts += [f"{scale[0].upper()}{scale[1:]}."]
        if settings.activation == "softplus":
            parts += [SOFTPLUS.format(std=splits.target.std)]
    parts += [f"License of the texts: {config.data.license or 'not stated'}."]
    parts += [f"Warning: {sentence}." for sentence in fit.warnings]
    limits = (
        f"Texts are truncated to {settings.max_length} tokens. The scores above hold for texts like those of the data, "
        "and"
    )
    parts += ["## Limits", f"{limits} for no others: measure your own with `rehead evaluate`."]
    parts += [
        "## Training",
        "The complete configuration is in `train_config.yaml`; this command repeats the run:",
        f"```\nrehead finetune --config train_config.yaml --out {name}\n```",
    ]
    return str(ModelCard(f"---\n{_metadata(config, settings, splits, measured)}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _metadata(
    config: TrainConfig, settings: ClassifierSettings, splits: Splits, measured: Mapping[str, ScoredSplit]
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "zero-shot-classification" if settings.zero_shot is not None else "text-classification"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="text",
            dataset_name=result.rows.source or split,
            dataset_split=split,
            metric_type=metric,
            metric_value=round(result.scored.metrics[metric]["value"], 4),
        )
        for split, result in measured.items()
        for metric in METRICS_OF_TASK[splits.labels.task]
        if metric in result.scored.metrics
    ]
    data = ModelCardData(
        license=config.license,
        language=list(settings.languages) or None,
        library_name="transformers",
        pipeline_tag=task,
        base_model=config.base,
        tags=["rehead"],
        model_name=Path(config.out).name,
        eval_results=results,
    )
    return data.to_yaml()


def _title(plot: str) -> str:
    return Path(plot).stem.replace("_", " ")


def _usage(name: str, *, zero_shot: bool, custom: bool) -> str:
    if zero_shot:
        call = f'rehead.ZeroShotClassifier("{name}")("Shares fell sharply.", ["sports", "business"])'
        return f"```python\nimport rehead\n\n{call}\n```"
    more = "import finetune.modeling.build  # rehead: registers the head of this model\n" if custom else ""
    without = "with transformers" if custom else "without rehead"
    ours = f'```python\nimport rehead\n\nrehead.load("{name}")(["a text"])\n```'
    stock = f'{more}from transformers import pipeline\n\npipeline("text-classification", "models/{name}")(["a text"])'
    return f"{ours}\n\nor {without}, by the path of this folder:\n\n```python\n{stock}\n```"


def _score_table(measured: Mapping[str, ScoredSplit]) -> str:
    compared = any(result.scored.tfidf for result in measured.values())
    head = ["split", "rows", "metric", "value", "95% interval", "baseline", *(["TF-IDF"] if compared else [])]
    lines = [_line(head), _line(["---"] * len(head))]
    for split, result in measured.items():
        scored = result.scored
        for metric, entry in scored.metrics.items():
            interval = f"{figure(entry['low'])} to {figure(entry['high'])}" if "low" in entry else ""
            others = [scored.baseline, *([scored.tfidf] if compared else [])]
            compared_with = [figure(other[metric]) if metric in other else "" for other in others]
            lines.append(_line([split, str(scored.rows), metric, figure(entry["value"]), interval, *compared_with]))
    return "\n".join([*lines, "", BASELINE + (TFIDF if compared else "")])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _class_table(scored: Scored) -> str:
    lines = ["| label | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    for name, row in scored.per_class.items():
        values = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {name.replace('|', '/')} | {values} | {row['support']} |")
    return "\n".join(lines)


def _data(splits: Splits) -> str:
    lines = ["| | rows |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {count} |" for name, count in splits.counts.items()]
    return "\n".join(lines)
