"""A model as a folder that ONNX Runtime and a tokenizer can use without this project."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from finetune.core import model_folder
from finetune.core.model_folder import CUSTOM_HEAD, ModelFolder
from finetune.core.tokenization import TextEncoder

CLASSIFY = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

TEXTS = ["I loved it.", "It was dull."]

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
labels = list(json.load(open("config.json", encoding="utf-8"))["id2label"].values())


def run(rows):
    rows = tokenizer.encode_batch(rows)
    arrays = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    return session.run(None, {port.name: np.array(arrays[port.name], dtype=np.int64) for port in session.get_inputs()})

"""
LAST_LINES = {
    "softmax": """
logits = run(TEXTS)[0].astype(float)
scores = np.exp(logits - logits.max(axis=1, keepdims=True))
scores /= scores.sum(axis=1, keepdims=True)
""",
    "sigmoid": """
scores = 1 / (1 + np.exp(-run(TEXTS)[0].astype(float)))
""",
    "linear": """
scores = run(TEXTS)[0].astype(float)  # the predicted numbers
""",
}
LAST_LINES["softplus"] = LAST_LINES["linear"]
PRINT = "print(json.dumps([dict(zip(labels, row)) for row in scores.tolist()]))\n"

ZERO_SHOT = """
LABELS = ["sports", "business"]
sentences = [{template!r}.replace("{{}}", label) for label in LABELS]
outputs = [run([(text, sentence) for sentence in sentences]) for text in TEXTS]
logits = np.stack([output[0] for output in outputs]).astype(float)  # texts, labels, outputs
"""
SENTENCES = ZERO_SHOT.partition("outputs =")[0]
NLI = """values = logits[:, :, {entailment}]
"""
BOTH = """shifted = np.exp(logits - logits.max(axis=2, keepdims=True))
values = np.log(shifted / shifted.sum(axis=2, keepdims=True))[:, :, {entailment}]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


directions = unit(run(sentences)[1].astype(float))
{names}texts = np.stack([output[1][0] for output in outputs]).astype(float)
values += {cosine_weight!r} * unit(texts) @ unit(directions).T
"""
NAMES = "directions += unit(run(LABELS)[1].astype(float))\n"
EMBEDDING = """

def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


directions = unit(run(sentences)[1].astype(float))
{names}values = {cosine_weight!r} * unit(run(TEXTS)[1].astype(float)) @ unit(directions).T
"""
SOFTMAX_OVER_LABELS = """scores = np.exp(values - values.max(axis=1, keepdims=True))
scores /= scores.sum(axis=1, keepdims=True)
labels = LABELS
"""


def export(folder: ModelFolder, out: Path, *, overwrite: bool = False) -> None:
    """Write a checked folder as `model.onnx`, tokenizer files, config.json, classifier.json and a README.md with code.

    Raises:
        ConfigError: `out` exists.
        BackendFailed: a package is missing, or the model cannot be exported.
    """
    from service.inference.backends.portable_graph import write_portable

    model_folder.check_output(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
        finished = Path(staging) / out.name
        finished.mkdir()
        write_portable(folder, finished)
        _write_tokenizer(folder, finished)
        model_folder.write_json(finished / "config.json", _config(folder))
        model_folder.write_settings(finished, folder.settings)
        (finished / "README.md").write_text(_readme(folder), encoding="utf-8")
        model_folder.publish(finished, out)


def _config(folder: ModelFolder) -> dict[str, Any]:
    """Return a config.json that every reader of Hugging Face folders knows: that of the encoder, with the labels."""
    config = dict(folder.config)
    if config.get("model_type") == CUSTOM_HEAD:
        config = dict(config["encoder"])
    ids = {str(number): name for number, name in folder.labels.id2label.items()}
    return config | {"id2label": ids, "label2id": dict(folder.labels.label2id)}


def _write_tokenizer(folder: ModelFolder, out: Path) -> None:
    """Write the tokenizer; tokenizer.json truncates and pads as the model needs it."""
    from tokenizers import Tokenizer

    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    encoder.tokenizer.model_max_length = encoder.max_length
    encoder.tokenizer.save_pretrained(str(out))
    file = str(out / "tokenizer.json")
    rust = Tokenizer.from_file(file)
    strategy = "only_first" if folder.is_zero_shot else "longest_first"
    rust.enable_truncation(encoder.max_length, strategy=strategy, direction=encoder.prepared.side)
    rust.enable_padding(pad_id=encoder.pad_id, pad_token=str(encoder.tokenizer.pad_token))
    rust.save(file)


def _readme(folder: ModelFolder) -> str:
    settings = folder.settings
    code = CLASSIFY + LAST_LINES[settings.activation] + PRINT
    if folder.labels.nli is not None and settings.zero_shot is not None:
        nli = settings.zero_shot
        facts = {
            "template": nli.hypothesis_template,
            "entailment": folder.labels.nli.entailment,
            "cosine_weight": nli.fusion.cosine_weight,
            "names": NAMES if nli.label_embedding == "sentence_and_name" else "",
        }
        parts = {"nli": (ZERO_SHOT, NLI), "both": (ZERO_SHOT, BOTH), "embedding": (SENTENCES, EMBEDDING)}[nli.scorer]
        code = CLASSIFY + "".join(parts).format(**facts) + SOFTMAX_OVER_LABELS + PRINT
    files = "`model.onnx` (float32; calibration and the scale of a regression are inside), tokenizer files"
    decision = _decision(folder)
    return (
        f"# {folder.path.name}, as ONNX\n\nExported by rehead: {files}, `config.json` with the label names, and "
        f"`classifier.json` with rehead's own settings.\n\n"
        f"`pip install onnxruntime tokenizers numpy`, then in this folder:\n\n```python\n{code}```\n{decision}"
    )


def _decision(folder: ModelFolder) -> str:
    """Return how labels follow from the scores, where that is not the highest score or 0.5."""
    settings, names = folder.settings, folder.labels.names
    lines = []
    if settings.thresholds is not None and settings.task == "binary":
        lines += [f"The label is `{names[1]}` where its score is at least {settings.thresholds[1]!r}."]
    elif settings.thresholds is not None:
        listed = ", ".join(f"`{name}` {bound!r}" for name, bound in zip(names, settings.thresholds, strict=True))
        lines += [f"A label holds where its score is at least: {listed}."]
    if settings.prediction_sets is not None:
        sets = settings.prediction_sets
        lines += [
            f"The labels with a score of at least {sets.lowest_score!r} are the prediction set, with a coverage of "
            f"{sets.coverage:g}."
        ]
    return "\n".join(["", *lines, ""]) if lines else ""
