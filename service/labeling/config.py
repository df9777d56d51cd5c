"""All settings of a distillation, as one frozen pydantic model; the sentence under a field is its help everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from finetune.config import loading
from finetune.config.choice import Choice
from finetune.config.data import Part, Template
from finetune.core.errors import ConfigError
from finetune.core.tables.options import TableOptions
from service.inference import zero_shot

NONE_OF_THESE = "none of these"
"""The label of texts that fit no other one."""


class DistillConfig(Part):
    """All settings of one distillation: texts without labels in, a model folder out."""

    texts: str
    """Table of texts; CSV, TSV, JSON Lines, JSON, Parquet, Arrow, Excel, or .txt with one text a line."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Names of the labels."""

    out: str
    """Model folder to write."""

    descriptions: dict[str, str] = Field(default_factory=dict)
    """Label -> the words that the teacher reads in place of its name; other names are spelled out (book_flight: book
    flight)."""

    text: tuple[str, ...] = ()
    """Column of the text; several are joined. Without any it is detected by its name."""

    encoding: str | None = None
    """Encoding of the table; None detects it."""

    separator: str | None = None
    """Character between the cells of CSV and TSV files; None detects it."""

    header: bool = True
    """Whether the first row of CSV, TSV and Excel files names the columns."""

    sheet: str | None = None
    """Sheet of an Excel file; None takes the first that is shown."""

    rows: int | None = Field(20_000, ge=10)
    """Texts that the teacher scores, drawn at random with the seed; None scores all."""

    teacher: Choice = Choice(name="model", model="topics")
    """Where the scores come from; `model` is a zero-shot, NLI or fine-tuned model, `endpoint` an OpenAI-compatible
    address."""

    templates: tuple[Template, ...] = ()
    """Hypothesis templates of a zero-shot teacher, whose scores are averaged; empty takes the model's own."""

    multi_label: bool = False
    """Whether several labels may hold for a text."""

    none_of_these: bool = False
    """Add the label `none of these` for texts that fit no label."""

    refinement: Choice = Choice(name="auto")
    """How the corpus itself corrects the teacher's scores; `auto` is what `docs/no_labels.md` describes."""

    embeddings: tuple[str, ...] = ()
    """Models whose text embeddings show the corpus what belongs together; several are laid side by side. `words` are
    vectors of the corpus's own words. Without any: the teacher's own (or those of `base`), those of
    `topics-multilingual` where it is installed, and, where one label holds for a text, `words`."""

    priors: Literal["estimated", "uniform"] | dict[str, float] = "estimated"
    """How frequent the labels are; `estimated` from the scores, `uniform`, or label -> proportion."""

    keep: float = Field(0.85, gt=0, le=1)
    """Fraction of the texts of each label, the most confident ones, that the student is trained on."""

    temperature: float = Field(1.0, gt=0)
    """Temperature of the soft labels; above 1 they are softer."""

    student_rows: int = Field(10_000, ge=10)
    """Most rows that the student is trained on."""

    base: str | None = None
    """Encoder of the student; None takes the teacher's own where it is a zero-shot model, else `topics`."""

    student: dict[str, Any] = Field(default_factory=dict)
    """Settings of the student's training, as `rehead finetune` takes them."""

    label_column: str | None = None
    """Column with labels by people, empty where there is none; these rows measure, and are not trained on."""

    validation: str | None = None
    """Table of texts with labels by people, to measure on; none of its texts is trained on."""

    to_label: int = Field(50, ge=0)
    """Rows to label next, in `report/to_label.csv`."""

    max_requests: int | None = Field(None, ge=1)
    """Most requests to an endpoint, those of earlier runs not counted."""

    seed: int = Field(42, ge=0)
    """Random seed of the sample, the refinement and the student's training."""

    device: str | None = None
    """Device of teacher and student; auto, cpu, cuda or mps."""

    models_dir: str = "models"
    """Folder of the models that `teacher` and `base` can name."""

    overwrite: bool = False
    """Replace an existing model folder at `out`, once the new one is complete."""

    @field_validator("labels", mode="before")
    @classmethod
    def _parsed_labels(cls, value: Any) -> Any:
        names = zero_shot.parse_labels(list(value) if isinstance(value, tuple) else value)
        if len(names) < 2:
            raise ValueError(f"{names[0]!r} is one label: give two or more, with commas between them")
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(" ".join(name.split()).casefold(), name)
            if other != name:
                raise ValueError(f"the labels {other!r} and {name!r} differ only in case or blanks: leave one out")
        if NONE_OF_THESE in names:
            raise ValueError(f"{NONE_OF_THESE!r} is added by none_of_these=true: leave it out")
        return names

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_labels(self) -> Self:
        priors = self.priors if isinstance(self.priors, dict) else {}
        for field, names in (("descriptions", self.descriptions), ("priors", priors)):
            unknown = [name for name in names if name not in self.names]
            if unknown:
                raise ValueError(f"{field} names {unknown[0]!r}, which is none of the labels")
        if priors and (set(priors) != set(self.names) or min(priors.values()) < 0 or sum(priors.values()) <= 0):
            raise ValueError("priors take a proportion of at least 0 for every label")
        if self.multi_label and self.none_of_these:
            raise ValueError("none_of_these goes with one label for each text: with multi_label a text may have none")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The labels of the student."""
        return (*self.labels, NONE_OF_THESE) if self.none_of_these else self.labels

    @property
    def table_options(self) -> TableOptions:
        """How the table of texts is read."""
        return TableOptions(self.encoding, self.separator, self.header, self.sheet)

    @property
    def work(self) -> Path:
        """The folder beside `out` that holds the scores and the training table."""
        out = Path(self.out)
        return out.with_name(f".{out.name}.distill")


def load(file: str | Path | None = None, overrides: Iterable[str] = (), **settings: Any) -> DistillConfig:
    """Return the configuration of a YAML file, changed by `settings` and then by texts `KEY=VALUE`.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value of the wrong type; names the key.
    """
    return build(loading.content_of(file, overrides, **settings), str(file) if file is not None else None)


def build(content: Mapping[str, Any], where: str | None = None) -> DistillConfig:
    """Return the DistillConfig of plain dicts; `where` is the file that they were read from.

    Raises:
        ConfigError: an unknown key or a wrong value, in one sentence.
    """
    try:
        return DistillConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(loading.sentence_of(error, where, DistillConfig)) from error
