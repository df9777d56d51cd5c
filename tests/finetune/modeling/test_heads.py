"""Heads of our own: made, trained, saved, and read by transformers once `finetune.modeling.build` is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config.choice import Choice
from finetune.config.model import ModelConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.core.registry import pick
from finetune.modeling.build import build_model, head_of
from finetune.modeling.heads import HEADS, warnings_of
from finetune.run import train

LABELS = LabelSpace("multiclass", ("a", "b", "c"))

Make = Any


def test_an_mlp_has_the_layers_that_were_asked_for() -> None:
    options = {"hidden": [8, 4], "activation": "tanh", "norm": "batch", "dropout": 0.3}
    layers = list(pick(HEADS, "mlp", options, what="head")(16, 3))
    kinds = [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]
    assert [type(layer) for layer in layers] == [*kinds, *kinds, nn.Linear]
    assert [layer.weight.shape for layer in layers if isinstance(layer, nn.Linear)] == [(8, 16), (4, 8), (3, 4)]
    assert layers[3].p == 0.3


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ({"name": "mlp", "norm": "bach"}, "no normalization 'bach'. Choose one of none, batch, layer"),
        (
            {"name": "mlp", "hidden": "wide"},
            "hidden is 'wide', and must be a list of positive integers such as \\[256, 64\\]",
        ),
        ({"name": "mlp", "activation": "rleu"}, "unknown activation 'rleu': did you mean 'relu'"),
        ({"name": "deep"}, "unknown head 'deep'"),
    ],
)
def test_a_head_that_there_is_not_is_refused_in_a_sentence(tiny_base: Path, head: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_model(find(str(tiny_base)), LABELS, ModelConfig(head=Choice(**head)))
    with pytest.raises(ConfigError, match="pooling requires model.head"):
        build_model(find(str(tiny_base)), LABELS, ModelConfig(pooling="mean"))


def test_batch_normalization_requires_several_rows() -> None:
    head = HEADS["mlp"](4, 2, norm="batch")
    assert warnings_of(head, 16, alike=False) == []
    assert "raise optim.batch_size to 16 or more" in warnings_of(head, 8, alike=False)[0]
    with pytest.raises(
        ConfigError, match="cannot be computed over one row: raise optim.batch_size, or --set model.head.norm"
    ):
        warnings_of(head, 1, alike=False)
    assert "their units stay identical" in warnings_of(HEADS["mlp"](4, 2), 32, alike=True)[0]
    assert warnings_of(HEADS["linear"](4, 2), 32, alike=True) == []


def test_an_initializer_fills_the_head_and_leaves_the_body(tiny_base: Path) -> None:
    location = find(str(tiny_base))
    body = build_model(location, LABELS).model.base_model.state_dict()
    wanted = ModelConfig(head=Choice(name="mlp", hidden=[5]), initializer=Choice(name="constant", value=0.25))
    built = build_model(location, LABELS, wanted).model
    assert all(bool((layer.weight == 0.25).all()) for layer in head_of(built).modules() if isinstance(layer, nn.Linear))
    mine = built.encoder.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in mine.items())
    stock = build_model(location, LABELS, ModelConfig(initializer=Choice(name="constant", value=0.25))).model
    assert bool((stock.classifier.weight == 0.25).all())


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "first_last_mean", "attention"])
def test_a_custom_head_reloads_bit_equal_and_serves(config: Make, reviews: Any, tmp_path: Path, pooling: str) -> None:
    import service

    head = {"name": "mlp", "hidden": [16], "norm": "batch", "activation": "relu"}
    precision = "bfloat16" if pooling == "mean" else "float32"  # under bfloat16 training chooses its attention itself
    settings = {"model": {"head": head, "pooling": pooling}, "optim": {"epochs": 3}, "precision": precision}
    result = train(config(**settings), reviews)
    assert result.metrics["accuracy"] == 1.0
    texts = ["good great film", "bad awful film"]
    classifier = service.load(result.path)
    answers = classifier(texts)
    assert [answer["label"] for answer in answers] == ["yes", "no"]
    together = [answer["score"] for answer in answers]
    alone = [classifier([text])[0]["score"] for text in texts]
    assert together == pytest.approx(alone, abs=1e-6)  # batch normalization reads its running statistics
    again = build_model(find(str(result.path)), LabelSpace("binary", ("x", "y")))
    assert type(again.model).__name__ == "BertForSequenceClassification" and again.kept


def test_a_base_in_bfloat16_gets_a_head_of_the_same_kind(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_base).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    built = build_model(find(str(tmp_path / "half")), LABELS, ModelConfig(head=Choice(name="linear"))).model
    assert {weight.dtype for weight in built.parameters()} == {torch.float32}
    built.to(torch.bfloat16).save_pretrained(tmp_path / "out")
    read = type(built).from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert {weight.dtype for weight in read.parameters()} == {torch.float32}


@pytest.mark.slow
def test_transformers_reads_a_custom_head_after_one_import(config: Make, reviews: Any) -> None:
    result = train(config(model={"head": "linear"}, optim={"epochs": 3}), reviews)
    code = (
        "import finetune.modeling.build, transformers\n"
        f"answer = transformers.pipeline('text-classification', {str(result.path)!r})('good great film')\n"
        "print(answer[0]['label'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "yes"
    card = (result.path / "README.md").read_text()
    assert "import finetune.modeling.build" in card
    assert model_folder.read(result.path).config["model_type"] == "rehead"
