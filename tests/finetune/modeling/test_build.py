"""A base's body under a new head: eight families, and bases that are refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config.model import ModelConfig
from finetune.core.errors import CheckpointError
from finetune.core.hub import download
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.modeling.build import body_of, build_model, start_at_prior

LABELS = LabelSpace("multiclass", ("a", "b", "c"))
FAMILIES = ["bert", "roberta", "distilbert", "deberta-v2", "electra", "albert", "xlm-roberta", "modernbert"]


def small_config(family: str) -> Any:
    from transformers import AutoConfig

    sizes: dict[str, Any] = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "pad_token_id": 0}
    if family == "distilbert":
        sizes = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 16
    if family == "modernbert":
        sizes |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return AutoConfig.for_model(family, **sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_is_kept_and_the_head_is_new(family: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    torch.manual_seed(0)
    body = AutoModel.from_config(small_config(family))
    body.save_pretrained(tmp_path)
    built = build_model(find(str(tmp_path)), LABELS)
    kept = body_of(built.model).state_dict()
    for name, weight in body.state_dict().items():
        if name in kept:
            assert torch.equal(weight, kept[name]), name
    assert any("embeddings" in name for name in built.kept)
    assert any("classifier" in name for name in built.new)
    assert built.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    logits = built.model.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert logits.shape == (1, 3)
    prior = np.array([-3.0, 0.5, 1.0], dtype=np.float32)
    start_at_prior(built.model, prior)
    moved = built.model(input_ids=torch.tensor([[5, 6, 7]])).logits - logits
    assert torch.allclose(moved, torch.from_numpy(prior), atol=1e-5)


def test_a_head_of_the_same_size_is_replaced_too(tiny_nli: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(3)
    built = build_model(find(str(tiny_nli)), LABELS)
    before = AutoModelForSequenceClassification.from_pretrained(tiny_nli)
    assert not torch.equal(built.model.classifier.weight, before.classifier.weight)
    assert torch.equal(built.model.bert.pooler.dense.weight, before.bert.pooler.dense.weight)
    assert built.dropped == ["classifier.bias", "classifier.weight"]


def test_a_pickle_only_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only as a pickle"):
        build_model(find(str(tmp_path / "pickled")), LABELS)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_cut_short_weights_are_refused(tiny_base: Path, tmp_path: Path, keep: int) -> None:
    shutil.copytree(tiny_base, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        build_model(find(str(tmp_path / "cut")), LABELS)


def test_a_base_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="no model 'nobody/nothing': it is neither a folder nor a served name"):
        download(find("nobody/nothing"))
    with pytest.raises(CheckpointError, match="no model './nothing'"):
        find("./nothing")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no sequence classifier"):
        build_model(find(str(tmp_path)), LABELS)


def test_dropout_of_attention_can_differ_from_that_of_the_body(tiny_base: Path) -> None:
    one = build_model(find(str(tiny_base)), LABELS, ModelConfig(dropout=0.2)).model.config
    two = build_model(find(str(tiny_base)), LABELS, ModelConfig(dropout=0.2, attention_dropout=0.0)).model.config
    assert (one.hidden_dropout_prob, one.attention_probs_dropout_prob) == (0.2, 0.2)
    assert (two.hidden_dropout_prob, two.attention_probs_dropout_prob) == (0.2, 0.0)
