"""Fit calibration, thresholds and prediction sets of a finished model on labeled rows, and write the folder anew."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.data import DataConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.model_folder import ModelFolder
from service.errors import BadRequest
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.settings import RuntimeSettings

if TYPE_CHECKING:
    from finetune.evaluation.score_fitting import ScorePlan, ScoreReport

PICTURE = "calibration.png"
CARD = "README.md"
HEADING = "## Calibration"


@dataclass(frozen=True)
class CalibrationResult:
    """The folder that was written, what was fitted (as `calibration` of metrics.json has it), and that in sentences."""

    path: Path
    content: dict[str, Any]
    sentences: list[str]


def calibrate(
    model: str | PathLike[str],
    data: Any,
    out: str | PathLike[str] | None = None,
    *,
    method: str = "auto",
    thresholds: str | Mapping[str, Any] | None = None,
    coverage: float | None = None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    text_pair: str | None = None,
    label_names: Sequence[str] | None = None,
    overwrite: bool = False,
    device: str | None = None,
    models_dir: str | PathLike[str] | None = "models",
    sheet: str | None = None,
) -> CalibrationResult:
    """Fit calibration, thresholds and prediction sets of a model on labeled rows, and write it to a new folder.

    The rows must be others than those that the model was trained on, whose scores are too good; that cannot be checked.
    What is gained is measured by cross-fitting: each row by what was fitted on the other rows.

    Args:
        model: a path, a served name, or a Hub id, of a classifier with labels of its own.
        data: a table file, a pandas or polars frame, a `datasets.Dataset`, or a list of dicts.
        out: the folder to write; None writes the model's own folder, with `overwrite`.
        method: `auto`, `none` (keep what the model has), `temperature`, `platt` or `isotonic`.
        thresholds: `f1`, `precision=0.9`, `recall=0.9`, or a mapping with `name`, `at_least` and `label`.
        coverage: of prediction sets, such as 0.9.
        text, label, text_pair, label_names, device, models_dir, sheet: as in `evaluate`.
        overwrite: replace a folder at `out`.

    Raises:
        BadRequest: a zero-shot model, or a folder that is not to be replaced.
        ConfigError: a method, rule or coverage that does not fit the model; `out` exists.
        DataError: no usable rows, or a label that the model does not have; says where.
    """
    columns = {"text": text, "label": label, "text_pair": text_pair, "label_names": label_names, "sheet": sheet}
    config = DataConfig(**{name: value for name, value in columns.items() if value is not None})
    fit: dict[str, Any] = {"method": method, "thresholds": thresholds, "coverage": coverage, "overwrite": overwrite}
    return calibrate_folder(model, data, out, config, **fit, device=device, models_dir=models_dir)


def calibrate_folder(
    model: str | PathLike[str],
    data: Any,
    out: str | PathLike[str] | None,
    config: DataConfig,
    *,
    method: str,
    thresholds: str | Mapping[str, Any] | None,
    coverage: float | None,
    overwrite: bool,
    device: str | None,
    models_dir: str | PathLike[str] | None,
    positive: str | None = None,
) -> CalibrationResult:
    """Do what `calibrate` does; the columns are those of `config`, and `positive` is the label of the threshold."""
    folder = resolve(model, models_dir)
    target = _target(folder, out, overwrite=overwrite)
    plan = _plan(folder, method, thresholds, positive, coverage)
    name = Path(data).name if isinstance(data, str | PathLike) else "data"
    settings, report = _fitted(folder, data, config, plan, name, device)
    _write(folder, target, settings, report)
    return CalibrationResult(target, report.content, [*report.sentences, *report.notes])


def _target(folder: ModelFolder, out: str | PathLike[str] | None, *, overwrite: bool) -> Path:
    """Return the folder to write."""
    if out is not None:
        target = Path(out)
        model_folder.check_output(target, overwrite=overwrite)
        return target
    if not overwrite:
        raise BadRequest(
            "there is no folder to write: name one with -o OUT, or pass --overwrite to change the model's own"
        )
    path = folder.path.resolve()
    if "snapshots" in path.parts or any(path.parent == shipped.resolve() for shipped in model_folder.shipped_dirs()):
        raise BadRequest(f"{folder.path} ships with rehead or is from the Hub: name a new folder with -o OUT")
    return folder.path


def _plan(folder: ModelFolder, method: str, thresholds: Any, positive: str | None, coverage: float | None) -> ScorePlan:
    """Return what to fit, checked against the model's labels."""
    from finetune.checks import WINDOW_AND_DECISIONS
    from finetune.config.choice import Choice
    from finetune.config.threshold_rule import threshold_rule
    from finetune.evaluation.calibration import method_of
    from finetune.evaluation.conformal import check_coverage
    from finetune.evaluation.score_fitting import ScorePlan
    from finetune.evaluation.thresholds import check_thresholds

    labels = folder.labels
    if labels.nli is not None or labels.task == "regression":
        kind = (
            "is a zero-shot model: make a profile of your labels with rehead profile" if labels.nli else "has no labels"
        )
        raise BadRequest(f"{folder.path.name} {kind}")
    try:
        rule = threshold_rule(dict(thresholds) if isinstance(thresholds, Mapping) else thresholds)
        choice = Choice.model_validate(rule) if rule is not None else None
        if choice is not None and positive is not None:
            choice = Choice(name=choice.name, **choice.options, label=positive)
    except ValueError as error:
        raise ConfigError(f"thresholds {thresholds!r}: give f1, precision=0.9 or recall=0.9") from error
    method_of(method, labels.task)
    window = folder.settings.window
    if window is not None and window.is_on and (choice is not None or coverage is not None):
        raise BadRequest(f"{folder.path.name} reads long texts in windows: {WINDOW_AND_DECISIONS}")
    check_thresholds(choice, labels)
    check_coverage(coverage, labels)
    return ScorePlan(method, choice, coverage)


def _fitted(
    folder: ModelFolder, data: Any, columns: DataConfig, plan: ScorePlan, name: str, device: str | None
) -> tuple[model_folder.ClassifierSettings, ScoreReport]:
    from finetune.data.load import load_rows
    from finetune.evaluation.score_fitting import measured

    rows, _ = load_rows(data, columns, folder.labels, folder.settings.text_columns)
    engine = Engine.load(folder, RuntimeSettings.from_environment(device=device).exact())
    engine.window = None  # calibrated on texts as training reads them, truncated
    logits = engine.scores(rows.texts, rows.pairs, function="none")
    fit, report = measured(plan, folder.labels, folder.settings, (name, logits, folder.labels.encode(rows.values)))
    return fit.added_to(folder.settings), report


def _write(folder: ModelFolder, out: Path, settings: model_folder.ClassifierSettings, report: ScoreReport) -> None:
    """Write a copy of the model with other settings to `out`, once it is complete."""
    from finetune.reports import plots

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
        finished = Path(staging) / out.name
        shutil.copytree(folder.path, finished, ignore=shutil.ignore_patterns(".*"))
        model_folder.write_settings(finished, settings)
        metrics = dict(folder.metrics or {}) | {"calibration": report.content}
        if folder.metrics is not None:
            model_folder.write_json(finished / model_folder.METRICS, metrics)
        held_out = report.held_out
        if held_out is not None:
            (finished / "report").mkdir(exist_ok=True)
            truth, file = held_out.targets.astype(int), finished / "report" / PICTURE
            plots.reliability(held_out.after, truth, file, before=held_out.before)
        _write_card(finished / CARD, report, has_picture=held_out is not None)
        model_folder.seal(finished)
        model_folder.read(finished, check_hashes=True)
        model_folder.publish(finished, out)


def _write_card(card: Path, report: ScoreReport, *, has_picture: bool) -> None:
    """Add the section about calibration to a model card, or replace it."""
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {card.parent.name}\n"
    before, _, section = text.partition(f"\n{HEADING}\n")
    _, heading, after = section.partition("\n## ")
    picture = f"\n\n![calibration](report/{PICTURE})" if has_picture else ""
    said = "\n".join([*report.sentences, *report.notes])
    card.write_text(f"{before.rstrip()}\n\n{HEADING}\n\n{said}{picture}\n{heading}{after}", encoding="utf-8")
