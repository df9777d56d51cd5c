"""`rehead distill`: from a table of texts and the names of labels to a model."""

from __future__ import annotations

from typing import Any

import click

from finetune.core.tables.flags import reading_flags
from service.commands.label_flags import labels_option

PLAIN = (
    *("out", "base", "rows", "refinement", "keep", "temperature", "student_rows", "label_column", "validation"),
    *("max_requests", "to_label", "seed", "device", "models_dir"),
    *("encoding", "separator", "header", "sheet"),
)
"""Flags that are settings of the same name."""


@click.command()
@click.argument("texts", required=False)
@labels_option("Labels with commas between them, or @FILE with a label on each line.")
@click.option("--label", "single_labels", multiple=True, help="One label, which may hold a comma; repeat it.")
@click.option("--out", help="Model folder to write.")
@click.option("--text", multiple=True, metavar="COLUMN", help="Column of the text; repeat it to join several.")
@reading_flags
@click.option(
    "--teacher", metavar="MODEL|URL", help="A zero-shot or fine-tuned model, or an OpenAI-compatible address."
)
@click.option("--teacher-model", metavar="NAME", help="The model behind the address.")
@click.option("--teacher-key-variable", metavar="NAME", help="Variable that holds its key.  [default: OPENAI_API_KEY]")
@click.option("--max-requests", type=click.IntRange(1), help="Most requests to the address.")
@click.option("--template", "templates", multiple=True, help="Hypothesis template of a zero-shot teacher; repeat it.")
@click.option(
    "--rows", type=click.IntRange(10), help="Texts that the teacher scores, drawn at random. [default: 20000]"
)
@click.option("--refinement", metavar="NAME", help="How the corpus corrects the scores.  [default: auto]")
@click.option(
    "--embeddings",
    multiple=True,
    metavar="MODEL",
    help="Model whose embeddings cluster the corpus, or `words` for those of the corpus alone; repeat it.  "
    "[default: the teacher's, topics-multilingual and words]",
)
@click.option(
    "--priors", metavar="WORD", help="How frequent the labels are: estimated or uniform.  [default: estimated]"
)
@click.option("--multi-label", is_flag=True, default=None, help="Several labels may hold for a text.")
@click.option("--none-of-these", is_flag=True, default=None, help="Add a label for texts that fit no other.")
@click.option("--keep", type=float, help="Fraction of each label's texts that is trained on.  [default: 0.85]")
@click.option("--temperature", type=float, help="Temperature of the soft labels.  [default: 1]")
@click.option("--student-rows", type=click.IntRange(10), help="Most rows of the student's training.  [default: 10000]")
@click.option("--base", help="Encoder of the student; by default that of the teacher, else topics.")
@click.option("--epochs", type=float, help="Passes of the student over its rows.  [default: 4, for few rows up to 10]")
@click.option("--label-column", metavar="COLUMN", help="Labels by people, empty where there is none: to measure on.")
@click.option("--validation", metavar="FILE", help="Texts labeled by people, to measure on.")
@click.option("--to-label", type=click.IntRange(0), help="Rows to label next.  [default: 50]")
@click.option("--seed", type=int, help="Random seed.  [default: 42]")
@click.option("--device", help="auto, cpu, cuda or mps.")
@click.option("--models", "models_dir", help="Folder of named models.  [default: models]")
@click.option("--config", "file", metavar="FILE", help="YAML file with any settings; flags override it.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting by its key; repeatable.")
@click.option(
    "--overwrite", is_flag=True, default=None, help="Replace the folder at --out, once the new one is complete."
)
def command(
    texts: str | None,
    labels: str | None,
    single_labels: tuple[str, ...],
    text: tuple[str, ...],
    teacher: str | None,
    teacher_model: str | None,
    teacher_key_variable: str | None,
    templates: tuple[str, ...],
    embeddings: tuple[str, ...],
    epochs: float | None,
    file: str | None,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train a small model on TEXTS, a table without labels, from the names of the labels alone.

    \b
    rehead distill texts.csv --labels sports,business,science --out models/news
    rehead distill texts.csv --labels @labels.txt --validation labeled.csv --out models/news

    A teacher scores each text, the corpus corrects the scores, and a student learns them. The same command continues a
    run that was stopped: the scores so far are in the folder .NAME.distill beside --out.
    """
    from finetune.core.quiet import quiet
    from service.commands.classification import zero_shot_request
    from service.labeling.config import load

    settings = {name: flags.pop(name) for name in PLAIN} | flags
    if labels is not None or single_labels:
        settings["labels"] = zero_shot_request(labels, single_labels, False, None, None, None).labels
    settings |= {"texts": texts, "text": text or None, "templates": templates or None}
    settings["embeddings"] = embeddings or None
    settings |= {"teacher": _teacher(teacher, teacher_model, teacher_key_variable), "student__optim__epochs": epochs}
    config = load(file, overrides, **settings)
    quiet()
    from service.labeling.distill import run

    result = run(config)
    for line in result.report.lines():
        click.echo(line)
    click.echo(f"model: {result.path}")
    if config.to_label:
        click.echo(f"to label next: {result.path / 'report' / 'to_label.csv'}")


def _teacher(teacher: str | None, model: str | None, key_variable: str | None) -> dict[str, Any] | None:
    """Return the settings of a teacher from the flags, None where there are none.

    Raises:
        BadRequest: flags of an address without one.
    """
    from service.errors import BadRequest

    if teacher is not None and teacher.startswith(("http://", "https://")):
        options = {"url": teacher, "model": model, "key_variable": key_variable}
        return {"name": "endpoint"} | {name: value for name, value in options.items() if value is not None}
    if model is not None or key_variable is not None:
        raise BadRequest(
            "--teacher-model and --teacher-key-variable go with an address: pass --teacher https://HOST/v1"
        )
    return None if teacher is None else {"name": "model", "model": teacher}
