"""The best settings among ranges: a study that goes on where it stopped."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from finetune import artifact, configfile, events, losses
from finetune.errors import ConfigError
from finetune.search import search


@pytest.fixture
def content(tiny_base: Path, tmp_path: Path) -> dict[str, Any]:
    optim = {"epochs": 1, "batch_size": {"choices": [8, 16]}, "lr": {"low": "1e-4", "high": 1e-2, "log": True}}
    settings = {"base": str(tiny_base), "out": str(tmp_path / "found"), "precision": "float32", "tfidf_baseline": False}
    return settings | {"optim": optim, "error_rows": 0}


def said(heard: list[Any]) -> list[str]:
    return [event.text for event in heard if isinstance(event, events.Said)]


def test_the_best_trial_becomes_the_model_and_the_search_goes_on(
    content: dict[str, Any], reviews: Any, tmp_path: Path
) -> None:
    heard: list[Any] = []
    first = search(content, 2, data=reviews, on_event=heard.append)
    assert first.trials == 2 and [line.split(":")[0] for line in said(heard)] == ["trial 1 of 2", "trial 2 of 2"]
    trials = tmp_path / "found.trials"
    assert {file.name for file in trials.iterdir()} == {"study.db", "best.yaml", "trials.png"}
    folder = artifact.read(tmp_path / "found", check_hashes=True)
    assert folder.headline == ("accuracy", pytest.approx(first.score))
    best = configfile.load(trials / "best.yaml")
    assert best == first.config and best.out == content["out"]
    assert best.optim.batch_size in (8, 16) and 1e-4 <= best.optim.lr <= 1e-2  # type: ignore[operator]
    assert "# found" in (tmp_path / "found" / "README.md").read_text()

    heard.clear()
    again = search(content, 3, data=reviews, on_event=heard.append)
    assert again.trials == 3 and again.score >= first.score
    assert said(heard)[0].endswith("1 of 3 trials are left") and said(heard)[1].startswith("trial 3 of 3")
    assert search(content, 3, data=reviews).trials == 3

    content["optim"]["lr"]["high"] = 2e-2
    with pytest.raises(ConfigError, match="holds another search: its settings or ranges differ"):
        search(content, 4, data=reviews)


def test_a_hopeless_trial_is_cut_short_and_a_diverging_one_is_no_end(
    content: dict[str, Any], reviews: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = iter(range(9))

    def planted(logits: Any, targets: Any) -> Any:
        return losses.sparse_categorical_crossentropy(logits, targets) * scale[0]

    scale = [1.0]
    monkeypatch.setitem(losses.LOSSES, "planted", planted)
    monkeypatch.setitem(losses.FITS, "planted", losses.ONE_OF_MANY)

    def listen(event: Any) -> None:
        heard.append(event)
        if isinstance(event, events.Said) and event.text.startswith("trial "):
            number = next(trials)
            # the fourth trial is told to unlearn, the fifth computes numbers that are none
            scale[0] = {2: -1.0, 3: float("nan")}.get(number, 1.0)

    heard: list[Any] = []
    content |= {"loss": "planted", "checkpoint": {"every_steps": 3}}
    content["optim"] |= {"epochs": 3, "lr": {"low": 4e-3, "high": 6e-3}, "batch_size": 8}
    found = search(content, 5, data=reviews, on_event=listen)
    assert found.score == 1.0
    assert said(heard)[3].startswith("trial 4 of 5: cut short with optim.lr=0.00")
    assert said(heard)[4].startswith("trial 5 of 5: diverged with optim.lr=0.00")
    assert not list((tmp_path / "found.trials").glob("trial-*"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optim.lr": 1e-3, "optim.batch_size": 8}, "nothing to search: give a setting a range"),
        ({"optim.ler": {"low": 1, "high": 2}}, "unknown setting 'optim.ler': did you mean 'lr'"),
        ({"optim.warmup": {"low": 0.1, "high": 3.0}}, "setting 'optim.warmup' is 3.0"),
        ({"optim.lr": {"low": 1e-3, "high": 1e-4}}, "optim.lr: low 0.001 should be below high 0.0001"),
        ({"optim.lr": {"low": "a", "high": 1e-4}}, r"a range reads \{low: 1e-5, high: 1e-3, log: true\}"),
        ({"optim.lr": {"low": 0, "high": 1, "log": True}}, "with log has no step, and begins above 0"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_any_trial(
    content: dict[str, Any], reviews: Any, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        search(configfile.laid(content, changes), 2, data=reviews)
    assert not (tmp_path / "found.trials").exists()


def test_the_command_reads_ranges_from_a_file(content: dict[str, Any], reviews: Any, tmp_path: Path) -> None:
    import yaml

    from finetune.tables import write_table
    from service.cli import rehead

    write_table(tmp_path / "reviews.csv", reviews)
    content["data"] = {"train": str(tmp_path / "reviews.csv")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    asked = ["search", str(tmp_path / "run.yaml"), "--trials", "1", "--set", "optim.batch_size={choices: [8]}"]
    done = CliRunner().invoke(rehead, asked)
    assert done.exit_code == 0, done.output
    assert "best of 1 trials: " in done.output and f"model: {tmp_path / 'found'}" in done.output
