"""Tables in, scored tables out, of any size: a chunk at a time, and on from the last chunk where a run was ended.

A chunk is computed apart from all others, so that a run which goes on ends with the bytes of one that was never ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import FinetuneError
from finetune.core.model_folder import CLASSIFIER, TOKENIZER_FILES
from finetune.core.tables.chunks import Chunks, Row, chunks
from finetune.core.tables.options import TableOptions
from service.batch.output_file import Unfinished, check_output, check_place, disk_full, is_no_room, locked
from service.batch.sinks import LinesSink, ParquetSink, Sink
from service.batch.text_arguments import LINES, lines
from service.batch.text_columns import column_of, problem_of
from service.errors import BackendFailed, BadRequest, ServiceError
from service.inference import zero_shot
from service.inference.cache_folder import hash_of
from service.inference.engine import Engine
from service.pipelines import Classifier, ZeroShotClassifier, load
from service.schema import Answer, TextInput, ZeroShotRequest, free_names

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
ROWS_OF_A_CHUNK = 4096
"""Texts of a chunk, times labels where a text is weighed with each."""

ALL_FAIL = 8
"""Rows that fail together are no fault of theirs."""

CHUNKS_AT_ONCE = 2
"""Chunks under way together: while one is computed, the next is tokenized."""

Score = Callable[[list[TextInput]], list[Answer]]
Progress = Callable[[int, float], None]
"""Hears how many rows are done, and which share of the file that is."""


@dataclass(frozen=True)
class Asked:
    """What a table is asked.

    Attributes:
        labels: names of the scores.
        task: what an answer means: `multiclass`, `multi_label`, `regression` and so on.
        identity: all that decides the scores beside the table, as JSON; a run goes on only where it is the same.
        thresholds: scores from which a label holds, by label; 0.5 where none is given.
        rows: of a chunk.
        longest: characters that a text may have; a longer one is a row's own problem.
    """

    labels: tuple[str, ...]
    task: str
    identity: Any
    thresholds: dict[str, float] = field(default_factory=dict)
    rows: int = ROWS_OF_A_CHUNK
    longest: int | None = None


@dataclass(frozen=True)
class Scored:
    """What came of a table.

    Attributes:
        errors: rows that could not be scored.
        columns: the new ones.
        note: what was found out about the file.
        went_on_after: rows that an earlier run had done.
        warnings: sentences about content that may have been misread.
    """

    rows: int
    errors: int
    columns: list[str]
    note: str | None
    went_on_after: int = 0
    warnings: tuple[str, ...] = ()


def score(
    model: str | PathLike[str] | Classifier | ZeroShotClassifier,
    table: str | PathLike[str],
    out: str | PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    hypothesis_template: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    all_scores: bool = False,
    keep_formulas: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, share: None,
    encoding: str | None = None,
    separator: str | None = None,
    header: bool = True,
) -> Scored:
    """Write a table's rows with `prediction`, `score` and `error` beside them.

    Memory does not grow with the table. The output appears once it is complete; a call that was ended at any point goes
    on from its last chunk when it is made again.

    Args:
        model: a served name, a path or a Hub id, or what `load` gave.
        table, out: CSV, TSV, JSON Lines or Parquet, by suffix; `table` also .txt, one text a line.
        labels, multi_label, hypothesis_template: labels of your own, as `ZeroShotClassifier` takes them.
        text, text_pair: the columns; the obvious one where none is named.
        all_scores: a column for each label.
        keep_formulas: leave cells that a spreadsheet would run as they are.
        encoding, separator, header: how the file is read, as `TableOptions` takes them; found where they are not given.

    Raises:
        BadRequest: an output, a column or labels that cannot be used.
        DataError: a table that cannot be read; the output is not there then, and the work is kept.
    """
    found = load(model) if isinstance(model, str | PathLike) else model
    engine = found.engine
    question = None
    if labels is not None:
        question = ZeroShotRequest(tuple(labels), multi_label, hypothesis_template)
    elif isinstance(found, ZeroShotClassifier) and text_pair is None:
        raise BadRequest("this is a zero-shot model: give labels")
    return score_table(
        Path(table),
        Path(out),
        scorer(engine, question),
        asked(engine, question),
        text=text,
        text_pair=text_pair,
        all_scores=all_scores,
        keep_formulas=keep_formulas,
        overwrite=overwrite,
        progress=progress,
        options=TableOptions(encoding, separator, header),
    )


def asked(engine: Engine, question: ZeroShotRequest | None, batch_size: int | None = None) -> Asked:
    """What a table is asked of an engine: with the model's own labels, or those of a question."""
    folder, backend = engine.folder, engine.backend
    settings = folder.settings
    files = [*sorted(folder.path.glob("model*.safetensors")), folder.path / "config.json"]
    kept = (CLASSIFIER, *TOKENIZER_FILES)
    files += sorted({file for pattern in kept for file in folder.path.glob(pattern) if file.is_file()})
    versions = [version(package) for package in ("torch", "tokenizers", "numpy")]
    identity = [FORMAT, hash_of(files), backend.name, backend.precision, batch_size, versions]
    if question is None:
        names = tuple(folder.labels.names)
        return Asked(names, settings.task, identity, thresholds_of(engine))
    labels = zero_shot.parse_labels(question.labels)
    identity.append([list(labels), *(getattr(question, name) for name in QUESTION)])
    task = "multi_label" if question.multi_label else "multiclass"
    return Asked(labels, task, identity, rows=max(64, ROWS_OF_A_CHUNK // len(labels)))


QUESTION = ("multi_label", "hypothesis_template", "scorer", "attention", "shortlist")


def scorer(engine: Engine, question: ZeroShotRequest | None, batch_size: int | None = None) -> Score:
    """Answers of an engine, each call computed apart from all others."""

    def answers(inputs: list[TextInput]) -> list[Answer]:
        if question is None:
            return engine.classify(inputs, batch_size=batch_size, apart=True)
        return engine.zero_shot([one.text for one in inputs], question, batch_size=batch_size, apart=True)

    return answers


def score_table(
    table: Path,
    out: Path,
    answers: Score,
    asked: Asked,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    all_scores: bool = False,
    keep_formulas: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, share: None,
    options: TableOptions | None = None,
) -> Scored:
    """What `score` does, with answers from anywhere.

    Raises:
        DiskFull: the output could not grow; what was done is kept, and the same call goes on.
    """
    check_place(out, table)
    with locked(out):
        check_output(out, table, overwrite=overwrite)  # under the lock: a run may just have ended
        is_lines = table.suffix.lower() == LINES
        source = lines(table, asked.rows, options) if is_lines else chunks(table, asked.rows, options)
        column = column_of(source.name, source.columns, text)
        if text_pair is not None:
            text_pair = column_of(source.name, source.columns, text_pair)
        fresh = _fresh(asked, all_scores)
        names = free_names(fresh, source.columns)
        sink = _sink(out, source, {names[name]: kind for name, kind in fresh.items()}, neutral=not keep_formulas)
        what = [asked.identity, column, text_pair, all_scores, keep_formulas, _signature(table), repr(options)]
        kept = Unfinished(out, what)
        run = _Run(out, source, sink, kept, names, progress)
        run.write(asked.rows, lambda part: _made(part, column, text_pair, answers, asked, all_scores))
        return Scored(run.rows, run.errors, list(names.values()), source.note, run.before, source.warnings)


class _Run:
    """One table on its way into one output.

    Attributes:
        rows, errors: that are done, those of an earlier run among them; `before` is how many rows that one did.
    """

    def __init__(
        self, out: Path, source: Chunks, sink: Sink, kept: Unfinished, names: Mapping[str, str], progress: Progress
    ) -> None:
        self._out, self._source, self._sink, self._kept = out, source, sink, kept
        self._names, self._progress = names, progress
        self.before, self.errors = kept.resume(sink)
        self.rows, self._share = self.before, 0.0

    def write(self, rows: int, make: Callable[[list[Row]], list[Row]]) -> None:
        """Write what `make` gives for each chunk of so many rows, and put the output in place."""
        parts = (part for number, part in enumerate(self._source.parts) if number * rows >= self.before)
        try:
            for part, made in _under_way(parts, make):
                self._add(part, made)
            self._sink.finish()
        except BaseException as error:
            self._sink.close()
            size = self._sink.size()
            if self.rows == 0:
                self._sink.discard()
            if isinstance(error, OSError) and is_no_room(error):
                raise disk_full(error, self._out, self.rows, self._share, size) from error
            raise
        self._kept.forget()

    def _add(self, part: list[Row], made: list[Row]) -> None:
        new = [{self._names[name]: cells.get(name) for name in self._names} for cells in made]
        self._sink.write([row | cells for row, cells in zip(part, new, strict=True)])
        errors = self.errors + sum(bool(cells["error"]) for cells in made)
        self._kept.keep(self.rows + len(part), errors, self._sink.mark())
        self.rows, self.errors, self._share = self.rows + len(part), errors, self._source.read()
        self._progress(self.rows, self._share)


def _under_way(
    parts: Iterator[list[Row]], work: Callable[[list[Row]], list[Row]]
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Each part with what was made of it, in order; a few are worked on together."""
    waiting: deque[tuple[list[Row], Future[list[Row]]]] = deque()
    with ThreadPoolExecutor(CHUNKS_AT_ONCE) as pool:
        try:
            for part in parts:
                waiting.append((part, pool.submit(work, part)))
                if len(waiting) == CHUNKS_AT_ONCE:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _made(
    part: list[Row], column: str, text_pair: str | None, answers: Score, asked: Asked, all_scores: bool
) -> list[Row]:
    """The new cells of some rows; a row that cannot be scored says why."""
    problems = [problem_of(row, column, text_pair, asked.longest) for row in part]
    good = [number for number, problem in enumerate(problems) if not problem]
    inputs = [TextInput(part[number][column], part[number][text_pair] if text_pair else None) for number in good]
    found: list[Answer | str] = list(problems)
    answered = _answered(inputs, answers)
    if len(answered) >= ALL_FAIL and all(isinstance(one, str) for one in answered):
        raise BackendFailed(f"no row of {len(answered)} can be scored ({answered[0]})")
    for number, answer in zip(good, answered, strict=True):
        found[number] = answer
    return [_cells(one, asked, all_scores) for one in found]


def _answered(inputs: list[TextInput], answers: Score) -> list[Answer | str]:
    """Answers; where they fail, those of each half, until the offender is alone with its problem."""
    if not inputs:
        return []
    try:
        return list(answers(inputs))
    except (ServiceError, FinetuneError) as error:
        if len(inputs) == 1:
            return [str(error)]
        half = len(inputs) // 2
        return _answered(inputs[:half], answers) + _answered(inputs[half:], answers)


def _fresh(asked: Asked, all_scores: bool) -> dict[str, pyarrow.DataType]:
    """The new columns and what they hold."""
    import pyarrow

    number = pyarrow.float64()
    if asked.task == "regression":
        return {"prediction": number, "error": pyarrow.string()}
    several = asked.task == "multi_label"
    found = {"prediction": pyarrow.list_(pyarrow.string()) if several else pyarrow.string()}
    found |= {} if several else {"score": number}
    return (
        found
        | ({f"score_{label}": number for label in asked.labels} if all_scores else {})
        | {"error": pyarrow.string()}
    )


def _cells(found: Answer | str, asked: Asked, all_scores: bool) -> Row:
    if isinstance(found, str):
        return {"prediction": None, "error": found}
    if asked.task == "regression":
        return {"prediction": found.scores[0], "error": None}
    cells: Row = {}
    if asked.task == "multi_label":
        cells["prediction"] = held(found, asked.thresholds)
    else:
        best = found.best
        cells |= {"prediction": best.label, "score": best.score}
    if all_scores:
        cells |= {f"score_{label}": value for label, value in zip(found.labels, found.scores, strict=True)}
    return cells | {"error": None}


def held(answer: Answer, thresholds: Mapping[str, float]) -> list[str]:
    """The labels that hold, of several that may: from their threshold on, 0.5 where none is given."""
    return [one.label for one in answer.predictions if one.score >= thresholds.get(one.label, 0.5)]


def thresholds_of(engine: Engine) -> dict[str, float]:
    """Scores from which a model's own labels hold, by label, where its folder records them."""
    return dict(zip(engine.folder.labels.names, engine.folder.settings.thresholds or (), strict=False))


def _sink(out: Path, source: Chunks, fresh: dict[str, pyarrow.DataType], *, neutral: bool) -> Sink:
    if out.suffix.lower() != ".parquet":
        return LinesSink(out, [*source.columns, *fresh], neutral=neutral)
    import pyarrow

    return ParquetSink(out, pyarrow.schema([*source.kinds.items(), *fresh.items()]))


def _signature(table: Path) -> list[Any]:
    found = table.stat()
    return [str(table.resolve()), found.st_size, found.st_mtime_ns]
