"""The format of label cells, inferred once from all training rows and used for every split.

The majority of the cells decides; a cell that does not fit raises an error with its row, or is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import name_of, number_of
from finetune.core.task import Task
from finetune.data.label_cells import flag_of, flag_row_of, is_fraction, is_named_dict, looks_structured, named
from finetune.data.label_inference import (
    decimal_of,
    example_of,
    id_lists_warned_of,
    infer_task,
    separator_of,
    single,
    thousands_warned_of,
)
from finetune.data.label_numbers import NAMES, Decimal
from finetune.data.label_survey import Entry, LabelCells, Survey, few, quoted, rows_of

Shape = Literal["plain", "lists", "indicators", "soft"]


@dataclass(frozen=True)
class LabelFormat:
    """The format of a label column.

    Attributes:
        shape: one label, a list of labels, an indicator for each label, or a probability for each label.
        names: `data.label_names`, or the keys of indicator dicts; None if the cells hold the names.
        separator: the character between several labels in one text, for multi-label only.
        decimal: the decimal mark of numbers in texts; None if all are written as in Python.
        brackets: whether a text in brackets is read as a list, rather than a name.
        flag_rows: whether a text such as `0 1 0` is a row of indicators.
        known: normalized name -> name of the labels of an existing model.
        notes: what was inferred.
        warnings: what may be a mistake.
    """

    task: Task
    shape: Shape
    names: tuple[str, ...] | None = None
    separator: str | None = None
    decimal: Decimal | None = None
    brackets: bool = True
    flag_rows: bool = False
    known: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def fit_format(
    parts: Sequence[LabelCells],
    *,
    task: Task | None = None,
    names: Sequence[str] | None = None,
    known: Sequence[str] = (),
    decimal: Decimal | None = None,
    soft: bool = False,
) -> LabelFormat:
    """Return the label format of these tables.

    Args:
        task: None infers it from the cells.
        names: `data.label_names`.
        known: the label names of a model that is evaluated.
        decimal: `data.decimal`; None infers it.
        soft: each cell is a dict label -> probability.

    Raises:
        DataError: cells that can be read in two ways; names the rows and the settings that decide.
        ConfigError: label names that are equal after normalization.
    """
    survey = Survey(parts)
    fitting = _Fitting(survey, task, _distinct(names) if names is not None else None, decimal, known)
    return fitting.soft() if soft else fitting.format()


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    cleaned = tuple(name_of(name) for name in names)
    twice = [name for name, count in Counter(cleaned).items() if count > 1 or not name]
    if twice:
        raise ConfigError(f"data.label_names holds {twice[0]!r} more than once: give each label one name")
    return cleaned


class _Fitting:
    """The inference of one format: the survey, the settings, and the notes and warnings so far."""

    def __init__(
        self,
        survey: Survey,
        task: Task | None,
        names: tuple[str, ...] | None,
        decimal: Decimal | None,
        known: Sequence[str],
    ) -> None:
        self.survey, self.task, self.names, self.decimal = survey, task, names, decimal
        self.known = {name_of(name): name for name in known}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def format(self) -> LabelFormat:
        """Return the format of most cells."""
        survey, task = self.survey, self.task
        flag_rows = self._has_flag_rows()
        if flag_rows:
            survey.map(_as_flag_list)
        lists, dicts = survey.count("list", "list in text"), survey.count("dict", "dict in text")
        if task == "regression":
            return self._plain()
        if dicts * 2 > survey.rows:
            return self._dicts()
        if lists * 2 > survey.rows:
            return self._lists(flag_rows)
        return self._plain(brackets=self._reads_brackets())

    def soft(self) -> LabelFormat:
        """Return the format of columns that each hold one label's probability."""
        if self.task == "multi_label":
            raise ConfigError(
                "data.soft_label_columns hold a distribution over labels, and task multi-label takes zeros and ones: "
                "name the columns with --label, once for each, instead"
            )
        entries = self.survey.entries
        several = [entry for entry in entries if entry.ones != 1] if all(entry.is_flags for entry in entries) else []
        if several:
            raise several[0].error(
                f"data.soft_label_columns hold zeros and ones, with {several[0].ones} ones in this row, which is not "
                "a distribution over labels: for multi-label name the columns with --label, once for each"
            )
        return self._made("soft", self.task or single(len(entries[0].value)))

    # structures

    def _has_flag_rows(self) -> bool:
        """Return whether texts such as `0 1 0` are rows of indicators."""
        entries = self.survey.of("flags")
        if not entries or self.task == "regression" or not few(self.survey.rows - rows_of(entries), self.survey.rows):
            return False
        widths = {len(flag_row_of(entry.cell) or ()) for entry in entries}
        if widths == {2} and all("," in entry.cell for entry in entries) and self.task is None and not self.names:
            raise entries[0].error(
                f"{quoted(entries[0].cell)} may be a number with a decimal comma or two indicators: pass --task "
                "regression or --task multi-label"
            )
        return len(widths) == 1

    def _reads_brackets(self) -> bool:
        """Return whether the few lists or dicts in a column of plain cells are read as such."""
        survey = self.survey
        structured = survey.of("list", "list in text", "dict", "dict in text")
        broken = survey.of("broken")
        if broken and (self.task == "multi_label" or (self.task is None and not few(rows_of(broken), survey.rows))):
            raise broken[0].error(_unreadable(broken[0].cell))
        if broken and self.task is None:
            self._report(broken, "begin or end with brackets, cannot be read as lists")
        if not structured or self.task == "multi_label":
            return True
        real = survey.of("list", "dict")
        if real or not few(rows_of(structured), survey.rows):
            first = (real or structured)[0]
            raise first.error(
                f"{quoted(first.cell)} is a list or dict, as in {rows_of(structured)} of {survey.rows} rows, and the "
                "other rows hold plain labels: write all rows in one way, or pass --task multi-label"
            )
        self._report(structured, "are in brackets", "; for multi-label pass --task multi-label")
        return False

    def _report(self, entries: Sequence[Entry], what: str, hint: str = "") -> None:
        shown = ", ".join(f"{quoted(entry.cell)} in row {entry.row}" for entry in entries[:3])
        self.warnings.append(
            f"{rows_of(entries)} of {self.survey.rows} labels {what} ({shown}) and are read as names like the "
            f"others{hint}"
        )

    def _dicts(self) -> LabelFormat:
        survey = self.survey
        for entry in survey.of("list", "list in text", "broken"):
            raise entry.error(
                f"{quoted(entry.cell)} is not a dict, and most rows hold dicts: write all rows in one way"
            )
        entries = survey.of("dict", "dict in text")
        if rows_of([entry for entry in entries if is_named_dict(entry.value)]) * 2 > survey.rows:
            survey.map(_as_its_name)
            return self._plain()
        flags = [entry for entry in entries if entry.is_flags]
        not_one = [entry for entry in flags if entry.ones != 1]
        if self.task == "multi_label":
            return self._indicator_dicts(entries)
        if self.task is None and few(survey.rows - rows_of(flags), survey.rows) and not_one:
            if rows_of(not_one) * 50 < survey.rows:
                raise not_one[0].error(
                    f"{quoted(not_one[0].cell)} does not have exactly one label, as nearly all rows do: correct the "
                    "row, or pass --task multi-label or --task multiclass"
                )
            return self._indicator_dicts(entries)
        if self.task is None and len(flags) == len(entries):
            self.warnings.append(
                "every row's dict holds exactly one 1, and the task is inferred as one label per row; for multi-label "
                "pass --task multi-label"
            )
        votes = [entry for entry in entries if not entry.is_flags and not any(map(is_fraction, entry.value.values()))]
        if self.task is None and rows_of(votes) * 2 > survey.rows:
            self.warnings.append(
                f"{quoted(votes[0].cell)} and others hold whole numbers, which are read as votes and divided by their "
                "sum, into soft labels; to predict one of the numbers write it into a column of its own"
            )
        labels = {name for entry in entries for name in entry.value}
        return self._made("soft", self.task or single(len(labels)))

    def _indicator_dicts(self, entries: Sequence[Entry]) -> LabelFormat:
        keys = sorted({name_of(key) for entry in entries for key in entry.value})
        if self.names is not None and not set(keys) <= set(self.names):
            unknown = next(name for name in keys if name not in self.names)
            raise DataError(f"data.label_names has no {unknown!r}, which is a key of the label dicts: add it")
        names = self.names if self.names is not None else tuple(keys)
        return self._made("indicators", "multi_label", names=names)

    def _lists(self, flag_rows: bool) -> LabelFormat:
        survey, names = self.survey, self.names
        odd = survey.of("word", "number", "code", "flags")
        for entry in (*survey.of("broken"), *odd):
            if isinstance(entry.cell, str) and (entry.kind == "broken" or looks_structured(entry.cell)):
                raise entry.error(_unreadable(entry.cell))
        entries = survey.of("list", "list in text")
        widths: Counter[int] = Counter()
        for entry in entries:
            widths[len(entry.value)] += entry.count
        width = widths.most_common(1)[0][0]
        flags = [entry for entry in entries if entry.is_flags and entry.value]
        fitting = [entry for entry in flags if len(entry.value) == width]
        # no list of ids has an id twice
        certain = [entry for entry in flags if len(set(map(flag_of, entry.value))) < len(entry.value)]
        uniform = width >= 2 and few(survey.rows - rows_of(fitting), survey.rows)
        if uniform and (rows_of(certain) * 2 > survey.rows or len(fitting) == len(entries)):
            if names is not None and len(names) != width and not (width == 2 and not certain):
                raise fitting[0].error(
                    f"the rows hold {width} zeros and ones each, and data.label_names has {len(names)} names: give one "
                    "name for each position"
                )
            if names is None or len(names) == width:
                return self._indicators(fitting[0], width, flag_rows)
        elif rows_of(certain) * 2 > survey.rows:
            other = next(entry for entry in entries if entry not in fitting)
            raise other.error(
                f"{quoted(other.cell)} is not a row of {width} zeros and ones, as most rows are: correct the row"
            )
        fractions = [entry for entry in entries if any(map(is_fraction, entry.value))]
        votes = names is not None and self.task in ("binary", "multiclass") and set(widths) == {len(names)} != {1}
        if fractions or votes:
            return self._soft_lists((fractions or entries)[0], width)
        if odd:
            self._report(odd, "are not lists")
        return self._made("lists", self.task or "multi_label")

    def _indicators(self, first: Entry, width: int, flag_rows: bool) -> LabelFormat:
        if self.names is None:
            how = "--label-names a,b,..." if self.known else "--set 'data.label_names=[a, b, ...]'"
            raise first.error(
                f"{quoted(first.cell)} is a row of {width} zeros and ones, one for each label, and the labels have no "
                f"names: name the {width} positions in order with {how}"
            )
        if self.task is None and all(entry.ones == 1 for entry in self.survey.of("list", "list in text")):
            self.warnings.append(
                "every row of zeros and ones has exactly one 1, and the task is inferred as multi-label; for one label "
                "per row pass --task multiclass"
            )
        return self._made("indicators", self.task or "multi_label", flag_rows=flag_rows)

    def _soft_lists(self, first: Entry, width: int) -> LabelFormat:
        if self.names is None or self.task == "multi_label":
            raise first.error(
                f"{quoted(first.cell)} holds fractions: for soft labels set data.label_names and --task multiclass; "
                "multi-label takes zeros and ones"
            )
        if len(self.names) != width:
            raise first.error(
                f"{quoted(first.cell)} has {width} numbers, and data.label_names has {len(self.names)} names: give one "
                "name for each number"
            )
        return self._made("soft", self.task or single(len(self.names)))

    # one label, or several with a separator between them

    def _plain(self, *, brackets: bool = True) -> LabelFormat:
        survey, decimal = self.survey, None
        if self.task in (None, "regression") and self.names is None:
            decimal = self.decimal or decimal_of(survey)
        task = self.task or self._inferred(decimal)
        if task != "regression" and self.task is not None:
            decimal = None
        if task == "regression" and decimal is None:
            self.warnings += thousands_warned_of(survey)
        if decimal is not None and self.decimal is None:
            self.notes.append(f"numbers with {NAMES[decimal]}{example_of(survey, decimal)}")
            self.warnings += id_lists_warned_of(survey, decimal, task) if self.task is None else []
        separator = separator_of(survey, self.known) if task == "multi_label" else None
        if separator is not None:
            self.notes.append(f"several labels in one cell are separated by {separator!r}")
        return self._made("plain", task, separator=separator, decimal=decimal, brackets=brackets)

    def _inferred(self, decimal: Decimal | None) -> Task:
        if self.names is not None:
            return single(len(self.names))
        task, warnings = infer_task(self.survey, decimal)
        self.warnings += warnings
        return task

    def _made(self, shape: Shape, task: Task, *, names: tuple[str, ...] | None = None, **more: Any) -> LabelFormat:
        names = self.names if names is None else names
        return LabelFormat(
            task, shape, names, known=self.known, notes=tuple(self.notes), warnings=tuple(self.warnings), **more
        )


def _as_flag_list(entry: Entry) -> None:
    if entry.kind == "flags":
        entry.kind, entry.value = "list in text", [flag_of(item) for item in flag_row_of(entry.cell) or ()]


def _as_its_name(entry: Entry) -> None:
    if isinstance(entry.value, Mapping):
        try:
            entry.cell, entry.value = named(entry.value), None
        except ValueError as error:
            raise entry.error(f"{quoted(entry.cell)} {error}") from error
        entry.kind = "word" if number_of(entry.cell) is None else "number"


def _unreadable(cell: Any) -> str:
    return (
        f'{quoted(cell)} looks like a list and cannot be read as one: write it as ["a", "b"], or pass --task '
        "multiclass to read it as a name"
    )
