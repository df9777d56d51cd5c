"""Texts as inputs of a model's main graph, from which a quantizer takes the ranges of values."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.core.model_folder import ModelFolder
from finetune.core.tokenization import TextEncoder
from service.inference import zero_shot
from service.inference.backends.base import Arrays
from service.inference.backends.packing import arrays_of
from service.inference.label_sets import LabelSets
from service.schema import TextInput

TEXTS_AT_ONCE = 4
LABELS_AT_ONCE = 20


def inputs(folder: ModelFolder, texts: Sequence[TextInput], labels: Sequence[str] | None) -> list[Arrays]:
    """Return the inputs, a few texts each; with some of the labels for a model that reads a text once for all."""
    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    settings, sets = folder.settings.zero_shot, LabelSets(encoder)
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    batches: list[Arrays] = []
    for number, part in enumerate(parts):
        firsts = [item.text for item in part]
        if labels is None or settings is None:
            seconds = [item.pair for item in part if item.pair is not None]
            padded = encoder.pad(encoder(firsts, seconds or None))
        elif settings.attention == "shared_text":
            # all labels in turn, where there are many
            some = [labels[(number * LABELS_AT_ONCE + place) % len(labels)] for place in range(LABELS_AT_ONCE)]
            label_set = sets.get(tuple(dict.fromkeys(some)), settings.hypothesis_template)
            rows = encoder.before_hypotheses(firsts, label_set.longest)
            batches.append(arrays_of(encoder.pad(rows), label_set.packs * len(rows)))
            continue
        else:
            named = [labels[(number + place) % len(labels)] for place in range(len(part))]
            padded = encoder.pad(
                encoder(firsts, [zero_shot.fill(settings.hypothesis_template, name) for name in named])
            )
        batches.append({name: array for name, array in padded.items() if name != "segments"})
    return batches
