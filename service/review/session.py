"""Which row a reviewer is asked about next, and what becomes of the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.label_text import clean
from finetune.core.registry import pick
from finetune.core.scores import Floats
from service.errors import BadRequest
from service.review.answers import Action, Answer, AnswersFile, Shown, decided
from service.review.leases import Leases
from service.review.strategies import STRATEGIES, Candidates, Places
from service.review.table import ReviewTable

OPTIONS = 9
"""Labels that are shown with a key of their own."""

MOST_HELD_OUT = 2000
"""Rows that may measure, of a large table."""

MOST_LABELS, MOST_LETTERS = 1000, 100
"""Labels of a review, and characters of one."""

MOST_REVIEWERS = 1000
"""Reviewers whose row on the screen is remembered."""


@dataclass(frozen=True)
class Plan:
    """The settings of a review.

    Attributes:
        strategy: a name in STRATEGIES.
        rows: rows to answer in all, held-out ones included.
        held_out: fraction of questions that measure.
        overlap: fraction of rows that two reviewers answer.
    """

    strategy: str = "auto"
    rows: int = 100
    held_out: float = 0.2
    overlap: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown strategy, before any text is scored."""
        pick(STRATEGIES, self.strategy, {}, what="strategy")


@dataclass(frozen=True)
class ScoredRows:
    """The scores of a model.

    Attributes:
        model: its name.
        names: its labels `[L]`.
        scores: of every row of the table, `[N, L]`.
        predicted: its label for every row, by its thresholds.
    """

    model: str
    names: tuple[str, ...]
    scores: Floats
    predicted: list[str]


@dataclass(frozen=True)
class Question:
    """A row in front of a reviewer.

    Attributes:
        options: labels with a key, with their scores; None where they are not shown, so as not to sway the answer.
        given: the label in the table, None where there is none.
    """

    row: str
    number: int
    text: str
    held_out: bool
    options: tuple[tuple[str, float | None], ...]
    given: str | None = None


class ReviewSession:
    """A review of one table with one model, by any number of reviewers; thread-safe.

    Args:
        scored: of the model, or of what stands for it where labels are checked.
        embed, teach, issues: see `Candidates`.

    Raises:
        ConfigError: an unknown strategy.
        BadRequest: the answers are about another table, or the strategy lacks what it needs.
    """

    def __init__(
        self,
        table: ReviewTable,
        answers: AnswersFile,
        leases: Leases,
        scored: ScoredRows,
        plan: Plan,
        *,
        embed: Callable[[Places], npt.NDArray[Any]] | None = None,
        teach: Callable[[Places], Floats] | None = None,
        issues: Places | None = None,
    ) -> None:
        self.table, self.answers, self.plan, self.scored = table, answers, plan, scored
        self._leases, self._embed, self._teach, self._issues = leases, embed, teach, issues
        self._choose = STRATEGIES[plan.strategy]
        answers.check(table)
        self._place = {name: place for place, name in enumerate(table.hashes)}
        held = np.flatnonzero(table.draws(plan.seed, "held out") < plan.held_out)
        order = np.argsort(table.draws(plan.seed, "order of held out"), kind="stable")
        self.held_out = order[np.isin(order, held)][:MOST_HELD_OUT]
        """Places of the rows that may measure, in the random order in which they are asked about."""
        self._measuring = frozenset(self.held_out.tolist())
        self._others = np.setdiff1d(np.arange(len(table)), held)
        self._twice = table.draws(plan.seed, "overlap") < plan.overlap
        self._shown: dict[str, Question] = {}
        self._lock = threading.RLock()
        self._order = self._ordered()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of the model, then those that reviewers have added, in order."""
        lines = self.answers.lines()
        undone = {line.undoes for line in lines if line.action == "undo"}
        names = (line.label for line in lines if line.label is not None and line.id not in undone)
        return tuple(dict.fromkeys([*self.scored.names, *names]))

    def rescore(self, scored: ScoredRows) -> None:
        """Order the rows that nobody has answered by the scores of a new model."""
        before, self.scored = self.scored, scored
        try:
            order = self._ordered()
        except BaseException:
            self.scored = before
            raise
        with self._lock:
            self._order = order

    def next(self, reviewer: str) -> Question | None:
        """Return the row that a reviewer is asked about, the same until it is answered; None where none is left."""
        with self._lock:
            self.answers.refresh()
            with self.answers.locked():
                row = self._row_for(reviewer)
            if row is None:
                return None
            return self._show(reviewer, row)

    def answer(self, reviewer: str, row: str, action: Action, label: str | None = None, *, new: bool = False) -> bool:
        """Append the answer to a row that `next` returned; return False for a row that this reviewer has answered.

        Args:
            label: for the action `label`.
            new: the label may be one that the review has not yet.

        Raises:
            BadRequest: the row is none of the table, or the label none of the review's.
        """
        if action not in ("label", "none_of_these", "skip"):
            raise BadRequest(f"an answer is a label, none_of_these or skip, not {action!r}")
        with self._lock:
            self.answers.refresh()
            if row not in self._place:
                raise BadRequest("this row is none of the table's: load the next one")
            if any(line.text_sha256 == row and line.reviewer == reviewer for line in self.answers.current()):
                return False
            if action == "label":
                label = self._checked(label, new=new)
            self._append(reviewer, self.question(reviewer, row), action, label=label if action == "label" else None)
            return True

    def undo(self, reviewer: str) -> Question | None:
        """Take back the last answer of a reviewer, and return its row; None where there is none."""
        with self._lock:
            self.answers.refresh()
            last = self.answers.last_of(reviewer)
            if last is None or last.text_sha256 not in self._place:
                return None
            question = self._show(reviewer, last.text_sha256)
            self._append(reviewer, replace(question, held_out=last.held_out), "undo", undoes=last.id)
            with self.answers.locked():
                self._leases.give(last.text_sha256, reviewer)
            return question

    def training_rows(self) -> list[Answer]:
        """Return the answers to train on: labels on which the reviewers of a row agree, and no held-out row."""
        held = decided(self.answers.current()).values()
        return [answer for answer in held if answer.label is not None and not answer.held_out]

    def chosen(self, count: int) -> list[Question]:
        """Return the next rows of the strategy without asking anyone."""
        return [self._question(self.table.hashes[place]) for place in self._order[:count].tolist()]

    def predictions(self) -> dict[str, str]:
        """Return the predicted label of each row that may measure."""
        return {self.table.hashes[place]: self.scored.predicted[place] for place in self.held_out.tolist()}

    def _append(self, reviewer: str, question: Question, action: Action, **more: Any) -> None:
        self.answers.append(
            reviewer,
            action,
            row=question.number,
            text_sha256=question.row,
            text=question.text,
            held_out=question.held_out,
            shown=Shown(self.scored.model, "random" if question.held_out else self.plan.strategy, question.options),
            **more,
        )

    def _ordered(self) -> Places:
        answered = {line.text_sha256 for line in self.answers.current() if line.action != "skip"}
        waiting = np.array(
            [place for place in self._others.tolist() if self.table.hashes[place] not in answered], dtype=np.int64
        )
        count = max(1, round((self.plan.rows - len(answered)) * (1 - self.plan.held_out)))
        if not len(waiting):
            return waiting
        return self._choose(
            Candidates(
                waiting,
                self.scored.scores,
                min(count, len(waiting)),
                self.plan.seed,
                self._embed,
                self._teach,
                self._issues,
            )
        )

    def _row_for(self, reviewer: str) -> str | None:
        current = self.answers.current()
        mine = {line.text_sha256 for line in current if line.reviewer == reviewer}
        answers: dict[str, int] = {}
        for line in current:
            if line.action != "skip":
                answers[line.text_sha256] = answers.get(line.text_sha256, 0) + 1
        leases = self._leases.read()
        own = next((row for row, lease in leases.items() if lease[0] == reviewer and row not in mine), None)
        if own is not None and own in self._place:
            return own
        taken = {row for row, lease in leases.items() if lease[0] != reviewer}
        row = self._second_opinion(mine, answers, taken) or self._first_opinion(mine, answers, taken)
        if row is not None:
            self._leases.give(row, reviewer)
        return row

    def _second_opinion(self, mine: set[str], answers: dict[str, int], taken: set[str]) -> str | None:
        """Return a row that another reviewer has answered and two should."""
        return next(
            (
                row
                for row, count in answers.items()
                if count == 1
                and row not in mine
                and row not in taken
                and row in self._place
                and self._twice[self._place[row]]
            ),
            None,
        )

    def _first_opinion(self, mine: set[str], answers: dict[str, int], taken: set[str]) -> str | None:
        """Return a row that nobody has answered: of the strategy, or, in the planned fraction, a held-out one."""
        busy = {row for row in taken if row not in answers}
        asked = len(answers) + len(busy)
        if asked >= self.plan.rows:
            return None
        places = {self._place[row] for row in (*answers, *busy) if row in self._place}
        measured = len(places & self._measuring)
        queues = [self._order, self.held_out]
        if measured < int(self.plan.held_out * (asked + 1)):
            queues.reverse()
        hashes = self.table.hashes
        free = (hashes[place] for queue in queues for place in queue.tolist() if place not in places)
        return next((row for row in free if row not in mine), None)

    def question(self, reviewer: str, row: str) -> Question:
        """Return a row as it was shown to a reviewer: a new model must not change what a key stands for meanwhile."""
        with self._lock:
            if row not in self._place:
                raise BadRequest("this row is none of the table's: load the next one")
            shown = self._shown.get(reviewer)
            return shown if shown is not None and shown.row == row else self._question(row)

    def _show(self, reviewer: str, row: str) -> Question:
        question = self.question(reviewer, row)
        self._shown.pop(reviewer, None)
        while len(self._shown) >= MOST_REVIEWERS:
            self._shown.pop(next(iter(self._shown)))
        self._shown[reviewer] = question
        return question

    def _question(self, row: str) -> Question:
        place = self._place[row]
        scores = dict(zip(self.scored.names, self.scored.scores[place].tolist(), strict=True))
        held_out = place in self._measuring
        ranked = sorted(scores, key=lambda name: -scores[name])
        ranked += [name for name in self.labels if name not in scores]
        first = ranked[:OPTIONS]
        shown = sorted(first) if held_out else first  # neither scores nor their order, so as not to sway the answer
        options = [(name, None if held_out else scores.get(name)) for name in shown]
        given = self.table.labels[place] if self.table.labels is not None else None
        return Question(row, int(self.table.numbers[place]), self.table.texts[place], held_out, tuple(options), given)

    def _checked(self, label: str | None, *, new: bool) -> str:
        name, labels = clean(label or ""), self.labels
        if name in labels:
            return name
        if not name or len(name) > MOST_LETTERS:
            raise BadRequest(f"a label has 1 to {MOST_LETTERS} characters")
        if not new:
            raise BadRequest(f"{name!r} is none of the labels: add it as a new one, or choose another")
        if len(labels) >= MOST_LABELS:
            raise BadRequest(f"this review has {MOST_LABELS} labels, which is the limit: choose one of them")
        return name
