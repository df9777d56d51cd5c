"""Check the weights of a model folder, and say what to do where they are missing, damaged or not safetensors.

Only names and headers of files are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from finetune.core.errors import CheckpointError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"

CONVERT = (
    'python -c "import glob, torch; from safetensors.torch import save_file; d = {folder!r}; '
    "save_file({{k: v.clone().contiguous() for f in glob.glob(d + {pattern!r}) "
    "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}}, "
    "d + '/model.safetensors', metadata={{'format': 'pt'}})\""
)
"""A command that converts pickles to safetensors; `weights_only` prevents that their code runs."""

PICKLES = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")
RESAVE = "save them again as model.safetensors (model.save_pretrained in the program that wrote them)"
OTHERS = {
    ("*.ckpt", "*.pkl", "*.pickle"): f"a pickle, which can run code when it is loaded: {RESAVE}",
    ("*.h5", "*.ckpt.index", "*.ckpt.data-*"): "weights of TensorFlow: convert them with transformers below 5 "
    "(AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(folder))",
    ("*.msgpack",): "weights of Flax: convert them with transformers below 5 "
    "(AutoModel.from_pretrained(folder, from_flax=True).save_pretrained(folder))",
    ("*.onnx", "*.gguf", "*.tflite", "openvino_model.*"): "an exported model, which cannot be trained: "
    "take the folder that it was exported from",
    ("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.download", "*.tmp"): "an incomplete download: "
    "download the folder again",
}
"""Patterns of files in place of the weights -> what they are and what to do."""


def check_weights(folder: Path) -> None:
    """Raise `CheckpointError` unless a folder has complete safetensors weights; pickles are never loaded.

    Raises:
        CheckpointError: no safetensors, a missing shard, or a truncated file; says what there is and what to do.
    """
    refuse_adapter(folder)
    if (folder / WEIGHTS).is_file():
        files = {folder / WEIGHTS}
    elif (folder / WEIGHTS_INDEX).is_file():
        files = _shards(folder)
    else:
        raise CheckpointError(_instead(folder))
    for file in sorted(files | set(folder.glob("model-*-of-*.safetensors"))):
        _check_whole(file)


def refuse_adapter(folder: Path) -> None:
    """Raise `CheckpointError` for a folder with an adapter and without the model that it adapts.

    Raises:
        CheckpointError: says how to merge the two.
    """
    if not (folder / ADAPTER).is_file() or (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return
    base = "its base model"
    with suppress(OSError, ValueError, KeyError, TypeError):  # its name may be missing
        base = str(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    raise CheckpointError(
        f"{folder} holds an adapter ({ADAPTER}) without the model that it adapts, {base}: merge the two with peft "
        "(model.merge_and_unload().save_pretrained(folder)) and name that folder"
    )


def _shards(folder: Path) -> set[Path]:
    try:
        names = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        files = {folder / str(name) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_INDEX} is damaged: copy it again") from error
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of the {len(files)} files of its weights are missing ({_listed(missing)}): "
            "download or copy the folder again"
        )
    return files


def _instead(folder: Path) -> str:
    """Return the message for a folder without safetensors weights under the expected names."""
    shards = sorted(file.name for file in folder.glob("model-*-of-*.safetensors"))
    if shards:
        return f"{folder}: {WEIGHTS_INDEX} is missing, the index of its {len(shards)} files of weights: copy it"
    safe = sorted(file.name for file in folder.glob("*.safetensors"))
    if safe:
        return f"{folder}: {WEIGHTS} is missing, and there is {_listed(safe)}: rename it if it holds the weights"
    for pattern in PICKLES:
        files = sorted(file.name for file in folder.glob(pattern) if file.name != "training_args.bin")
        if files:
            return (
                f"{folder} holds its weights only as a pickle ({_listed(files)}), which can run code when it is "
                f"loaded: convert it to {WEIGHTS} with "
                + CONVERT.format(folder=str(folder), pattern=f"/{pattern if len(files) > 1 else files[0]}")
            )
    for patterns, what in OTHERS.items():
        files = sorted(file.name for pattern in patterns for file in folder.rglob(pattern))
        if files:
            return f"{folder}: {WEIGHTS} is missing, and there is {_listed(files)}, {what}"
    return f"{folder}: {WEIGHTS} is missing: download or copy the whole folder again"


def _listed(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first


def _check_whole(file: Path) -> None:
    damaged = f"{file} is damaged or truncated: copy it again"
    try:
        with file.open("rb") as stream:
            begin = stream.read(8)
            if begin == b"version ":
                raise CheckpointError(f"{file} is a Git LFS pointer and not the weights: run git lfs pull")
            (length,) = struct.unpack("<Q", begin)
            if length > 100_000_000:
                raise CheckpointError(damaged)
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(damaged) from error
    if file.stat().st_size != 8 + length + max(ends, default=0):
        raise CheckpointError(damaged)
