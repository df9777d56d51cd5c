"""A training run from table to folder, as a user meets it."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from finetune.config.training import TrainConfig
from finetune.core import events, model_folder
from finetune.core.errors import CheckpointError, ConfigError, DataError, TrainingError
from finetune.prepare import prepare
from finetune.run import evaluate, train

Make = Callable[..., TrainConfig]

STOCK = """
import json, sys
from transformers import pipeline
answer = pipeline("text-classification", sys.argv[1])(json.loads(sys.argv[2]), top_k=None)
assert not any(name in sys.modules for name in ("finetune", "service"))
print(json.dumps(answer))
"""


def stock_pipeline(folder: Path, inputs: Any) -> Any:
    """The answer of transformers alone, in a process that never imports our packages."""
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(folder), json.dumps(inputs)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_two_labels_become_a_folder_that_transformers_reads_alone(config: Make, reviews: Any) -> None:
    result = train(config(optim={"epochs": 3}, plots=True), reviews)
    assert result.metrics["accuracy"] == 1.0
    folder = model_folder.read(result.path, check_hashes=True)
    assert folder.labels.names == ("no", "yes")
    stored = json.loads((result.path / "metrics.json").read_text())
    assert set(stored) >= {"split", "rows", "metrics", "baseline", "data"}
    assert stored["baseline"]["accuracy"] == 0.5
    assert set(stored["metrics"]["accuracy"]) == {"value", "low", "high"}
    assert {file.stem for file in (result.path / "report").iterdir()} == {
        *("training_curve", "learning_rate", "lengths", "confusion_matrix", "reliability", "precision_recall"),
        *("length_and_error", "errors", "gradients"),
    }
    answers = stock_pipeline(result.path, ["good great film", "bad awful film"])
    assert [answer[0]["label"] for answer in answers] == ["yes", "no"]


@pytest.mark.parametrize(
    ("label", "task", "metric"),
    [
        (lambda i: "abc"[i % 3], "multiclass", "accuracy"),
        (lambda i: [["a"], ["a", "b"], []][i % 3], "multi_label", "micro_f1"),
        (lambda i: 0.5 + i % 3, "regression", "r2"),
    ],
)
@pytest.mark.parametrize("paired", [False, True])
def test_every_task_trains_on_texts_and_on_pairs(
    config: Make, label: Any, task: str, metric: str, paired: bool
) -> None:
    words = ["good great", "bad awful", "sports money"]
    rows: list[dict[str, Any]] = [{"text": f"{words[i % 3]} film {i}", "label": label(i)} for i in range(60)]
    if paired:
        rows = [row | {"text_pair": f"about {row['text']}"} for row in rows]
    result = train(config(optim={"epochs": 10}), rows)
    stored = json.loads((result.path / "metrics.json").read_text())
    assert model_folder.read(result.path).settings.task == task
    assert stored["metrics"][metric]["value"] > stored["baseline"][metric]


def test_the_same_seed_repeats_bit_equal_and_another_does_not(config: Make, reviews: Any, tmp_path: Path) -> None:
    runs = [
        train(config(out=str(tmp_path / name), seed=seed), reviews).path
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    one, same, other = (model_folder.sha256(run / "model.safetensors") for run in runs)
    assert one == same != other


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_ends_bit_equal_to_an_unbroken_one(
    config: Make, reviews: Any, tmp_path: Path, ema_decay: float | None
) -> None:
    optim = {"epochs": 2, "ema_decay": ema_decay}
    unbroken = train(config(out=str(tmp_path / "whole"), optim=dict(optim)), reviews)
    broken = config(out=str(tmp_path / "broken"), optim=optim)
    seen: list[events.Event] = []

    def stop_at_first_checkpoint(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, reviews, stop_at_first_checkpoint)
    assert isinstance(seen[-1], events.Warned)
    best = Path(seen[-1].text.split(" is ")[1].split(";")[0])
    assert model_folder.read(best).labels.names == ("no", "yes"), "Ctrl-C keeps a loadable best checkpoint"
    assert not Path(broken.out).exists()

    said: list[events.Event] = []
    resumed = train(broken.model_copy(update={"resume": True}), reviews, said.append)
    assert any(isinstance(event, events.Info) and "resuming from" in event.text for event in said)
    hashes = [model_folder.sha256(run.path / "model.safetensors") for run in (unbroken, resumed)]
    assert hashes[0] == hashes[1]
    again: list[events.Event] = []
    train(broken.model_copy(update={"resume": True}), reviews, again.append)
    assert [event.text for event in again if isinstance(event, events.Info)] == [
        f"{broken.out} is finished: nothing to resume"
    ]


@pytest.mark.parametrize("harm", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "flip"])
def test_a_damaged_checkpoint_is_not_resumed_from(config: Make, reviews: Any, harm: str) -> None:
    from finetune.training.checkpoints import last_good_checkpoint

    broken = config()

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, reviews, stop)
    work = Path(broken.out).with_name(".model.run")
    found = last_good_checkpoint(work)
    assert found is not None
    if harm == "flip":
        weights = bytearray((found / "model.safetensors").read_bytes())
        weights[-5] ^= 1
        (found / "model.safetensors").write_bytes(weights)
    else:
        (found / harm).unlink()
    assert last_good_checkpoint(work) is None


def test_the_number_of_updates_is_said_beforehand(config: Make) -> None:
    rows = [{"text": f"t {index}", "label": "ab"[index % 2]} for index in range(250)]
    found = prepare(config(data={"validation_size": 50}, optim={"batch_size": 10, "epochs": 2}), rows)
    assert (found.batch_plan.updates_per_epoch, found.batch_plan.updates) == (20, 40)
    assert not Path(config().out).exists()


def test_the_default_learning_rate_suits_the_width_of_the_base(config: Make, reviews: Any) -> None:
    found = prepare(config(optim={"lr": None}), reviews).config
    assert found.optim.lr == 5e-5 * 768 / 32
    assert (found.data.task, found.data.max_length) == ("binary", 128)


@pytest.mark.parametrize(("lr", "head_lr"), [(5e-5, 5e-4), (1e-4, 1e-3), (3e-4, 1e-3), (1e-3, 1e-3), (0.5, 0.5)])
def test_the_new_head_learns_faster_up_to_a_bound(config: Make, reviews: Any, lr: float, head_lr: float) -> None:
    assert prepare(config(optim={"lr": lr}), reviews).config.optim.head_lr == pytest.approx(head_lr)
    assert prepare(config(optim={"lr": lr, "head_lr": 0.7}), reviews).config.optim.head_lr == 0.7


def test_events_tell_the_whole_story(config: Make, reviews: Any) -> None:
    seen: list[events.Event] = []
    train(config(), reviews, seen.append)
    kinds = [type(event).__name__ for event in seen if not isinstance(event, events.Warned)]
    assert list(dict.fromkeys(kinds)) == [
        *("Info", "Started", "GradientsRecorded", "Step", "Evaluated", "Saved", "Finished")
    ]
    assert any("tokens per word" in event.text for event in seen if isinstance(event, events.Info))
    base = next(event.text for event in seen if isinstance(event, events.Info) and event.text.startswith("base"))
    assert "kept 39 tensors" in base
    assert "new: classifier" in base
    warned = [event.text for event in seen if isinstance(event, events.Warned)]
    assert any("TF-IDF with a linear model is better" in text for text in warned)  # it learns these words at once


def test_training_stops_early_once_nothing_gets_better(config: Make, reviews: Any) -> None:
    seen: list[events.Event] = []
    result = train(config(optim={"epochs": 30, "early_stopping": 2}), reviews, seen.append)
    scores = [event.metrics["accuracy"] for event in seen if isinstance(event, events.Evaluated)]
    best = scores.index(max(scores))
    assert len(scores) == best + 3 < 30
    assert result.metrics["accuracy"] == max(scores)


def test_early_stopping_says_that_it_stopped_and_by_which_metric(config: Make, reviews: Any) -> None:
    seen: list[events.Event] = []
    wanted = config(
        optim={"epochs": 30, "early_stopping": 2, "lr": 1e-2}, checkpoint={"best_by": "loss"}, tfidf_baseline=False
    )
    train(wanted, reviews, seen.append)
    [stopped] = [event.text for event in seen if isinstance(event, events.Info) and "stopped early" in event.text]
    evaluated = [event for event in seen if isinstance(event, events.Evaluated)]
    best = min(evaluated, key=lambda event: event.metrics["loss"])
    assert [event for event in evaluated if event.best][-1] == best and best.best_by == "loss"
    assert f"stopped early at update {evaluated[-1].update} of 210" in stopped
    assert f"loss has not improved on {best.metrics['loss']:.4f} of update {best.update} in 2 evaluat" in stopped


@pytest.mark.parametrize("name", ["macro_f1", "log_loss"])
def test_the_best_checkpoint_is_chosen_by_any_metric(config: Make, reviews: Any, name: str) -> None:
    seen: list[events.Event] = []
    wanted = config(checkpoint={"best_by": name}, optim={"epochs": 3, "lr": 2e-2}, tfidf_baseline=False)
    result = train(wanted, reviews, seen.append)
    scores = [event.metrics[name] for event in seen if isinstance(event, events.Evaluated)]
    assert result.metrics[name] == pytest.approx((min if name == "log_loss" else max)(scores), abs=1e-5)
    written = json.loads((result.path / "metrics.json").read_text())
    assert written["chosen_by"] == name and f"(by {name})" in written["notes"]["chosen"]
    card = (result.path / "README.md").read_text()
    assert f"The best of 3 checkpoints was chosen on the validation rows (by {name})" in card
    assert "The 95% intervals are Wilson's for accuracy" in card


def test_errors_keep_every_column_of_the_table_and_say_what_a_row_is(config: Make, tmp_path: Path) -> None:
    lines = [f"id{i},{'good' if i % 2 else 'bad'} film {i},{['no', 'yes'][i % 2]},{i % 5},why {i}" for i in range(60)]
    (tmp_path / "films.csv").write_text("\n".join(["id,review,label,prediction,note", *lines]) + "\n")
    data = {"train": str(tmp_path / "films.csv"), "text": "review", "label": "label"}
    result = train(config(data=data, tfidf_baseline=False))
    table = list(csv.DictReader((result.path / "report" / "errors.csv").read_text().splitlines()))
    own = ["kind", "row", "text", "label", "prediction", "score"]
    assert list(table[0]) == [*own, "file", "id", "review", "prediction (table)", "note"]
    for row in table:
        place = int(row["row"]) - 1  # data rows from 1, the header not counted
        assert row["id"] == f"id{place}" and row["note"] == f"why {place}" and row["review"] == row["text"]
        assert row["file"] == str(tmp_path / "films.csv") and row["prediction (table)"] == str(place % 5)
    assert (
        "`row` counts the data rows of `file` from 1; the header is not counted"
        in (result.path / "README.md").read_text()
    )


def test_an_existing_model_is_refused_and_untouched_without_overwrite(config: Make, reviews: Any) -> None:
    first = train(config(), reviews)
    before = model_folder.sha256(first.path / "manifest.json")
    with pytest.raises(ConfigError, match="already holds a model.*--overwrite"):
        train(config(), reviews)
    with pytest.raises(DataError):
        train(config(overwrite=True), [{"text": "t", "label": "one class"}] * 5)
    assert model_folder.sha256(first.path / "manifest.json") == before
    train(config(overwrite=True, seed=9), reviews)
    assert model_folder.sha256(first.path / "manifest.json") != before
    assert [path.name for path in first.path.parent.iterdir()] == ["model"], "nothing is left beside the model"


def test_a_diverging_run_says_so_and_writes_nothing(config: Make) -> None:
    rows = [{"text": f"t {index}", "label": float(index) + 0.5} for index in range(40)]
    with pytest.raises(TrainingError, match="diverged: the loss is not finite at update 3.*--set optim.lr=0.0001"):
        train(config(optim={"lr": 1e30, "max_grad_norm": 0}), rows)
    assert not Path(config().out).exists()


def test_a_changed_file_is_noticed(config: Make, reviews: Any) -> None:
    path = train(config(), reviews).path
    settings = json.loads((path / "classifier.json").read_text())
    (path / "classifier.json").write_text(json.dumps(settings | {"temperature": 2.0}))
    with pytest.raises(CheckpointError, match=r"classifier\.json is missing or differs from manifest"):
        model_folder.read(path, check_hashes=True)


def test_a_trained_model_serves_as_a_base_by_its_name(config: Make, reviews: Any, tmp_path: Path) -> None:
    first = train(config(), reviews)
    rows = [{"text": f"t {index}", "label": "xyz"[index % 3]} for index in range(60)]
    second = train(config(base="model", models_dir=str(first.path.parent), out=str(tmp_path / "second")), rows)
    assert model_folder.read(second.path).labels.names == ("x", "y", "z")


def test_entailment_rows_make_a_zero_shot_model_under_both_masks(config: Make, tmp_path: Path) -> None:
    from finetune.core.tables.files import write_table

    rows = [{"text": f"the {'goal' if i % 2 else 'bank'} {i}", "label": ["sports", "money"][i % 2]} for i in range(80)]
    write_table(tmp_path / "topics.csv", rows)
    source = {"path": str(tmp_path / "topics.csv"), "text": "text", "label": "label"}
    seen: list[events.Event] = []
    result = train(
        config(
            data={"train": [source | {"recast": {"templates": ["about {}."]}}]},
            zero_shot={
                "attention": "alternate",
                "scorer": "both",
                "fit_on": [source],
                "hypothesis_template": "about {}.",
            },
            auxiliary=[{"name": "keep_embedding", "weight": 1.0}],
            optim={"epochs": 2},
        ),
        on_event=seen.append,
    )
    zero = model_folder.read(result.path).settings.zero_shot
    assert zero is not None
    assert (zero.attention, zero.scorer, zero.hypothesis_template) == ("shared_text", "both", "about {}.")
    assert zero.fusion != model_folder.ScoreFusion(), "the score fusion was fitted"
    assert any(isinstance(event, events.Info) and event.text.startswith("score fusion on") for event in seen)


def test_the_auxiliary_term_keeps_the_text_embedding_near_the_base(
    config: Make, tiny_base: Path, tmp_path: Path
) -> None:
    import numpy as np
    from transformers import AutoModelForSequenceClassification

    from finetune.core.tokenization import TextEncoder
    from finetune.training.score_fusion import embeddings

    rows = [
        {"premise": f"the goal {i}", "hypothesis": "about sports", "label": ["entailment", "contradiction"][i % 2]}
        for i in range(60)
    ]
    moved = {}
    for weight in (0.0, 20.0):
        result = train(
            config(
                out=str(tmp_path / f"w{weight}"),
                zero_shot={"attention": "alternate"},
                auxiliary=[{"name": "keep_embedding", "weight": weight}],
                optim={"epochs": 4},
            ),
            rows,
        )
        model = AutoModelForSequenceClassification.from_pretrained(result.path)
        folder = model_folder.read(result.path)
        encoder = TextEncoder.load(result.path, folder.config)
        texts = ["the goal 3", "a bank of money"]
        base = AutoModelForSequenceClassification.from_pretrained(tiny_base)
        batch = encoder.tokenizer(texts, return_tensors="pt", padding=True)
        states = base.bert(**batch).last_hidden_state * batch["attention_mask"][..., None]
        target = states.sum(1).detach().numpy()
        target /= np.linalg.norm(target, axis=1, keepdims=True)
        moved[weight] = 1 - float((embeddings(model, encoder, texts) * target).sum(axis=1).mean())
    assert moved[20.0] < moved[0.0] / 2


def test_evaluate_reads_any_table_and_measures_by_hand_checked_numbers(tmp_path: Path) -> None:
    import numpy as np

    from finetune.core.labels import LabelSpace

    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(4)] + [{"text": "t0", "label": "a"}]

    def always_a(texts: list[str], pairs: list[str] | None) -> Any:
        return np.tile([0.9, 0.1], (len(texts), 1))

    found = evaluate(always_a, rows, LabelSpace("binary", ("a", "b")))
    scored = found.measured.scored
    assert (scored.rows, found.counts["duplicates"]) == (4, 1)
    values = scored.values()
    assert list(values)[:2] == ["accuracy", "macro_f1"]
    assert (values["accuracy"], values["macro_f1"]) == (0.5, pytest.approx(1 / 3))
    assert values["log_loss"] == pytest.approx(-(np.log(0.9) + np.log(0.1)) / 2)
    assert values["calibration_error"] == pytest.approx(0.4)
    assert scored.per_class["b"]["recall"] == 0.0


def test_evaluate_gives_the_figures_by_any_column() -> None:
    import numpy as np

    from finetune.core.labels import LabelSpace

    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "lang": "de" if i < 3 else "fr"} for i in range(6)]
    found = evaluate(
        lambda texts, pairs: np.tile([0.9, 0.1], (len(texts), 1)), rows, LabelSpace("binary", ("a", "b")), by="lang"
    )
    assert {name: (part.rows, part.values()["accuracy"]) for name, part in found.by.items()} == {
        "de": (3, pytest.approx(2 / 3)),
        "fr": (3, pytest.approx(1 / 3)),
    }
    with pytest.raises(DataError, match="there is no column 'language'"):
        evaluate(lambda texts, pairs: None, rows, LabelSpace("binary", ("a", "b")), by="language")


def test_an_unknown_metric_is_refused_before_training(config: Make, reviews: Any) -> None:
    with pytest.raises(ConfigError, match="'no_such_metric' is not built in"):
        train(config(metrics=["no_such_metric"]), reviews)


def test_a_moved_folder_still_reads(config: Make, reviews: Any, tmp_path: Path) -> None:
    path = train(config(), reviews).path
    shutil.copytree(path, tmp_path / "elsewhere")
    assert model_folder.read(tmp_path / "elsewhere", check_hashes=True).headline is not None


def test_a_run_is_logged_where_it_is_asked_to(
    config: Make, reviews: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    seen: list[events.Event] = []
    wanted = config(report_to=["tensorboard"], gradients={"every": 1}, tfidf_baseline=False)
    result = train(wanted, reviews, seen.append)
    logs = result.path.with_name("model.logs")
    [run] = logs.iterdir()  # beside the model, one folder a run, and there after the run
    assert any(f"logging to {run}: tensorboard --logdir {logs}" in getattr(event, "text", "") for event in seen)
    board = EventAccumulator(str(run)).Reload()
    logged = board.Tags()["scalars"]
    assert {"train/loss", "eval/accuracy", "train/gradient_norm/layer 1", "train/gradient_norm/head"} <= set(logged)
    assert len(board.Scalars("train/gradient_norm/head")) == 7


@pytest.mark.slow
def test_trackio_keeps_a_run_on_this_disk(config: Make, reviews: Any, tmp_path: Path) -> None:
    # in a process of its own: trackio reads its folder as it is imported, and leaves a thread behind
    wanted = config(report_to=["trackio"], gradients={"every": 1}, tfidf_baseline=False)
    code = (
        "import json, sys\nfrom finetune.config.loading import build\nfrom finetune.run import train\n"
        "train(build(json.loads(sys.argv[1])), json.loads(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, wanted.model_dump_json(), json.dumps(reviews)],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    [kept] = (tmp_path / "trackio").glob("*.db")
    with closing(sqlite3.connect(kept)) as database:
        logged = str([row[0] for row in database.execute("select metrics from metrics")])
    assert "gradient_norm/head" in logged and "train/loss" in logged
