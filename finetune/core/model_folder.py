"""Find, read, check and write model folders.

File names below a models folder are known here only. Nothing here loads weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from finetune.core.calibration import LabelScaling, PredictionSets, calibration_json, prediction_sets_of, scaling_of
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.scores import ACTIVATION_OF_TASK, Activation, Floats, activate
from finetune.core.target_scale import TargetScale
from finetune.core.weight_files import WEIGHTS_INDEX, check_weights, refuse_adapter
from finetune.core.windows import Window, window_of

FORMAT = 1
"""Version of `classifier.json` and `manifest.json`."""

DECIDING_FORMAT = 2
"""Version of a `classifier.json` whose calibration of labels, threshold of two labels, sets or window would be
ignored by versions of rehead that read `FORMAT` only."""

DEFAULT_TEMPLATE = "This text is about {}."
CLASSIFIER, MANIFEST, METRICS, TRAIN_CONFIG = "classifier.json", "manifest.json", "metrics.json", "train_config.yaml"
DRIFT_REFERENCE = "drift_reference.json"
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
HASHED = ("model*.safetensors", WEIGHTS_INDEX, *TOKENIZER_FILES)

CUSTOM_HEAD = "rehead"
"""`model_type` of a model with a head of ours; the config of its encoder is under `encoder` in config.json."""

Scorer = Literal["nli", "embedding", "both"]
AttentionMode = Literal["ordinary", "shared_text"]
LabelEmbedding = Literal["sentence", "sentence_and_name"]


@dataclass(frozen=True)
class ScoreFusion:
    """The fitted weights of scorer `both`, and of `embedding` for multi-label.

    Single-label: `log P(entailment) + cosine_weight * cosine`, then softmax over the labels.
    Multi-label: `sigmoid(nli * (z_entailment - z_contradiction) + cosine * cosine + bias)`.
    """

    cosine_weight: float = 20.0
    nli: float = 1.0
    cosine: float = 0.0
    bias: float = 0.0


@dataclass(frozen=True)
class ZeroShotSettings:
    """How an NLI model classifies with the labels of a request; the formulas are in service/inference/zero_shot.py."""

    hypothesis_template: str = DEFAULT_TEMPLATE
    attention: AttentionMode = "ordinary"
    scorer: Scorer = "nli"
    label_embedding: LabelEmbedding = "sentence"
    fusion: ScoreFusion = field(default_factory=ScoreFusion)


@dataclass(frozen=True)
class ClassifierSettings:
    """The content of `classifier.json`, which is only what the Hugging Face files cannot hold.

    Attributes:
        thresholds: lowest score of each label, of multi-label and of two labels; None takes 0.5.
        scaling: of multi-label, the calibration of each label.
        prediction_sets: of single-label, how a set of labels with a stated coverage is formed.
        text_columns: columns of the training table whose joined texts the model reads; empty for one column.
        languages: ISO 639-1 codes of the languages that the model was trained for; empty if unknown.
        window: how long texts are read; None for whole texts, which are truncated.
    """

    task: str
    activation: Activation
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    base: str | None = None
    max_length: int | None = None
    zero_shot: ZeroShotSettings | None = None
    target: TargetScale | None = None
    text_columns: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    scaling: LabelScaling | None = None
    prediction_sets: PredictionSets | None = None
    window: Window | None = None

    def scores(self, logits: Any) -> Floats:
        """Return the scores of logits, both `[B, C]`."""
        temperature, target, scaling = self.temperature, self.target, self.scaling
        return activate(logits, self.activation, temperature=temperature, target=target, scaling=scaling)


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder; without classifier.json, `settings` are inferred."""

    path: Path
    config: Mapping[str, Any]
    labels: LabelSpace
    settings: ClassifierSettings
    metrics: Mapping[str, Any] | None

    @property
    def is_zero_shot(self) -> bool:
        """Whether this is an NLI model, which classifies with the labels of a request."""
        return self.labels.nli is not None

    @property
    def size_bytes(self) -> int:
        """Size of the weights on disk in bytes."""
        return sum(file.stat().st_size for file in self.path.glob("model*.safetensors"))

    @property
    def written_at(self) -> int:
        """Unix time in seconds at which the weights were written."""
        return int(max((file.stat().st_mtime for file in self.path.glob("model*.safetensors")), default=0.0))

    @property
    def report_figures(self) -> list[Path]:
        """The image files of its report, sorted by name."""
        return sorted((self.path / "report").glob("*.png"))

    @property
    def headline(self) -> tuple[str, float] | None:
        """Name and value of the main metric, which is the first in metrics.json; None without metrics."""
        for name, entry in ((self.metrics or {}).get("metrics") or {}).items():
            return name, float(entry["value"])
        return None


@dataclass(frozen=True)
class Location:
    """Where a model is: a folder on disk, or an id on the Hub."""

    name: str
    kind: Literal["path", "served", "hub"]
    path: Path | None = None

    @property
    def source(self) -> str:
        """The argument of `from_pretrained`."""
        return str(self.path) if self.path is not None else self.name


def shipped_dir() -> Path:
    """Return the folder of the models that ship with the project: inside the wheel, or models/ of a checkout."""
    inside = Path(__file__).parents[1] / "shipped"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "models"


def shipped_dirs() -> list[Path]:
    """Return `shipped_dir()` and, where it is installed, the folder of the distribution rehead-multilingual."""
    found = find_spec("rehead_multilingual")
    return [shipped_dir(), *map(Path, (found.submodule_search_locations or ()) if found is not None else ())]


def served(models_dir: str | os.PathLike[str] | None = "models") -> dict[str, Path]:
    """Return the names that can be served, with their folders: those in `models_dir`, then those that ship."""
    folders: dict[str, Path] = {}
    for folder in (Path(models_dir) if models_dir is not None else None, *shipped_dirs()):
        if folder is None or not folder.is_dir():
            continue
        for child in sorted(folder.iterdir()):
            if (child / "config.json").is_file() and not child.name.startswith("."):
                folders.setdefault(child.name, child)
    return folders


def find(name: str, models_dir: str | os.PathLike[str] | None = "models", *, allow_hub: bool = True) -> Location:
    """Return the location of a model by its path, its served name or its Hub id, in this order.

    Raises:
        CheckpointError: it is none of them; lists the served names.
    """
    as_path = Path(name).expanduser()
    if as_path.is_dir():
        if (as_path / "config.json").is_file():
            return Location(name, "path", as_path)
        names = served(models_dir)
        if name not in names:
            refuse_adapter(as_path)
            raise CheckpointError(f"{name}: this folder holds no model, since config.json is missing")
        return Location(name, "served", names[name])
    names = served(models_dir)
    if name in names:
        return Location(name, "served", names[name])
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or as_path.is_file()
    if allow_hub and not looks_like_path and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return Location(name, "hub")
    known = ", ".join(names) or "none"
    raise CheckpointError(f"no model {name!r}: it is neither a folder nor a served name (served: {known})")


def read(path: str | os.PathLike[str], *, check_hashes: bool = False) -> ModelFolder:
    """Return the model folder at `path`, after checking that its files are present, readable and complete.

    Args:
        check_hashes: also compare the hashes in manifest.json, which reads all weights.

    Raises:
        CheckpointError: names the missing or damaged file.
    """
    folder = Path(path)
    refuse_adapter(folder)
    config = _json(folder / "config.json")
    check_weights(folder)
    labels = LabelSpace.from_config(config)
    stored = _json(folder / CLASSIFIER) if (folder / CLASSIFIER).is_file() else None
    settings = _settings(folder / CLASSIFIER, stored, labels)
    if settings.task == "regression" and labels.task != "regression":
        labels = LabelSpace("regression", labels.names)
    if check_hashes and (folder / MANIFEST).is_file():
        for name, expected in _json(folder / MANIFEST)["files"].items():
            file = folder / name
            if not file.is_file() or sha256(file) != expected:
                raise CheckpointError(f"{file} is missing or differs from manifest.json: copy the model folder again")
    metrics = _json(folder / METRICS) if (folder / METRICS).is_file() else None
    return ModelFolder(folder, config, labels, settings, metrics)


def write_settings(folder: Path, settings: ClassifierSettings) -> None:
    """Write classifier.json."""
    calibration = calibration_json(settings.scaling, settings.prediction_sets)
    decides = bool(calibration) or (settings.thresholds is not None and settings.task == "binary")
    decides |= settings.window is not None
    content: dict[str, Any] = {"format": DECIDING_FORMAT if decides else FORMAT, "task": settings.task}
    content |= {"activation": settings.activation}
    content |= {"temperature": settings.temperature, "thresholds": settings.thresholds} | calibration
    content |= {"base": settings.base, "max_length": settings.max_length}
    if settings.target is not None:
        content |= {"target": settings.target.to_json()}
    if settings.text_columns:
        content |= {"text_columns": list(settings.text_columns)}
    if settings.languages:
        content |= {"languages": list(settings.languages)}
    if settings.window is not None:
        content |= {"window": settings.window.to_json()}
    if settings.zero_shot is not None:
        zero = settings.zero_shot
        content |= {"hypothesis_template": zero.hypothesis_template, "attention": zero.attention}
        content |= {"scorer": zero.scorer, "label_embedding": zero.label_embedding, "mix": vars(zero.fusion)}
    write_json(folder / CLASSIFIER, content)


def seal(folder: Path) -> None:
    """Write manifest.json, with the SHA-256 of weights, tokenizer files, config.json, classifier.json and
    drift_reference.json."""
    names = {file.name for pattern in HASHED for file in folder.glob(pattern)} | {"config.json", CLASSIFIER}
    names |= {DRIFT_REFERENCE} if (folder / DRIFT_REFERENCE).is_file() else set()
    files = {name: sha256(folder / name) for name in sorted(names)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raise `ConfigError` unless a model may be written to `out`.

    Raises:
        ConfigError: `out` is a file, or a folder with files and `overwrite` is off.
    """
    if out.is_file():
        raise ConfigError(f"{out} is a file: name a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        what = "a model" if (out / "config.json").is_file() else "files"
        raise ConfigError(f"{out} already holds {what}: choose another --out, or pass --overwrite to replace it")


def is_finished(out: Path) -> bool:
    """Return whether a folder holds the model of a completed training run."""
    return (out / TRAIN_CONFIG).is_file() and (out / MANIFEST).is_file()


def publish(finished: Path, out: Path) -> None:
    """Move a complete folder to `out`; a previous folder there is deleted only after that."""
    out.parent.mkdir(parents=True, exist_ok=True)
    previous = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(previous, ignore_errors=True)
    if out.exists():
        out.rename(previous)
    try:
        finished.rename(out)
    except OSError:
        if previous.exists():
            previous.rename(out)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def write_json(file: Path, content: Any) -> None:
    """Write indented JSON; NaN raises `ValueError`, since it is not JSON."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _settings(file: Path, stored: dict[str, Any] | None, labels: LabelSpace) -> ClassifierSettings:
    zero = ZeroShotSettings() if labels.nli is not None else None
    if stored is None:
        return ClassifierSettings(labels.task, ACTIVATION_OF_TASK[labels.task], zero_shot=zero)
    if stored.get("format") not in (FORMAT, DECIDING_FORMAT):
        raise CheckpointError(
            f"{file} has format {stored.get('format')!r}, and this version of rehead reads {FORMAT} and "
            f"{DECIDING_FORMAT}: upgrade rehead"
        )
    try:
        if zero is not None:
            zero = ZeroShotSettings(
                stored.get("hypothesis_template", DEFAULT_TEMPLATE),
                stored.get("attention", "ordinary"),
                stored.get("scorer", "nli"),
                stored.get("label_embedding", "sentence"),
                ScoreFusion(**stored.get("mix", {})),
            )
        thresholds, target = stored.get("thresholds"), stored.get("target")
        return ClassifierSettings(
            stored["task"],
            stored["activation"],
            float(stored.get("temperature", 1.0)),
            tuple(thresholds) if thresholds is not None else None,
            stored.get("base"),
            stored.get("max_length"),
            zero,
            TargetScale.from_json(target) if target is not None else None,
            tuple(map(str, stored.get("text_columns", ()))),
            tuple(map(str, stored.get("languages", ()))),
            scaling_of(stored, len(labels)),
            prediction_sets_of(stored),
            window_of(stored.get("window")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is not a classifier.json that can be read: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing: copy the model folder again") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} should hold a JSON object")
    return content
