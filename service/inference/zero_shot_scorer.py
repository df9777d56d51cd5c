"""One zero-shot request: which rows it submits to the model, and how their outputs become scores of the labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finetune.core.fork_safety import Lock
from finetune.core.labels import NliRoles, shown
from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer, ZeroShotSettings
from finetune.core.scores import Floats
from finetune.core.tokenization import Encoded
from service.errors import BadRequest, ServiceError
from service.inference import zero_shot
from service.inference.label_sets import LabelSet, LabelSets
from service.inference.label_wording import wording_of
from service.inference.model_runner import CallOptions, ModelRunner, RowOutput, SequenceKind
from service.inference.steps import PARTS_AT_ONCE, Part, Steps, Submitted, inline, overlapping, parts_of
from service.schema import SCORERS, Answer, ZeroShotRequest, one_of

CACHED_LABELS = 4096


@dataclass(frozen=True, slots=True)
class RawScores:
    """NLI logits `[N, L, C]` and cosines `[N, L]` of texts and labels, which texts were truncated, and the texts'
    embeddings `[N, H]` where they are independent of the labels."""

    logits: npt.NDArray[np.float32] | None
    cosine: Floats | None
    truncated: list[bool]
    embeddings: npt.NDArray[np.float32] | None = None


class TextRows(NamedTuple):
    """The texts of a request as parts of pairs, and which were truncated."""

    rows: list[Encoded]
    truncated: list[bool]


class LabelEmbeddings:
    """A cache of the embeddings of labels and their sentences, each encoded alone; thread-safe."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._cache: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def get(self, sentences: Sequence[str], options: CallOptions) -> Steps[npt.NDArray[np.float32]]:
        """Return the steps to the embeddings `[L, H]`."""
        with self._lock:
            embeddings = {sentence: self._cache.get(sentence) for sentence in sentences}
        missing = [sentence for sentence, embedding in embeddings.items() if embedding is None]
        if missing:
            outputs = yield (yield partial(self._submit, missing, options))
            with self._lock:
                for sentence, output in zip(missing, outputs, strict=True):
                    embeddings[sentence] = self._cache[sentence] = output.embedding
                while len(self._cache) > CACHED_LABELS:
                    self._cache.popitem(last=False)
        return np.stack([embedding for sentence in sentences if (embedding := embeddings[sentence]) is not None])

    def _submit(self, sentences: Sequence[str], options: CallOptions) -> Future[list[RowOutput]]:
        with options.work.tokenizing():
            rows = self._runner.encoder(sentences)
        return self._runner.rows(SequenceKind("shared_text", True), rows, options)


class ZeroShotScorer:
    """A request with the settings of the model's folder in place of what it leaves open.

    Raises:
        BadRequest: labels, template, scorer or shortlist are invalid.
    """

    def __init__(
        self,
        runner: ModelRunner,
        sets: LabelSets,
        embeddings: LabelEmbeddings,
        nli: tuple[NliRoles, ZeroShotSettings],
        request: ZeroShotRequest,
        attention: AttentionMode,
        options: CallOptions,
    ) -> None:
        self._runner, self._embeddings = runner, embeddings
        self._roles, self._settings = nli
        self._multi_label, self._profile = request.multi_label, request.profile
        self._attention = attention
        self._options = options
        self._scorer: Scorer = one_of("scorer", request.scorer or self._settings.scorer, SCORERS)
        template = request.hypothesis_template
        template = zero_shot.check_template(self._settings.hypothesis_template if template is None else template)
        self.names = request.labels
        self._wording = wording_of(request, template)
        self.labels: LabelSet = sets.of_sentences(self._wording.words, self._wording.sentences)
        self._one_pass = attention == "shared_text" and runner.backend.one_pass
        self._shortlist = request.shortlist
        can_shortlist = self._one_pass and self._scorer != "embedding"
        if self._shortlist is not None and not (can_shortlist and self._shortlist >= 1):
            raise BadRequest(
                "shortlist must be a whole number from 1; it needs attention shared_text, and scorer nli or both"
            )
        if self._is_shortlisted and self._wording.has_phrasings:
            raise BadRequest("shortlist does not go with labels that have phrasings: leave one of them out")
        # with the shared-text mask, the text's embedding comes from the same pass
        self._same_pass = self._scorer == "both" and attention == "shared_text"

    def submit(self, texts: Sequence[str]) -> Submitted:
        """Tokenize texts and submit their rows."""
        runner, labels, options = self._runner, self.labels, self._options
        with options.work.tokenizing():
            if self._scorer == "embedding":
                rows = runner.encoder(texts)
            else:
                rows = runner.encoder.before_hypotheses(texts, labels.longest)
        context = TextRows(rows, [row.truncated for row in rows])
        if self._scorer == "embedding" or self._is_shortlisted:
            return Submitted([runner.rows(SequenceKind("shared_text", True), rows, options)], context)
        futures: list[Future[list[RowOutput]]] = []
        try:
            if self._one_pass:
                for pack in labels.packs:
                    packs = [pack] * len(rows)
                    futures.append(runner.labeled(rows, packs, options, embeddings=self._same_pass))
            else:
                pairs = [row.followed_by(end) for row in rows for end in labels.ends]
                futures.append(runner.rows(SequenceKind(self._attention, self._same_pass), pairs, options))
            if self._scorer == "both" and not self._same_pass:
                futures.append(runner.rows(SequenceKind("shared_text", True), runner.encoder(texts), options))
        except ServiceError:
            for future in futures:  # a call that is refused in part is not computed in part
                future.cancel()
            raise
        return Submitted(futures, context)

    def finish(self, outputs: list[list[RowOutput]], context: TextRows) -> Steps[tuple[Floats, list[bool]]]:
        """Return the steps from the model's outputs to scores `[N, L]`, and which texts were truncated."""
        if self._is_shortlisted:
            return (yield from self._shortlist_scores(outputs[0], context)), context.truncated
        raw = yield from self.raw_scores(outputs, context)
        scores = self._collapsed(raw.logits, raw.cosine)
        if self._profile is not None:
            scores = self._profile.scores(scores, self.names)
        return scores, raw.truncated

    def raw_scores(self, outputs: list[list[RowOutput]], context: TextRows) -> Steps[RawScores]:
        """Return the steps from the model's outputs to logits and cosines of each text and label."""
        texts, count = len(context.rows), len(self.labels.labels)
        logits: npt.NDArray[np.float32] | None = None
        if self._scorer != "embedding":
            if self._one_pass:
                logits = np.stack(
                    [np.concatenate([row.logits for row in packs]) for packs in zip(*outputs, strict=True)]
                )
            else:
                logits = np.stack([row.logits for row in outputs[0]]).reshape(texts, count, -1)
        if self._scorer == "nli":
            return RawScores(logits, None, context.truncated)
        means = _embeddings(outputs[0] if self._one_pass else outputs[-1])  # one for each text, or for each pair
        means = means.reshape(texts, -1, means.shape[-1])
        cosine = zero_shot.cosines(means, (yield from self._directions()))
        return RawScores(logits, cosine, context.truncated, means[:, 0])

    @property
    def _is_shortlisted(self) -> bool:
        return self._shortlist is not None and self._shortlist < len(self.names)

    def _directions(self) -> Steps[npt.NDArray[Any]]:
        """Return the steps to the embeddings `[L, H]` of the labels."""
        if not self._wording.is_plain:
            return (yield from self._described_directions())
        labels = self.labels
        sentences = yield from self._embeddings.get(labels.sentences, self._options)
        if self._settings.label_embedding != "sentence_and_name":
            return sentences
        names = yield from self._embeddings.get(labels.labels, self._options)
        return zero_shot.mean_direction(sentences, names)

    def _described_directions(self) -> Steps[npt.NDArray[Any]]:
        """Return the steps to the sums of the embeddings `[L, H]` of each label's texts, each of length 1."""
        wording, with_name = self._wording, self._settings.label_embedding == "sentence_and_name"
        texts: list[tuple[str, ...]] = []
        begin = 0
        for count, own in zip(wording.counts, wording.texts, strict=True):
            words, sentences = wording.words[begin : begin + count], wording.sentences[begin : begin + count]
            texts.append((*sentences, *(own or (words if with_name else ()))))
            begin += count
        units = zero_shot.unit(
            (yield from self._embeddings.get([text for own in texts for text in own], self._options))
        )
        ends = np.cumsum([len(own) for own in texts])
        return np.stack([part.sum(axis=0) for part in np.split(units, ends[:-1])])

    def _shortlist_scores(self, outputs: list[RowOutput], context: TextRows) -> Steps[Floats]:
        """Return the steps to scores `[N, L]`, by the model for the nearest labels of each text; 0 for the others."""
        cosine = zero_shot.cosines(_embeddings(outputs)[:, None], (yield from self._directions()))
        nearest = np.sort(np.argsort(-cosine, axis=1, kind="stable")[:, : self._shortlist], axis=1)
        packs = [self.labels.pack(numbers) for numbers in nearest.tolist()]
        labeled = yield (yield partial(self._runner.labeled, context.rows, packs, self._options, embeddings=False))
        logits = np.stack([row.logits for row in labeled])
        scores = np.zeros(cosine.shape)
        nearest_scores = self._collapsed(logits, np.take_along_axis(cosine, nearest, axis=1))
        np.put_along_axis(scores, nearest, nearest_scores, axis=1)
        return scores

    def _collapsed(self, logits: npt.NDArray[Any] | None, cosine: Floats | None) -> Floats:
        return zero_shot.collapse(
            logits,
            cosine,
            roles=self._roles,
            scorer=self._scorer,
            fusion=self._settings.fusion,
            multi_label=self._multi_label,
            counts=self._wording.counts if self._wording.has_phrasings else None,
        )


def answers_by_labels(
    texts: Sequence[str],
    requests: Sequence[ZeroShotRequest],
    *,
    scorer_of: Callable[[ZeroShotRequest], ZeroShotScorer],
    rows: int,
) -> Steps[list[Answer]]:
    """Return the steps to an answer for each text; texts of equal requests are computed together.

    Args:
        scorer_of: returns the scorer of a request.
        rows: texts times hypotheses that are submitted together.
    """
    groups: dict[ZeroShotRequest, dict[str, Answer | None]] = {}
    for text, key in zip(texts, requests, strict=True):
        groups.setdefault(key, {})[text] = None
    parts: list[Part] = []
    for key, group in groups.items():
        scorer = yield inline(partial(scorer_of, key), sum(map(len, key.labels)))
        for part in parts_of(list(group), max(1, rows // len(scorer.labels.labels))):
            take = partial(_take, scorer, part, group)
            parts.append((inline(partial(scorer.submit, part), sum(map(len, part))), take))
    yield from overlapping(parts, PARTS_AT_ONCE)
    return [answer for text, key in zip(texts, requests, strict=True) if (answer := groups[key][text]) is not None]


def _take(
    scorer: ZeroShotScorer, part: Sequence[str], group: dict[str, Answer | None], outputs: Any, context: Any
) -> Steps[None]:
    scores, truncated = yield from scorer.finish(outputs, context)
    for text, row, cut in zip(part, scores.tolist(), truncated, strict=True):
        group[text] = Answer(scorer.names, tuple(row), cut)


def nli_model(folder: ModelFolder) -> tuple[NliRoles, ZeroShotSettings]:
    """Return the NLI outputs and zero-shot settings of a model.

    Raises:
        BadRequest: its labels do not include entailment and contradiction.
    """
    roles, settings = folder.labels.nli, folder.settings.zero_shot
    if roles is None or settings is None:
        raise BadRequest(
            f"{folder.path.name} cannot classify by labels of your own: that needs an NLI model with labels "
            f"named entailment and contradiction, and its labels are {shown(folder.labels.names)}"
        )
    return roles, settings


def _embeddings(outputs: list[RowOutput]) -> npt.NDArray[np.float32]:
    return np.stack([row.embedding for row in outputs if row.embedding is not None])
