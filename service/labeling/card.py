"""How a student came to be, written into its folder: the model card, metrics.json and distill.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from finetune.core import model_folder
from service.labeling.config import DistillConfig
from service.labeling.distill_report import DistillReport

RECORD = "distill.yaml"
AGREEMENT = "validation_labeled_by_the_teacher"
"""The validation split of a student."""

PEOPLE = "labeled_by_people"


def describe(config: DistillConfig, folder: Path, report: DistillReport, teacher: str) -> None:
    """Write how a student came to be into the card, the metrics and the settings of its finished folder."""
    settings = config.model_dump(mode="json") | {"overwrite": False}
    (folder / RECORD).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _rewrite_card(config, folder / "README.md", report, teacher)
    metrics = folder / model_folder.METRICS
    model_folder.write_json(metrics, with_measured(json.loads(metrics.read_text(encoding="utf-8")), report))


def _rewrite_card(config: DistillConfig, file: Path, report: DistillReport, teacher: str) -> None:
    from huggingface_hub import EvalResult, ModelCard

    card: Any = ModelCard(file.read_text(encoding="utf-8"))
    results = []
    if report.measured is not None:
        results = [
            EvalResult("text-classification", "text", "rows labeled by people", metric, round(entry["value"], 4))
            for metric, entry in report.measured.metrics["student"].items()
        ]
    card.data.eval_results = results or None  # agreement with a teacher is no result that the Hub should list
    card.data.model_name = Path(config.out).name if results else None
    text = card.text.replace("\n## Use\n", f"\n{card_section(config, teacher, report)}\n\n## Use\n", 1)
    text = text.replace("| validation |", f"| {AGREEMENT.replace('_', ' ')} |")
    text = text.replace("--config train_config.yaml --out", f"--config {RECORD} --out")
    card.text = text.replace("rehead finetune --config", "rehead distill --config").replace(
        "`train_config.yaml`", f"`{RECORD}`"
    )
    file.write_text(str(card), encoding="utf-8")


def card_section(config: DistillConfig, teacher: str, report: DistillReport) -> str:
    """Return the section of the model card that says what the student was trained on."""
    lines = [
        "## Trained without human labels",
        "",
        f"The labels of the training rows were made by `{teacher}`, and refined by `{report.refinement}` from the "
        f"corpus itself ({report.texts:,} texts, of which {report.trained_on:,} were trained on). "
        "The validation metrics below are agreement with those labels, not accuracy.",
        "",
        *(f"{line}  " for line in report.lines()),
    ]
    return "\n".join(lines).rstrip()


def with_measured(metrics: dict[str, Any], report: DistillReport) -> dict[str, Any]:
    """Return the content of metrics.json in which no agreement with the teacher's labels passes as accuracy: metrics on
    rows labeled by people come first, and the validation split is named for what it is."""
    split = metrics | {"split": AGREEMENT}
    if report.measured is None:
        return split
    own = {key: split.pop(key) for key in ("rows", "metrics", "baseline", "tfidf", "per_class") if key in split}
    tests = split.pop("tests", {}) | {AGREEMENT: {"split": AGREEMENT} | own}
    people = {
        "rows": report.measured.rows,
        "metrics": report.measured.metrics["student"],
        "baseline": {},
        "per_class": {},
    }
    return split | {"split": "labeled_by_people"} | people | {"tests": tests}
