"""Ways to train a classifier on few rows of each label; the table FEW_SHOT closes the file.

Every way ends with a linear head on the mean of the token states: a logistic regression of the rows and of the names
of the labels, each of which counts as one more row. The ways differ in what is trained besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config.data import RecastConfig
from finetune.config.model import ModelConfig
from finetune.core import model_folder
from finetune.core.device import torch_device
from finetune.core.errors import TrainingError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import Location
from finetune.core.tokenization import Encoded, TextEncoder
from finetune.data.nli_pairs import ENTAILMENT, recast, spelled_out

STRENGTH = 30.0
"""Inverse strength C of the L2 penalty, on features of mean length 1."""

BATCH, CONTRASTIVE_BATCH, WARMUP = 16, 32, 0.1
"""Rows of a batch; of the contrastive loss, which compares the rows of a batch, more. Fraction of the updates over
which the learning rate rises."""

FEWEST_UPDATES, MOST_UPDATES = 12, 150
"""Updates of a body, whatever the number of rows: fewer hardly move it, and more take long and gain little."""

AUTO = "auto"
"""Name of the choice among the entries of FEW_SHOT by cross-validation."""

TEMPERATURE = 0.1
"""Of the contrastive loss."""

UNSEEN = -10.0
"""Logit of a label without a row."""

Array = npt.NDArray[Any]
Loss = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class FewRows:
    """The rows to train on.

    Attributes:
        texts, tokens, targets: text, token ids and label id of each row.
        weights: weight of each row; None for 1.
    """

    texts: Sequence[str]
    tokens: Sequence[Encoded]
    targets: Array
    weights: Array | None = None

    def take(self, places: Sequence[int]) -> FewRows:
        """Return the rows at these positions."""
        weights = self.weights[list(places)] if self.weights is not None else None
        parts = [self.texts[place] for place in places], [self.tokens[place] for place in places]
        return FewRows(*parts, self.targets[list(places)], weights)


class Learner:
    """A classifier on a base's body, and the steps that the entries of FEW_SHOT take.

    Args:
        model: a `TextClassifier` with a linear head on mean pooling.
        precision, device: as in the config.

    Attributes:
        updates: updates made so far.
    """

    def __init__(
        self,
        base: Location,
        model: Any,
        labels: LabelSpace,
        encoder: TextEncoder,
        *,
        seed: int,
        precision: str,
        device: str,
    ) -> None:
        from finetune.training.arguments import use_bfloat16

        self.base, self.model, self.labels, self.encoder, self.seed = base, model, labels, encoder, seed
        self.updates = 0
        self.place = torch_device(device)
        self.bfloat16 = use_bfloat16(precision, device)
        self.model.to(self.place)
        words = [spelled_out(name) for name in labels.names]
        named = [index for index, name in enumerate(words) if any(letter.isalpha() for letter in name)]
        self.names = FewRows(
            [words[index] for index in named], encoder([words[index] for index in named]), np.array(named, dtype=int)
        )

    def embeddings(self, rows: FewRows) -> Array:
        """Return the mean token states `[N, H]`."""
        from finetune.training.trainer import predict

        head, self.model.head = self.model.head, nn.Identity()
        try:
            return np.asarray(predict(self.model, self.encoder, rows.tokens, shared=False))
        finally:
            self.model.head = head

    def with_names(self, rows: FewRows) -> FewRows:
        """Return the rows, and the names of the labels as rows."""
        if not len(self.names.targets):
            return rows
        weights = None if rows.weights is None else np.concatenate([rows.weights, np.ones(len(self.names.targets))])
        targets = np.concatenate([rows.targets, self.names.targets])
        return FewRows([*rows.texts, *self.names.texts], [*rows.tokens, *self.names.tokens], targets, weights)

    def fit_head(self, rows: FewRows) -> None:
        """Fit the head on the rows and the names of the labels, with the body as it is."""
        rows = self.with_names(rows)
        write_head(self.model.head[-1], self.embeddings(rows), rows, self.seed)

    def train(self, model: Any, loss: Loss, batches: Iterator[Sequence[int]], updates: int, lr: float) -> None:
        """Make updates of all weights but the word embeddings; the learning rate rises for WARMUP of them, then
        falls."""
        model.train()
        model.get_input_embeddings().requires_grad_(False)  # few rows have few words
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, fused=self.place.type in ("cpu", "cuda"))
        rise = max(1, round(WARMUP * updates))
        for update in range(updates):
            rate = min((update + 1) / rise, (updates - update) / max(1, updates - rise))
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            with torch.autocast(self.place.type, torch.bfloat16, enabled=self.bfloat16):
                value = loss(next(batches))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        if not bool(torch.isfinite(value)):
            raise TrainingError("the run diverged: the loss is not finite. Lower few_shot.lr")
        self.updates += updates
        model.eval()

    def inputs(self, tokens: Sequence[Encoded]) -> dict[str, Tensor]:
        """Return padded rows as the inputs of a model, with `segments`."""
        return {name: torch.from_numpy(array).to(self.place) for name, array in self.encoder.pad(tokens).items()}

    def targets(self, rows: FewRows, places: Sequence[int]) -> Tensor:
        """Return the targets of some rows `[B]`."""
        return torch.as_tensor(rows.targets[list(places)], dtype=torch.int64, device=self.place)


def write_head(output: nn.Linear, features: Array, rows: FewRows, seed: int) -> None:
    """Write a logistic regression on features `[N, H]` into a linear layer; labels without a row get logit UNSEEN."""
    from sklearn.linear_model import LogisticRegression

    with torch.no_grad():
        output.weight.zero_()
        output.bias.fill_(UNSEEN)
        if len(present := np.unique(rows.targets)) == 1:  # a part of a tiny table
            output.bias[int(present[0])] = 0.0
            return
    center = features.mean(axis=0)
    scale = float(np.linalg.norm(features - center, axis=1).mean()) or 1.0
    fitted = LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3, random_state=seed).fit(
        (features - center) / scale, rows.targets, sample_weight=rows.weights
    )
    coefficients, bias = fitted.coef_ / scale, fitted.intercept_
    if len(coefficients) == 1:  # of two labels, the log odds of the second
        coefficients, bias = (
            np.stack([-coefficients[0] / 2, coefficients[0] / 2]),
            np.array([-bias[0] / 2, bias[0] / 2]),
        )
    bias = bias - coefficients @ center
    with torch.no_grad():
        places = torch.as_tensor(fitted.classes_.astype(int))
        output.weight[places] = torch.as_tensor(coefficients, dtype=torch.float32).to(output.weight.device)
        output.bias[places] = torch.as_tensor(bias, dtype=torch.float32).to(output.bias.device)


def shuffled(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of positions, passes without end."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(count).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]


def in_pairs(targets: Array, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches in which every label has two rows or more, drawn without end."""
    random = np.random.default_rng(seed)
    places = {int(label): np.flatnonzero(targets == label) for label in np.unique(targets)}
    several = [label for label, rows in places.items() if len(rows) > 1] or list(places)
    while True:
        chosen = random.permutation(several)[: size // 2]
        each = max(2, size // len(chosen))
        yield [int(place) for label in chosen for place in random.permutation(places[int(label)])[:each]]


def supervised_contrastive(embeddings: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows of -log softmax of their cosines to rows of the same label (Khosla et al. 2020)."""
    unit = F.normalize(embeddings.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    cosines = (unit @ unit.T / temperature).masked_fill(itself, -math.inf)
    same = (targets[:, None] == targets[None, :]) & ~itself
    log_shares = cosines.log_softmax(dim=1).masked_fill(~same, 0.0)
    counts = same.sum(dim=1)
    return -(log_shares.sum(dim=1) / counts.clamp(min=1))[counts > 0].mean()


def frozen(learner: Learner, rows: FewRows) -> None:
    """Only the head, on a frozen body"""
    learner.fit_head(rows)


def full(learner: Learner, rows: FewRows, *, passes: float = 4, lr: float = 1e-4) -> None:
    """The head, then all weights together by cross-entropy (LP-FT, Kumar et al. 2022)"""
    learner.fit_head(rows)
    rows, model = learner.with_names(rows), learner.model

    def loss(places: Sequence[int]) -> Tensor:
        inputs = learner.inputs([rows.tokens[place] for place in places])
        inputs.pop("segments")
        losses = F.cross_entropy(model(**inputs).logits.float(), learner.targets(rows, places), reduction="none")
        if rows.weights is not None:
            losses = losses * torch.as_tensor(rows.weights[list(places)], dtype=losses.dtype, device=losses.device)
        return losses.mean()

    updates = _updates(len(rows.targets), passes, BATCH)
    learner.train(model, loss, shuffled(len(rows.targets), BATCH, learner.seed), updates, lr)


def contrastive(learner: Learner, rows: FewRows, *, passes: float = 8, lr: float = 1e-4) -> None:
    """The body by a contrastive loss, which pulls rows of a label together, then the head (as SetFit does)"""
    pool, model = learner.with_names(rows), learner.model
    if np.bincount(pool.targets).max() < 2:  # no row has a partner
        learner.fit_head(rows)
        return
    head, model.head = model.head, nn.Identity()

    def loss(places: Sequence[int]) -> Tensor:
        inputs = learner.inputs([pool.tokens[place] for place in places])
        inputs.pop("segments")
        return supervised_contrastive(model(**inputs).logits, learner.targets(pool, places), TEMPERATURE)

    updates = _updates(len(pool.targets), passes, CONTRASTIVE_BATCH)
    try:
        learner.train(model, loss, in_pairs(pool.targets, CONTRASTIVE_BATCH, learner.seed), updates, lr)
    finally:
        model.head = head
    learner.fit_head(rows)


def nli(learner: Learner, rows: FewRows, *, passes: float = 2, negatives: int = 1, lr: float = 5e-5) -> None:
    """The body by entailment: each text with its label and with others as hypotheses, then the head"""
    from finetune.modeling.build import body_of
    from finetune.training.trainer import shared_text_bias

    if len(set(rows.targets.tolist())) < 2:  # no other label to contradict
        learner.fit_head(rows)
        return
    classifier, settings, roles = _entailment_model(learner)
    config = RecastConfig(templates=(settings.hypothesis_template,), negatives=negatives)
    names = [learner.labels.names[target] for target in rows.targets]
    pairs = recast(rows.texts, names, config, seed=learner.seed)
    tokens = learner.encoder([rows.texts[place] for place, _, _ in pairs], [sentence for _, sentence, _ in pairs])
    verdicts = np.array([roles.entailment if verdict == ENTAILMENT else roles.contradiction for *_, verdict in pairs])

    def loss(places: Sequence[int]) -> Tensor:
        inputs = learner.inputs([tokens[place] for place in places])
        segments = inputs.pop("segments")
        if settings.attention == "shared_text":
            inputs["attention_mask"] = shared_text_bias(segments, classifier)
        targets = torch.as_tensor(verdicts[list(places)], device=learner.place)
        return F.cross_entropy(classifier(**inputs).logits.float(), targets)

    updates = _updates(len(pairs), passes, BATCH)
    learner.train(classifier, loss, shuffled(len(pairs), BATCH, learner.seed), updates, lr)
    learner.model.encoder.load_state_dict(body_of(classifier).state_dict(), strict=False)
    learner.fit_head(rows)


def _updates(rows: int, passes: float, batch: int) -> int:
    return min(MOST_UPDATES, max(FEWEST_UPDATES, math.ceil(passes * rows / batch)))


def _entailment_model(learner: Learner) -> tuple[Any, Any, Any]:
    """Return the base, an entailment model, with its zero-shot settings and the places of its labels."""
    from finetune.modeling.build import base_config, build_model
    from finetune.modeling.kept_head import plan_head

    folder = model_folder.read(learner.base.source)
    config = ModelConfig(keep_head=True, dropout=0.0)
    plan = plan_head(learner.base, base_config(learner.base), folder.labels, "softmax", config)
    model = build_model(learner.base, folder.labels, config, plan).model
    return model.to(learner.place), folder.settings.zero_shot, folder.labels.nli


def is_entailment_base(base: Location) -> bool:
    """Return whether a base is an entailment model."""
    return base.path is not None and model_folder.read(base.path).is_zero_shot


FEW_SHOT: dict[str, Callable[..., None]] = {
    "frozen": frozen,
    "full": full,
    "nli": nli,
    "contrastive": contrastive,
}
