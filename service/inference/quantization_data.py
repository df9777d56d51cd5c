"""Texts as the inputs of a model's main graph, for a quantizer to see what ranges they cause.

Knows: which graph a model's questions ask for, what its inputs are.
Does not know: quantizers.
"""

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
    """The inputs, a few texts each; for a model that reads a text once for all labels, with some of the labels."""
    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    settings, sets = folder.settings.zero_shot, LabelSets(encoder)
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    found: list[Arrays] = []
    for number, part in enumerate(parts):
        firsts = [one.text for one in part]
        if labels is None or settings is None:
            seconds = [one.pair for one in part if one.pair is not None]
            padded = encoder.pad(encoder(firsts, seconds or None))
        elif settings.attention == "shared_text":
            # all labels in turn, where there are many
            some = [labels[(number * LABELS_AT_ONCE + place) % len(labels)] for place in range(LABELS_AT_ONCE)]
            asked = sets.get(tuple(dict.fromkeys(some)), settings.hypothesis_template)
            rows = encoder.before_hypotheses(firsts, asked.longest)
            found.append(arrays_of(encoder.pad(rows), asked.packs * len(rows)))
            continue
        else:
            named = [labels[(number + place) % len(labels)] for place in range(len(part))]
            padded = encoder.pad(encoder(firsts, [zero_shot.fill(settings.hypothesis_template, one) for one in named]))
        found.append({name: array for name, array in padded.items() if name != "segments"})
    return found
