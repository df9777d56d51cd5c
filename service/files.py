"""Tables in, scored tables out, of any size: a chunk at a time, and on from the last chunk where a run was ended.

Knows: which column holds the text, what the new columns are called, which rows cannot be scored, what was done already.
Does not know: how scores come about, file formats.

A chunk is computed apart from all others, so that a run which goes on ends with the bytes of one that was never ended.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import repeat
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune.artifact import CLASSIFIER, TOKENIZER_FILES, write_json
from finetune.chunks import Chunks, Row, chunks
from finetune.columns import TEXT_NAMES, is_header, matching_column, obvious_column
from finetune.errors import FinetuneError
from finetune.labels import shown
from finetune.table_options import TableOptions
from finetune.tables import SUFFIXES, Table
from service import zero_shot
from service.cache import hash_of
from service.classifiers import Classifier, ZeroShotClassifier, load
from service.engine import Engine
from service.errors import BackendFailed, BadRequest, ServiceError
from service.schema import Answer, TextInput, ZeroShotQuestion, free_names
from service.sinks import LinesSink, ParquetSink, Sink

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


def table_among(arguments: Sequence[str]) -> Path | None:
    """The file that is meant where texts may stand: a single argument with a table's suffix.

    Raises:
        BadRequest: it has the suffix, and there is no such file.
    """
    if len(arguments) != 1 or Path(arguments[0]).suffix.lower() not in SUFFIXES or "\n" in arguments[0]:
        return None
    path = Path(arguments[0])
    if not path.is_file():
        raise BadRequest(f"there is no file {path}", hint="a single argument with a table's suffix is taken for a file")
    return path


def check_output(out: Path, table: Path, *, overwrite: bool) -> None:
    """Refuse an output that would cost somebody a file, before any work is done.

    Raises:
        BadRequest: unknown suffix, no such folder, the input itself, or a file that exists.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"{out}: the output's suffix must be one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise BadRequest(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise BadRequest(f"{out} is a folder: name a file")
    if out.exists() and out.samefile(table):
        raise BadRequest(f"{out} is the input itself: name another file")
    if out.exists() and not overwrite:
        raise BadRequest(f"{out} exists already: name another file, or pass --overwrite to replace it")


def texts_of(table: Table, text: str | None = None, text_pair: str | None = None) -> list[TextInput]:
    """The texts of a table, from the columns named, or from the one that is obviously meant.

    Raises:
        BadRequest: no such column, none that is obvious, or a cell that holds no text.
    """
    column = _column(table.name, table.columns, text)
    if text_pair is not None:
        text_pair = _column(table.name, table.columns, text_pair)
    repeated = next((n for n, row in enumerate(table.rows, start=1) if is_header(row, table.columns)), None)
    if repeated is not None:
        raise BadRequest(f"{table.name}, row {repeated}: this row repeats the header: take it out")
    texts = _texts(table, column)
    pairs = _texts(table, text_pair) if text_pair is not None else repeat(None)
    return list(map(TextInput, texts, pairs))


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
        table, out: CSV, TSV, JSON Lines or Parquet, by suffix.
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
        question = ZeroShotQuestion(tuple(labels), multi_label, hypothesis_template)
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


def asked(engine: Engine, question: ZeroShotQuestion | None, batch_size: int | None = None) -> Asked:
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


def scorer(engine: Engine, question: ZeroShotQuestion | None, batch_size: int | None = None) -> Score:
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
    """What `score` does, with answers from anywhere."""
    check_output(out, table, overwrite=overwrite)
    source = chunks(table, asked.rows, options)
    column = _column(source.name, source.columns, text)
    if text_pair is not None:
        text_pair = _column(source.name, source.columns, text_pair)
    fresh = _fresh(asked, all_scores)
    names = free_names(fresh, source.columns)
    sink = _sink(out, source, {names[name]: kind for name, kind in fresh.items()}, neutral=not keep_formulas)
    lock = _locked(out)
    state = _State(
        out, [asked.identity, column, text_pair, all_scores, keep_formulas, _signature(table), repr(options)]
    )
    before, errors = state.resume(sink)
    rows = before
    try:
        parts = (part for number, part in enumerate(source.parts) if number * asked.rows >= before)
        for part, made in _under_way(parts, lambda part: _made(part, column, text_pair, answers, asked, all_scores)):
            new = [{names[name]: cells.get(name) for name in names} for cells in made]
            sink.write([row | cells for row, cells in zip(part, new, strict=True)])
            rows += len(part)
            errors += sum(bool(cells["error"]) for cells in made)
            state.keep(rows, errors, sink.mark())
            progress(rows, source.read())
        sink.finish()
    except BaseException:
        sink.close()
        if rows == 0:
            sink.discard()
            lock_file(out).unlink(missing_ok=True)
        raise
    finally:
        lock.close()
    state.forget()
    lock_file(out).unlink(missing_ok=True)
    return Scored(rows, errors, list(names.values()), source.note, before, source.warnings)


def lock_file(out: Path) -> Path:
    """What a run holds while it writes an output."""
    return out.with_name(f".{out.name}.lock")


def _locked(out: Path) -> IO[bytes]:
    """A lock that ends with this process.

    Raises:
        BadRequest: another run holds it.
    """
    stream = lock_file(out).open("wb")
    try:
        import fcntl
    except ImportError:  # on Windows
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise BadRequest(f"another run is writing {out}: wait for it, or name another file") from error
    return stream


class _State:
    """What is known of a run that was not finished, in a file beside its output."""

    def __init__(self, out: Path, identity: Any) -> None:
        self._file = out.with_name(f".{out.name}.progress.json")
        self._identity = json.loads(json.dumps(identity))

    def resume(self, sink: Sink) -> tuple[int, int]:
        """Rows and errors of an earlier run with the same table and question, if there was one."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["identity"] == self._identity:
                sink.resume(found["mark"])
                return int(found["rows"]), int(found["errors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing that can be gone on with
        sink.discard()
        return 0, 0

    def keep(self, rows: int, errors: int, mark: dict[str, Any]) -> None:
        content = {"identity": self._identity, "rows": rows, "errors": errors, "mark": mark}
        written = self._file.with_name(f"{self._file.name}.new")
        write_json(written, content)
        written.replace(self._file)

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


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
    problems = [_problem(row, column, text_pair, asked.longest) for row in part]
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


def _problem(row: Row, column: str, text_pair: str | None, longest: int | None) -> str:
    if is_header(row, [*row]):
        return "this row repeats the header"
    for name in (column, text_pair):
        cell = row.get(name) if name is not None else "-"
        if not isinstance(cell, str):
            return f"column {name}: a text is wanted, and this is {'empty' if cell is None else type(cell).__name__}"
        if name == column and not cell.strip():
            return f"column {name}: the text is empty"
        if longest is not None and len(cell) > longest:
            return f"column {name}: the text has {len(cell)} characters, and it may have {longest}"
    return ""


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


def _column(name: str, columns: list[str], asked: str | None) -> str:
    if asked is not None:
        column = matching_column(asked, columns)
        if column is None:
            raise BadRequest(f"{name} has no column {asked!r}: it has {shown(columns)}")
        return column
    column = obvious_column(TEXT_NAMES, columns) or (columns[0] if len(columns) == 1 else None)
    if column is not None:
        return column
    raise BadRequest(f"{name}: name the column that holds the text with --text; it has {shown(columns)}")


def _texts(table: Table, column: str) -> Iterator[str]:
    for number, cell in enumerate(table.column(column), start=1):
        if not isinstance(cell, str):
            what = "empty" if cell is None else type(cell).__name__
            raise BadRequest(f"{table.name}, row {number}, column {column!r}: a text is wanted, and this is {what}")
        yield cell
