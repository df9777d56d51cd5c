"""A trimmed vocabulary: the same scores on texts whose pieces are kept, from a smaller folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_unigram_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, XLMRobertaConfig

from finetune.core.errors import CheckpointError, ConfigError
from finetune.modeling.vocabulary import trim_vocabulary

pytestmark = pytest.mark.fast
TEXTS = ["good film", "a bad day", "the film was [MASK] good", ""]


def save_unigram(folder: Path) -> Path:
    """Write an XLM-R classifier with a small SentencePiece vocabulary."""
    vocabulary = save_unigram_tokenizer(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = XLMRobertaConfig(vocab_size=vocabulary, max_position_embeddings=40, num_labels=3, **sizes)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def logits(folder: Path, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        # each with itself as the second text, so that the separators are used
        return np.concatenate([model(**tokenizer(text, text, return_tensors="pt")).logits.numpy() for text in texts])


@pytest.fixture(params=["wordpiece", "unigram"])
def classifier(request: pytest.FixtureRequest, tiny_sentiment: Path, tmp_path: Path) -> Path:
    if request.param == "wordpiece":
        return Path(shutil.copytree(tiny_sentiment, tmp_path / "model"))
    return save_unigram(tmp_path / "model")


def test_scores_on_the_texts_stay_and_the_folder_is_smaller(classifier: Path, tmp_path: Path) -> None:
    done = trim_vocabulary(classifier, TEXTS, tmp_path / "out")
    # some matrix kernels round by where in memory a weight lies, so that equal weights give equal scores to 1e-5 only
    np.testing.assert_allclose(logits(tmp_path / "out", TEXTS), logits(classifier, TEXTS), atol=1e-5)
    before, after = (load_file(folder / "model.safetensors") for folder in (classifier, tmp_path / "out"))
    changed = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    assert len(changed) == 1 and changed[0].endswith("word_embeddings.weight")
    assert {tuple(row) for row in after[changed[0]].tolist()} <= {tuple(row) for row in before[changed[0]].tolist()}
    assert done.pieces < done.pieces_before and done.size_bytes < done.size_bytes_before
    assert (done.texts, done.unchanged) == (len(TEXTS), len(TEXTS))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == done.pieces == len(AutoTokenizer.from_pretrained(tmp_path / "out"))
    names = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert not any("planet" in piece for piece in names) and any("film" in piece for piece in names)
    # other texts are spelled by characters, and nothing is unknown that was known
    unknown = AutoTokenizer.from_pretrained(tmp_path / "out").unk_token_id
    assert unknown not in AutoTokenizer.from_pretrained(tmp_path / "out")("planet")["input_ids"]
    logits(tmp_path / "out", ["planet money"])


def test_rare_pieces_are_dropped_on_request_and_counted(classifier: Path, tmp_path: Path) -> None:
    done = trim_vocabulary(classifier, ["film film", "film planet"], tmp_path / "out", min_count=2)
    assert (done.texts, done.unchanged) == (2, 1)
    assert not any("planet" in piece for piece in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab())


def test_a_model_of_ours_keeps_its_settings_and_its_hashes_hold(tiny_sentiment: Path, tmp_path: Path) -> None:
    from finetune.core.model_folder import read, seal, write_settings

    folder = Path(shutil.copytree(tiny_sentiment, tmp_path / "model"))
    write_settings(folder, read(folder).settings)
    seal(folder)
    trim_vocabulary(folder, TEXTS, tmp_path / "out")
    trimmed = read(tmp_path / "out", check_hashes=True)
    assert trimmed.labels == read(folder).labels and trimmed.settings == read(folder).settings


def changed(file: Path, **more: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | more))


def test_what_cannot_be_trimmed_is_refused(tiny_sentiment: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sentiment, tmp_path / "model"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="already holds files"):
        trim_vocabulary(folder, TEXTS, tmp_path / "full")
    content = json.loads((folder / "tokenizer.json").read_text())
    changed(folder / "tokenizer.json", model=content["model"] | {"type": "BPE"})
    with pytest.raises(CheckpointError, match="its tokenizer is BPE, whose pieces are built from each other"):
        trim_vocabulary(folder, TEXTS, tmp_path / "out")
    changed(folder / "tokenizer.json", model=content["model"])
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"encoder": whole}))
    with pytest.raises(CheckpointError, match="with a head of `rehead`"):
        trim_vocabulary(folder, TEXTS, tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(whole))
    changed(folder / "config.json", hidden_size=rows)
    with pytest.raises(CheckpointError, match=f"hidden_size is {rows} as the vocabulary is"):
        trim_vocabulary(folder, TEXTS, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("model", "full")] == []


def test_weights_in_several_files_are_refused(tiny_sentiment: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sentiment, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    name = "model-00001-of-00001.safetensors"
    save_file(tensors, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="the weights are in several files"):
        trim_vocabulary(folder, TEXTS, tmp_path / "out")
