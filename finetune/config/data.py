"""The settings of tables, columns and splits, as frozen pydantic models; the sentence under a field is its help."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from finetune.core.hypothesis import check_template
from finetune.core.tables.options import check_encoding, separator_named
from finetune.core.task import Task

_TASK_SPELLINGS: dict[str, Task] = {
    "binary": "binary",
    "two_labels": "binary",
    "multiclass": "multiclass",
    "multi_class": "multiclass",
    "single_label": "multiclass",
    "single_label_classification": "multiclass",
    "multilabel": "multi_label",
    "multi_label": "multi_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def _known_encoding(value: str | None) -> str | None:
    return check_encoding(value) if value is not None else None


def _one_character(value: str | None) -> str | None:
    return separator_named(value) if value is not None else None


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


class Part(BaseModel):
    """A frozen section of the configuration that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Template = Annotated[str, AfterValidator(check_template)]
"""A hypothesis template: exactly one `{}` where the label goes, and no other brace."""


class RecastConfig(Part):
    """How labeled rows become (text, hypothesis, entailment or contradiction) rows to train a zero-shot model."""

    templates: tuple[Template, ...] = Field(
        (
            "This text is about {}.",
            "This example is {}.",
            "The topic is {}.",
            "It is {}.",
            "{}",
        ),
        min_length=1,
    )
    """Hypothesis templates, one drawn at random for each row; `{}` stands for the label."""

    negatives: int = Field(1, ge=1)
    """Contradictions for each text: hypotheses about labels that it does not have, beside one that it entails."""

    names: dict[str, str] = {}
    """Label -> the words that replace it in a hypothesis; other labels are spelled out (book_flight: book flight)."""


class Source(Part):
    """One table of training or evaluation rows; settings that are left out are taken from `data`."""

    path: str
    """CSV, TSV, JSON Lines, JSON, Parquet, Arrow or Excel file, folder of splits, or Hub dataset id
    (`id:config@revision#split`)."""

    text: str | None = None
    """Text column of this table; None takes `data.text`."""

    text_pair: str | None = None
    """Column of the second text in this table; None takes `data.text_pair`."""

    label: str | None = None
    """Label column of this table; None takes `data.label`."""

    encoding: str | None = None
    """Encoding of this file; None takes `data.encoding`."""

    separator: str | None = None
    """Character between the cells of this file; None takes `data.separator`."""

    header: bool | None = None
    """Whether the first row of this file names the columns; None takes `data.header`."""

    sheet: str | None = None
    """Sheet of this Excel file; None takes `data.sheet`."""

    drop: dict[str, tuple[str, ...]] = {}
    """Column -> values; rows that have one of these values are skipped."""

    keep: dict[str, tuple[str, ...]] = {}
    """Column -> values; only rows that have one of these values are used."""

    rows: int | None = Field(None, ge=1)
    """Number of rows to use, drawn at random with the seed; None uses all."""

    holdout: int = Field(0, ge=0)
    """Number of rows, drawn at random with the seed, that are not trained on and are reported as a test set."""

    recast: RecastConfig | None = None
    """Turn labeled rows into entailment rows, to train a zero-shot model."""

    _sheet = field_validator("sheet", mode="before")(_number_as_text)

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"path": str(value)} if not isinstance(value, dict | BaseModel) else value

    _encoding = field_validator("encoding")(_known_encoding)
    _separator = field_validator("separator")(_one_character)


class DataConfig(Part):
    """Tables of labeled texts, and what their columns hold."""

    train: tuple[Source, ...] = ()
    """Tables to train on."""

    validation: tuple[Source, ...] = ()
    """Tables to validate on and choose the best checkpoint by; if empty, training rows are set aside."""

    test: dict[str, Source] = {}
    """Name -> test table; it is only reported on, and training rows with the same texts are dropped."""

    text: str | None = None
    """Column of the text; None detects it by its name. A list of columns is `text_columns`."""

    text_columns: tuple[str, ...] = ()
    """Columns whose texts are joined, a line break between them, to one text; empty cells are left out. They replace
    `text`."""

    text_pair: str | None = None
    """Column of the second text of a pair; None detects it by its name."""

    label: str | None = None
    """Column of the label; None detects it by its name."""

    label_columns: tuple[str, ...] = ()
    """Multi-label indicator columns, one per label, with 0 or 1 in each row; they replace `label`."""

    soft_label_columns: tuple[str, ...] = ()
    """Soft label columns, one per label, with the probability of that label in each row; they replace `label`."""

    encoding: str | None = None
    """Encoding of CSV, TSV, JSON Lines and JSON files, for example cp1251; None detects it."""

    separator: str | None = None
    """Character between the cells of CSV and TSV files, or the word tab; None detects it."""

    header: bool = True
    """Whether the first row of CSV, TSV and Excel files names the columns; else they are column_1, column_2 ..."""

    sheet: str | None = None
    """Sheet of Excel files, by its name or its number from 1; None takes the first that is shown."""

    group: str | None = None
    """Column of the group (an author, a document); no group is in both training and evaluation."""

    weight: str | None = None
    """Column of the weight of each row in the loss, a number of at least 0; only the ratios of weights matter."""

    task: Task | None = None
    """Task; None infers it from the label column."""

    bounds: tuple[float | None, float | None] | None = None
    """Lowest and highest target of a regression, such as [1, 5]; predictions are clipped to it, null is no bound."""

    label_names: tuple[str, ...] | None = None
    """Names of the labels, for a column of ids (0, 1, 2 ...), lists of ids, or rows of zeros and ones; None takes the
    cells as names."""

    decimal: Literal[".", ","] | None = None
    """Decimal mark of the numbers in a label column of text; None detects it."""

    license: str | None = None
    """License of the texts, for the model card."""

    validation_size: float | int = 0.1
    """Fraction (below 1) or number of training rows to validate on when there is no validation table."""

    max_length: int | None = Field(None, ge=4)
    """Maximum number of tokens in a sequence; None takes the limit of the base, at most 512."""

    _encoding = field_validator("encoding")(_known_encoding)
    _separator = field_validator("separator")(_one_character)

    _sheet = field_validator("sheet", mode="before")(_number_as_text)

    @model_validator(mode="before")
    @classmethod
    def _several_labels(cls, value: Any) -> Any:
        label = value.get("label") if isinstance(value, dict) else None
        if not isinstance(label, list | tuple):
            return value
        if len(label) < 2:
            return value | {"label": next(iter(label), None)} | ({"label_columns": ()} if label else {})
        return value | {"label": None, "label_columns": tuple(label)}

    @model_validator(mode="before")
    @classmethod
    def _several_texts(cls, value: Any) -> Any:
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, list | tuple):
            return value
        if len(text) < 2:
            return value | {"text": next(iter(text), None)} | ({"text_columns": ()} if text else {})
        return value | {"text": None, "text_columns": tuple(text)}

    @model_validator(mode="after")
    def _one_kind_of_text(self) -> Self:
        if self.text_columns and self.text is not None:
            raise ValueError("text_columns and text cannot both be set: a text is one column, or joined from several")
        if len(self.text_columns) == 1 or len(set(self.text_columns)) < len(self.text_columns):
            raise ValueError("text_columns takes two columns or more, each once; for one column set text")
        return self

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if self.label_columns and (self.soft_label_columns or self.label is not None):
            other = "soft_label_columns" if self.soft_label_columns else "label"
            raise ValueError(f"label_columns and {other} cannot both be set: each row has its labels from one of them")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("label_columns names a column twice")
        return self

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict | BaseModel) else value

    @field_validator("label_columns", "soft_label_columns", "label_names", "text_columns", mode="before")
    @classmethod
    def _with_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _task_spelling(cls, value: Any) -> Any:
        return _TASK_SPELLINGS.get(value.lower().replace("-", "_"), value) if isinstance(value, str) else value

    @field_validator("bounds")
    @classmethod
    def _low_below_high(cls, value: Any) -> Any:
        if value is not None and None not in value and value[0] >= value[1]:
            raise ValueError("give the lower bound first, as in [1, 5]")
        return value

    @field_validator("validation_size")
    @classmethod
    def _positive(cls, value: float | int) -> float | int:
        if value <= 0 or (value > 1 and value != int(value)):
            raise ValueError("give a fraction between 0 and 1, or a whole number of rows")
        return value
