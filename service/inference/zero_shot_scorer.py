"""One zero-shot question put to a model: which items it takes, and what their results say about the labels.

Knows: scorers, masks, what is computed in one pass and what in pairs, shortlists.
Does not know: who asks, whether somebody waits or awaits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finetune.core.fork_safety import Lock
from finetune.core.labels import NliRoles
from finetune.core.model_folder import AttentionMode, Scorer, ZeroShotSettings
from finetune.core.scores import Floats
from finetune.core.tokenization import Encoded
from service.errors import BadRequest, ServiceError
from service.inference import zero_shot
from service.inference.label_sets import LabelSet, LabelSets
from service.inference.model_runner import Found, ModelRunner, Rows, Terms
from service.inference.steps import Steps
from service.schema import SCORERS, ZeroShotRequest, one_of

REMEMBERED_LABELS = 4096


@dataclass(frozen=True, slots=True)
class Evidence:
    """NLI logits `[N, L, C]` and cosines `[N, L]` of texts and labels, and which texts were cut."""

    logits: npt.NDArray[np.float32] | None
    cosine: Floats | None
    truncated: list[bool]


class Started(NamedTuple):
    """Items that wait or are computed, and what only their caller knows about them."""

    futures: list[Future[list[Found]]]
    known: Any


class Known(NamedTuple):
    """What a question keeps of its texts: their parts of pairs, and which were cut."""

    rows: list[Encoded]
    cut: list[bool]


class LabelEmbeddings:
    """Embeddings of labels and their sentences, each encoded alone; remembered between questions."""

    def __init__(self, worker: ModelRunner) -> None:
        self._worker = worker
        self._found: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def get(self, sentences: Sequence[str], terms: Terms) -> Steps[npt.NDArray[np.float32]]:
        """The steps to the embeddings `[L, H]`."""
        with self._lock:
            found = {sentence: self._found.get(sentence) for sentence in sentences}
        fresh = [sentence for sentence, embedding in found.items() if embedding is None]
        if fresh:
            computed = yield (yield partial(self._start, fresh, terms))
            with self._lock:
                for sentence, one in zip(fresh, computed, strict=True):
                    found[sentence] = self._found[sentence] = one.embedding
                while len(self._found) > REMEMBERED_LABELS:
                    self._found.popitem(last=False)
        return np.stack([embedding for embedding in found.values() if embedding is not None])

    def _start(self, sentences: Sequence[str], terms: Terms) -> Future[list[Found]]:
        with terms.work.tokenizing():
            rows = self._worker.encoder(sentences)
        return self._worker.rows(Rows("shared_text", True), rows, terms)


class ZeroShotScorer:
    """A question, settled: what the model's folder records stands where the question says nothing.

    Raises:
        BadRequest: labels, template or scorer that cannot be used.
    """

    def __init__(
        self,
        worker: ModelRunner,
        sets: LabelSets,
        embeddings: LabelEmbeddings,
        nli: tuple[NliRoles, ZeroShotSettings],
        question: ZeroShotRequest,
        attention: AttentionMode,
        terms: Terms,
    ) -> None:
        self._worker, self._embeddings = worker, embeddings
        self._roles, self._settings = nli
        self._multi_label = question.multi_label
        self._attention = attention
        self._terms = terms
        self._scorer: Scorer = one_of("scorer", question.scorer or self._settings.scorer, SCORERS)
        template = question.hypothesis_template
        template = zero_shot.check_template(self._settings.hypothesis_template if template is None else template)
        self.labels: LabelSet = sets.get(question.labels, template)
        self._one_pass = attention == "shared_text" and worker.backend.one_pass
        self._shortlist = question.shortlist
        weighed = self._one_pass and self._scorer != "embedding"
        if self._shortlist is not None and not (weighed and self._shortlist >= 1):
            raise BadRequest(
                "a shortlist is a number from 1, for models that read a text once, with scorer nli or both"
            )
        # the text's embedding comes from the same pass where that is the shared-text mask's
        self._same_pass = self._scorer == "both" and attention == "shared_text"

    def start(self, texts: Sequence[str]) -> Started:
        """Tokenize texts, and have the model look at them."""
        worker, labels, terms = self._worker, self.labels, self._terms
        with terms.work.tokenizing():
            if self._scorer == "embedding":
                rows = worker.encoder(texts)
            else:
                rows = worker.encoder.before_hypotheses(texts, labels.longest)
        known = Known(rows, [row.truncated for row in rows])
        if self._scorer == "embedding" or self._shortlisted:
            return Started([worker.rows(Rows("shared_text", True), rows, terms)], known)
        futures: list[Future[list[Found]]] = []
        try:
            if self._one_pass:
                for pack in labels.packs:
                    own = [pack] * len(rows)
                    futures.append(worker.labelled(rows, own, terms, embeddings=self._same_pass))
            else:
                pairs = [row.followed_by(end) for row in rows for end in labels.ends]
                futures.append(worker.rows(Rows(self._attention, self._same_pass), pairs, terms))
            if self._scorer == "both" and not self._same_pass:
                futures.append(worker.rows(Rows("shared_text", True), worker.encoder(texts), terms))
        except ServiceError:
            for future in futures:  # what was refused in part is not computed in part
                future.cancel()
            raise
        return Started(futures, known)

    def finish(self, found: list[list[Found]], known: Known) -> Steps[tuple[Floats, list[bool]]]:
        """The steps from the model's results to scores `[N, L]`, and which texts were cut."""
        if self._shortlisted:
            return (yield from self._short(found[0], known)), known.cut
        evidence = yield from self.evidence(found, known)
        return self._collapsed(evidence.logits, evidence.cosine), evidence.truncated

    def evidence(self, found: list[list[Found]], known: Known) -> Steps[Evidence]:
        """The steps from the model's results to what they say about each text and label."""
        texts, many = len(known.rows), len(self.labels.labels)
        logits: npt.NDArray[np.float32] | None = None
        if self._scorer != "embedding":
            if self._one_pass:
                logits = np.stack([np.concatenate([one.logits for one in packs]) for packs in zip(*found, strict=True)])
            else:
                logits = np.stack([one.logits for one in found[0]]).reshape(texts, many, -1)
        if self._scorer == "nli":
            return Evidence(logits, None, known.cut)
        means = _means(found[0] if self._one_pass else found[-1])  # one for each text, or for each pair
        means = means.reshape(texts, -1, means.shape[-1])
        return Evidence(logits, zero_shot.cosines(means, (yield from self._directions())), known.cut)

    @property
    def _shortlisted(self) -> bool:
        return self._shortlist is not None and self._shortlist < len(self.labels.labels)

    def _directions(self) -> Steps[npt.NDArray[Any]]:
        """Embeddings `[L, H]` of the labels."""
        labels = self.labels
        sentences = yield from self._embeddings.get(labels.sentences, self._terms)
        if self._settings.label_embedding != "sentence_and_name":
            return sentences
        names = yield from self._embeddings.get(labels.labels, self._terms)
        return zero_shot.mean_direction(sentences, names)

    def _short(self, found: list[Found], known: Known) -> Steps[Floats]:
        """Scores where the full weight is given to the nearest labels of each text; 0 for the others."""
        cosine = zero_shot.cosines(_means(found)[:, None], (yield from self._directions()))
        nearest = np.sort(np.argsort(-cosine, axis=1, kind="stable")[:, : self._shortlist], axis=1)
        packs = [self.labels.pack(chosen) for chosen in nearest.tolist()]
        weighed = yield (yield partial(self._worker.labelled, known.rows, packs, self._terms, embeddings=False))
        logits = np.stack([one.logits for one in weighed])
        scores = np.zeros(cosine.shape)
        kept = self._collapsed(logits, np.take_along_axis(cosine, nearest, axis=1))
        np.put_along_axis(scores, nearest, kept, axis=1)
        return scores

    def _collapsed(self, logits: npt.NDArray[Any] | None, cosine: Floats | None) -> Floats:
        return zero_shot.collapse(
            logits,
            cosine,
            roles=self._roles,
            scorer=self._scorer,
            mix=self._settings.mix,
            multi_label=self._multi_label,
        )


def _means(found: list[Found]) -> npt.NDArray[np.float32]:
    return np.stack([one.embedding for one in found if one.embedding is not None])
