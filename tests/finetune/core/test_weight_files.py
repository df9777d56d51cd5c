"""A model folder with unusable weights or tokenizer files: one sentence that says what to do, in every command."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.config import loading
from finetune.core import model_folder
from finetune.core.errors import CheckpointError
from finetune.core.tokenization import TextEncoder
from finetune.core.weight_files import WEIGHTS, WEIGHTS_INDEX, check_weights
from finetune.prepare import prepare

ROWS = [{"text": f"good film {n}" if n % 2 else f"bad movie {n}", "label": "ab"[n % 2]} for n in range(40)]
Change = Callable[[Path], Any]


@pytest.fixture
def folder(tiny_sentiment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sentiment, tmp_path / "base"))


def renamed(name: str) -> Change:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def adapter(name: str) -> Change:
    def change(folder: Path) -> None:
        renamed(name)(folder)
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "bert-base-uncased"}')

    return change


def sharded(folder: Path) -> list[str]:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names, files = sorted(tensors), [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    for file, part in zip(files, parts, strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return files


def without(name: str) -> Change:
    def change(folder: Path) -> None:
        sharded(folder)
        (folder / name).unlink()

    return change


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 133\n"
BROKEN: list[tuple[Change, str]] = [
    (
        renamed("pytorch_model.bin"),
        r"only as a pickle \(pytorch_model.bin\).*convert it to model.safetensors with python",
    ),
    (renamed("pytorch_model-00001-of-00002.bin"), r"only as a pickle .*convert it to model.safetensors with python -c"),
    (renamed("weights.pt"), r"only as a pickle \(weights.pt\)"),
    (renamed("model.ckpt"), r"there is model.ckpt, a pickle.*save them again as model.safetensors"),
    (renamed("bert_model.ckpt.index"), r"weights of TensorFlow: convert them with transformers below 5 .*from_tf=True"),
    (renamed("tf_model.h5"), r"there is tf_model.h5, weights of TensorFlow"),
    (renamed("flax_model.msgpack"), r"there is flax_model.msgpack, weights of Flax.*from_flax=True"),
    (renamed("model.onnx"), r"there is model.onnx, an exported model"),
    (renamed("weights.safetensors"), r"there is weights.safetensors: rename it"),
    (renamed("model.safetensors.incomplete"), r"an incomplete download: download the folder again"),
    (lambda folder: (folder / WEIGHTS).unlink(), r"model.safetensors is missing: download or copy the whole folder"),
    (lambda folder: (folder / WEIGHTS).write_text(POINTER), r"is a Git LFS pointer.*run git lfs pull"),
    (lambda folder: (folder / WEIGHTS).write_text("<html>"), r"is damaged or truncated: copy it again"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b""), r"is damaged or truncated: copy it again"),
    (adapter("adapter_model.safetensors"), r"holds an adapter .*, bert-base-uncased: merge the two with peft"),
    (without("model-00002-of-00002.safetensors"), r"1 of the 2 files of its weights are missing \(model-00002-of"),
    (without(WEIGHTS_INDEX), r"model.safetensors.index.json is missing, the index of its 2 files"),
    (lambda folder: (sharded(folder), (folder / WEIGHTS_INDEX).write_text("{")), r"index.json is damaged: copy it"),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN)
def test_weights_that_cannot_be_used_are_a_sentence_with_the_way_out(
    folder: Path, change: Change, sentence: str
) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        model_folder.read(folder)
    assert "\n" not in str(caught.value)
    config = loading.load(None, [], base=str(folder), out=str(folder.parent / "out"))
    with pytest.raises(CheckpointError, match=sentence):
        prepare(config, data=ROWS)


def test_an_adapter_without_a_config_is_an_adapter_too(folder: Path) -> None:
    adapter("adapter_model.safetensors")(folder)
    (folder / "config.json").unlink()
    for use in (model_folder.read, lambda place: model_folder.find(str(place))):
        with pytest.raises(CheckpointError, match="holds an adapter"):
            use(folder)


def test_whole_shards_are_taken(folder: Path) -> None:
    sharded(folder)
    check_weights(folder)
    assert model_folder.read(folder).labels.names == ("negative", "positive")


@pytest.mark.parametrize("parts", [1, 2])
def test_the_command_that_is_named_for_a_pickle_makes_the_weights(folder: Path, parts: int) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    for part in range(parts):
        name = "pytorch_model.bin" if parts == 1 else f"pytorch_model-0000{part + 1}-of-0000{parts}.bin"
        torch.save({name: tensors[name] for name in names[part::parts]}, folder / name)
    with pytest.raises(CheckpointError) as caught:
        check_weights(folder)
    program, flag, code = shlex.split(str(caught.value).partition(" with ")[2])
    assert (program, flag) == ("python", "-c")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    check_weights(folder)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(folder / WEIGHTS).items())


def slow(kind: str) -> Change:
    def change(folder: Path) -> None:
        words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": kind}))

    return change


def no_tokenizer(folder: Path) -> None:
    for file in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special_tokens*")]:
        file.unlink()


TOKENIZERS: list[tuple[Change, str]] = [
    (
        slow("BertJapaneseTokenizer"),
        r"its tokenizer \(BertJapaneseTokenizer\) has no tokenizer.json and runs in Python",
    ),
    (slow("CanineTokenizer"), r"has no tokenizer.json and runs in Python only.*choose a model with a tokenizer.json"),
    (
        slow("PhobertTokenizer"),
        r"its tokenizer cannot be loaded .*there is no tokenizer.json in .*: choose a model that",
    ),
    (slow("NoSuchTokenizer"), r"its tokenizer cannot be loaded .*there is no tokenizer.json"),
    (no_tokenizer, r"its tokenizer has an empty vocabulary, since tokenizer.json is missing: copy the folder again"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"its tokenizer cannot be loaded"),
    (lambda folder: (folder / "tokenizer.json").write_text('{"version": "9"'), r"its tokenizer cannot be loaded"),
]


@pytest.mark.parametrize(("change", "sentence"), TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_a_sentence(folder: Path, change: Change, sentence: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        TextEncoder.load(folder, model_folder.read(folder).config)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=sentence):
        prepare(loading.load(None, [], base=str(folder), out=str(folder.parent / "out")), data=ROWS)


def test_a_vocabulary_alone_makes_a_tokenizer(folder: Path) -> None:
    config = model_folder.read(folder).config
    expected = TextEncoder.load(folder, config)(["a good film"])[0].ids.tolist()
    slow("BertTokenizer")(folder)
    assert TextEncoder.load(folder, config)(["a good film"])[0].ids.tolist() == expected
