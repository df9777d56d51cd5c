"""Hyperparameter search: a study that continues where it stopped."""

import re
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner

import finetune.tune
from finetune.config import loading
from finetune.core import events, model_folder
from finetune.core.errors import ConfigError, MissingExtra
from finetune.training import losses
from finetune.training.interruption import handle
from finetune.tune import search


@pytest.fixture
def content(tiny_base: Path, tmp_path: Path) -> dict[str, Any]:
    optim = {"epochs": 1, "batch_size": {"choices": [8, 16]}, "lr": {"low": "1e-4", "high": 1e-2, "log": True}}
    settings = {"base": str(tiny_base), "out": str(tmp_path / "found"), "precision": "float32", "tfidf_baseline": False}
    return settings | {"optim": optim, "error_rows": 0, "plots": False}


def infos(seen: list[Any]) -> list[str]:
    return [event.text for event in seen if isinstance(event, events.Info)]


def test_the_best_trial_becomes_the_model_and_a_later_call_adds_trials(
    content: dict[str, Any], reviews: Any, tmp_path: Path
) -> None:
    seen: list[Any] = []
    first = search(content, 2, data=reviews, on_event=seen.append)
    assert first.trials == 2 and [line.split(":")[0] for line in infos(seen)] == ["trial 1 of 2", "trial 2 of 2"]
    trials = tmp_path / "found.trials"
    assert {file.name for file in trials.iterdir()} == {"study.db", "best.yaml", "trials.png"}
    folder = model_folder.read(tmp_path / "found", check_hashes=True)
    assert folder.headline == ("accuracy", pytest.approx(first.score))
    best = loading.load(trials / "best.yaml")
    assert best == first.config and best.out == content["out"]
    tried = optuna.load_study(study_name="found", storage=f"sqlite:///{trials / 'study.db'}").best_trial
    assert (best.optim.batch_size, best.optim.lr) == (
        (8, 16)[tried.params["optim.batch_size"]],
        tried.params["optim.lr"],
    )
    assert tried.value == first.score and 1e-4 <= tried.params["optim.lr"] <= 1e-2
    trained = loading.load(tmp_path / "found" / "train_config.yaml")
    assert trained.optim == best.optim.model_copy(update={"head_lr": trained.optim.head_lr})
    assert trained.optim.head_lr == max(tried.params["optim.lr"], 1e-3)
    assert "# found" in (tmp_path / "found" / "README.md").read_text()

    seen.clear()
    again = search(content, 3, data=reviews, on_event=seen.append)
    assert again.trials == 3 and again.score >= first.score
    assert infos(seen)[0].endswith("1 of 3 trials are left") and infos(seen)[1].startswith("trial 3 of 3")
    assert search(content, 3, data=reviews).trials == 3

    changed = loading.laid(content, {"optim.batch_size": 8, "seed": 7})
    sentence = (
        'holds another search: optim.batch_size was {"choices": [8, 16]}, is 8, seed was not set, is 7. Set it back'
    )
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        search(changed, 4, data=reviews)

    (tmp_path / "found" / "manifest.json").write_text("another model's")
    with pytest.raises(ConfigError, match="already holds a model: choose another --out, or pass --overwrite"):
        search(content, 4, data=reviews)


def test_trials_are_compared_by_the_metric_that_chooses_checkpoints_and_keep_their_logs(
    content: dict[str, Any], reviews: Any, tmp_path: Path
) -> None:
    space = loading.laid(content, {"checkpoint.best_by": "loss", "report_to": ["tensorboard"]})
    result = search(space, 2, data=reviews)
    study = optuna.load_study(study_name="found", storage=f"sqlite:///{tmp_path / 'found.trials' / 'study.db'}")
    values = [trial.value for trial in study.trials if trial.value is not None]
    assert study.direction.name == "MINIMIZE" and result.metric == "loss" and result.score == min(values)
    assert {file.name for file in (tmp_path / "found.trials" / "logs").iterdir()} == {"trial-000", "trial-001"}
    assert search(space, 2, data=reviews).score == result.score


def test_the_metric_that_compares_trials_is_no_range(content: dict[str, Any], reviews: Any) -> None:
    space = loading.laid(content, {"checkpoint.best_by": {"choices": ["loss", "accuracy"]}})
    with pytest.raises(ConfigError, match="checkpoint.best_by compares the trials"):
        search(space, 2, data=reviews)


def test_a_hopeless_trial_is_pruned_and_a_diverging_one_does_not_end_the_search(
    content: dict[str, Any], reviews: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = iter(range(9))

    def planted(logits: Any, targets: Any) -> Any:
        return losses.sparse_categorical_crossentropy(logits, targets) * scale[0]

    scale = [1.0]
    monkeypatch.setattr(finetune.tune, "TRIALS_BEFORE_PRUNING", 1)
    monkeypatch.setitem(losses.LOSSES, "planted", planted)
    monkeypatch.setitem(losses.FITS, "planted", losses.ONE_OF_MANY)

    def listen(event: Any) -> None:
        seen.append(event)
        if isinstance(event, events.Info) and event.text.startswith("trial "):
            number = next(trials)
            left = [place.name for place in (tmp_path / "found.trials").glob("trial-*")]
            assert (f"trial-{number:03d}" in left) == (number == 0)
            # the second trial unlearns, the third computes NaN
            scale[0] = {0: -1.0, 1: float("nan")}.get(number, 1.0)

    seen: list[Any] = []
    content |= {"loss": "planted", "checkpoint": {"every_steps": 3}}
    content["optim"] |= {"epochs": 3, "lr": {"low": 4e-3, "high": 6e-3}, "batch_size": 8}
    result = search(content, 3, data=reviews, on_event=listen)
    assert result.score == 1.0
    assert infos(seen)[1].startswith("trial 2 of 3: pruned with optim.lr=0.00")
    assert infos(seen)[2].startswith("trial 3 of 3: diverged with optim.lr=0.00")
    assert not list((tmp_path / "found.trials").glob("trial-*"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optim.lr": 1e-3, "optim.batch_size": 8}, "nothing to search: give a setting a range"),
        ({"optim.ler": {"low": 1, "high": 2}}, "unknown setting 'optim.ler': did you mean 'optim.lr'"),
        ({"optim.warmup": {"low": 0.1, "high": 3.0}}, "setting 'optim.warmup' is 3.0"),
        ({"optim.lr": {"low": 1e-3, "high": 1e-4}}, "optim.lr: low 0.001 must be below high 0.0001"),
        ({"optim.lr": {"low": "a", "high": 1e-4}}, r"invalid range, write \{low: 1e-5, high: 1e-3, log: true\}"),
        ({"optim.lr": {"low": 1e-4, "high": ".inf"}}, r"invalid range, write \{low: 1e-5, high: 1e-3, log: true\}"),
        ({"optim.lr": {"low": 0, "high": 1, "log": True}}, "with log has no step, and starts above 0"),
        ({"optim.epochs": {"low": 1, "high": 4, "step": 2}}, "optim.epochs: steps of 2 do not lead from 1 to 4"),
        ({"optim.epochs": {"low": 1, "high": 4, "step": 0}}, "optim.epochs: steps of 0 do not lead from 1 to 4"),
        (
            {"optim.accumulation": {"low": 1.0, "high": 4.0}},
            "'optim.accumulation' is 2.1.*: input should be a valid int",
        ),
        ({"optim.batch_size": {"choices": []}}, "optim.batch_size: choices must be a list of values"),
        (
            {"auxiliary": [{"name": "keep_embedding", "weight": {"low": 2, "high": 1}}]},
            "auxiliary.0.weight: low 2 must",
        ),
        ({"out": {"choices": ["a", "b"]}}, "out is the same for all trials"),
        ({"loss": {"choices": ["focal", "focul"]}}, "unknown loss 'focul'"),
        ({"loss": {"choices": ["focal", "huber"]}}, "loss 'huber' does not fit task binary"),
        (
            {"optim.lr": 1e-3, "optim.batch_size": 8, "class_weights": {"low": 1, "medium": 2, "high": 3}},
            "nothing to search",  # labels may have such names
        ),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_any_trial(
    content: dict[str, Any], reviews: Any, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        search(loading.laid(content, changes), 2, data=reviews)
    assert not (tmp_path / "found.trials").exists()


def test_a_stopped_trial_does_not_count_and_the_same_command_continues(
    content: dict[str, Any], reviews: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: Any, data: Any, on_event: Any) -> Any:
        begun.append(config)

        def listen(event: Any) -> None:
            if len(begun) == 2 and isinstance(event, events.Started):
                handle(signal.SIGINT)
            on_event(event)

        return real(config, data, listen)

    begun: list[Any] = []
    real = finetune.tune.train
    monkeypatch.setattr(finetune.tune, "train", train)
    seen: list[Any] = []
    content["auxiliary"] = [{"name": "keep_embedding", "weight": {"low": 0.5, "high": 2.0, "step": 0.5}}]
    with pytest.raises(KeyboardInterrupt):
        search(content, 2, data=reviews, on_event=seen.append)
    trials = tmp_path / "found.trials"
    warning = f"interrupted: 1 of 2 trials are kept in {trials}; run the same command again to continue"
    assert seen[-1] == events.Warned(warning)
    assert {file.name for file in trials.iterdir()} == {"study.db", "trial-000"} and not (tmp_path / "found").exists()

    seen.clear()
    result = search(content, 2, data=reviews, on_event=seen.append)
    assert len(begun) == 3 and result.trials == 2
    assert [line.split(":")[0] for line in infos(seen)[1:]] == ["trial 2 of 2"]
    assert result.config.auxiliary[0].options["weight"] in (0.5, 1.0, 1.5, 2.0)
    assert model_folder.read(tmp_path / "found", check_hashes=True).headline == (
        "accuracy",
        pytest.approx(result.score),
    )


def test_without_optuna_a_sentence_says_what_to_install(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rehead\[search\]'"):
        search(content, 1)


def test_the_command_reads_ranges_from_a_file(content: dict[str, Any], reviews: Any, tmp_path: Path) -> None:
    import yaml

    from finetune.core.tables.files import write_table
    from service.cli import rehead

    write_table(tmp_path / "reviews.csv", reviews)
    content["data"] = {"train": str(tmp_path / "reviews.csv")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    command = ["search", str(tmp_path / "run.yaml"), "--trials", "1", "--set", "optim.batch_size={choices: [8]}"]
    done = CliRunner().invoke(rehead, command)
    assert done.exit_code == 0, done.output
    assert "best of 1 trials: " in done.output and f"model: {tmp_path / 'found'}" in done.output
