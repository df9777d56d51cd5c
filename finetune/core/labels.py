"""Label names, their ids and their encoding as targets; the order of labels is decided here only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import name_of, natural_key
from finetune.core.task import Task

PROBLEM_TYPES: dict[Task, str] = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""Task -> the `problem_type` that transformers writes into config.json."""


@dataclass(frozen=True)
class NliRoles:
    """The output indices of an NLI model; in a two-class model, `contradiction` is the label that is not entailment."""

    entailment: int
    contradiction: int


@dataclass(frozen=True)
class SoftLabels:
    """A label value that is a distribution over names; `values` sum to 1."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def likeliest(self) -> str:
        """Return the most probable name, the first of equals."""
        return self.names[max(range(len(self.names)), key=lambda index: self.values[index])]

    def __str__(self) -> str:
        return self.likeliest


def names_in(value: Any) -> Sequence[str]:
    """Return the names in one label value, which is a name, a list of names, or a distribution."""
    return value.names if isinstance(value, SoftLabels) else value if isinstance(value, list) else (value,)


@dataclass(frozen=True)
class LabelSpace:
    """A task and its label names, in the order of the model's outputs."""

    task: Task
    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Sequence[Any], task: Task, *, column: str = "label") -> LabelSpace:
        """Return the label space of a table's checked label values, with names sorted, numbers by value.

        Raises:
            DataError: fewer labels than the task needs.
        """
        if task == "regression":
            return cls(task, (column,))
        seen = {name for value in values for name in names_in(value)}
        names = tuple(sorted(seen, key=natural_key))
        if task != "multi_label" and len(names) < 2:
            present = f"only {names[0]!r}" if names else "none"
            raise DataError(f"a classifier needs at least two labels, and this column has {present}", column=column)
        if task == "multi_label" and not names:
            raise DataError("no row has a label", column=column)
        if task == "binary" and len(names) != 2:
            raise DataError(
                f"task binary needs two labels, and there are {len(names)}: use --task multiclass", column=column
            )
        return cls("binary" if task == "multiclass" and len(names) == 2 else task, names)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LabelSpace:
        """Return the label space of a Hugging Face `config.json`."""
        names_by_id = config.get("id2label") or {}
        names = tuple(str(names_by_id[key]) for key in sorted(names_by_id, key=int))
        if not names:
            names = tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))
        problem = config.get("problem_type")
        if problem == "regression":
            return cls("regression", names)
        if problem == "multi_label_classification" or len(names) == 1:
            return cls("multi_label", names)  # one logit without a problem type: transformers' pipeline takes a sigmoid
        return cls("binary" if len(names) == 2 else "multiclass", names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Output index -> label name."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Label name -> output index."""
        return {name: index for index, name in enumerate(self.names)}

    @property
    def problem_type(self) -> str:
        """Name of the task in transformers."""
        return PROBLEM_TYPES[self.task]

    @property
    def nli(self) -> NliRoles | None:
        """The entailment and contradiction outputs, by their names; None unless this is an NLI model."""
        return nli_roles(self.names)

    def encode(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        """Return label values as hard targets.

        Returns:
            `[N]` int64 ids for binary and multiclass (the most probable of soft labels), `[N, C]` float32 zeros and
            ones for multi-label, `[N]` float32 for regression.

        Raises:
            DataError: an unknown name; `row` is its 1-based position in `values`.
        """
        if self.task == "regression":
            return np.asarray(values, dtype=np.float32)
        ids = self.label2id
        if self.task == "multi_label":
            targets = np.zeros((len(values), len(self)), dtype=np.float32)
            for row, names in enumerate(values):
                for name in names:
                    targets[row, self._id(ids, name, row)] = 1.0
            return targets
        hard = (value.likeliest if isinstance(value, SoftLabels) else value for value in values)
        return np.array([self._id(ids, name, row) for row, name in enumerate(hard)], dtype=np.int64)

    def targets(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        """Return the targets of a loss: those of `encode`, or `[N, C]` float32 probabilities if any value is a
        distribution."""
        if not any(isinstance(value, SoftLabels) for value in values):
            return self.encode(values)
        targets, ids = np.zeros((len(values), len(self)), dtype=np.float32), self.label2id
        for row, value in enumerate(values):
            probabilities = value.values if isinstance(value, SoftLabels) else (1.0,)
            for name, probability in zip(names_in(value), probabilities, strict=True):
                targets[row, self._id(ids, name, row)] = probability
        return targets

    def are_soft(self, targets: npt.NDArray[Any]) -> bool:
        """Return whether the result of `targets` holds distributions over labels."""
        return self.task != "multi_label" and targets.ndim == 2

    def weights(
        self,
        class_weights: str | Mapping[str, float],
        targets: npt.NDArray[Any],
        row_weights: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32] | None:
        """Return the weight of each label in the loss `[C]`; None for `none`.

        Args:
            class_weights: `none`; `balanced`, which gives all labels the same total weight (for multi-label, the same
                weight to the rows with and without a label); or label -> weight, 1 for labels that are not listed.
            targets: of the training rows, as `targets` returns them.
            row_weights: by which rows count `[N]`, with a mean of 1; None for 1.

        Raises:
            ConfigError: an unknown label, or a regression.
        """
        if class_weights == "none":
            return None
        if self.task == "regression":
            raise ConfigError("class_weights needs labels, and the task is regression: leave it out")
        if isinstance(class_weights, Mapping):
            by_name = {name_of(name): weight for name, weight in class_weights.items()}
            unknown = [name for name in by_name if name not in self.names]
            if unknown:
                raise ConfigError(f"class_weights: there is no label {unknown[0]!r} (labels: {shown(self.names)})")
            return np.array([by_name.get(name, 1.0) for name in self.names], dtype=np.float32)
        counts = self._counts(targets, row_weights)
        counts = np.where(counts > 0, counts, 1)
        if self.task == "multi_label":
            return np.asarray((len(targets) - counts) / counts, dtype=np.float32)
        return np.asarray(len(targets) / (len(self) * counts), dtype=np.float32)

    def prior(
        self,
        targets: npt.NDArray[Any],
        weights: npt.NDArray[np.float32] | None = None,
        row_weights: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the logits `[C]` of a model that predicts the distribution of these targets for every text.

        These are log proportions, log odds for multi-label, and the mean for regression. Half a row is added to each
        label, so that labels without a row have finite logits.

        Args:
            weights: weight of each label `[C]`, by which its rows count.
            row_weights: by which rows count `[N]`, with a mean of 1; None for 1.
        """
        if self.task == "regression":
            return np.asarray([np.average(targets, weights=row_weights)], dtype=np.float32)
        factor = np.ones(len(self)) if weights is None else np.maximum(weights, 1e-6)
        if self.task == "multi_label":
            proportions = (self._counts(targets, row_weights) + 0.5) / (len(targets) + 1)
            return np.asarray(np.log(factor * proportions / (1 - proportions)), dtype=np.float32)
        counts = factor * (self._counts(targets, row_weights) + 0.5)
        return np.asarray(np.log(counts / counts.sum()), dtype=np.float32)

    def _counts(self, targets: npt.NDArray[Any], row_weights: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
        """Return the rows of each label `[C]`, or the sum of their weights."""
        if targets.ndim == 1:
            return np.bincount(targets, weights=row_weights, minlength=len(self))
        return np.asarray(targets.sum(axis=0) if row_weights is None else row_weights @ targets)

    def _id(self, ids: Mapping[str, int], name: str, row: int) -> int:
        if name not in ids:
            raise DataError(f"label {name!r} is not one of the model's labels ({shown(self.names)})", row=row + 1)
        return ids[name]


def nli_roles(names: Sequence[str]) -> NliRoles | None:
    """Return the entailment and contradiction outputs by their names; None if one of them is missing.

    In a two-class model the label that is not entailment takes the place of contradiction.
    """
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    entailment = [index for index, name in enumerate(plain) if name in ("entailment", "entail", "entails", "entailed")]
    contradiction = [index for index, name in enumerate(plain) if name.startswith("contradict")]
    if len(entailment) == 1 and not contradiction and len(names) == 2:
        other = 1 - entailment[0]
        if "entail" in plain[other]:  # not_entailment, non-entailed ...
            contradiction = [other]
    if len(entailment) != 1 or len(contradiction) != 1:
        return None
    return NliRoles(entailment[0], contradiction[0])


def shown(names: Sequence[str], limit: int = 12) -> str:
    """Return a list of names for a message, with the number of those after `limit`."""
    head = ", ".join(str(name) for name in names[:limit])
    return f"{head}, ... {len(names) - limit} more" if len(names) > limit else head
