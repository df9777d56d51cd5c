"""PyTorch: a sequence classifier of transformers, in float32, on the GPU where there is one.

Knows: loading safely, devices, the shared-text mask as the additive mask that attention layers take.
Does not know: text, labels, what the logits mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune.artifact import CUSTOM_HEAD, AttentionMode, ModelFolder
from finetune.attention import HYPOTHESIS, LEADING, TEXT, shared_text_mask
from finetune.encoding import Encoded
from service.backends.base import Outputs
from service.backends.one_pass import OnePass
from service.errors import BackendFailed

SHARED_TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert")
"""Families whose attention takes a 4-D mask as it is; a test runs each of them."""

# OpenMP's threads do not come along into a forked process, and work that waits for them would hang
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class TorchBackend:
    """A loaded model; implements `service.backends.base.Backend`."""

    def __init__(self, model: Any, *, family: str) -> None:
        self.shared_text = family in SHARED_TEXT_FAMILIES
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        one_pass = OnePass.of(self._model) if self.shared_text else None
        self._one_pass = one_pass if one_pass is not None and self._agrees(one_pass) else None
        self.one_pass = self._one_pass is not None

    @classmethod
    def load(cls, folder: ModelFolder) -> TorchBackend:
        """The model of a checked folder: safetensors only, no remote code.

        Raises:
            BackendFailed: the folder's weights are not those of a sequence classifier.
        """
        from transformers import AutoModelForSequenceClassification

        if folder.config.get("model_type") == CUSTOM_HEAD:
            import finetune.model  # noqa: F401 (registers the class that reads it)
        try:
            with _quiet():
                model, found = AutoModelForSequenceClassification.from_pretrained(
                    str(folder.path),
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise BackendFailed(f"{folder.path}: the model cannot be loaded ({_first_line(error)})") from error
        if found["missing_keys"]:
            missing = ", ".join(sorted(found["missing_keys"])[:3])
            raise BackendFailed(
                f"{folder.path}: these weights are not a classifier's, {missing} is missing",
                hint="fine-tune it first (rehead finetune)",
            )
        return cls(model, family=str(folder.config.get("model_type", "")))

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.int64]], *, attention: AttentionMode, embeddings: bool
    ) -> Outputs:
        """See `Backend.run`."""
        segments = inputs["segments"]
        tensors = {
            name: torch.from_numpy(array).to(self._device) for name, array in inputs.items() if name != "segments"
        }
        if attention == "shared_text":
            tensors["attention_mask"] = _additive(shared_text_mask(segments)).to(self._device)
        try:
            with torch.inference_mode():
                output = self._model(**tensors, output_hidden_states=embeddings)
        except RuntimeError as error:  # out of memory, above all
            raise BackendFailed(
                f"the model failed on a batch of {len(segments)} rows ({_first_line(error)})"
            ) from error
        means = _text_means(output.hidden_states[-1], segments) if embeddings else None
        return Outputs(output.logits.float().cpu().numpy(), means)

    def run_labels(
        self, texts: Mapping[str, npt.NDArray[np.int64]], hypotheses: Sequence[Encoded], *, embeddings: bool
    ) -> Outputs:
        """See `Backend.run_labels`."""
        if self._one_pass is None:
            raise BackendFailed("this model cannot read a text once for all labels")
        try:
            logits, means = self._one_pass(texts, hypotheses, embeddings=embeddings)
        except RuntimeError as error:
            raise BackendFailed(
                f"the model failed on {len(texts['input_ids'])} texts with {len(hypotheses)} labels "
                f"({_first_line(error)})"
            ) from error
        return Outputs(logits.float().cpu().numpy(), means.float().cpu().numpy() if means is not None else None)

    def _agrees(self, one_pass: OnePass) -> bool:
        """Whether it gives what pairs one by one give, tried on a few tokens."""
        segments = np.array([[LEADING, TEXT, TEXT, TEXT, HYPOTHESIS, HYPOTHESIS]])
        pair = {
            "input_ids": np.array([[2, 5, 6, 3, 7, 3]]),
            "token_type_ids": np.array([[0, 0, 0, 0, 1, 1]]),
            "segments": segments,
        }
        if int(getattr(self._model.config, "type_vocab_size", 0) or 0) < 2:
            del pair["token_type_ids"]
        text = {name: array[:, :4] for name, array in pair.items()}
        hypothesis = Encoded([7, 3], [1, 1], [HYPOTHESIS, HYPOTHESIS], False)
        try:
            expected = self.run(pair, attention="shared_text", embeddings=True)
            logits, means = one_pass(text, [hypothesis], embeddings=True)
        except (RuntimeError, TypeError, AttributeError, BackendFailed):
            return False
        pairs = ((logits[0], expected.logits), (means, expected.embeddings))
        return all(
            one is not None and other is not None and np.allclose(one.float().cpu().numpy(), other, 1e-3, 1e-4)
            for one, other in pairs
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no warnings of transformers: what is wrong with a folder becomes an error below."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _additive(visible: npt.NDArray[np.bool_]) -> torch.Tensor:
    """`[B, L, L]` booleans as the `[B, 1, L, L]` float mask that is added to attention scores."""
    mask = torch.from_numpy(visible)[:, None]
    return torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)


def _text_means(states: torch.Tensor, segments: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Mean of `[B, L, H]` over the tokens of the text; zeros where a text has no token at all."""
    weights = torch.from_numpy((segments == TEXT).astype(np.float32)).to(states.device)[..., None]
    means = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return np.asarray(means.cpu().numpy(), dtype=np.float32)
