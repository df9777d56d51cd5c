"""What answers say: agreement between reviewers, the held-out curve, and when to stop."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from finetune.evaluation.intervals import wilson
from service.review.answers import Answer, decided

FEWEST_HELD_OUT = 20
"""Held-out answers below which nothing is said about when to stop."""

ROUNDS = 3
"""Retrainings over which a gain is measured."""

NONE = "none of these"


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree on the rows that both answered.

    Attributes:
        kappa: Cohen's kappa; None where it is undefined, since both gave one label throughout.
        disagreements: row number, label of the first and of the second reviewer.
    """

    first: str
    second: str
    rows: int
    agreed: int
    kappa: float | None
    disagreements: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class Round:
    """A model of the review: the given one, or a retrained one.

    Attributes:
        answers: answers it was trained on, 0 for the given model.
        predictions: text hash -> predicted label, of the rows that may measure.
    """

    answers: int
    predictions: Mapping[str, str]


@dataclass(frozen=True)
class Point:
    """Accuracy of one model on the held-out answers, with its 95% interval (Wilson)."""

    answers: int
    accuracy: float
    low: float
    high: float
    rows: int


def label_of(answer: Answer) -> str:
    """Return the label of an answer, `none of these` included."""
    return answer.label if answer.label is not None else NONE


def agreements(answers: Sequence[Answer]) -> list[Agreement]:
    """Return the agreement of each pair of reviewers who answered the same rows."""
    by_reviewer: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        if answer.action != "skip":
            by_reviewer.setdefault(answer.reviewer, {})[answer.text_sha256] = answer
    pairs = []
    for first, second in combinations(sorted(by_reviewer), 2):
        mine, theirs = by_reviewer[first], by_reviewer[second]
        both = [(mine[row].row, label_of(mine[row]), label_of(theirs[row])) for row in mine if row in theirs]
        if both:
            different = tuple(row for row in both if row[1] != row[2])
            kappa = _kappa([row[1] for row in both], [row[2] for row in both])
            pairs.append(Agreement(first, second, len(both), len(both) - len(different), kappa, different))
    return pairs


def _kappa(first: list[str], second: list[str]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(first, second))


def sentence_of(agreement: Agreement) -> str:
    """Return an agreement in one sentence."""
    kappa = "" if agreement.kappa is None else f", Cohen's kappa {agreement.kappa:.2f}"
    rows = ", ".join(str(row) for row, _, _ in agreement.disagreements[:20])
    where = f"; they differ on row {rows}" if rows else ""
    return (
        f"{agreement.first} and {agreement.second} agree on {agreement.agreed} of {agreement.rows} rows "
        f"({agreement.agreed / agreement.rows:.0%}{kappa}){where}"
    )


def curve(rounds: Sequence[Round], answers: Sequence[Answer]) -> list[Point]:
    """Return the accuracy of each model on all held-out answers there are; the same rows for every model.

    A row that no label fits counts as wrong, since each model gave it a label; rows whose reviewers disagree are left
    out.
    """
    held = {row: label_of(answer) for row, answer in decided(answers).items() if answer.held_out}
    rows = [row for row in held if all(row in entry.predictions for entry in rounds)]
    if not rows:
        return []
    points = []
    for entry in rounds:
        correct = sum(entry.predictions[row] == held[row] for row in rows)
        points.append(Point(entry.answers, correct / len(rows), *wilson(correct, len(rows)), len(rows)))
    return points


def advice(points: Sequence[Point]) -> str:
    """Return what the held-out curve says about when to stop, in one or two sentences."""
    if not points or points[-1].rows < FEWEST_HELD_OUT:
        rows = points[-1].rows if points else 0
        return f"Too few held-out answers to tell what labels buy: {rows}, and {FEWEST_HELD_OUT} are needed."
    last, first = points[-1], points[0]
    interval = f"[{last.low:.1%}, {last.high:.1%}]"
    stated = f"Accuracy {last.accuracy:.1%} {interval} on {last.rows} held-out answers, {first.accuracy:.1%} before."
    if len(points) <= ROUNDS:
        left = ROUNDS + 1 - len(points)
        return f"{stated} Whether to stop is known after {left} more {'retraining' if left == 1 else 'retrainings'}."
    gain, half = last.accuracy - points[-1 - ROUNDS].accuracy, (last.high - last.low) / 2
    change = f"the last {ROUNDS} retrainings changed it by {100 * gain:+.1f} points"
    if gain < half:
        worse = " The given model is no worse: keep it." if last.accuracy <= first.accuracy else ""
        return f"{stated} You may stop: {change}, less than half the interval ({100 * half:.1f}).{worse}"
    return f"{stated} Go on: {change}, more than half the interval ({100 * half:.1f})."


def counts(answers: Sequence[Answer]) -> dict[str, int]:
    """Return the number of rows by what became of them."""
    held = decided(answers)
    answered = {answer.text_sha256 for answer in answers if answer.action != "skip"}
    return {
        "answered": len(answered),
        "labeled": sum(answer.label is not None for answer in held.values()),
        "to_train_on": sum(answer.label is not None and not answer.held_out for answer in held.values()),
        "held_out": sum(answer.held_out for answer in held.values()),
        "none_of_these": sum(answer.label is None for answer in held.values()),
        "disagreed": len(answered) - len(held),
        "skipped": len({answer.text_sha256 for answer in answers if answer.action == "skip"} - answered),
    }


def by_label(answers: Sequence[Answer]) -> Counter[str]:
    """Return the number of rows of each label."""
    return Counter(label_of(answer) for answer in decided(answers).values())
