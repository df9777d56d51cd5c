"""Planted faults are diagnosed correctly, fixed by auto-recovery if it is on, and never exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import TrainingError
from finetune.run import train
from finetune.training import losses
from finetune.training.callbacks import Diverged, snapshot_every
from finetune.training.diagnosis import diagnose, loss_far_above
from finetune.training.gradient_monitor import GradientSnapshot

Make = Callable[..., TrainConfig]
EVERY = {"every": 1}


def warned(heard: list[Any]) -> str:
    return "\n".join(event.text for event in heard if isinstance(event, events.Warned))


def run(config: TrainConfig, rows: Any) -> tuple[list[Any], Any]:
    heard: list[Any] = []
    return heard, train(config, rows, heard.append)


def sigmoid_stack(**more: Any) -> dict[str, Any]:
    return {"name": "mlp", "hidden": [16, 16, 16], "activation": "sigmoid", "dropout": 0.0} | more


def test_a_stack_of_sigmoids_from_zeros_is_symmetric(config: Make, reviews: Any) -> None:
    wanted = config(
        model={"head": sigmoid_stack(), "initializer": "zeros"},
        gradients=EVERY,
        optim={"epochs": 2},
        tfidf_baseline=False,
    )
    heard, result = run(wanted, reviews)
    assert "their units stay identical" in warned(heard)
    assert "all units of head.0, head.3" in warned(heard)
    assert "--set model.initializer=glorot_uniform" in warned(heard)
    snapshots = [json.loads(line) for line in (result.path / "report" / "gradients.jsonl").read_text().splitlines()]
    assert len(snapshots) == result.updates
    assert set(snapshots[0]["gradient"]) == {"embeddings", "layer 1", "layer 2", "head"}


def test_a_deep_stack_of_sigmoids_makes_gradients_vanish(config: Make, reviews: Any) -> None:
    head = {"name": "mlp", "hidden": [16] * 8, "activation": "sigmoid", "dropout": 0.0}
    wanted = config(model={"head": head, "initializer": "glorot_uniform"}, gradients=EVERY, tfidf_baseline=False)
    heard, _ = run(wanted, reviews)
    assert "gradients vanish: those of the body are" in warned(heard)
    assert "--set model.head.activation=relu" in warned(heard)


def test_a_run_at_a_learning_rate_of_ten_is_diverged_and_gives_no_model(config: Make, reviews: Any) -> None:
    wanted = config(optim={"lr": 10, "epochs": 2}, gradients=EVERY, tfidf_baseline=False)
    heard: list[Any] = []
    with pytest.raises(Diverged, match="diverged: the loss rose to .* and was 0.69. at the start") as caught:
        train(wanted, reviews, heard.append)
    out = Path(wanted.out)
    assert caught.value.exit_code == 3 and not out.exists()
    assert "--set optim.lr=0.0001" in str(caught.value) and "No model was written" in str(caught.value)
    assert str(out.with_name(".model.run")) in str(caught.value)
    assert (out.with_name(".model.run") / "diverged" / "model.safetensors").is_file(), "kept for inspection"
    messages = warned(heard) + str(caught.value)
    assert "the learning rate is too high" in messages
    assert "vanish" not in messages and "model.head" not in messages and "model.initializer" not in messages


def test_a_diverged_run_is_recovered_with_auto_recovery(config: Make, reviews: Any) -> None:
    wanted = config(optim={"lr": 10, "epochs": 2}, gradients={"every": 100, "auto_recover": True}, tfidf_baseline=False)
    heard, result = run(wanted, reviews)
    assert "auto-recovery 1 of 2: the run diverged: the loss rose" in warned(heard)
    assert "\n  lr: 0.0001" in (result.path / "train_config.yaml").read_text()


def test_a_scaled_loss_without_clipping_explodes(config: Make, reviews: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1e6 * losses.sparse_categorical_crossentropy(logits, targets)

    monkeypatch.setitem(losses.LOSSES, "scaled", scaled)
    monkeypatch.setitem(losses.FITS, "scaled", losses.ONE_OF_MANY)
    optim = {"max_grad_norm": 0, "optimizer": {"name": "sgd"}, "lr": 1e-9, "epochs": 2}
    heard, _ = run(config(loss="scaled", optim=optim, gradients=EVERY, tfidf_baseline=False), reviews)
    assert "gradients explode" in warned(heard) and "--set optim.max_grad_norm=1" in warned(heard)


def test_a_layer_of_dead_relus_is_found(config: Make, reviews: Any) -> None:
    head = {"name": "mlp", "hidden": [16], "activation": "relu", "dropout": 0.0}
    # the states of the body are normalized: weights of one large sign make every unit negative
    wanted = config(
        model={"head": head, "initializer": {"name": "random_normal", "mean": -3.0}, "pooling": "max"},
        gradients=EVERY,
        tfidf_baseline=False,
    )
    heard, _ = run(wanted, reviews)
    assert "100% of the units of head.1 pass no gradient" in warned(heard)
    assert "--set model.head.activation=gelu" in warned(heard)


def planted_nan(monkeypatch: pytest.MonkeyPatch, at: int, kind: str = "loss") -> None:
    """A number that is none in one batch."""
    batches = 0

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal batches
        found = losses.sparse_categorical_crossentropy(logits, targets)
        if torch.is_grad_enabled():
            batches += 1
            if batches == at:
                # the square root of nothing: its value is right, and its gradient is not finite
                return found * float("nan") if kind == "loss" else found + torch.sqrt(found * 0)
        return found

    monkeypatch.setitem(losses.LOSSES, "planted", loss)
    monkeypatch.setitem(losses.FITS, "planted", losses.ONE_OF_MANY)


@pytest.mark.parametrize(
    ("kind", "where"), [("loss", "the loss"), ("gradient", "the gradient of bert.embeddings.word_embeddings.rows")]
)
def test_a_nan_in_one_batch_stops_the_run_and_keeps_the_last_checkpoint(
    config: Make, reviews: Any, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    planted_nan(monkeypatch, 10, kind)
    wanted = config(loss="planted", optim={"epochs": 3})
    with pytest.raises(TrainingError, match=f"diverged: {where} is not finite at update 10") as caught:
        run(wanted, reviews)
    assert caught.value.exit_code == 3 and isinstance(caught.value, Diverged)
    assert "--set optim.lr=0.0001" in str(caught.value)
    out = Path(wanted.out)
    assert not out.exists()
    kept = list(out.with_name(".model.run").glob("checkpoint-*/model.safetensors"))
    assert [file.parent.name for file in kept] == ["checkpoint-7"]
    from safetensors.torch import load_file

    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(kept[0]).values())


def test_auto_recovery_goes_on_from_the_last_good_checkpoint(
    config: Make, reviews: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_nan(monkeypatch, 10)
    wanted = config(
        loss="planted",
        optim={"epochs": 3, "lr": 1e-3, "head_lr": 2e-3},
        gradients={"auto_recover": True},
        tfidf_baseline=False,
    )
    heard, result = run(wanted, reviews)
    assert "auto-recovery 1 of 2" in warned(heard) and "Continuing from checkpoint-7 with optim.lr=0.0001" in warned(
        heard
    )
    assert result.updates == 21
    kept = (result.path / "train_config.yaml").read_text()
    assert "\n  lr: 0.0001" in kept and "head_lr: 0.0002" in kept and "max_grad_norm: 0.5" in kept


def test_auto_recovery_ends(config: Make, reviews: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return losses.sparse_categorical_crossentropy(logits, targets) * float("nan")

    monkeypatch.setitem(losses.LOSSES, "hopeless", hopeless)
    monkeypatch.setitem(losses.FITS, "hopeless", losses.ONE_OF_MANY)
    heard: list[Any] = []
    with pytest.raises(TrainingError, match="the loss is not finite at update 1"):
        train(config(loss="hopeless", gradients={"auto_recover": True, "attempts": 1}), reviews, heard.append)
    assert warned(heard).count("auto-recovery") == 1 and "Continuing from the start" in warned(heard)


def test_auto_recovery_gives_a_symmetric_head_another_beginning(config: Make, reviews: Any) -> None:
    wanted = config(
        model={"head": sigmoid_stack(hidden=[16, 16]), "initializer": "zeros"},
        gradients={"every": 1, "auto_recover": True},
        tfidf_baseline=False,
    )
    heard, result = run(wanted, reviews)
    assert "Continuing from the start with model.initializer=glorot_uniform" in warned(heard)
    assert "name: glorot_uniform" in (result.path / "train_config.yaml").read_text()


def test_a_healthy_run_raises_no_alarm_and_can_be_seen(config: Make, reviews: Any) -> None:
    heard, result = run(
        config(gradients=EVERY, optim={"epochs": 3, "lr": 1e-2}, tfidf_baseline=False, plots=True), reviews
    )
    assert warned(heard) == ""
    assert (result.path / "report" / "gradients.png").stat().st_size > 5_000
    assert "gradients.png" in (result.path / "README.md").read_text()


def test_plots_are_drawn_only_where_they_are_wanted(config: Make, reviews: Any) -> None:
    _, result = run(config(gradients=EVERY, tfidf_baseline=False, plots=False), reviews)
    assert not list((result.path / "report").glob("*.png")) and ".png" not in (result.path / "README.md").read_text()
    assert (result.path / "report" / "gradients.jsonl").is_file()


def snapshot(update: int, *, loss: float = 0.7, ratio: float = 1e-3, first: float = 1.0) -> GradientSnapshot:
    return GradientSnapshot(update, loss, 1e-4, {"layer 1": first, "head": 1.0}, {"head": 1.0}, {"head": ratio})


def test_nothing_is_diagnosed_before_three_snapshots_agree() -> None:
    tiny = [snapshot(n, first=1e-9) for n in range(3)]
    assert diagnose(tiny[:2], lr=1e-4, layers=["layer 1", "head"]) == []
    [found] = diagnose(tiny, lr=1e-4, layers=["layer 1", "head"])
    assert found.name == "vanishing"
    assert diagnose([tiny[0], snapshot(1), tiny[2]], lr=1e-4, layers=["layer 1", "head"]) == []
    [slow] = diagnose([snapshot(n, ratio=1e-9) for n in range(9)], lr=1e-9, layers=["head"])
    assert slow.name == "lr_too_low" and not slow.grave and "optim.lr=2e-05" in slow.suggested_fixes


def test_only_settings_that_the_head_has_are_suggested_and_no_higher_rate_for_a_high_one() -> None:
    vanished = [snapshot(n, first=1e-9) for n in range(3)]
    [stock] = diagnose(vanished, lr=1e-3, layers=["layer 1", "head"], head="stock")
    assert stock.suggested_fixes == ("optim.lr=0.0001", "model.head=linear") and stock.safe == {}
    [linear] = diagnose(vanished, lr=1e-5, layers=["layer 1", "head"], head="linear")
    assert linear.suggested_fixes == ("model.initializer=he_uniform",)
    assert diagnose([snapshot(n, ratio=1e-9) for n in range(9)], lr=1.0, layers=["head"], head="stock") == []


def test_a_run_whose_updates_are_too_large_is_diagnosed_as_that_alone() -> None:
    broken = [snapshot(n, loss=0.7 + 10 * n, ratio=0.5, first=1e-9) for n in range(4)]
    assert [one.name for one in diagnose(broken, lr=10, layers=["layer 1", "head"], head="stock")] == ["lr_too_high"]


@pytest.mark.parametrize(
    ("losses_", "start", "ended", "name"),
    [
        ([0.69, 0.69, 6.4, 37.9, 104.7], 0.69, False, "loss_rose"),
        ([0.69, 0.69, 1.1, 1.4, 1.2], 0.69, False, None),
        ([0.05, 0.05, 3.0, 0.04, 0.05], 0.05, False, None),  # one batch with rare labels
        ([0.7, 0.7, 1.9, 1.6, 1.7, 1.5, 1.8], 0.69, True, "loss_rose"),
        ([0.7, 0.6, 0.5], 0.69, True, None),
    ],
)
def test_a_run_has_diverged_where_its_loss_stays_far_above_the_start(
    losses_: list[float], start: float, ended: bool, name: str | None
) -> None:
    found = loss_far_above(losses_, start, len(losses_), 0.1, ended=ended)
    assert (found.name if found is not None else None) == name


@pytest.mark.parametrize(("updates", "every"), [(5, 1), (30, 6), (100, 10), (400, 10), (4000, 100)])
def test_snapshots_are_rare(updates: int, every: int) -> None:
    assert snapshot_every(updates) == every
