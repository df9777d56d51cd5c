"""Where the rows of a run are and what their columns mean, as frozen pydantic models.

Knows: names, types, ranges and defaults of tables, columns and splits.
Does not know: files on disk, or how a model is trained (config.py).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from finetune.core.tables.options import check_encoding, separator_named

Task = Literal["binary", "multiclass", "multi_label", "regression"]
_TASK_WORDS: dict[str, Task] = {
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


class Part(BaseModel):
    """A frozen piece of configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RecastConfig(Part):
    """How labelled rows become (text, hypothesis, entailed) rows for training a zero-shot model."""

    templates: tuple[str, ...] = (
        "This text is about {}.",
        "This example is {}.",
        "The topic is {}.",
        "It is {}.",
        "{}",
    )
    """Hypothesis templates, one drawn for each row; `{}` stands for the label."""

    negatives: int = Field(1, ge=1)
    """How many other labels each text contradicts, beside its own label, which it entails."""

    names: dict[str, str] = {}
    """Label -> the words that stand for it; labels not listed are spelled out (book_flight: book flight)."""


class Source(Part):
    """One table of training or evaluation rows; columns left out follow `data`."""

    path: str
    """A CSV, TSV, JSON Lines or Parquet file, a folder of splits, or a Hub dataset id (`id:config@revision#split`)."""

    text: str | None = None
    """Column of the text, where it differs from `data.text`."""

    text_pair: str | None = None
    """Column of the second text, where it differs from `data.text_pair`."""

    label: str | None = None
    """Column of the label, where it differs from `data.label`."""

    encoding: str | None = None
    """Encoding of the file, where it differs from `data.encoding`."""

    separator: str | None = None
    """Character between the cells of the file, where it differs from `data.separator`."""

    header: bool | None = None
    """Whether the first row of the file names the columns, where it differs from `data.header`."""

    drop: dict[str, tuple[str, ...]] = {}
    """Column -> values: rows that hold one of them are left out."""

    keep: dict[str, tuple[str, ...]] = {}
    """Column -> values: only rows that hold one of them are used."""

    rows: int | None = Field(None, ge=1)
    """Use this many rows, drawn with the seed; None for all."""

    holdout: int = Field(0, ge=0)
    """Keep this many rows, drawn with the seed, out of training and report the metrics on them."""

    recast: RecastConfig | None = None
    """Turn labelled rows into entailment rows; only for training a zero-shot model."""

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"path": str(value)} if not isinstance(value, dict | BaseModel) else value

    _encoding = field_validator("encoding")(_known_encoding)
    _separator = field_validator("separator")(_one_character)


class DataConfig(Part):
    """Where the rows are and what the columns mean."""

    train: tuple[Source, ...] = ()
    """Tables to train on."""

    validation: tuple[Source, ...] = ()
    """Tables to choose the best checkpoint on; empty for a split of the training rows."""

    test: dict[str, Source] = {}
    """Name -> table that is only reported on, never chosen by; its rows are kept out of training too."""

    text: str | None = None
    """Column of the text; None finds it when it is obvious."""

    text_pair: str | None = None
    """Column of the second text of a pair; None finds it when it is obvious."""

    label: str | None = None
    """Column of the label; None finds it when it is obvious."""

    label_columns: tuple[str, ...] = ()
    """Columns that each say with 0 or 1 whether one label holds, for several labels a row; `label` is not used then."""

    soft_label_columns: tuple[str, ...] = ()
    """Columns that each hold one label's share, where a label is a distribution; `label` is not used then."""

    encoding: str | None = None
    """Encoding of CSV, TSV and JSON Lines files, for example cp1251; None finds it."""

    separator: str | None = None
    """Character between the cells of CSV and TSV files, or tab; None finds it."""

    header: bool = True
    """Whether the first row of CSV and TSV files names the columns; else they are column_1, column_2 ..."""

    group: str | None = None
    """Column of what belongs together (an author, a document), so that no group is both trained and evaluated on."""

    task: Task | None = None
    """binary, multiclass, multi_label or regression; None infers it from the label column."""

    bounds: tuple[float | None, float | None] | None = None
    """Lowest and highest number of a regression, such as [1, 5]: predictions are clipped to them; null for no bound."""

    label_names: tuple[str, ...] | None = None
    """Names for a label column that holds 0, 1, 2 ..., lists of those, or rows of zeros and ones; None keeps the
    values as names."""

    decimal: Literal[".", ","] | None = None
    """Mark before the fraction of the numbers in a label column of text; None finds it."""

    license: str | None = None
    """License of the texts, for the model card."""

    validation_size: float | int = 0.1
    """Share (below 1) or number of training rows set aside for validation where none is given."""

    max_length: int | None = Field(None, ge=4)
    """Tokens a sequence may have; None takes what the base can read, at most 512."""

    _encoding = field_validator("encoding")(_known_encoding)
    _separator = field_validator("separator")(_one_character)

    @model_validator(mode="before")
    @classmethod
    def _several_labels(cls, value: Any) -> Any:
        label = value.get("label") if isinstance(value, dict) else None
        if not isinstance(label, list | tuple):
            return value
        if len(label) < 2:
            return value | {"label": next(iter(label), None)} | ({"label_columns": ()} if label else {})
        return value | {"label": None, "label_columns": tuple(label)}

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if self.label_columns and (self.soft_label_columns or self.label is not None):
            other = "soft_label_columns" if self.soft_label_columns else "label"
            raise ValueError(
                f"label_columns and {other} cannot both be given: each row has its labels from one of them"
            )
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("label_columns names a column twice")
        return self

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict | BaseModel) else value

    @field_validator("label_columns", "soft_label_columns", "label_names", mode="before")
    @classmethod
    def _with_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _task_words(cls, value: Any) -> Any:
        return _TASK_WORDS.get(value.lower().replace("-", "_"), value) if isinstance(value, str) else value

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
            raise ValueError("give a share between 0 and 1, or a whole number of rows")
        return value
