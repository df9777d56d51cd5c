"""PyTorch: a sequence classifier of transformers, in float32 or bfloat16, on the GPU where there is one."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune.core.attention_mask import HYPOTHESIS, LEADING, PADDING, TEXT, shared_text_mask
from finetune.core.device import torch_device
from finetune.core.model_folder import CUSTOM_HEAD, AttentionMode, ModelFolder
from finetune.core.tokenization import Encoded
from finetune.modeling.cls_only_last_layer import first_token_only
from service.errors import BackendFailed
from service.inference.backends.base import CPU_BATCH, LOGIT_TOLERANCE, Arrays, BatchSize, Outputs, Precision
from service.inference.backends.one_pass import HIDDEN, OnePass
from service.inference.backends.packing import Flat, Packed, arrays_of, flat, flat_labels, packed
from service.inference.backends.unpadded import Attend, Bounds, Tokens, Unpadded, flash_attention, one_by_one

SHARED_TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert")
"""Families whose attention takes a 4-D mask unchanged; a test runs each of them."""


CUDA_BATCH = BatchSize(tokens=2**18, rows=4096)
"""Maximum: the launch of a batch's kernels takes milliseconds, however many tokens it has."""

MEMORY_SHARE = 0.1
"""Share of a GPU's memory for the widest states of a batch."""

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchBackend:
    """A loaded model; implements `service.inference.backends.base.Backend`."""

    name = "torch"

    def __init__(self, model: Any, *, family: str, precision: Precision = "float32", device: str = "auto") -> None:
        self.why = ""
        self.precision: Precision = precision
        self.shared_text = family in SHARED_TEXT_FAMILIES
        self._device = torch_device(device)
        self.model = model.eval().to(self._device)
        self.unpadded: Unpadded | None = None
        _use_one_thread_if_forked()
        # faster ways to read the model are tried in float32, where differences are plain
        one_pass = OnePass.of(self.model) if self.shared_text else None
        self.graph = one_pass if one_pass is not None and self._agrees(one_pass) else None
        self.one_pass = self.graph is not None
        with first_token_only(self.model) as self._first_token_only:
            pass
        attend = flash_attention() if precision == "bfloat16" and self._device.type == "cuda" else None
        readable = attend is not None and self.without_padding(one_by_one) is not None
        self.model.to(DTYPES[precision])
        if attend is not None and readable:
            self.unpadded = self.without_padding(attend)
        self.is_padded = self.unpadded is None
        self.batch = _on_cuda(self.model.config, precision, self._device) if self._device.type == "cuda" else CPU_BATCH

    @classmethod
    def load(cls, folder: ModelFolder, precision: Precision = "float32", *, device: str = "auto") -> TorchBackend:
        """Return the model of a checked folder: safetensors only, no remote code.

        Raises:
            ConfigError: the device is not available.
            BackendFailed: the weights are not those of a sequence classifier, or the precision is not torch's.
        """
        if precision not in DTYPES:
            raise BackendFailed(f"the torch backend computes in {' or '.join(DTYPES)}, not in {precision}")
        from transformers import AutoModelForSequenceClassification

        if folder.config.get("model_type") == CUSTOM_HEAD:
            import finetune.modeling.build  # noqa: F401 (registers the class that reads it)
        try:
            with quiet():
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    str(folder.path),
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise BackendFailed(f"{folder.path}: the model cannot be loaded ({_first_line(error)})") from error
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise BackendFailed(
                f"{folder.path}: these weights are not a classifier's, {missing} is missing",
                hint="fine-tune it first (rehead finetune)",
            )
        return cls(model, family=str(folder.config.get("model_type", "")), precision=precision, device=device)

    def run(self, inputs: Arrays, *, attention: AttentionMode, embeddings: bool) -> Outputs:
        """See `Backend.run`."""
        _use_one_thread_if_forked()
        segments = inputs["segments"]
        if self.unpadded is not None and (attention == "shared_text" or not embeddings):
            with _failing("a batch of {} x {} tokens".format(*segments.shape)), torch.inference_mode():
                return self._run_unpadded(self.unpadded, inputs, attention, embeddings)
        tensors = self._tensors({name: array for name, array in inputs.items() if name != "segments"})
        if attention == "shared_text":
            tensors["attention_mask"] = _additive(shared_text_mask(segments), self.model.dtype).to(self._device)
        first_token = self._first_token_only and not embeddings and attention == "ordinary"
        shortened = first_token_only(self.model, wanted=first_token, tried=True)
        with _failing("a batch of {} x {} tokens".format(*segments.shape)), torch.inference_mode(), shortened:
            output = self.model(**tensors, output_hidden_states=embeddings)
        means = _text_means(output.hidden_states[-1], segments) if embeddings else None
        return Outputs(_array(output.logits), means)

    def run_labels(self, texts: Arrays, packs: Sequence[Packed], *, embeddings: bool) -> Outputs:
        """See `Backend.run_labels`."""
        if self.graph is None:
            raise BackendFailed("this model cannot read a text once for all labels")
        _use_one_thread_if_forked()
        count = sum(len(pack.starts) for pack in packs)
        with _failing(f"{len(packs)} texts with {count} labels"), torch.inference_mode():
            if self.unpadded is not None:
                labels, places = flat_labels(texts, packs)
                counts = np.array([len(pack.starts) for pack in packs])
                outputs = self._labeled(self.unpadded, texts, labels, counts, embeddings)
                return replace(outputs, logits=outputs.logits[places])
            tensors = self._tensors(arrays_of(texts, packs))
            outputs = (self.graph if embeddings else self.graph.without_embeddings())(**tensors)
        return Outputs(*map(_array, outputs))

    def close(self) -> None:
        """See `Backend.close`."""
        del self.model, self.graph, self.unpadded

    def _run_unpadded(self, model: Unpadded, inputs: Arrays, attention: AttentionMode, embeddings: bool) -> Outputs:
        segments = inputs["segments"]
        if attention == "ordinary":
            rows = flat(inputs, segments != PADDING)
            return Outputs(_array(model.rows(self._tokens(rows), self._bounds(rows.lengths))))
        # a sequence is a text with one label; the label is what sees the whole sequence: [CLS] and the hypothesis
        others = flat(inputs, (segments != PADDING) & (segments != TEXT))
        return self._labeled(model, inputs, others, np.ones(len(segments), dtype=np.int64), embeddings)

    def _labeled(
        self, model: Unpadded, texts: Arrays, labels: Flat, counts: npt.NDArray[np.int64], embeddings: bool
    ) -> Outputs:
        own = flat(texts, texts["segments"] == TEXT)
        by_text = np.add.reduceat(labels.lengths, np.cumsum([0, *counts[:-1]]))
        bounds = (self._bounds(lengths) for lengths in (labels.lengths, by_text, counts))
        logits, means = model.labeled(
            self._tokens(own), self._bounds(own.lengths), self._tokens(labels), *bounds, embeddings=embeddings
        )
        return Outputs(_array(logits), _array(means) if means is not None else None)

    def _tokens(self, tokens: Flat) -> Tokens:
        ids, positions = (torch.from_numpy(array).to(self._device) for array in (tokens.ids, tokens.positions))
        return Tokens(ids, positions, None if tokens.types is None else torch.from_numpy(tokens.types).to(self._device))

    def _bounds(self, lengths: npt.NDArray[np.int64]) -> Bounds:
        edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return Bounds(torch.from_numpy(edges).to(self._device), int(lengths.max()), int(edges[-1]))

    def _tensors(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    def _agrees(self, one_pass: OnePass) -> bool:
        """Return whether a pass over text and label gives what their pair gives under the shared-text mask."""
        pair, text, label = _trial_batches(self.model.config)
        self._first_token_only = False
        try:
            expected = self.run(pair, attention="shared_text", embeddings=True)
            with torch.inference_mode():
                outputs = Outputs(*map(_array, one_pass(**self._tensors(arrays_of(text, [label, label])))))
        except UNREADABLE:
            return False
        return _are_close(outputs, expected, "float32")

    def without_padding(self, attend: Attend) -> Unpadded | None:
        """Return the model read without padding, or None where a trial gives other outputs than padded batches.

        The trial runs the whole model in the precision it is in now, so that a layer with BERT's code and other numbers
        (hooks, replaced parts, other biases) is found.
        """
        pair, text, label = _trial_batches(self.model.config)

        def outputs() -> Iterator[Outputs]:
            yield self.run(pair, attention="ordinary", embeddings=False)
            if self.graph is not None:
                yield self.run(pair, attention="shared_text", embeddings=True)
                yield self.run_labels(text, [label, label], embeddings=True)
                yield self.run_labels(text, [label, label], embeddings=False)

        before, precision = self.unpadded, self.precision if self.model.dtype == DTYPES[self.precision] else "float32"
        try:
            self.unpadded = None
            expected = list(outputs())
            self.unpadded = unpadded = Unpadded.of(self.model, attend)
            same = unpadded is not None and all(
                _are_close(output, other, precision) for output, other in zip(outputs(), expected, strict=True)
            )
        except UNREADABLE:
            return None
        finally:
            self.unpadded = before
        return unpadded if same else None


UNREADABLE = (RuntimeError, TypeError, AttributeError, BackendFailed)
"""Raised by models whose layers only look like BERT's."""


def _trial_batches(config: Any) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, npt.NDArray[np.int64]], Packed]:
    """Return two padded pairs, their texts, and a label: a few token ids that every vocabulary has."""
    pair = {
        "input_ids": np.array([[2, 5, 6, 3, 7, 3], [2, 6, 3, 7, 3, 0]]),
        "token_type_ids": np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
        "segments": np.array(
            [
                [LEADING, TEXT, TEXT, TEXT, HYPOTHESIS, HYPOTHESIS],
                [LEADING, TEXT, TEXT, HYPOTHESIS, HYPOTHESIS, PADDING],
            ]
        ),
    }
    if int(getattr(config, "type_vocab_size", 0) or 0) < 2:
        del pair["token_type_ids"]
    text = {name: array[:, :4].copy() for name, array in pair.items()}
    text["segments"][1, 3] = PADDING
    text["attention_mask"][1, 3] = 0
    first, second = np.arange(1), np.arange(2)
    hypothesis = Encoded(np.array([7, 3]), second * 0 + 1, second * 0 + HYPOTHESIS, False)
    return pair, text, packed([hypothesis], Encoded(first + 2, first, first + LEADING, False))


def _are_close(outputs: Outputs, expected: Outputs, precision: Precision) -> bool:
    pairs = ((outputs.logits, expected.logits), (outputs.embeddings, expected.embeddings))
    relative = max(LOGIT_TOLERANCE[precision], 1e-3)
    for array, other in pairs:
        if array is None or other is None:
            if array is not other:
                return False
        elif not np.allclose(array, other, relative, relative * max(0.1, float(np.abs(other).max()))):
            return False
    return True


_process = os.getpid()


def _use_one_thread_if_forked() -> None:
    """Compute on one thread in a process that was forked after this module was imported.

    OpenMP's threads do not exist there, and work that waits for them would hang. Nothing is changed in the process that
    imported this module, nor in forked processes that never compute.
    """
    global _process
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process = os.getpid()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # mostly for lack of memory
        raise BackendFailed(f"the model failed on {what} ({_first_line(error)})") from error


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence progress bars, warnings and the logs of transformers and of `loggers` while this lasts."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    levels = {name: logging.getLogger(name).level for name in loggers}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


def _on_cuda(config: Any, precision: Precision, device: torch.device) -> BatchSize:
    """Return the batch size that fits into the GPU's memory."""
    facts = config.to_dict()
    width = int((facts.get("encoder") or facts).get("intermediate_size") or 4096)
    budget = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return BatchSize(min(CUDA_BATCH.tokens, int(budget / (width * DTYPES[precision].itemsize))), CUDA_BATCH.rows)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _additive(visible: npt.NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    """Return `[B, L, L]` booleans as the `[B, 1, L, L]` mask that is added to attention scores."""
    mask = torch.from_numpy(visible)[:, None]
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, HIDDEN)


def _text_means(states: torch.Tensor, segments: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the mean of `[B, L, H]` over the tokens of the text; zeros for a text without tokens."""
    weights = torch.from_numpy((segments == TEXT).astype(np.float32)).to(states.device)[..., None]
    means = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return np.asarray(means.cpu().numpy(), dtype=np.float32)
