"""Base models are ranked by what their embeddings and tokenizers know of a table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import save_base
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from finetune.bases import rank_bases
from finetune.cli import bases
from finetune.config.training import TrainConfig
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.events import Info
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import write_table
from finetune.cross_validation import cross_validate
from finetune.data.rows import Rows
from finetune.evaluation.linear_probe import cross_validated_scores
from finetune.prepare import prepare

pytestmark = pytest.mark.fast
WORDS = {"sports": "football match goal", "business": "bank money market"}
ROWS = [
    {"text": f"the {word} of planet {number}", "label": label}
    for number in range(20)
    for label, words in WORDS.items()
    for word in words.split()
]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a base that tells words apart, and one to which all words are the same."""
    monkeypatch.setattr("finetune.core.model_folder.shipped_dir", lambda: tmp_path / "none")
    folder = tmp_path / "models"
    for seed, name in enumerate(("able", "blind")):
        save_base(folder / name, seed=seed)
    tensors = load_file(folder / "blind" / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] = torch.ones_like(tensors["embeddings.word_embeddings.weight"])
    save_file(tensors, folder / "blind" / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_base_that_knows_more_is_recommended_with_the_difference(models: Path) -> None:
    ranking = rank_bases(ROWS, models_dir=models)
    assert [base.name for base in ranking.bases] == ["able", "blind"] and ranking.recommended == "able"
    able, blind = ranking.bases
    assert able.value > 0.95 and able.low <= able.value <= able.high and blind.value < 0.7
    assert able.embedding_parameters < able.parameters and able.tokenizer.tokens_per_word > 1
    assert ranking.metric == "accuracy" and ranking.rows == 108  # a tenth is validation
    assert "start from able: accuracy" in ranking.recommendation and "above blind" in ranking.recommendation
    printed = str(ranking).splitlines()
    assert printed[0].startswith("base   accuracy") and printed[-1] == ranking.recommendation


def test_of_bases_that_are_equally_good_the_smaller_one_is_recommended(models: Path) -> None:
    from transformers import BertConfig, BertModel

    shutil.copytree(models / "able", models / "deep")
    config = BertConfig.from_pretrained(models / "able")
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    BertModel(config).save_pretrained(models / "deep")
    ranking = rank_bases(ROWS, ["deep", "able"], models_dir=models)
    assert ranking.recommended == "able"


def test_a_candidate_that_cannot_be_used_is_skipped_or_refused_where_it_is_named(models: Path) -> None:
    (models / "blind" / "model.safetensors").unlink()
    ranking = rank_bases(ROWS, models_dir=models)
    assert [base.name for base in ranking.bases] == ["able"] and "blind" in ranking.skipped
    assert ranking.recommendation.endswith("there is no other candidate")
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        rank_bases(ROWS, ["able", "blind"], models_dir=models)
    with pytest.raises(CheckpointError, match="there is no base model to rank"):
        rank_bases(ROWS, models_dir=models / "none")


def test_a_run_starts_from_the_recommended_base(models: Path, tmp_path: Path) -> None:
    heard: list[object] = []
    config = TrainConfig(base="auto", out=str(tmp_path / "out"), models_dir=str(models))
    prepared = prepare(config, ROWS, heard.append)
    assert prepared.config.base == "able"
    assert any(isinstance(event, Info) and event.text.startswith("base: start from able") for event in heard)


def test_the_command_prints_the_table_or_json(models: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS)
    arguments = [str(tmp_path / "t.csv"), "--models", str(models), "--rows", "60"]
    done = CliRunner().invoke(bases, arguments)
    assert done.exit_code == 0 and "start from able" in done.output and "cross-validated on 60 rows" in done.output
    as_json = CliRunner().invoke(bases, [*arguments, "able", "--json"])
    assert json.loads(as_json.stdout)["recommended"] == "able"


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("multiclass", ["a", "b", "c"] * 20),
        ("binary", ["a", "b", "b"] * 20),
        ("multi_label", [["a"], ["b", "c"], []] * 20),
        ("regression", [1.0, 2.0, 3.5] * 20),
    ],
)
def test_the_probe_scores_each_row_by_a_model_of_the_others(task: str, values: list[object]) -> None:
    labels = LabelSpace.fit(values, task)  # type: ignore[arg-type]
    rows = Rows([f"t{n}" for n in range(60)], None, values, list(range(60)), "t")
    kind = np.eye(3)[np.arange(60) % 3]
    scores = cross_validated_scores(labels, kind, rows, seed=0)
    targets = labels.encode(values)
    if task == "regression":
        assert np.abs(scores[:, 0] - targets).max() < 1.0 and np.corrcoef(scores[:, 0], targets)[0, 1] > 0.99
    elif task == "multi_label":
        assert ((scores > 0.5) == targets).all()
    else:
        assert (scores.argmax(axis=1) == targets).all()
    # features without information cannot predict rows that the model has not seen
    noise = np.random.default_rng(0).normal(size=(60, 50))
    if task == "binary":
        assert (cross_validated_scores(labels, noise, rows, seed=0).argmax(axis=1) == targets).mean() < 0.85


def test_no_group_is_in_two_folds() -> None:
    values = ["a", "b"] * 30
    labels = LabelSpace.fit(values, "binary")
    groups = [f"g{n // 6}" for n in range(60)]
    rows = Rows([f"t{n}" for n in range(60)], None, [values[n // 6] for n in range(60)], list(range(60)), "t", groups)
    # each group's feature names it, and says nothing of other groups
    named = np.eye(10)[np.arange(60) // 6]
    known = cross_validated_scores(labels, named, rows, seed=0).argmax(axis=1) == labels.encode(rows.values)
    assert known.mean() < 0.8


def test_models_that_were_fine_tuned_here_are_no_candidates(models: Path) -> None:
    for name in ("train_config.yaml", "manifest.json"):
        (models / "able" / name).write_text("{}")
    assert [base.name for base in rank_bases(ROWS, models_dir=models).bases] == ["blind"]
    assert rank_bases(ROWS, ["able", "blind"], models_dir=models).recommended == "able"


def test_a_fold_never_chooses_the_base(models: Path, tmp_path: Path) -> None:
    config = TrainConfig(base="auto", out=str(tmp_path / "out"), models_dir=str(models))
    with pytest.raises(ConfigError, match="--folds with --base auto"):
        cross_validate(config, 2, ROWS)


def test_few_rows_and_one_label_are_scored_too() -> None:
    labels = LabelSpace.fit([["a"], []] * 2, "multi_label")
    rows = Rows(["t"] * 4, None, [["a"], []] * 2, [1, 2, 3, 4], "t")
    assert cross_validated_scores(labels, np.eye(4), rows, seed=0).shape == (4, 1)
