"""Score rows of a table: the class that the local loop, Ray Data and Spark call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from finetune.core.errors import FinetuneError
from finetune.core.tables.table import Row
from finetune.core.windows import Window
from service.batch.scoring_task import ScoringTask, predicted_labels, scoring_task
from service.batch.text_columns import TextColumn, column_of, problem_of, text_columns_of, text_of
from service.errors import BackendFailed, BadRequest, ServiceError
from service.inference.engine import Engine
from service.inference.label_parsing import labels_of
from service.pipelines import Classifier, ZeroShotClassifier, load
from service.schema import Answer, TextInput, ZeroShotRequest, free_names

if TYPE_CHECKING:
    import pyarrow

ALL_FAIL = 8
"""Texts in a batch from which on, if all fail, the model is to blame and the run ends."""

Score = Callable[[list[TextInput]], list[Answer]]
Batch = TypeVar("Batch")


class InputColumns(NamedTuple):
    """The columns that are read: of the texts, which are joined, and of the second texts."""

    texts: tuple[str, ...]
    pair: str | None


@dataclass(frozen=True)
class RowScorer:
    """Adds the cells `prediction`, `score` and `error` to rows.

    Attributes:
        answers: returns an answer for each text.
        task: what the rows are scored for.
        text, text_pair: names of the columns, as `score_table` takes them.
        all_scores: whether a column for each label is added.
    """

    answers: Score
    task: ScoringTask
    text: TextColumn = None
    text_pair: str | None = None
    all_scores: bool = False

    @property
    def new_types(self) -> dict[str, pyarrow.DataType]:
        """Return the columns that are added, and their types."""
        import pyarrow

        number, text = pyarrow.float64(), pyarrow.string()
        if self.task.task == "regression":
            return {"prediction": number, "error": text}
        columns = {"prediction": text, "score": number}
        if self.task.task == "multi_label":
            columns = {"prediction": pyarrow.list_(text)}
        columns |= {"prediction_set": pyarrow.list_(text)} if self.task.abstain else {}
        scores = {f"score_{label}": number for label in self.task.labels} if self.all_scores else {}
        return columns | scores | {"error": text}

    def columns_of(self, table: str, columns: list[str]) -> InputColumns:
        """Return the columns of a table that are read.

        Raises:
            BadRequest: there is no such column.
        """
        texts = text_columns_of(table, columns, self.text, self.task.text_columns)
        return InputColumns(texts, column_of(table, columns, self.text_pair) if self.text_pair is not None else None)

    def inputs_of(self, rows: list[Row], columns: InputColumns) -> Iterator[tuple[int, TextInput]]:
        """Yield the texts that can be scored, each with the place of its row."""
        for place, row in enumerate(rows):
            if not problem_of(row, *columns, self.task.max_characters):
                yield place, TextInput(text_of(row, columns.texts), row[columns.pair] if columns.pair else None)

    def new_cells(self, rows: list[Row], columns: InputColumns) -> list[Row]:
        """Return the cells to add to each row; a row that cannot be scored gets the reason as its error.

        Raises:
            BackendFailed: there are `ALL_FAIL` texts or more, and none of them could be scored.
        """
        results: list[Answer | str] = [problem_of(row, *columns, self.task.max_characters) for row in rows]
        good = list(self.inputs_of(rows, columns))
        answered = _answered([item for _, item in good], self.answers)
        if len(answered) >= ALL_FAIL and all(isinstance(result, str) for result in answered):
            raise BackendFailed(f"none of {len(answered)} rows could be scored ({answered[0]})")
        for (place, _), result in zip(good, answered, strict=True):
            results[place] = result
        return [self._cells(result) for result in results]

    def __call__(self, columns: Batch) -> Batch:
        """Return a batch with the new columns added: one row for each row, in order.

        Args:
            columns: a dict of NumPy arrays or lists of equal length, a `pyarrow.Table` or a `pandas.DataFrame`.

        Raises:
            BadRequest: a column is missing; never for the content of a row, whose error is in the column `error`.
        """
        import pyarrow

        table = _table(columns)
        rows = table.to_pylist()
        names = free_names(self.new_types, table.column_names)
        cells = self.new_cells(rows, self.columns_of("the batch", table.column_names))
        for name, kind in self.new_types.items():
            column = pyarrow.array([row.get(name) for row in cells], kind)
            table = table.append_column(names[name], column)
        scored: Batch = _as(columns, table, list(names.values()))
        return scored

    def _cells(self, result: Answer | str) -> Row:
        task = self.task
        if isinstance(result, str):
            return {"prediction": None, "error": result}
        if task.task == "regression":
            return {"prediction": result.scores[0], "error": None}
        cells: Row = {}
        if task.task == "multi_label":
            cells["prediction"] = predicted_labels(result, task.thresholds)
        else:
            best = result.best
            cells |= {"prediction": best.label, "score": best.score}
        if task.abstain:
            cells["prediction_set"] = [item.label for item in result.prediction_set]
        if self.all_scores:
            cells |= {f"score_{label}": score for label, score in zip(result.labels, result.scores, strict=True)}
        return cells | {"error": None}


class BatchScorer(RowScorer):
    """A model as a function of columns, for `ray.data.Dataset.map_batches` and Spark's `predict_batch_udf`.

    The model is loaded once, when the object is made. Scores of a row depend on the other rows of its
    batch by rounding only.

    Args:
        model: a served name, a path or a Hub id, or what `load` returned.
        labels, multi_label, hypothesis_template: labels of your own, as `ZeroShotClassifier` takes them.
        text, text_pair: names of the columns; by default those that the model was trained on, or the one that
            obviously holds the text.
        all_scores: add a column for each label.
        abstain: add the column `prediction_set`, a list of labels; the model must have prediction sets.
        batch_size: maximum rows of a batch of the model; by default what suits the runtime.

    Raises:
        BadRequest: the labels cannot be used, or a zero-shot model has none.
        CheckpointError: there is no such model.
    """

    def __init__(
        self,
        model: str | PathLike[str] | Classifier | ZeroShotClassifier,
        labels: Sequence[str | Mapping[str, Any]] | Mapping[str, Any] | str | None = None,
        *,
        multi_label: bool = False,
        hypothesis_template: str | None = None,
        text: TextColumn = None,
        text_pair: str | None = None,
        all_scores: bool = False,
        abstain: bool = False,
        batch_size: int | None = None,
    ) -> None:
        classifier = load(model) if isinstance(model, str | PathLike) else model
        question = None
        if labels is not None:
            parsed = labels_of(labels)
            question = ZeroShotRequest(parsed.names, multi_label, hypothesis_template, texts=parsed.texts)
        elif isinstance(classifier, ZeroShotClassifier) and text_pair is None:
            raise BadRequest("this is a zero-shot model and needs labels: pass labels=[...]")
        engine = classifier.engine
        task = scoring_task(engine, question, batch_size, abstain=abstain)
        super().__init__(scorer(engine, question, batch_size), task, text, text_pair, all_scores)


def scorer(
    engine: Engine, question: ZeroShotRequest | None, batch_size: int | None = None, window: Window | None = None
) -> Score:
    """Return a function that answers with an engine, each call computed separately from all others."""

    def answers(inputs: list[TextInput]) -> list[Answer]:
        if question is None:
            return engine.classify(inputs, window=window, batch_size=batch_size, apart=True)
        return engine.zero_shot([item.text for item in inputs], question, batch_size=batch_size, apart=True)

    return answers


def _answered(inputs: list[TextInput], answers: Score) -> list[Answer | str]:
    """Return an answer or an error for each text; where a call fails, each half is tried, down to the text at fault."""
    if not inputs:
        return []
    try:
        return list(answers(inputs))
    except (ServiceError, FinetuneError) as error:
        if len(inputs) == 1:
            return [str(error)]
        half = len(inputs) // 2
        return _answered(inputs[:half], answers) + _answered(inputs[half:], answers)


def _table(columns: Any) -> pyarrow.Table:
    """Return a batch as an Arrow table; NaN of pandas is a missing cell."""
    import pyarrow

    if isinstance(columns, pyarrow.Table):
        return columns
    if hasattr(columns, "to_dict"):
        return pyarrow.Table.from_pandas(columns, preserve_index=False)
    if isinstance(columns, Mapping):
        return pyarrow.table({name: pyarrow.array(values, from_pandas=True) for name, values in columns.items()})
    raise BadRequest(f"a batch must be a dict of columns, a pyarrow.Table or a pandas.DataFrame, not {type(columns)}")


def _as(columns: Any, table: pyarrow.Table, names: list[str]) -> Any:
    """Return the table as what the batch was; columns that were there stay the objects they were."""
    import pyarrow

    if isinstance(columns, pyarrow.Table):
        return table
    if hasattr(columns, "to_dict"):
        return columns.assign(**{name: table.column(name).to_pandas().array for name in names})
    arrays = {name: table.column(name).to_numpy(zero_copy_only=False) for name in names}
    return {**columns, **arrays}
