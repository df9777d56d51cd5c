"""A zero-shot profile: what is known of one set of labels with one model, as a small JSON file.

It is added to the log scores of a text, so that its scores depend on the profile and never on other texts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.labels import shown
from finetune.core.model_folder import CLASSIFIER, TOKENIZER_FILES, ModelFolder
from finetune.core.scores import Floats, softmax
from service.errors import BadRequest
from service.inference.cache_folder import hash_of
from service.schema import ZeroShotRequest

FORMAT = 1
LOWEST = 1e-30
"""Least score whose logarithm is taken."""


@dataclass(frozen=True)
class ZeroShotProfile:
    """Labels, what is added to their log scores, and the model that it was made with.

    Attributes:
        model: its name, for people; `model_hash` is its identity.
        labels, biases, priors: `[L]`; the biases are added to log scores, the priors are the proportions of the labels
            that they were made for.
        hypothesis_template, scorer, attention: of the scores that it was made from.
        temperature: divisor of the log scores with their biases.
        rows, labeled: texts that it was made from, and how many of them had a label.
    """

    model: str
    model_hash: str
    labels: tuple[str, ...]
    biases: tuple[float, ...]
    priors: tuple[float, ...]
    hypothesis_template: str
    scorer: str
    attention: str
    temperature: float = 1.0
    rows: int = 0
    labeled: int = 0

    @classmethod
    def read(cls, file: str | PathLike[str]) -> ZeroShotProfile:
        """Return the profile in a file.

        Raises:
            BadRequest: there is no such file, or it holds no profile of a known format.
        """
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadRequest(f"the profile {file} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise BadRequest(f"{file} is not a profile: it is not JSON") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise BadRequest(f"{file} is not a profile of format {FORMAT}", hint="make one with rehead profile")
        try:
            values: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
            profile = cls(**values)
            sizes = {len(profile.labels), len(profile.biases), len(profile.priors)}
            numbers = np.array([*profile.biases, *profile.priors, profile.temperature], dtype=float)
        except (TypeError, ValueError) as error:
            raise BadRequest(f"{file} is not a profile of format {FORMAT}: {error}") from error
        if len(sizes) != 1 or not np.isfinite(numbers).all() or profile.temperature <= 0:
            raise BadRequest(f"{file} is not a profile: its numbers do not fit its labels")
        return profile

    def to_json(self) -> dict[str, Any]:
        """Return the profile as its file has it."""
        return {"format": FORMAT} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def write(self, file: str | PathLike[str]) -> None:
        """Write the profile as JSON."""
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        Path(file).write_text(content + "\n", encoding="utf-8")

    def applied(self, request: ZeroShotRequest, folder: ModelFolder) -> ZeroShotRequest:
        """Return a request for this profile, with the template, scorer and attention that it was made with.

        Raises:
            BadRequest: other labels, another model, or options that differ from those of the profile.
        """
        if set(request.labels) != set(self.labels):
            raise BadRequest(
                f"the profile is for the labels {shown(self.labels)}, and these are {shown(request.labels)}",
                hint="make one for these with rehead profile",
            )
        if identity_of(folder) != self.model_hash:
            raise BadRequest(
                f"the profile was made with the model {self.model}, whose files differ from those of "
                f"{folder.path.name}: scores of another model need a profile of their own",
                hint="make one with rehead profile --model",
            )
        if request.multi_label or request.shortlist is not None:
            option = "multi_label" if request.multi_label else "shortlist"
            raise BadRequest(f"a profile is for one label a text, out of all of them: leave out {option}")
        if request.texts or request.keep_identifiers:
            option = "descriptions" if request.texts else "keep_identifiers"
            raise BadRequest(f"a profile is made from the names of its labels, spelled out: leave out {option}")
        own = {name: getattr(self, name) for name in ("hypothesis_template", "scorer", "attention")}
        for name, value in own.items():
            if getattr(request, name) not in (None, value):
                raise BadRequest(f"the profile was made with {name} {value!r}: leave {name} out")
        return replace(request, **own)

    def scores(self, scores: Floats, labels: tuple[str, ...]) -> Floats:
        """Return the scores `[N, L]` of texts with the profile, from those without it."""
        places = [self.labels.index(label) for label in labels]
        return profiled(scores, np.array(self.biases)[places], self.temperature)


def profiled(scores: Floats, biases: Any, temperature: float) -> Floats:
    """Return softmax((log scores + biases) / temperature), `[N, L]`."""
    return softmax((np.log(np.maximum(scores, LOWEST)) + biases) / temperature)


def identity_of(folder: ModelFolder) -> str:
    """Return the hash of the files that decide a model's scores."""
    files = [*sorted(folder.path.glob("model*.safetensors")), folder.path / "config.json"]
    patterns = (CLASSIFIER, *TOKENIZER_FILES)
    return hash_of(
        files + sorted({file for pattern in patterns for file in folder.path.glob(pattern) if file.is_file()})
    )
