"""Score tables of any size: a chunk at a time, resuming after the last complete chunk of an interrupted run.

Every chunk is computed separately, so that a resumed run writes the same bytes as one that was never interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import FinetuneError
from finetune.core.labels import shown
from finetune.core.language import SAMPLED, warning_of_languages
from finetune.core.tables.files import open_writer, stream_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, TableStream
from finetune.core.tables.table_format import TableWriter
from service.batch.output_file import SavedProgress, check_output, check_path, disk_full, is_disk_full, locked
from service.batch.scoring_task import ScoringTask, predicted_labels, scoring_task
from service.batch.text_columns import TextColumn, column_of, problem_of, text_columns_of, text_of
from service.errors import BackendFailed, BadRequest, ServiceError
from service.inference.engine import Engine
from service.pipelines import Classifier, ZeroShotClassifier, load
from service.schema import Answer, TextInput, ZeroShotRequest, free_names

if TYPE_CHECKING:
    import pyarrow

ALL_FAIL = 8
"""Rows in a chunk from which on, if all fail, the model is to blame and the run ends."""

CHUNKS_AT_ONCE = 2
"""Chunks processed concurrently: while one is computed, the next is tokenized."""

Score = Callable[[list[TextInput]], list[Answer]]
Progress = Callable[[int, float], None]
"""Called with the number of rows done, and the fraction of the file that has been read."""


@dataclass(frozen=True)
class ScoringResult:
    """What was written.

    Attributes:
        rows: rows of the table.
        errors: rows that could not be scored.
        columns: names of the columns that were added.
        note: what was detected about the file.
        resumed_after: rows that an earlier run had done.
        warnings: sentences about content that may have been misread.
    """

    rows: int
    errors: int
    columns: list[str]
    note: str | None
    resumed_after: int = 0
    warnings: tuple[str, ...] = ()


def score(
    model: str | PathLike[str] | Classifier | ZeroShotClassifier,
    table: str | PathLike[str],
    out: str | PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    hypothesis_template: str | None = None,
    text: TextColumn = None,
    text_pair: str | None = None,
    all_scores: bool = False,
    keep_formulas: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, fraction: None,
    encoding: str | None = None,
    separator: str | None = None,
    header: bool = True,
    sheet: str | None = None,
) -> ScoringResult:
    """Write a table with the columns `prediction`, `score` and `error` added.

    Memory does not grow with the table. The output appears once it is complete; the same call after an interruption
    resumes after the last complete chunk.

    Args:
        model: a served name, a path or a Hub id, or what `load` returned.
        table, out: CSV, TSV, JSON Lines, JSON, Parquet, Arrow or Excel, by suffix, texts also in gzip or zstd; `table`
            also .xls, and .txt with one text a line.
        labels, multi_label, hypothesis_template: labels of your own, as `ZeroShotClassifier` takes them.
        text, text_pair: names of the columns; the texts of several columns are joined. If not named, the columns that
            the model was trained on, or the one that obviously holds the text.
        all_scores: add a column for each label.
        keep_formulas: do not escape cells that a spreadsheet would run.
        encoding, separator, header, sheet: how the file is read, as `TableOptions` takes them; detected if not named.

    Raises:
        BadRequest: the output, a column or the labels cannot be used.
        DataError: the table cannot be read; no output is written, and the chunks done so far are kept for a resume.
    """
    classifier = load(model) if isinstance(model, str | PathLike) else model
    engine = classifier.engine
    question = None
    if labels is not None:
        question = ZeroShotRequest(tuple(labels), multi_label, hypothesis_template)
    elif isinstance(classifier, ZeroShotClassifier) and text_pair is None:
        raise BadRequest("this is a zero-shot model and needs labels: pass labels=[...]")
    return score_table(
        Path(table),
        Path(out),
        scorer(engine, question),
        scoring_task(engine, question),
        text=text,
        text_pair=text_pair,
        all_scores=all_scores,
        keep_formulas=keep_formulas,
        overwrite=overwrite,
        progress=progress,
        options=TableOptions(encoding, separator, header, sheet),
    )


def scorer(engine: Engine, question: ZeroShotRequest | None, batch_size: int | None = None) -> Score:
    """Return a function that answers with an engine, each call computed separately from all others."""

    def answers(inputs: list[TextInput]) -> list[Answer]:
        if question is None:
            return engine.classify(inputs, batch_size=batch_size, apart=True)
        return engine.zero_shot([item.text for item in inputs], question, batch_size=batch_size, apart=True)

    return answers


def score_table(
    table: Path,
    out: Path,
    answers: Score,
    task: ScoringTask,
    *,
    text: TextColumn = None,
    text_pair: str | None = None,
    all_scores: bool = False,
    keep_formulas: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, fraction: None,
    options: TableOptions | None = None,
) -> ScoringResult:
    """Do what `score` does, with answers from any function.

    Raises:
        DiskFull: the output could not grow; the chunks done so far are kept, and the same call resumes.
    """
    check_path(out, table)
    with locked(out):
        check_output(out, table, overwrite=overwrite)  # under the lock: another run may just have ended
        source = stream_table(table, task.chunk_rows, options, FORMATS)
        columns = text_columns_of(source.name, source.columns, text, task.text_columns)
        if text_pair is not None:
            text_pair = column_of(source.name, source.columns, text_pair)
        new_types = _new_columns(task, all_scores)
        names = free_names(new_types, source.columns)
        types = source.types | {names[name]: kind for name, kind in new_types.items()}
        writer = open_writer(out, types, escape_formulas=not keep_formulas)
        content = [task.identity, columns, text_pair, all_scores, keep_formulas, _signature(table), repr(options)]
        run = _Run(out, source, writer, SavedProgress(out, content), names, progress)
        sample: list[str] = []

        def scored(inputs: list[TextInput]) -> list[Answer]:
            sample.extend(item.text for item in inputs[: max(0, SAMPLED - len(sample))])
            return answers(inputs)

        run.write(task.chunk_rows, lambda chunk: _new_cells(chunk, columns, text_pair, scored, task, all_scores))
        foreign = warning_of_languages(sample, task.languages, "the model")
        note = ", ".join(filter(None, [source.note, f"texts joined of {shown(columns)}" if len(columns) > 1 else None]))
        return ScoringResult(
            run.rows,
            run.errors,
            list(names.values()),
            note or None,
            run.resumed_after,
            (*source.warnings, *([foreign] if foreign else [])),
        )


class _Run:
    """One table being written to one output.

    Attributes:
        rows, errors: rows that are done and errors among them, those of an earlier run included.
        resumed_after: rows that the earlier run had done.
    """

    def __init__(
        self,
        out: Path,
        source: TableStream,
        writer: TableWriter,
        saved: SavedProgress,
        names: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._out, self._source, self._writer, self._saved = out, source, writer, saved
        self._names, self._progress = names, progress
        self.resumed_after, self.errors = saved.resume(writer)
        self.rows, self._fraction = self.resumed_after, 0.0

    def write(self, chunk_rows: int, new_cells: Callable[[list[Row]], list[Row]]) -> None:
        """Write each chunk of `chunk_rows` rows with the cells that `new_cells` returns, and finish the output."""
        chunks = (
            chunk for number, chunk in enumerate(self._source.chunks) if number * chunk_rows >= self.resumed_after
        )
        try:
            for chunk, cells in _concurrently(chunks, new_cells):
                self._add(chunk, cells)
            self._writer.finish()
        except BaseException as error:
            self._writer.close()
            size = self._writer.size()
            if self.rows == 0:
                self._writer.discard()
            if isinstance(error, OSError) and is_disk_full(error):
                raise disk_full(error, self._out, self.rows, self._fraction, size) from error
            raise
        self._saved.remove()

    def _add(self, chunk: list[Row], new_cells: list[Row]) -> None:
        added = [{self._names[name]: cells.get(name) for name in self._names} for cells in new_cells]
        self._writer.write([row | cells for row, cells in zip(chunk, added, strict=True)])
        errors = self.errors + sum(bool(cells["error"]) for cells in new_cells)
        self._saved.save(self.rows + len(chunk), errors, self._writer.mark())
        self.rows, self.errors, self._fraction = self.rows + len(chunk), errors, self._source.fraction_read()
        self._progress(self.rows, self._fraction)


def _concurrently(
    chunks: Iterator[list[Row]], work: Callable[[list[Row]], list[Row]]
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield each chunk with the result of `work`, in order; `CHUNKS_AT_ONCE` are worked on at a time."""
    waiting: deque[tuple[list[Row], Future[list[Row]]]] = deque()
    with ThreadPoolExecutor(CHUNKS_AT_ONCE) as pool:
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(work, chunk)))
                if len(waiting) == CHUNKS_AT_ONCE:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _new_cells(
    chunk: list[Row],
    columns: tuple[str, ...],
    text_pair: str | None,
    answers: Score,
    task: ScoringTask,
    all_scores: bool,
) -> list[Row]:
    """Return the cells to add to each row; a row that cannot be scored gets the reason as its error."""
    problems = [problem_of(row, columns, text_pair, task.max_characters) for row in chunk]
    good = [number for number, problem in enumerate(problems) if not problem]
    inputs = [
        TextInput(text_of(chunk[number], columns), chunk[number][text_pair] if text_pair else None) for number in good
    ]
    results: list[Answer | str] = list(problems)
    answered = _answered(inputs, answers)
    if len(answered) >= ALL_FAIL and all(isinstance(result, str) for result in answered):
        raise BackendFailed(f"none of {len(answered)} rows could be scored ({answered[0]})")
    for number, result in zip(good, answered, strict=True):
        results[number] = result
    return [_cells(result, task, all_scores) for result in results]


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


def _new_columns(task: ScoringTask, all_scores: bool) -> dict[str, pyarrow.DataType]:
    """Return the columns to add and their types."""
    import pyarrow

    number, text = pyarrow.float64(), pyarrow.string()
    if task.task == "regression":
        return {"prediction": number, "error": text}
    columns = (
        {"prediction": pyarrow.list_(text)} if task.task == "multi_label" else {"prediction": text, "score": number}
    )
    scores = {f"score_{label}": number for label in task.labels} if all_scores else {}
    return columns | scores | {"error": text}


def _cells(result: Answer | str, task: ScoringTask, all_scores: bool) -> Row:
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
    if all_scores:
        cells |= {f"score_{label}": score for label, score in zip(result.labels, result.scores, strict=True)}
    return cells | {"error": None}


def _signature(table: Path) -> list[Any]:
    status = table.stat()
    return [str(table.resolve()), status.st_size, status.st_mtime_ns]
