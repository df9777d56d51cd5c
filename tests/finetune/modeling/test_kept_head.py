"""Continue from a finished classifier: which rows of its head are kept, and that their logits are unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_classifier
from safetensors.torch import load_file, save_file

from finetune import train
from finetune.config.choice import Choice
from finetune.config.model import ModelConfig
from finetune.config.training import TrainConfig
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.core.scores import Activation
from finetune.modeling.build import Built, base_config, build_model, start_at_prior
from finetune.modeling.kept_head import HeadPlan, plan_head
from finetune.prepare import prepare
from finetune.training.fit import built_for

TOKENS = {"input_ids": torch.tensor([[2, 6, 7, 9, 3], [2, 11, 20, 8, 3]])}


def space(*names: str) -> LabelSpace:
    return LabelSpace("binary" if len(names) == 2 else "multiclass", names)


def planned(
    base: Path, labels: LabelSpace, activation: Activation = "softmax", **wanted: Any
) -> tuple[HeadPlan, Built]:
    location, model = find(str(base)), ModelConfig(**wanted)
    plan = plan_head(location, base_config(location), labels, activation, model)
    return plan, build_model(location, labels, model, plan)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**TOKENS).logits  # type: ignore[no-any-return]


def read(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder)


def test_rows_of_labels_that_stay_are_kept_by_name(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", ["c", "a", "b"])
    plan, built = planned(base, space("a", "c", "d"))
    assert (plan.kept, plan.new, plan.dropped) == (("a", "c"), ("d",), ("b",))
    prior = np.array([5.0, 6.0, -1.5], dtype=np.float32)
    start_at_prior(built.model, prior, plan.rows)
    before, after = logits(read(base)), logits(built.model)
    assert torch.equal(after[:, 0], before[:, 1]) and torch.equal(after[:, 1], before[:, 0])
    assert built.model.classifier.bias[2] == -1.5
    row = built.model.classifier.weight[2]
    assert not any(torch.equal(row, old) for old in read(base).classifier.weight)
    assert "head: classifier" in str(built) and "dropped" not in str(built)


def test_a_folder_made_from_a_kept_head_loads_in_plain_transformers(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", ["x", "y"])
    _, built = planned(base, space("x", "y", "z"))
    built.model.save_pretrained(tmp_path / "out")
    again = read(tmp_path / "out")
    assert again.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert torch.equal(logits(again)[:, :2], logits(read(base)))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "deberta-v2", "electra", "albert", "modernbert"])
def test_layers_between_body_and_output_are_kept_too(family: str, tmp_path: Path) -> None:
    from checkpoints import save_tokenizer
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "vocab_size": save_tokenizer(tmp_path), "pad_token_id": 0}
    if family == "distilbert":
        sizes = {"vocab_size": sizes["vocab_size"], "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 16
    if family == "modernbert":
        sizes |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, id2label={0: "a", 1: "b", 2: "c"}, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    _, built = planned(tmp_path, space("c", "n"))
    assert torch.equal(logits(built.model)[:, 0], logits(read(tmp_path))[:, 2])


def test_several_labels_are_kept_where_their_scores_are_sigmoids(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", ["rude", "toxic"], problem_type="multi_label_classification")
    labels = LabelSpace("multi_label", ("spam", "toxic"))
    plan, built = planned(base, labels, "sigmoid")
    assert plan.kept == ("toxic",)
    assert torch.equal(logits(built.model)[:, 1], logits(read(base))[:, 1])
    plan, _ = planned(base, space("spam", "toxic"))
    assert not plan.rows and "it predicts several labels a text" in str(plan)
    plan, _ = planned(base, labels, "softmax")
    assert not plan.rows and "its scores come from sigmoid" in str(plan)


def test_the_neutral_of_entailment_is_no_neutral_opinion(tiny_nli: Path) -> None:
    plan, built = planned(tiny_nli, space("negative", "neutral", "positive"))
    assert not plan.rows and not built.keeps_head and "labels of entailment" in str(plan)
    plan, built = planned(tiny_nli, space("contradiction", "entailment", "neutral"))
    assert plan.is_whole
    assert torch.equal(logits(built.model), logits(read(tiny_nli))[:, [1, 0, 2]])


def test_a_base_without_a_head_has_nothing_to_keep(tiny_base: Path, tmp_path: Path) -> None:
    plan, built = planned(tiny_base, space("LABEL_0", "LABEL_1"))
    assert not plan.rows and not str(plan) and not built.keeps_head
    with pytest.raises(ConfigError, match="keep_head=true: .* has no classification head"):
        planned(tiny_base, space("LABEL_0", "LABEL_1"), keep_head=True)
    lost = tmp_path / "lost"
    shutil.copytree(save_classifier(tmp_path / "base", ["a", "b"]), lost)
    weights = load_file(lost / "model.safetensors")
    body = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(body, lost / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="its weights lack the head"):
        planned(lost, space("a", "b"))


def test_labels_without_names_match_only_tables_that_use_them(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", ["LABEL_0", "LABEL_1"])
    assert not planned(base, space("no", "yes"))[0].rows
    assert planned(base, space("LABEL_0", "LABEL_1"))[0].is_whole
    with pytest.raises(ConfigError, match="none of its labels .LABEL_0, LABEL_1. is one of no, yes"):
        planned(base, space("no", "yes"), keep_head=True)


def test_a_name_that_two_rows_have_is_not_matched(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", ["a", "b", "other "])
    content = json.loads((base / "config.json").read_text(encoding="utf-8"))
    content["id2label"]["1"] = "other"
    (base / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert planned(base, space("a", "other"))[0].kept == ("a",)


def test_the_settings_decide(tiny_sentiment: Path) -> None:
    labels = space("negative", "neutral", "positive")
    assert planned(tiny_sentiment, labels, keep_head=True)[0].kept == ("negative", "positive")
    assert not planned(tiny_sentiment, labels, keep_head=False)[0].rows
    other_head = planned(tiny_sentiment, labels, head=Choice(name="linear"))[0]
    assert not other_head.rows and "--set model.head.name=stock makes the same" in str(other_head)
    _, built = planned(tiny_sentiment, labels, initializer=Choice(name="constant", value=0.25))
    assert (built.model.classifier.weight[1] == 0.25).all()
    assert torch.equal(logits(built.model)[:, [0, 2]], logits(read(tiny_sentiment)))


def test_a_run_continues_from_its_model_with_a_new_label(
    config: Callable[..., TrainConfig], reviews: list[dict[str, Any]], tmp_path: Path
) -> None:
    head = {"head": {"name": "mlp", "hidden": [8]}, "pooling": "mean"}
    first = train(config(model=head), data=reviews, progress=False)
    more = [*reviews, *({"text": f"a neutral planet {index}", "label": "maybe"} for index in range(20))]
    second = config(base=str(first.path), out=str(tmp_path / "second"), model=head | {"keep_head": True})
    prepared = prepare(second, more)
    built = built_for(second, prepared.base, prepared.objective, prepared.train, prepared.head)
    assert torch.equal(logits(built.model)[:, 1:], logits(read(first.path)))
    result = train(second, data=more, progress=False)
    metrics = json.loads((result.path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["head"] == {"kept": ["no", "yes"], "new": ["maybe"], "dropped": []}
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert "The base's head is kept for 2 labels: no, yes; new: maybe." in card
    without = prepare(config(base=str(first.path), out=str(tmp_path / "third")), reviews).head
    assert not without.rows and "--set model.pooling=mean makes the same" in str(without)


def test_a_whole_head_learns_as_slowly_as_the_body(
    config: Callable[..., TrainConfig], reviews: list[dict[str, Any]], tmp_path: Path
) -> None:
    base = save_classifier(tmp_path / "base", ["no", "yes"])
    whole = prepare(config(base=str(base), optim={"lr": 1e-5}), reviews)
    assert whole.config.optim.head_lr == 1e-5
    replaced = prepare(config(base=str(base), optim={"lr": 1e-5}, model={"keep_head": False}), reviews)
    assert replaced.config.optim.head_lr == pytest.approx(1e-4)


def test_a_number_starts_from_the_predictions_of_the_base(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    rows = [
        {"text": f"{'good' if index % 2 else 'bad'} film {index}", "score": 10.0 + index % 7} for index in range(40)
    ]
    first = train(config(data={"task": "regression", "label": "score"}), data=rows, progress=False)
    higher = [row | {"score": 3 * float(str(row["score"])) + 100} for row in rows]
    second = config(base=str(first.path), out=str(tmp_path / "second"), data={"task": "regression", "label": "score"})
    prepared = prepare(second, higher)
    assert prepared.head.kept == ("score",) and prepared.splits.target is not None
    built = built_for(second, prepared.base, prepared.objective, prepared.train, prepared.head)
    restored = prepared.splits.target.restore(logits(built.model).numpy())
    assert np.allclose(restored, logits(read(first.path)).numpy(), rtol=1e-4)
    renamed = [{"text": row["text"], "stars": row["score"]} for row in rows]
    data = {"data": {"task": "regression", "label": "stars"}}
    assert not prepare(config(base=str(first.path), **data), renamed).head.rows
    assert prepare(config(base=str(first.path), model={"keep_head": True}, **data), renamed).head.kept == ("stars",)


def test_the_identity_of_a_run_has_the_labels_that_are_kept(
    config: Callable[..., TrainConfig], reviews: list[dict[str, Any]], tmp_path: Path
) -> None:
    from finetune.training import run_identity
    from finetune.training.attempts import begin

    base = str(save_classifier(tmp_path / "base", ["no", "yes"]))
    work = tmp_path / ".model.run"
    kept, replaced = config(base=base), config(base=base, model={"keep_head": False}, optim={"head_lr": 5e-3})
    for run in (kept, replaced):
        begin(run, prepare(run, reviews).attempt_inputs(work, lambda event: None))
        stored = json.loads((work / run_identity.RUN).read_text(encoding="utf-8"))["run"]
        assert stored.get("kept head") == ("no, yes" if run is kept else None)
