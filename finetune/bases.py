"""Rank base models for a table: how their tokenizers suit its texts, and what a linear model on their frozen embeddings
reaches on held-out rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.config.data import DataConfig, Source
from finetune.core.device import torch_device
from finetune.core.errors import CheckpointError
from finetune.core.hub import download
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import Location, find, is_finished, served, shipped_dirs
from finetune.core.number_format import figure
from finetune.core.quiet import quiet_transformers
from finetune.core.tokenization import TextEncoder
from finetune.core.weight_files import check_weights
from finetune.data.load import load_splits
from finetune.data.rows import Rows
from finetune.data.tokenized import Tokens
from finetune.data.tokenizer_report import TokenizerReport, tokenizer_report
from finetune.evaluation.evaluate import ScoredSplit, differences, scored_rows
from finetune.evaluation.linear_probe import cross_validated_scores
from finetune.evaluation.metrics import METRICS_OF_TASK

if TYPE_CHECKING:
    import torch

ROWS = 2000
MAX_TOKENS = 128
"""Tokens of a text that are embedded; longer texts would cost minutes and change the order of bases little."""

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class RankedBase:
    """A base model on the rows of a table.

    Attributes:
        parameters, embedding_parameters: weights of the encoder in all, and those of word embeddings among them.
        tokenizer: token statistics, with warnings.
        value, low, high: the metric of the cross-validated linear model, with its 95% interval.
        seconds: time to embed the rows and fit.
    """

    name: str
    parameters: int
    embedding_parameters: int
    tokenizer: TokenizerReport
    value: float
    low: float
    high: float
    seconds: float


@dataclass(frozen=True)
class BaseRanking:
    """Base models, the best first.

    Attributes:
        rows: rows that each was measured on.
        metric: name of the metric.
        recommended: name of the base to start from.
        recommendation: the same in a sentence, with the reason.
        skipped: name -> reason, of candidates that cannot be used.
    """

    rows: int
    metric: str
    bases: tuple[RankedBase, ...]
    recommended: str
    recommendation: str
    skipped: dict[str, str]

    def __str__(self) -> str:
        """Return the ranking as aligned columns, with warnings, skipped candidates and the recommendation below."""
        head = ("base", self.metric, "95% interval", "parameters", "tokens/word", "unknown", "truncated", "seconds")
        rows = [head, *map(_cells, self.bases)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        languages = list(self.bases[0].tokenizer.languages.items())[:4]
        shown = ", ".join(f"{name} {fraction:.0%}" for name, fraction in languages)
        lines += ["", f"a linear model on frozen embeddings, cross-validated on {self.rows:,} rows; languages: {shown}"]
        lines += [f"warning: {warning}" for base in self.bases for warning in base.tokenizer.warnings]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([*lines, self.recommendation])


def _cells(base: RankedBase) -> tuple[str, ...]:
    tokenizer = base.tokenizer
    return (
        *(base.name, figure(base.value), f"{figure(base.low)} to {figure(base.high)}"),
        *(f"{base.parameters / 1e6:.1f}M", f"{tokenizer.tokens_per_word:.2f}", f"{tokenizer.unknown:.2%}"),
        *(f"{tokenizer.truncated:.1%}", f"{base.seconds:.1f}"),
    )


def rank_bases(
    data: Any,
    candidates: Sequence[str] = (),
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    text_pair: str | None = None,
    columns: DataConfig | None = None,
    rows: int = ROWS,
    seed: int = 42,
    models_dir: str | PathLike[str] | None = "models",
    device: str = "auto",
    on_base: Callable[[str], None] = lambda name: None,
) -> BaseRanking:
    """Return base models ranked for a labeled table, by a linear model on their frozen embeddings.

    The linear model is cross-validated on the training rows; validation rows are not used. Embeddings are means of the
    last hidden states.

    Args:
        data: a table file, a pandas or polars frame, a `datasets.Dataset`, or a list of dicts.
        candidates: paths, served names and Hub ids; by default the models that ship, bases in `models_dir`,
            and every encoder in the Hub's cache.
        text, label, text_pair: columns; found where they are obvious.
        columns: all settings of the table, in place of those three.
        rows: most rows to measure on.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        on_base: called with the name of each base before it is measured.

    Raises:
        DataError: no usable rows.
        CheckpointError: a named candidate, or every candidate, cannot be used.
    """
    given = {"text": text, "label": label, "text_pair": text_pair}
    config = columns or DataConfig(**{name: value for name, value in given.items() if value is not None})
    if isinstance(data, str | PathLike):
        config, data = config.model_copy(update={"train": (Source(path=str(data)),)}), None
    splits = load_splits(config, seed=seed, data=data)
    labels, sample = splits.labels, splits.train
    if len(sample) > rows:
        sample = sample.take(sorted(np.random.default_rng(seed).permutation(len(sample))[:rows].tolist()))
    ranked, measured, skipped = [], {}, {}
    for name in dict.fromkeys(candidates or _candidates(models_dir)):
        on_base(name)
        try:
            with quiet_transformers():
                base, split = _measured(
                    download(find(name, models_dir), models_dir), labels, sample, config, seed, device
                )
        except CheckpointError as error:
            if candidates:
                raise
            skipped[name] = str(error)
            continue
        except Exception as error:  # of a model that nobody named, whatever it is
            if candidates:
                raise
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        ranked.append(base)
        measured[name] = split
    if not ranked:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CheckpointError(f"there is no base model to rank ({reasons or 'none is served or cached'}): name one")
    ranked.sort(key=lambda base: -base.value)
    metric = METRICS_OF_TASK[labels.task][0]
    recommended, sentence = _recommendation(ranked, measured, labels, metric)
    return BaseRanking(len(sample), metric, tuple(ranked), recommended, sentence, skipped)


def _candidates(models_dir: str | PathLike[str] | None) -> Iterator[str]:
    """Yield the names of the models that ship, of bases in `models_dir`, and of encoders in the Hub's cache.

    A model that was fine-tuned here is none: it may have been trained on the very rows that it would be ranked on.
    """
    for name, folder in served(models_dir).items():
        if folder.parent in shipped_dirs() or not is_finished(folder):
            yield name
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        files = {file.file_name for revision in repository.revisions for file in revision.files}
        usable = {"config.json", "tokenizer.json"} <= files and any(file.endswith(".safetensors") for file in files)
        if repository.repo_type == "model" and usable and _is_encoder(repository):
            yield str(repository.repo_id)


def _is_encoder(repository: Any) -> bool:
    """Return whether the config of a cached repository describes no decoder."""
    files = (file for revision in repository.revisions for file in revision.files if file.file_name == "config.json")
    config = json.loads(Path(next(files).file_path).read_text(encoding="utf-8"))
    decoders = [name for name in config.get("architectures") or () if "ForCausalLM" in name]
    return not (config.get("is_encoder_decoder") or config.get("is_decoder") or decoders)


def _measured(
    base: Location, labels: LabelSpace, rows: Rows, config: DataConfig, seed: int, device: str
) -> tuple[RankedBase, ScoredSplit]:
    from finetune.modeling.build import base_config, body_of, build_model

    if base.path is not None:
        check_weights(base.path)
    described = base_config(base).to_dict()
    encoder = TextEncoder.load(base.source, described, max_length=config.max_length)
    tokens = Tokens(rows.texts, rows.pairs, encoder)
    report = tokenizer_report(encoder, rows.texts, tokens, base=base.name, seed=seed)
    body = body_of(build_model(base, labels).model).eval()
    begin = time.perf_counter()
    short = TextEncoder.load(base.source, described, max_length=min(encoder.max_length, MAX_TOKENS))
    features = embeddings(body, short, rows, device)
    scores = cross_validated_scores(labels, features, rows, seed=seed)
    seconds = time.perf_counter() - begin
    scored = scored_rows(labels, scores, rows, None)
    entry = scored.metrics[METRICS_OF_TASK[labels.task][0]]
    words = body.get_input_embeddings().weight.numel()
    parameters = sum(weight.numel() for weight in body.parameters())
    ranked = RankedBase(base.name, parameters, words, report, entry["value"], entry["low"], entry["high"], seconds)
    return ranked, ScoredSplit(scored, scores, rows, [])


def embeddings(body: torch.nn.Module, encoder: TextEncoder, rows: Rows, device: str) -> npt.NDArray[np.float32]:
    """Return the mean of the last hidden states over the tokens of each row, `[N, H]`."""
    import torch

    from finetune.training.arguments import use_bfloat16

    encoded = encoder(list(rows.texts), list(rows.pairs) if rows.pairs is not None else None)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    place = torch_device(device)
    body = body.to(place)
    means: list[Any] = [None] * len(encoded)
    while order:
        size = max(1, BATCH_TOKENS // len(encoded[order[-1]]))
        part, order = order[-size:], order[:-size]
        batch = {
            name: torch.from_numpy(array).to(place) for name, array in encoder.pad([encoded[i] for i in part]).items()
        }
        batch.pop("segments")
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=use_bfloat16("auto", device)):
            states = body(**batch).last_hidden_state.float()
        weights = batch["attention_mask"].unsqueeze(-1).float()
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        for index, row in zip(part, mean.cpu().numpy(), strict=True):
            means[index] = row
    return np.stack(means)


def text_embedder(
    name: str, *, models_dir: str | PathLike[str] | None = "models", device: str = "auto", revision: str | None = None
) -> Callable[[Sequence[str]], npt.NDArray[np.float32]]:
    """Return a function from texts to the mean last hidden states `[N, H]` of a base model.

    Raises:
        CheckpointError: the base cannot be used.
    """
    from finetune.modeling.build import base_config, body_of, build_model

    base = download(find(name, models_dir), models_dir, revision=revision)
    described = base_config(base).to_dict()
    encoder = TextEncoder.load(base.source, described, max_length=None)
    short = TextEncoder.load(base.source, described, max_length=min(encoder.max_length, MAX_TOKENS))
    with quiet_transformers():
        body = body_of(build_model(base, LabelSpace("binary", ("no", "yes"))).model).eval()

    def embedded(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return embeddings(body, short, Rows(list(texts), None, [None] * len(texts), [], name), device)

    return embedded


def _recommendation(
    ranked: Sequence[RankedBase], measured: dict[str, ScoredSplit], labels: LabelSpace, metric: str
) -> tuple[str, str]:
    """Return the name of the base to start from, and a sentence: the smallest encoder of those that the best one does
    not clearly beat."""
    best = ranked[0]
    equal, gaps = [best], {}
    for other in ranked[1:]:
        gaps[other.name] = differences(labels, measured[other.name], measured[best.name])[metric]
        if gaps[other.name]["low"] <= 0:
            equal.append(other)
    choice = min(equal, key=lambda base: (base.parameters - base.embedding_parameters, -base.value))
    sentence = f"start from {choice.name}: {metric} {figure(choice.value)} of a linear model on its embeddings"
    if len(ranked) == 1:
        return choice.name, f"{sentence}; there is no other candidate"
    if choice is not best:
        gap = gaps[choice.name]
        return choice.name, (
            f"{sentence}; it is smaller than {best.name}, which is better by {figure(gap['value'])} "
            f"[{figure(gap['low'])}, {figure(gap['high'])}], not more than chance explains"
        )
    beaten = next((base for base in ranked[1:] if base not in equal), None)
    if beaten is None:
        return choice.name, f"{sentence}; no other candidate is clearly worse"
    gap = gaps[beaten.name]
    return choice.name, (
        f"{sentence}, {figure(gap['value'])} [{figure(gap['low'])}, {figure(gap['high'])}] above {beaten.name}"
    )
