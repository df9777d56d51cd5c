"""What the model reads of each candidate label: its hypotheses, and the texts whose embeddings it is compared by."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.core.hypothesis import fill
from service.inference.identifiers import spelled_out
from service.schema import LabelText, ZeroShotRequest

SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "।", "؟")


@dataclass(frozen=True)
class Wording:
    """Labels of a request as the model reads them.

    Attributes:
        words: the label or phrase in each hypothesis.
        sentences: the hypotheses; those of one label stand together.
        counts: hypotheses of each label.
        texts: texts of each label that are embedded beside its hypotheses; empty for a label without a description.
    """

    words: tuple[str, ...]
    sentences: tuple[str, ...]
    counts: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def is_plain(self) -> bool:
        """Whether no label is described."""
        return not any(self.texts)

    @property
    def has_phrasings(self) -> bool:
        """Whether a label has several hypotheses."""
        return len(self.words) > len(self.counts)


def wording_of(request: ZeroShotRequest, template: str) -> Wording:
    """Return what the model reads of a request's labels.

    The hypotheses of a label hold its description, or else its name, and each of its phrasings. One that ends as a
    sentence is the hypothesis itself; all others are inserted into the template.
    """
    names = request.labels if request.keep_identifiers else spelled_out(request.labels)
    described = dict(request.texts)
    words: list[str] = []
    sentences: list[str] = []
    counts: list[int] = []
    texts: list[tuple[str, ...]] = []
    for label, name in zip(request.labels, names, strict=True):
        text = described.get(label, LabelText())
        phrases = (text.description, *text.phrasings) if text.description else (name, *text.phrasings)
        phrases = tuple(dict.fromkeys(phrases))
        words += phrases
        sentences += [
            phrase if phrase != name and phrase.endswith(SENTENCE_ENDS) else fill(template, phrase)
            for phrase in phrases
        ]
        counts.append(len(phrases))
        texts.append(() if text == LabelText() else tuple(dict.fromkeys((name, *phrases, *text.examples))))
    return Wording(tuple(words), tuple(sentences), tuple(counts), tuple(texts))
