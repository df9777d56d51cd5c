"""`rehead review`: labels by a person for the rows of a table that a model learns most from."""

from __future__ import annotations

import getpass
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions
from service.errors import BadRequest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from service.inference.engine import Engine
    from service.review.answers import AnswersFile
    from service.review.measures import Point
    from service.review.review import Given, Review
    from service.review.table import ReviewTable

NO_TERMINAL = (
    "reviewing needs a terminal for input and output: run it in one, write the chosen rows to a table with "
    "--list -o rows.csv, or use the Review tab of rehead serve --allow-training"
)
LISTED_CHARACTERS = 80


@click.command()
@click.argument("table")
@click.option("--model", help="The model that suggests labels and is retrained: a path, a served name or a Hub id.")
@click.option("--text", multiple=True, metavar="COLUMN", help="The column of the text; repeat it to join several.")
@reading_flags
@click.option("--strategy", default="auto", show_default=True, help="How rows are chosen; docs/review.md has the list.")
@click.option("--rows", type=click.IntRange(1), default=100, show_default=True, help="Rows to answer in all.")
@click.option(
    "-o",
    "--answers",
    "file",
    type=click.Path(path_type=Path),
    help="The file of answers, with --list a table to write.  [default: TABLE-answers.jsonl]",
)
@click.option("--reviewer", help="Who answers.  [default: the login name]")
@click.option("--teacher", metavar="MODEL", help="The model that the strategy disagreement compares with.")
@click.option("--label", metavar="COLUMN", help="The column of labels to check, for the strategy label_errors.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Fraction of questions drawn at random that measure and are never trained on.",
)
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Fraction of rows that two reviewers answer.",
)
@click.option(
    "--retrain-every",
    type=click.IntRange(0),
    default=25,
    show_default=True,
    help="Answers to train on between retrainings, at least 10 for the first; 0: none.",
)
@click.option("--out", metavar="FOLDER", help="Folder of the retrained model.  [default: models/MODEL-reviewed]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any training setting; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of rows and training.")
@click.option("--list", "listing", is_flag=True, help="Print the chosen rows, or write them to -o, and ask nothing.")
@click.option("--report", is_flag=True, help="Print counts, agreement and the held-out curve of the answers so far.")
@click.option("--labeled", type=click.Path(path_type=Path), help="Write a table for rehead finetune from the answers.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
def command(
    table: str,
    model: str | None,
    text: tuple[str, ...],
    strategy: str,
    rows: int,
    file: Path | None,
    reviewer: str | None,
    teacher: str | None,
    label: str | None,
    held_out: float,
    overlap: float,
    retrain_every: int,
    out: str | None,
    overrides: tuple[str, ...],
    seed: int,
    listing: bool,
    report: bool,
    labeled: Path | None,
    device: str | None,
    models_dir: str,
    **reading: Any,
) -> None:
    """Choose the rows of TABLE whose labels teach MODEL most, and ask for them.

    \b
    rehead review texts.csv --model news
    rehead review texts.csv --model news --report
    rehead review texts.csv --model news --labeled labeled.csv
    rehead review labeled.csv --strategy label_errors --label topic

    Each answer is appended to a JSON Lines file at once, and the same command continues. After every 25 answers MODEL
    is retrained in the background; one question in five measures what that has bought.
    """
    from finetune.config import loading
    from finetune.core.quiet import quiet
    from service.commands import review_terminal as terminal
    from service.review import review as reviews
    from service.review.session import Plan
    from service.review.table import review_table
    from service.review.typed_names import checked_reviewer

    quiet()
    checking = strategy == reviews.CHECKING
    if label is not None and not checking:
        raise BadRequest("--label goes with --strategy label_errors, which checks the labels of a table: leave it out")
    if checking and (model is not None or teacher is not None):
        raise BadRequest("--strategy label_errors scores rows by the other rows: leave out --model and --teacher")
    answers = _answers_file(table, None if listing else file)
    options = TableOptions(**passed(**reading))
    if report or labeled is not None:
        checked = review_table(table, text, options, label=label or "", seed=seed) if checking else None
        _finish(answers, checked, labeled)
        return
    if listing and file is not None:
        _require_new(file, "-o")
    given = None if model is None else _given(model, models_dir, device)
    recorded = () if given is None else given.folder.settings.text_columns
    column = (label or "") if checking else None
    review_rows = review_table(table, text, options, label=column, recorded=recorded, seed=seed)
    if not listing and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadRequest(NO_TERMINAL)
    plan = Plan(strategy, rows, 0.0 if checking or listing else held_out, overlap, seed)
    target = None if given is None else Path(out or Path(models_dir) / f"{given.folder.path.name}-reviewed")
    retrain = reviews.Retrain(None if listing else target, retrain_every, loading.content_of(None, overrides))
    with ExitStack() as stack:
        if listing and not answers.exists():
            answers = Path(stack.enter_context(TemporaryDirectory())) / answers.name
        review = reviews.begin(review_rows, answers, plan, given, retrain, teacher=teacher)
        stack.callback(review.close)
        if listing:
            _list(review, file, rows)
            return
        name = checked_reviewer(reviewer or _login_name())
        click.echo(f"{len(review_rows):,} texts of {review_rows.rows:,} rows; reviewer {name}; answers go to {answers}")
        given_answers = terminal.ask(review, name)
        click.echo(f"{given_answers} answers saved in {answers}; the same command continues")
        _print_measures(review.session.answers, review.points)


def _answers_file(table: str, file: Path | None) -> Path:
    from finetune.core.tables.text_file import stem_of

    return file if file is not None else Path(f"{stem_of(Path(table))}-answers.jsonl")


def _require_new(file: Path, option: str) -> None:
    if file.exists():
        raise BadRequest(f"{file} exists already: name a new table with {option}")


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise BadRequest("this system has no login name: name the reviewer with --reviewer") from error


def _given(model: str, models_dir: str, device: str | None) -> Given:
    from service.inference.model_store import resolve
    from service.review.review import Given, loaded

    folder = resolve(model, models_dir)

    def engine() -> AbstractContextManager[Engine]:
        click.echo(f"scoring the texts by {folder.path.name} ...", err=True)
        return loaded(folder, device)

    return Given(folder.path.name, folder, engine, device or "auto", models_dir)


def _list(review: Review, file: Path | None, count: int) -> None:
    """Print or write the rows that would be asked about, with the label that the model gives."""
    from finetune.core.tables.files import write_table

    rows = [
        {"row": question.number, "text": question.text, "suggested": question.options[0][0]}
        | {"score": round(float(question.options[0][1] or 0.0), 4)}
        | ({} if question.given is None else {"label": question.given})
        for question in review.session.chosen(count)
    ]
    if not rows:
        raise BadRequest("no row is left to choose")
    if file is not None:
        _require_new(file, "-o")  # it may have been made while rows were scored
        write_table(file, rows)
        click.echo(f"wrote {file}: {len(rows)} rows", err=True)
        return
    for row in rows:
        text = " ".join(str(row["text"]).split())[:LISTED_CHARACTERS]
        given = f"{row['label']}, suggested " if "label" in row else ""
        click.echo(f"row {row['row']}: {given}{row['suggested']} ({row['score']:.3f})  {text}")


def _finish(answers: Path, checked: ReviewTable | None, labeled: Path | None) -> None:
    """Write the labeled table, or print the report."""
    from service.review import measures, retraining
    from service.review import review as reviews
    from service.review.answers import AnswersFile

    if not answers.is_file():
        raise BadRequest(f"{answers}: there are no answers yet; name their file with -o")
    file = AnswersFile(answers)
    if checked is not None:
        file.check(checked)
    if labeled is not None:
        _require_new(labeled, "--labeled")
        rows = reviews.write_labeled(labeled, file, checked)
        click.echo(
            f"wrote {labeled}: {rows} rows; train on it with rehead finetune {labeled} --text text --label label"
        )
        return
    if checked is not None:
        confirmed, changed = reviews.corrections(checked, file)
        click.echo(f"labels of the table: {confirmed} confirmed, {changed} changed")
    _print_measures(file, measures.curve(retraining.latest_rounds(retraining.work_folder(answers)), file.current()))


def _print_measures(file: AnswersFile, points: list[Point]) -> None:
    """Print counts, agreement, the held-out curve, and when to stop."""
    from service.review import measures

    answers = file.current()
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in measures.counts(answers).items() if count)
    click.echo(counts or "no answers yet")
    if file.unreadable or file.cut_bytes:
        click.echo(f"note: {file.unreadable + bool(file.cut_bytes)} lines of {file.file} are cut, and are left out")
    for label, count in measures.by_label(answers).most_common():
        click.echo(f"  {count:5d}  {label}")
    for agreement in measures.agreements(answers):
        click.echo(measures.sentence_of(agreement))
    for point in points:
        model = f"retrained on {point.answers} answers" if point.answers else "given model"
        measured = f"on {point.rows} held-out {'answer' if point.rows == 1 else 'answers'}"
        click.echo(f"{model}: accuracy {point.accuracy:.3f} [{point.low:.3f}, {point.high:.3f}] {measured}")
    if points:
        click.echo(measures.advice(points))
