"""Checkpoints: which are complete, which run made them, when they are written, which are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from finetune import cli
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import ConfigError
from finetune.run import train
from finetune.training import run_identity
from finetune.training.checkpoint_callbacks import CheckpointCallback
from finetune.training.checkpoints import (
    NOTE,
    STAMP,
    Note,
    checkpoints_of,
    evaluations_without_gain,
    is_whole,
    last_good_checkpoint,
    note_of,
    prune,
    stamp,
)

Make = Callable[..., TrainConfig]


def checkpoint(work: Path, update: int, note: Note | None = None) -> Path:
    """A checkpoint as the Trainer writes it, with little in it."""
    folder = work / f"checkpoint-{update}"
    folder.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
        (folder / name).write_text(f"{name} of {update}")
    stamp(folder, note or Note())
    return folder


def stop_at_first_checkpoint(event: events.Event) -> None:
    if isinstance(event, events.Saved):
        raise KeyboardInterrupt


def interrupted(config: TrainConfig, rows: Any) -> Path:
    """The work folder of a run that was stopped at its first checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(config, rows, stop_at_first_checkpoint)
    return Path(config.out).with_name(f".{Path(config.out).name}.run")


def contents(work: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in work.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "content", ["", "{", '{"optimizer.pt": "ab', "[]", "null", '{"optimizer.pt": 3}', "\ud800", '{"../x": "a"}']
)
def test_a_half_written_stamp_is_a_checkpoint_that_is_not_whole(tmp_path: Path, content: str) -> None:
    older, newer = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    assert last_good_checkpoint(tmp_path) == newer
    (newer / STAMP).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert last_good_checkpoint(tmp_path) == older


def test_a_checkpoint_in_the_middle_of_being_written_is_never_taken(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 5)
    (folder / STAMP).rename(folder / f"{STAMP}.partial")
    assert last_good_checkpoint(tmp_path) is None
    stamp(folder, Note(batch_parts=4, changes={"optim.lr": 1e-5}))
    assert is_whole(folder) and note_of(folder) == Note(batch_parts=4, changes={"optim.lr": 1e-5})
    (folder / NOTE).write_text("{}")
    assert not is_whole(folder)


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path: Path) -> None:
    for update in (9, 10, 20, 30, 100):
        checkpoint(tmp_path, update)
    prune(tmp_path, 2, str(tmp_path / "checkpoint-10"))
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-100", "checkpoint-30", "checkpoint-10"]


def test_a_checkpoint_is_due_every_so_many_minutes_unless_an_evaluation_saves_one() -> None:
    now_s = [0.0]
    due = [False]
    saving = CheckpointCallback(
        None,
        keep=2,
        every_minutes=10,
        is_due=lambda control, state: due[0],
        before_evaluation=lambda: None,
        say=lambda event: None,
        clock=lambda: now_s[0],
    )

    def at(second: float) -> bool:
        control, now_s[0] = TrainerControl(), second
        saving.on_step_end(None, TrainerState(), control)
        return control.should_save

    assert [at(599), at(600)] == [False, True]
    due[0] = True
    assert at(600) is False
    saving.every_s, due[0] = 0, False
    assert at(1e9) is False


def test_timed_checkpoints_are_pruned_and_never_chosen_as_the_best(config: Make, reviews: Any, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    kept: list[list[int]] = []

    def hear(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.Saved) and "checkpoint-" in event.path:
            kept.append([int(path.name.split("-")[1]) for path in checkpoints_of(Path(event.path).parent)])

    often = {"every_minutes": 1e-9, "keep": 1}
    optim = {"epochs": 3, "lr": 1e-7}  # each evaluation has the accuracy of the first, and a slightly lower loss
    timed = train(config(checkpoint=often, optim=optim, out=str(tmp_path / "timed")), reviews, hear)
    assert kept[:8] == [[1], [2], [3], [4], [5], [6], [7], [8, 7]]
    assert kept[13:15] == [[14], [15, 14]] and kept[-1] == [21]
    assert [event.update for event in seen if isinstance(event, events.Evaluated)] == [7, 14, 21]
    plain = train(config(checkpoint={"every_minutes": 0}, optim=optim, out=str(tmp_path / "plain")), reviews)
    weights = [(result.path / "model.safetensors").read_bytes() for result in (timed, plain)]
    assert weights[0] == weights[1]


def test_of_equally_good_checkpoints_the_one_with_the_lowest_loss_is_kept(config: Make) -> None:
    rows = [{"text": f"{word} {number}", "label": word} for number in range(60) for word in ("good", "bad")]
    evaluated: list[events.Evaluated] = []

    def listener(event: events.Event) -> None:
        if isinstance(event, events.Evaluated):
            evaluated.append(event)

    optim = {"epochs": 8, "lr": 3e-3}
    result = train(config(optim=optim, calibration="none", checkpoint={"best_by": "accuracy"}), rows, listener)
    top = max(event.metrics["accuracy"] for event in evaluated)
    equal = [event for event in evaluated if event.metrics["accuracy"] == top]
    best = min(equal, key=lambda event: event.metrics["loss"])
    assert len(equal) > 1 and best is not equal[0], "the run has a tie"
    assert [event for event in evaluated if event.best][-1] is best
    assert result.metrics["log_loss"] == pytest.approx(best.metrics["loss"], abs=1e-4)


def test_evaluations_since_the_best_one_are_counted() -> None:
    history = [{"eval_f1": 0.5}, {"loss": 1.0}, {"eval_f1": 0.7}, {"eval_f1": 0.7}, {"eval_f1": 0.6}]
    assert evaluations_without_gain(history, "eval_f1") == 2
    assert evaluations_without_gain(history[:3], "eval_f1") == 0
    assert evaluations_without_gain([], "eval_f1") == 0


def renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"label": {"no": "zno"}.get(row["label"], row["label"])} for row in rows]


def swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"label": {"no": "yes", "yes": "no"}[row["label"]]} for row in rows]


def test_only_the_run_that_made_a_checkpoint_resumes_from_it(
    config: Make, reviews: Any, tiny_base: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    described = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(described | {"hidden_act": "relu"}))
    third = [*reviews, {"text": "money bank", "label": "maybe"}, {"text": "money film", "label": "maybe"}] * 2
    work = interrupted(config(optim={"epochs": 3}), reviews)
    before = contents(work)
    changes: list[tuple[str, dict[str, Any], Any]] = [
        ("labels: no, yes -> yes, zno", {}, renamed(reviews)),
        ("training rows: ", {}, swapped(reviews)),
        ("labels: no, yes -> maybe, no, yes", {}, third),
        ("training rows: 54 rows", {}, reviews[:50]),
        ("base: sha256", {"base": str(other)}, reviews),
        ("optim.layer_decay: 1.0 -> 0.8", {"optim": {"layer_decay": 0.8}}, reviews),
        ("optim.weight_decay: 0.01 -> 0.0", {"optim": {"weight_decay": 0}}, reviews),
        ("optim.lr: 0.005 -> 0.001", {"optim": {"lr": 1e-3}}, reviews),
        ("optim.epochs: 3.0 -> 4.0", {"optim": {"epochs": 4}}, reviews),
        ("batches: 7 an epoch, of 8 rows", {"optim": {"batch_size": 16}}, reviews),
        ("optim.ema_decay: null -> 0.9", {"optim": {"ema_decay": 0.9}}, reviews),
        ("loss: ", {"loss": "focal"}, reviews),
        ("class_weights: none -> balanced", {"class_weights": "balanced"}, reviews),
        ("model.head: ", {"model": {"head": "mlp"}}, reviews),
        ("seed: 42 -> 7", {"seed": 7}, reviews),
        ("precision: float32 -> bfloat16", {"precision": "bfloat16"}, reviews),
    ]
    for text, more, rows in changes:
        settings = {"resume": True} | more | {"optim": {"epochs": 3, **more.get("optim", {})}}
        with pytest.raises(ConfigError) as refused:
            train(config(**settings), rows)
        assert text in str(refused.value) and "--resume" in str(refused.value)
        assert contents(work) == before, "nothing is deleted"
    free = {"license": "mit", "error_rows": 3, "tfidf_baseline": False, "save_dtype": "bfloat16"}
    assert train(config(resume=True, optim={"epochs": 3}, **free), reviews).updates == 21


def test_the_scale_of_targets_belongs_to_a_run(config: Make, reviews: Any) -> None:
    rows = [row | {"label": 1.0 + (row["label"] == "yes")} for row in reviews]
    settings: dict[str, Any] = {"data": {"task": "regression"}, "loss": "mean_squared_logarithmic_error"}
    interrupted(config(optim={"epochs": 2}, **settings), rows)
    # standardized they are the same
    doubled = [row | {"label": 2 * row["label"]} for row in rows]
    with pytest.raises(ConfigError, match="Different: targets: "):
        train(config(optim={"epochs": 2}, resume=True, **settings), doubled)


def test_safe_changes_are_allowed_by_name(config: Make, reviews: Any) -> None:
    interrupted(config(optim={"epochs": 2}), reviews)
    with pytest.raises(ConfigError, match="--allow-changed epochs --allow-changed lr"):
        train(config(resume=True, optim={"epochs": 3, "lr": 6e-3}), reviews)
    allowed = config(resume=True, optim={"epochs": 3, "lr": 6e-3}, allow_changed=["epochs", "optim.lr", "lr"])
    heard: list[events.Event] = []
    result = train(allowed, reviews, heard.append)
    assert result.updates == 21
    assert any(isinstance(event, events.Info) and "resuming from" in event.text for event in heard)


@pytest.mark.parametrize("name", ["labels", "loss", "epoch", "optim.optimizer"])
def test_what_is_never_safe_cannot_be_allowed(config: Make, reviews: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"allow_changed: '{name}'.*epochs, lr, early_stopping, logging, checkpoint"):
        train(config(resume=True, allow_changed=[name]), reviews)


def test_the_flag_and_the_setting_list_what_may_be_allowed() -> None:
    [flag] = [option for option in cli.finetune.params if option.name == "allow_changed"]
    field = TrainConfig.model_fields["allow_changed"].description or ""
    for text in (getattr(flag, "help", ""), field):
        assert all(name in text for name in run_identity.SAFE)


def test_every_setting_counts_unless_it_is_named() -> None:
    named = {*run_identity.WITHOUT_EFFECT, *(key for keys in run_identity.SAFE.values() for key in keys)}
    for key in named - {"updates"}:
        model: Any = TrainConfig
        for part in key.split("."):
            assert part in model.model_fields, f"there is no setting {key}"
            model = model.model_fields[part].annotation


def test_schedules_that_hold_their_length_or_rate_do_not_change_it() -> None:
    cycle = {"optim.schedule": '{"name": "one_cycle"}'}
    plateau = {"optim.schedule": '{"name": "reduce_on_plateau"}'}
    assert not run_identity.is_allowed("optim.epochs", ["epochs"], cycle)
    assert not run_identity.is_allowed("optim.lr", ["lr"], plateau)
    assert run_identity.is_allowed("updates", ["optim.epochs"], plateau)


def test_long_values_are_shortened_around_what_differs() -> None:
    before = {"labels": ", ".join(f"label {index}" for index in range(500))}
    now = {"labels": before["labels"].replace("label 400", "label x")}
    text = run_identity.differences(before, now)["labels"]
    assert len(text) < 2 * run_identity.SHOWN + 20 and "label 400" in text and "label x" in text


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"run": 3}', '{"run": {"seed": 3}}'])
def test_checkpoints_without_a_readable_record_of_their_run_are_refused(
    config: Make, reviews: Any, tmp_path: Path, content: str | None
) -> None:
    checkpoint(tmp_path / ".model.run", 5)
    if content is not None:
        (tmp_path / ".model.run" / run_identity.RUN).write_text(content)
    with pytest.raises(ConfigError, match=r"no readable run\.json with the run that made them"):
        train(config(resume=True), reviews)
    assert (tmp_path / ".model.run" / "checkpoint-5").is_dir()


def test_nothing_to_resume_is_reported_and_training_begins_at_the_start(config: Make, reviews: Any) -> None:
    heard: list[events.Event] = []
    assert train(config(resume=True), reviews, heard.append).updates == 7
    assert any(isinstance(event, events.Info) and event.text.startswith("nothing to resume: ") for event in heard)


def test_checkpoints_that_a_new_run_replaces_are_named_before_anything_is_read(config: Make, reviews: Any) -> None:
    interrupted(config(), reviews)
    heard: list[events.Event] = []
    train(config(), reviews, heard.append)
    assert isinstance(heard[0], events.Warned) and "checkpoint-7 of an earlier run will be replaced" in heard[0].text
