"""Which weights train, at which learning rate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.choice import Choice
from finetune.config.model import LoraConfig, ModelConfig
from finetune.config.optim import OptimConfig
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.modeling.build import build_model
from finetune.run import train
from finetune.training.optim import (
    OPTIMIZERS,
    SCHEDULES,
    Parts,
    freeze,
    frozen_depths,
    groups_of,
    optimizer_for,
    parts_of,
    schedule_for,
    trained,
)

LABELS = LabelSpace("binary", ("no", "yes"))

Make = Callable[..., TrainConfig]


@pytest.fixture
def model(tiny_base: Path) -> Any:
    return build_model(find(str(tiny_base)), LABELS).model


@pytest.fixture
def parts(model: Any) -> Parts:
    return parts_of(model, "bert")


def test_every_weight_belongs_to_a_part(parts: Parts) -> None:
    assert parts.layers == 2
    depths = parts.depth
    assert depths["bert.embeddings.word_embeddings.weight"] == 0
    assert depths["bert.encoder.layer.0.attention.self.query.weight"] == 1
    assert depths["bert.encoder.layer.1.output.LayerNorm.bias"] == 2
    assert depths["bert.pooler.dense.weight"] == depths["classifier.weight"] == 3
    assert [parts.name(depth) for depth in range(4)] == ["embeddings", "layer 1", "layer 2", "head"]


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert", "deberta-v2", "electra", "albert"])
def test_parts_are_found_in_every_family(family: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    if family == "distilbert":
        small = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16}
    settings = AutoConfig.for_model(family, vocab_size=40, pad_token_id=0, num_labels=2, **small)
    model = AutoModelForSequenceClassification.from_config(settings)
    parts = parts_of(model, model.base_model_prefix)
    names = {parts.name(depth) for depth in parts.depth.values()}
    layers = {"layer 1"} if family == "albert" else {"layer 1", "layer 2", "layer 3"}  # albert's layers share weights
    assert names == {"embeddings", "head", *layers}


@pytest.mark.parametrize(
    ("settings", "epoch", "frozen"),
    [
        ({}, 0, set()),
        ({"freeze": "embeddings"}, 0, {0}),
        ({"freeze": 1}, 0, {0, 1}),
        ({"freeze": "body"}, 5, {0, 1, 2}),
        ({"unfreeze": {0: 0, 1: 1, 2: 2}}, 0, {0, 1, 2}),
        ({"unfreeze": {0: 0, 1: 1, 2: 2}}, 1, {0, 1}),
        ({"unfreeze": {0: 0, 1: 1, 2: 2}}, 2, set()),
        ({"freeze": "body", "unfreeze": {3: 1}}, 2, {0, 1, 2}),
    ],
)
def test_what_is_frozen_by_epoch(parts: Parts, settings: Any, epoch: int, frozen: set[int]) -> None:
    assert frozen_depths(ModelConfig(**settings), parts, epoch) == frozen
    with pytest.raises(ConfigError, match="names 7 layers, and the body has 2"):
        frozen_depths(ModelConfig(freeze=7), parts, 0)


def test_only_what_is_not_frozen_changes(config: Make, reviews: Any, model: Any, parts: Parts) -> None:
    freeze(model, parts, {0, 1, 2})
    assert {parts.depth[name] for name, weight in model.named_parameters() if weight.requires_grad} == {3}
    assert trained(model, parts).startswith("training 1,122 of ")

    before = build_model(find(config().base), LABELS).model.state_dict()
    heard: list[Any] = []
    result = train(config(model={"freeze": 1}, optim={"epochs": 2}), reviews, heard.append)
    after = build_model(find(str(result.path)), LABELS).model.state_dict()
    changed = {
        parts.depth[name]
        for name, tensor in after.items()
        if name in parts.depth and not torch.equal(tensor, before[name])
    }
    assert changed == {2, 3}
    assert any("layers 8,544, head 1,122" in event.text for event in heard if isinstance(event, events.Info))


def test_layers_that_unfreeze_train_from_their_epoch_on(config: Make, reviews: Any) -> None:
    wanted = config(
        model={"unfreeze": {0: 0, 1: 1, 2: 2}}, optim={"epochs": 3}, gradients={"every": 1}, tfidf_baseline=False
    )
    path = train(wanted, reviews).path
    snapshots = [json.loads(line) for line in (path / "report" / "gradients.jsonl").read_text().splitlines()]
    trained_in = [list(snapshot["gradient"]) for snapshot in snapshots]
    each = len(snapshots) // 3
    assert trained_in[:each] == [["head"]] * each
    assert trained_in[each : 2 * each] == [["layer 2", "head"]] * each
    assert trained_in[2 * each :] == [["embeddings", "layer 1", "layer 2", "head"]] * each


def test_rates_fall_by_layer_and_the_head_has_its_own(model: Any, parts: Parts) -> None:
    config = OptimConfig(lr=1e-3, head_lr=1e-2, layer_decay=0.5, l2=0.1)
    of = {id(weight): group for group in groups_of(model, parts, config) for weight in group["params"]}
    assert len(of) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        group, depth = of[id(weight)], parts.depth[name]
        assert group["lr"] == pytest.approx({3: 1e-2, 2: 1e-3, 1: 5e-4, 0: 2.5e-4}[depth])
        vector = "LayerNorm" in name or name.endswith("bias")
        assert (group["weight_decay"], group["l2"]) == ((0.0, 0.0) if vector else (0.01, 0.1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_moves_weights_downhill(model: Any, parts: Parts, name: str) -> None:
    optimizer = optimizer_for(model, parts, OptimConfig(optimizer=Choice(name=name), lr=1e-3))
    ids, labels = torch.arange(12).reshape(2, 6) + 5, torch.tensor([0, 1])
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.eval()(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 4e-3


def test_an_l2_penalty_is_its_gradient(model: Any, parts: Parts) -> None:
    sgd = Choice(name="sgd", momentum=0.0)
    optimizer = optimizer_for(model, parts, OptimConfig(optimizer=sgd, lr=0.5, l2=0.1))
    weight, bias = model.classifier.weight, model.classifier.bias
    bias.data.fill_(1.0)
    before = weight.detach().clone()
    weight.grad, bias.grad = torch.ones_like(weight), torch.zeros_like(bias)
    optimizer.step()
    assert torch.allclose(weight, before - 0.5 * (1 + 0.1 * before))
    assert bool((bias == 1).all())
    with pytest.raises(ConfigError, match="'sgd' has no decoupled weight decay: use optim.l2, or one of adamw"):
        optimizer_for(model, parts, OptimConfig(optimizer=sgd, lr=0.5, weight_decay=0.1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_schedule_goes_where_it_says(name: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 1.0}])
    schedule = schedule_for(optimizer, OptimConfig(schedule=Choice(name=name)), warmup=10, updates=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(0.5) if name == "reduce_on_plateau" else schedule.step()
    falls, warms = name not in ("constant", "constant_with_warmup"), name not in ("constant", "reduce_on_plateau")
    assert max(rates) == pytest.approx(1.0, rel=0.01)
    assert (rates[0] < 0.2) == warms
    assert (rates[-1] < 0.1) == falls


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_follows_its_schedule(config: Make, reviews: Any, name: str) -> None:
    heard: list[Any] = []
    optim = {"schedule": name, "epochs": 4, "warmup": 0.25}
    train(config(optim=optim, tfidf_baseline=False), reviews, heard.append)
    rates = [event.lr for event in heard if isinstance(event, events.Step)]
    assert max(rates) <= 5e-3 * 1.0001 and rates[-1] > 0
    assert (rates[-1] < 1e-3) == (name in ("linear", "cosine", "polynomial", "one_cycle"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_trains_few_weights_and_merges_into_a_plain_folder(config: Make, reviews: Any, tiny_base: Path) -> None:
    peft = pytest.importorskip("peft")
    import service

    heard: list[Any] = []
    lora = LoraConfig(rank=4, keep_adapter=True).model_dump()
    result = train(config(model={"lora": lora}, optim={"epochs": 6, "lr": 2e-2}), reviews, heard.append)
    assert result.metrics["accuracy"] == 1.0
    messages = " ".join(event.text for event in heard if isinstance(event, events.Info))
    assert (
        "training " in messages
        and "layers " in messages
        and "embeddings" not in messages.partition("weights: ")[2][:60]
    )
    classifier = service.load(result.path)
    texts = ["good great film", "bad awful film"]
    answers = classifier(texts)
    assert [answer["label"] for answer in answers] == ["yes", "no"]
    # the adapter by itself, over the base, gives the same scores
    plain = build_model(find(str(tiny_base)), LABELS).model
    adapted = peft.PeftModel.from_pretrained(plain, str(result.path / "adapter")).eval()
    tokens = classifier.engine._runner.encoder(texts)
    batch = classifier.engine._runner.encoder.pad(tokens)
    inputs = {name: torch.from_numpy(value) for name, value in batch.items() if name != "segments"}
    scores = adapted(**inputs).logits.softmax(dim=-1).amax(dim=-1).tolist()
    assert scores == pytest.approx([answer["score"] for answer in answers], abs=1e-4)
    with pytest.raises(ConfigError, match="leave out model.freeze and model.unfreeze"):
        train(config(model={"lora": lora, "freeze": 1}, overwrite=True), reviews)
    with pytest.raises(ConfigError, match="has linear layers named .*query"):
        train(config(model={"lora": {"layers": ["qkv"]}}, overwrite=True), reviews)


def test_clipping_by_value_bounds_each_gradient(config: Make, reviews: Any) -> None:
    sgd = {"name": "sgd", "momentum": 0.0}
    optim = {"optimizer": sgd, "lr": 1.0, "schedule": "constant", "max_grad_norm": 0, "epochs": 0.2}
    before = build_model(find(config().base), LABELS).model.state_dict()

    def moved(**more: Any) -> float:
        path = train(config(optim=optim | more, overwrite=True, tfidf_baseline=False), reviews).path
        after = build_model(find(str(path)), LABELS).model.state_dict()
        kept = [name for name in after if name.startswith("bert.enc")]
        return max(float((after[name] - before[name]).abs().max()) for name in kept)

    assert moved(max_grad_value=1e-6) <= 2.1e-6 < moved()
