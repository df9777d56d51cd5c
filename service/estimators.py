"""Fine-tuning and zero-shot classification as scikit-learn estimators."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from finetune.config.training import TrainConfig
from finetune.core.model_folder import Scorer, read
from finetune.core.scores import decide
from service.errors import BadRequest
from service.estimator_targets import classes_of, numbers_of, require_length, targets_of, weights_of
from service.inference.engine import Engine
from service.inference.label_parsing import labels_of
from service.inference.zero_shot import parse_labels
from service.pipelines import ZeroShotClassifier
from service.schema import Function
from service.settings import RuntimeSettings

Array = npt.NDArray[Any]


class _TextInput:
    """Tags of an estimator whose `X` is a list or a column of texts."""

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: texts, in one dimension or in one column of two."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.string = tags.input_tags.one_d_array = True
        return tags


class _FineTuned(_TextInput, BaseEstimator):  # type: ignore[misc]
    """Training into a model folder, and predictions from it.

    Args:
        base: the encoder to start from: a folder, a served name or a Hub id.
        epochs, batch_size, lr, loss, seed, max_length: as the options of `rehead finetune`.
        out: where the model folder is written; None writes a temporary folder that is deleted with the estimator.
        settings: further settings by their dotted keys, as `--set` takes them: `{"optim.warmup": 0.2}`.
        models_dir: the folder of named models.
    """

    _remove: Callable[[], Any]  # deletes the temporary model folder

    def __init__(
        self,
        base: str = "topics",
        *,
        epochs: float = 3,
        batch_size: int = 32,
        lr: float | None = None,
        loss: str | None = None,
        seed: int = 42,
        max_length: int | None = None,
        out: str | None = None,
        settings: dict[str, Any] | None = None,
        models_dir: str = "models",
    ) -> None:
        self.base, self.epochs, self.batch_size, self.lr, self.loss = base, epochs, batch_size, lr, loss
        self.seed, self.max_length, self.out, self.settings, self.models_dir = (
            seed,
            max_length,
            out,
            settings,
            models_dir,
        )

    def _train(self, texts: Sequence[str], values: Sequence[Any], task: str, sample_weight: Any) -> None:
        from finetune.run import train

        folder = Path(self.out) if self.out is not None else Path(self._temporary()) / "model"
        rows: list[dict[str, Any]] = [{"text": text, "label": value} for text, value in zip(texts, values, strict=True)]
        weights = weights_of(sample_weight, len(texts))
        for row, weight in zip(rows, weights or (), strict=False):
            row["weight"] = weight
        config = self._config(folder, task, weight="weight" if weights is not None else None)
        result = train(config, data=rows, progress=False)
        for sentence in result.verdict.warnings:
            warnings.warn(sentence, ConvergenceWarning, stacklevel=3)
        self.folder_ = str(folder)
        self._load()

    def _config(self, folder: Path, task: str, *, weight: str | None) -> TrainConfig:
        from finetune.config.loading import load

        return load(
            base=self.base,
            out=str(folder),
            seed=self.seed,
            overwrite=True,
            models_dir=self.models_dir,
            loss__name=self.loss,
            data__text="text",
            data__label="label",
            data__weight=weight,
            data__task=task,
            data__max_length=self.max_length,
            optim__epochs=self.epochs,
            optim__batch_size=self.batch_size,
            optim__lr=self.lr,
            **(self.settings or {}),
        )

    def _temporary(self) -> str:
        if "_remove" in self.__dict__:
            self._remove()  # the folder of an earlier fit
        folder = tempfile.mkdtemp(prefix="rehead-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _load(self) -> None:
        runtime = RuntimeSettings.from_environment(device=(self.settings or {}).get("device"))
        self._engine = Engine.load(read(self.folder_), runtime.exact())

    def _scores(self, texts: Any, function: Function = "default") -> Array:
        check_is_fitted(self, "folder_")
        return self._engine.scores(_texts(texts), function=function)

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and the model folder: its path if `out` is set, else its files."""
        state = {key: value for key, value in super().__getstate__().items() if key not in ("_engine", "_remove")}
        if self.out is None and "folder_" in state:
            folder = Path(state["folder_"])
            files = [file for file in folder.rglob("*") if file.is_file()]
            state["_files"] = {str(file.relative_to(folder)): file.read_bytes() for file in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the estimator; model files in the state are written to a temporary folder."""
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            self.folder_ = str(Path(self._temporary()) / "model")
            for name, content in files.items():
                file = Path(self.folder_) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        if "folder_" in state:
            self._load()

    def save(self, folder: str) -> None:
        """Copy the model folder to a path, where `load`, `rehead serve` and plain transformers read it."""
        check_is_fitted(self, "folder_")
        shutil.copytree(self.folder_, folder)


def _with_parameters(docstring: str | None) -> str | None:
    """Return a class's docstring with the parameters of `_FineTuned`; None where `python -OO` leaves none."""
    return docstring and docstring + "".join((_FineTuned.__doc__ or "").partition("\n\n")[1:])


class FineTunedClassifier(ClassifierMixin, _FineTuned):  # type: ignore[misc]
    """An encoder fine-tuned on labeled texts, as a scikit-learn classifier.

    One label a text, or several: `y` is then a list of lists of names, or an indicator matrix `[N, C]`.
    """

    __doc__ = _with_parameters(__doc__)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fine-tune on texts `X` and labels `y`; a tenth of the rows is the validation split, for the best checkpoint.

        Args:
            sample_weight: weight of each row in the loss `[N]`, as `--weight`; None weights all rows the same.

        Raises:
            DataError: too few rows, or one label only.
            BadRequest: labels are missing, continuous, or differ in blanks or invisible characters only; or weights
                that are no finite numbers of at least 0, or not as many as texts.
        """
        texts = _texts(X)
        targets = targets_of(y, len(texts))
        self.indicator_ = targets.form == "indicator"
        self.classes_, self._names = targets.classes, targets.names
        self._train(texts, targets.values, "multiclass" if targets.form == "one" else "multi_label", sample_weight)
        names = self._engine.folder.labels.names
        named = zip(self.classes_.tolist(), self._names, strict=True)
        missing = [label for label, name in named if name not in names]
        if missing and not self.indicator_:
            raise BadRequest(f"the training split has no row with the label {missing[0]!r}", hint="add rows of it")
        return self

    def predict(self, X: Any) -> Any:
        """Return the best label of each text `[N]`; lists of names or an indicator matrix `[N, C]`, as `y` was."""
        check_is_fitted(self, "folder_")
        settings = self._engine.folder.settings
        predicted = decide(self._scores(X), settings.task, settings.thresholds)
        if settings.task != "multi_label":
            return self.classes_[self._ordered(np.eye(len(self._engine.folder.labels))[predicted]).argmax(axis=1)]
        predicted = self._ordered(predicted).astype(bool)
        return predicted.astype(int) if self.indicator_ else [self.classes_[row].tolist() for row in predicted]

    def predict_proba(self, X: Any) -> Array:
        """Return scores `[N, C]` in the order of `classes_`."""
        return self._ordered(self._scores(X))

    def decision_function(self, X: Any) -> Array:
        """Return logits `[N, C]` in the order of `classes_`; for two labels the margin `[N]` of the second.

        Where the model has thresholds, or a calibration of each label, they are shifted so that a label is predicted
        from 0 up.
        """
        logits = self._ordered(self._scores(X, "none"))
        settings = self._engine.folder.settings
        if settings.task == "binary":
            (bounds,) = self._ordered(np.array([settings.thresholds or (0.5, 0.5)]))
            margins: Array = logits[:, 1] - logits[:, 0] - settings.temperature * logit(bounds[1])
            return margins
        if settings.task == "multi_label" and (settings.thresholds is not None or settings.scaling is not None):
            bounds = settings.thresholds if settings.thresholds is not None else 0.5
            tiny = np.finfo(np.float64).eps
            return self._ordered(logit(np.clip(self._scores(X), tiny, 1 - tiny)) - logit(np.asarray(bounds)))
        return logits

    def _ordered(self, scores: Array) -> Array:
        names = {name: index for index, name in enumerate(self._engine.folder.labels.names)}
        ordered = np.zeros((len(scores), len(self.classes_)))
        for column, name in enumerate(self._names):
            if name in names:  # the model has no output for a column of `y` without a 1
                ordered[:, column] = scores[:, names[name]]
        return ordered


class FineTunedRegressor(RegressorMixin, _FineTuned):  # type: ignore[misc]
    """An encoder fine-tuned to predict a number for a text, as a scikit-learn regressor."""

    __doc__ = _with_parameters(__doc__)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fine-tune on texts `X` and numbers `y [N]`; `sample_weight [N]` multiplies the loss of each row."""
        texts = _texts(X)
        self._train(texts, numbers_of(y, len(texts)), "regression", sample_weight)
        return self

    def predict(self, X: Any) -> Array:
        """Return a number for each text `[N]`."""
        return self._scores(X)[:, 0]


class ZeroShotEstimator(ClassifierMixin, _TextInput, BaseEstimator):  # type: ignore[misc]
    """A zero-shot classifier as a scikit-learn classifier: `fit` loads the model and takes the labels.

    Args:
        model: a path, a served name or a Hub id of an NLI model.
        labels: the candidate labels, also described ones as `ZeroShotClassifier` takes them; None takes them from the
            `y` of `fit`.
        hypothesis_template, scorer, models_dir: as in `ZeroShotClassifier`.
    """

    def __init__(
        self,
        model: str = "topics",
        *,
        labels: Sequence[str | Mapping[str, Any]] | Mapping[str, Any] | None = None,
        hypothesis_template: str | None = None,
        scorer: Scorer | None = None,
        models_dir: str = "models",
    ) -> None:
        self.model, self.labels, self.hypothesis_template = model, labels, hypothesis_template
        self.scorer, self.models_dir = scorer, models_dir

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model, and take the labels from `labels`, or else from `y`.

        Raises:
            BadRequest: there are no labels, or not as many as texts.
        """
        if self.labels is None and y is None:
            raise BadRequest(
                "ZeroShotEstimator requires y to be passed, but the target y is None",
                hint="pass ZeroShotEstimator(labels=[...]), or fit(texts, y)",
            )
        if X is not None and y is not None:
            require_length(y, len(_texts(X)))
        self.classes_ = classes_of(self._names() if self.labels is not None else y)
        self._load()
        return self

    def _names(self) -> Any:
        """Return the names of the labels, without what describes them."""
        own: Any = self.labels
        is_described = isinstance(own, Mapping) or any(isinstance(label, Mapping) for label in own)
        return list(labels_of(own).names) if is_described else own

    def _load(self) -> None:
        self._loaded_with = self._model_parameters()
        self._classifier = ZeroShotClassifier(
            self.model, hypothesis_template=self.hypothesis_template, scorer=self.scorer, models_dir=self.models_dir
        )

    def _model_parameters(self) -> tuple[Any, ...]:
        return self.model, self.hypothesis_template, self.scorer, self.models_dir

    def predict_proba(self, X: Any) -> Array:
        """Return scores `[N, C]` in the order of `classes_`."""
        check_is_fitted(self, "classes_")
        if "_classifier" not in self.__dict__ or self._loaded_with != self._model_parameters():
            self._load()  # unpickled, or other parameters were set
        names = parse_labels([str(label) for label in self.classes_.tolist()])
        answers = self._classifier(
            _texts(X), names if self.labels is None or self._names() is self.labels else self.labels
        )
        by_name = [dict(zip(answer["labels"], answer["scores"], strict=True)) for answer in answers]
        return np.array([[scores[name] for name in names] for scores in by_name]).reshape(len(by_name), len(names))

    def predict(self, X: Any) -> Array:
        """The best label of each text `[N]`."""
        places = self.predict_proba(X).argmax(axis=1)  # first, since it raises before fit
        labels: Array = self.classes_[places]
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and the labels; the model is loaded again by its name."""
        own = ("_classifier", "_loaded_with")
        return {key: value for key, value in super().__getstate__().items() if key not in own}


def _texts(X: Any) -> list[str]:
    if isinstance(X, str) or not isinstance(X, Iterable):
        raise BadRequest(f"X must be a list of texts, not {type(X).__name__}")
    if getattr(X, "ndim", 1) == 2:  # a column of a frame, or what a ColumnTransformer gives
        X = np.asarray(X)
        if X.shape[1] != 1:
            raise BadRequest(f"X must have one column of texts, and it has {X.shape[1]}")
        X = X[:, 0]
    texts = list(X)
    wrong = next((index for index, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadRequest(f"text {wrong + 1} of {len(texts)} is {type(texts[wrong]).__name__}, not a string")
    return texts
