"""What a distillation says about itself: accuracy where people labeled rows, and what can be known where nobody did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.labels import LabelSpace
from finetune.core.model_folder import write_json
from finetune.core.number_format import figure
from finetune.core.scores import Floats
from finetune.core.tables.files import write_table
from finetune.data.rows import Rows
from finetune.evaluation.evaluate import ScoredSplit, differences, scored_rows
from service.labeling.config import NONE_OF_THESE, DistillConfig
from service.labeling.report_files import CHOSEN, EXAMPLES, IN_DOUBT, RANDOM, REPORT, TO_LABEL

EXAMPLES_OF_LABEL = 5
RARE = 0.2
"""A label with less than this part of an equal share hardly occurs."""

MERGED = 0.3
"""Two labels look merged where this part of the texts that the teacher gives one is moved to the other."""

FITS_NONE = 0.25
"""A text fits no label where the teacher's probability that any fits is below this."""

MARGIN = 0.02
"""Accuracy that a student may lose to its teacher and still replace it."""

STAGES = ("teacher", "refined", "student")


@dataclass(frozen=True)
class Measured:
    """Metrics of teacher, refined labels and student on rows labeled by people.

    Attributes:
        metrics: stage -> metric -> value, low, high.
        sentence: whether the student may replace the teacher.
    """

    rows: int
    metrics: dict[str, dict[str, dict[str, float]]]
    sentence: str


@dataclass(frozen=True)
class DistillReport:
    """What is known about a student without labels, and with some where there are any.

    Attributes:
        texts, trained_on: texts that were scored, and rows of the student's training.
        refinement: what corrected the teacher's scores.
        shares: label -> proportion of the texts, by teacher, refined labels and student.
        agreement: proportion of texts on which two of the stages agree.
        warnings: labels that hardly occur or look merged, and texts that fit none.
    """

    texts: int
    trained_on: int
    refinement: str
    shares: dict[str, dict[str, float]]
    agreement: dict[str, float]
    warnings: tuple[str, ...]
    measured: Measured | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        content: dict[str, Any] = {"texts": self.texts, "trained_on": self.trained_on}
        content["refinement"] = self.refinement
        content |= {"shares": self.shares, "agreement": self.agreement, "warnings": list(self.warnings)}
        if self.measured is not None:
            content["measured"] = {
                "rows": self.measured.rows,
                "metrics": self.measured.metrics,
                "sentence": self.measured.sentence,
            }
        return content | self.details

    def lines(self) -> list[str]:
        """Return the report in sentences and aligned columns."""
        lines = []
        if self.measured is None:
            lines += ["Accuracy is unknown: no row was labeled by a person."]
        else:
            lines += [f"On {self.measured.rows:,} rows labeled by people, none of them trained on:"]
            lines += [f"  {stage:8s} {_shown(self.measured.metrics[stage])}" for stage in STAGES]
            lines += [self.measured.sentence]
        lines += [
            "Agreement: "
            + ", ".join(f"{pair.replace('_', ' and ')} {value:.1%}" for pair, value in self.agreement.items())
        ]
        return [*lines, *self.warnings]


def measure(labels: LabelSpace, rows: Rows, scores: dict[str, Floats], names: Sequence[str]) -> Measured:
    """Return the metrics of each stage on rows that people labeled.

    Args:
        labels: the labels in the order of the student.
        scores: stage -> `[N, L]`, in the order of `names`.
    """
    order = [list(names).index(name) for name in labels.names]
    splits = {}
    for stage in STAGES:
        values = scores[stage][:, order]
        splits[stage] = ScoredSplit(scored_rows(labels, values, rows, None), values, rows, [])
    headline = next(iter(splits["student"].scored.metrics))
    gap = differences(labels, splits["teacher"], splits["student"])[headline]
    metrics = {stage: split.scored.metrics for stage, split in splits.items()}
    return Measured(len(rows), metrics, _verdict(gap, headline, len(rows)))


def _verdict(gap: dict[str, float], metric: str, rows: int) -> str:
    interval = f"{_signed(gap['value'])} [{_signed(gap['low'])}, {_signed(gap['high'])}]"
    if gap["low"] >= 0:
        return f"The student may replace the teacher: its {metric} differs by {interval} on these rows."
    if gap["low"] >= -MARGIN:
        return (
            f"The student may replace the teacher: its {metric} differs by {interval}, no more than {MARGIN:.0%} less."
        )
    if gap["high"] < 0:
        return f"The student should not replace the teacher: its {metric} differs by {interval}."
    return (
        f"Whether the student may replace the teacher is open: its {metric} differs by {interval} on {rows} rows: "
        "label more rows to know."
    )


def report_of(
    config: DistillConfig,
    teacher: npt.NDArray[Any],
    soft: npt.NDArray[Any],
    student: npt.NDArray[Any],
    fit: npt.NDArray[Any],
    trained_on: int,
    refinement: str,
    measured: Measured | None,
) -> DistillReport:
    """Return the report of a run.

    Args:
        teacher, soft, student: scores `[N, L]` of the same texts.
        fit: `[N]`, NaN where the teacher has no such number.
        trained_on: rows of the student's training.
        refinement: what corrected the teacher's scores.
    """
    if config.multi_label:
        decisions = [(scores >= 0.5) for scores in (teacher, soft, student)]
        agreement = [(first == second).mean() for first, second in _pairs(decisions)]
        shares = [decision.mean(axis=0) for decision in decisions]
        warnings: list[str] = []
    else:
        best = [scores.argmax(axis=1) for scores in (teacher, soft, student)]
        agreement = [(first == second).mean() for first, second in _pairs(best)]
        shares = [np.bincount(places, minlength=len(config.names)) / len(places) for places in best]
        warnings = _merged(config.names, best[0], best[1])
    warnings = [*_rare(config, shares[1]), *warnings, *_fits_none(config, fit)]
    return DistillReport(
        len(soft),
        trained_on,
        refinement,
        {
            name: {stage: round(float(part[place]), 4) for stage, part in zip(STAGES, shares, strict=True)}
            for place, name in enumerate(config.names)
        },
        {
            pair: round(float(value), 4)
            for pair, value in zip(("teacher_refined", "refined_student", "teacher_student"), agreement, strict=True)
        },
        tuple(warnings),
        measured,
    )


def _pairs(stages: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(stages[0], stages[1]), (stages[1], stages[2]), (stages[0], stages[2])]


def _rare(config: DistillConfig, shares: npt.NDArray[Any]) -> list[str]:
    equal = RARE / len(config.names)
    rare = [
        f"{name!r} ({shares[place]:.1%})"
        for place, name in enumerate(config.names)
        if shares[place] < equal and name != NONE_OF_THESE
    ]
    return [f"Labels that hardly occur: {', '.join(rare)}."] if rare else []


def _merged(names: Sequence[str], before: npt.NDArray[Any], after: npt.NDArray[Any]) -> list[str]:
    """Return a sentence for each pair of labels of which much of one went to the other."""
    sentences = []
    for first in range(len(names)):
        moved = np.bincount(after[before == first], minlength=len(names)).astype(float)
        if moved.sum() < 1:
            continue
        moved /= moved.sum()
        moved[first] = 0
        second = int(moved.argmax())
        if moved[second] >= MERGED:
            sentences.append(
                f"Labels that look merged: {moved[second]:.0%} of the texts that the teacher calls {names[first]!r} "
                f"were moved to {names[second]!r}."
            )
    return sentences


def _fits_none(config: DistillConfig, fit: npt.NDArray[Any]) -> list[str]:
    known = fit[np.isfinite(fit)]
    count = int((known < FITS_NONE).sum())
    if not count:
        return []
    hint = "" if config.none_of_these else "; the option `none of these` gives them a label of their own"
    return [f"Texts that fit no label, by the teacher: {count:,} of {len(known):,} ({count / len(known):.1%}){hint}."]


def write(
    folder: Path,
    config: DistillConfig,
    report: DistillReport,
    texts: Sequence[str],
    rows: npt.NDArray[Any],
    soft: npt.NDArray[Any],
    student: npt.NDArray[Any],
    fit: npt.NDArray[Any],
) -> None:
    """Write the report, the examples of each label and the rows to label next into the folder `report` of a model."""
    folder.mkdir(exist_ok=True)
    write_json(folder / REPORT, report.to_json())
    examples = _examples(config, texts, rows, soft, fit)
    if examples:
        write_table(folder / EXAMPLES, examples)
    listed, drawn = to_label(config, soft, student)
    if len(listed):
        write_table(
            folder / TO_LABEL,
            [
                {
                    "row": int(rows[place]),
                    "text": texts[place],
                    "label": "",
                    "prediction": _names(config, student[place]),
                    CHOSEN: RANDOM if place in drawn else IN_DOUBT,
                }
                for place in listed.tolist()
            ],
        )


def _examples(
    config: DistillConfig, texts: Sequence[str], rows: npt.NDArray[Any], soft: npt.NDArray[Any], fit: npt.NDArray[Any]
) -> list[dict[str, Any]]:
    """Return the most and the least confident texts of each label, and those that fit no label."""
    examples: list[tuple[str, str, int, float]] = []
    best = soft.argmax(axis=1)
    for place, name in enumerate(config.names):
        own = np.flatnonzero(soft[:, place] >= 0.5) if config.multi_label else np.flatnonzero(best == place)
        order = own[np.argsort(-soft[own, place], kind="stable")]
        few = min(EXAMPLES_OF_LABEL, (len(order) + 1) // 2)
        examples += [("most confident", name, int(index), float(soft[index, place])) for index in order[:few]]
        least: Any = order[len(order) - min(few, len(order) - few) :] if len(order) > few else []
        examples += [("least confident", name, int(index), float(soft[index, place])) for index in least]
    doubtful = np.flatnonzero(np.nan_to_num(fit, nan=1.0) < FITS_NONE)
    doubtful = doubtful[np.argsort(fit[doubtful], kind="stable")][:EXAMPLES_OF_LABEL]
    examples += [("fits no label", "", int(index), float(fit[index])) for index in doubtful]
    return [
        {"kind": kind, "label": label, "row": int(rows[index]), "text": texts[index], "score": float(f"{score:.6g}")}
        for kind, label, index, score in examples
    ]


def to_label(
    config: DistillConfig, soft: npt.NDArray[Any], student: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], set[int]]:
    """Return the places of the rows to label next, and which are drawn at random: half of them, to measure on; the
    other half are those on which student and refined labels agree least, spread over the labels."""
    count = min(config.to_label, len(student))
    drawn = np.random.default_rng(config.seed).permutation(len(student))[: count // 2]
    doubt = 1 - student.max(axis=1) + np.abs(student - soft).max(axis=1)
    doubt[drawn] = -1
    best = student.argmax(axis=1)
    order = np.argsort(-doubt, kind="stable")
    turn = np.zeros(len(order))  # how many of its label come before a row
    seen: dict[int, int] = {}
    for index in order.tolist():
        turn[index] = seen.get(int(best[index]), 0)
        seen[int(best[index])] = int(turn[index]) + 1
    spread = order[np.argsort(turn[order], kind="stable")]
    return np.sort(np.concatenate([drawn, spread[: count - len(drawn)]])), set(drawn.tolist())


def _names(config: DistillConfig, scores: npt.NDArray[Any]) -> str:
    if config.multi_label:
        return "|".join(name for name, score in zip(config.names, scores, strict=True) if score >= 0.5)
    return config.names[int(scores.argmax())]


def _shown(metrics: dict[str, dict[str, float]]) -> str:
    return ", ".join(
        f"{name} {figure(entry['value'])} [{figure(entry['low'])}, {figure(entry['high'])}]"
        for name, entry in list(metrics.items())[:2]
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}"
