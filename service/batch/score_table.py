"""Score tables of any size: a chunk at a time, resuming after the last complete chunk of an interrupted run.

Every chunk is computed separately, so that a resumed run writes the same bytes as one that was never interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from finetune.core.labels import shown
from finetune.core.language import SAMPLED, warning_of_languages
from finetune.core.tables.files import open_writer, stream_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, TableStream
from finetune.core.tables.table_format import TableWriter
from service.batch.batch_scorer import BatchScorer, RowScorer
from service.batch.output_file import SavedProgress, check_output, check_path, disk_full, is_disk_full, locked
from service.batch.text_columns import TextColumn
from service.pipelines import Classifier, ZeroShotClassifier
from service.schema import free_names

CHUNKS_AT_ONCE = 2
"""Chunks processed concurrently: while one is computed, the next is tokenized."""

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
    labels: Sequence[str | Mapping[str, Any]] | Mapping[str, Any] | str | None = None,
    multi_label: bool = False,
    hypothesis_template: str | None = None,
    text: TextColumn = None,
    text_pair: str | None = None,
    all_scores: bool = False,
    abstain: bool = False,
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
        abstain: add the column `prediction_set`, a list of labels; the model must have prediction sets.
        keep_formulas: do not escape cells that a spreadsheet would run.
        encoding, separator, header, sheet: how the file is read, as `TableOptions` takes them; detected if not named.

    Raises:
        BadRequest: the output, a column or the labels cannot be used.
        DataError: the table cannot be read; no output is written, and the chunks done so far are kept for a resume.
    """
    rows = BatchScorer(
        model,
        labels,
        multi_label=multi_label,
        hypothesis_template=hypothesis_template,
        text=text,
        text_pair=text_pair,
        all_scores=all_scores,
        abstain=abstain,
    )
    return write_scored(
        Path(table),
        Path(out),
        rows,
        keep_formulas=keep_formulas,
        overwrite=overwrite,
        progress=progress,
        options=TableOptions(encoding, separator, header, sheet),
    )


def write_scored(
    table: Path,
    out: Path,
    scorer: RowScorer,
    *,
    keep_formulas: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, fraction: None,
    options: TableOptions | None = None,
) -> ScoringResult:
    """Do what `score` does, with any scorer of rows.

    Raises:
        DiskFull: the output could not grow; the chunks done so far are kept, and the same call resumes.
    """
    task = scorer.task
    check_path(out, table)
    with locked(out):
        check_output(out, table, overwrite=overwrite)  # under the lock: another run may just have ended
        source = stream_table(table, task.chunk_rows, options, FORMATS)
        columns = scorer.columns_of(source.name, source.columns)
        new_types = scorer.new_types
        names = free_names(new_types, source.columns)
        types = source.types | {names[name]: kind for name, kind in new_types.items()}
        writer = open_writer(out, types, escape_formulas=not keep_formulas)
        identity = [task.identity, *columns, scorer.all_scores, keep_formulas, _signature(table), repr(options)]
        run = _Run(out, source, writer, SavedProgress(out, identity), names, progress)
        sample: list[str] = []

        def new_cells(chunk: list[Row]) -> list[Row]:
            wanted = SAMPLED - len(sample)
            sample.extend(islice((item.text for _, item in scorer.inputs_of(chunk, columns)), max(0, wanted)))
            return scorer.new_cells(chunk, columns)

        run.write(task.chunk_rows, new_cells)
        foreign = warning_of_languages(sample, task.languages, "the model")
        joined = f"texts joined of {shown(columns.texts)}" if len(columns.texts) > 1 else None
        return ScoringResult(
            run.rows,
            run.errors,
            list(names.values()),
            ", ".join(filter(None, [source.note, joined])) or None,
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


def _signature(table: Path) -> list[Any]:
    status = table.stat()
    return [str(table.resolve()), status.st_size, status.st_mtime_ns]
