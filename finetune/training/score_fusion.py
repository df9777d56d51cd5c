"""Fits the score fusion of entailment and similarity that a zero-shot model records, on labeled tables.

service/inference/zero_shot.py uses the fitted weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.data import DataConfig, Source
from finetune.core.errors import ConfigError
from finetune.core.events import Info, Listener
from finetune.core.hypothesis import fill
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import ScoreFusion, ZeroShotSettings
from finetune.core.scores import log_softmax
from finetune.core.tokenization import TextEncoder
from finetune.data.load import read_source
from finetune.data.nli_pairs import spelled_out
from finetune.data.rows import Rows
from finetune.modeling.build import body_of
from finetune.training.auxiliary_losses import mean_of_text
from finetune.training.trainer import predict, shared_text_bias

COSINE_WEIGHTS = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0)
"""Candidates for `ScoreFusion.cosine_weight`; the one with the best mean accuracy over the tables is used."""


def fit(
    model: Any,
    encoder: TextEncoder,
    settings: ZeroShotSettings,
    labels: LabelSpace,
    sources: Sequence[Source],
    *,
    seed: int,
    say: Listener,
) -> ScoreFusion:
    """Return the score fusion that classifies these labeled tables best, each text against all labels of its table.

    Raises:
        ConfigError: the model has no entailment and contradiction labels.
    """
    from sklearn.linear_model import LogisticRegression

    roles = labels.nli
    if roles is None:
        raise ConfigError("zero_shot.fit_on requires a model with the labels entailment and contradiction")
    accuracies, margins, similarities, correct = [], [], [], []
    for source in sources:
        rows = read_source(source, DataConfig(), seed=seed)
        names = sorted(set(rows.values))
        logits, cosines = _measured(model, encoder, settings, rows, names)
        entailed = log_softmax(logits)[:, :, roles.entailment]
        targets = np.array([names.index(value) for value in rows.values])
        fused = [np.mean((entailed + weight * cosines).argmax(axis=1) == targets) for weight in COSINE_WEIGHTS]
        embedding = np.mean(cosines.argmax(axis=1) == targets)
        say(
            Info(
                f"score fusion on {rows.source} ({len(rows)} rows, {len(names)} labels): nli {fused[0]:.3f}, "
                f"embedding {embedding:.3f}, both {max(fused):.3f} at {COSINE_WEIGHTS[int(np.argmax(fused))]:g}"
            )
        )
        accuracies.append(fused)
        margins.append((logits[:, :, roles.entailment] - logits[:, :, roles.contradiction]).ravel())
        similarities.append(cosines.ravel())
        correct.append((np.arange(len(names))[None, :] == targets[:, None]).ravel())
    best = COSINE_WEIGHTS[int(np.mean(accuracies, axis=0).argmax())]
    features = np.stack([np.concatenate(margins), np.concatenate(similarities)], axis=1)
    # balanced: a label that applies should score above 0.5, however many labels there are
    regression = LogisticRegression(class_weight="balanced").fit(features, np.concatenate(correct))
    nli, cosine = (float(value) for value in regression.coef_[0])
    return ScoreFusion(best, nli, cosine, float(regression.intercept_[0]))


def embeddings(model: Any, encoder: TextEncoder, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the mean of each text's last states under the shared-text mask, normalized: `[N, H]`."""
    import torch

    encoded, vectors = encoder(texts), []
    body = body_of(model).eval()
    for start in range(0, len(encoded), 64):
        arrays = encoder.pad(encoded[start : start + 64])
        batch = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
        segments = batch.pop("segments")
        batch["attention_mask"] = shared_text_bias(segments, model)
        with torch.inference_mode():
            states = body(**batch).last_hidden_state
            vectors.append(torch.nn.functional.normalize(mean_of_text(states, segments), dim=-1).cpu().double().numpy())
    return np.concatenate(vectors)


def _measured(
    model: Any, encoder: TextEncoder, settings: ZeroShotSettings, rows: Rows, names: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return NLI logits `[N, labels, classes]` and cosines `[N, labels]` of every text with every label."""
    hypotheses = [fill(settings.hypothesis_template, spelled_out(name)) for name in names]
    texts = [text for text in rows.texts for _ in names]
    encoded = encoder(texts, hypotheses * len(rows))
    logits = predict(model, encoder, encoded, shared=settings.attention == "shared_text")
    named = embeddings(model, encoder, hypotheses)
    if settings.label_embedding == "sentence_and_name":
        named += embeddings(model, encoder, [spelled_out(name) for name in names])
        named /= np.linalg.norm(named, axis=1, keepdims=True)
    cosines = embeddings(model, encoder, rows.texts) @ named.T
    return logits.reshape(len(rows), len(names), -1).astype(np.float64), cosines
