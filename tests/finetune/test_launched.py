"""`rehead finetune` under torchrun and accelerate launch: one model, one output, and what a run survives."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from waiting import until

from finetune.checks import check_settings
from finetune.cli import finetune
from finetune.config.loading import build
from finetune.core import launch
from finetune.core.errors import ConfigError
from finetune.core.model_folder import read
from finetune.training.arguments import on_one_device, training_arguments
from finetune.training.checkpoints import last_good_checkpoint

pytestmark = pytest.mark.usefixtures("no_launcher")

SETTINGS = {
    "precision": "float32",
    "plots": "false",
    "optim.optimizer": "sgd",
    "optim.lr": "0.02",
    "checkpoint.every_steps": "10",
    "gradients.auto_recover": "false",
    "tfidf_baseline": "false",
}
STOPS_WITHIN_S = 30


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Launched:
    """Processes that were started together, and the file of their output."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text()

    def ended(self) -> int:
        """Wait for the launcher, and return its exit code."""
        until(lambda: self.process.poll() is not None, "the launcher's end")
        return int(self.process.returncode)

    def kill(self, rank: int) -> None:
        """Kill one of the processes, as a machine that fails would."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.environ().get("RANK") == str(rank):
                child.kill()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ACCELERATE = (
    # --multi_gpu starts several processes, also for --device cpu; --cpu starts one
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
    *("--mixed_precision=fp16", "--dynamo_backend=no", "--main_process_port=0"),
)


class Runs:
    """Starts `rehead finetune` on one small table."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.folder, self.base, self.started = folder, base, 0
        self.table = folder / "reviews.csv"
        with self.table.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for index in range(61):
                words = "good great loved" if index % 2 else "bad awful hated"
                writer.writerow([f"{words} film {'very ' * (index % 5)}{index}", ["no", "yes"][index % 2]])

    def arguments(self, out: str, *, batch_size: int, epochs: int = 12) -> list[str]:
        settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        options = {"--base": self.base, "--out": self.folder / out, "--batch-size": batch_size, "--epochs": epochs}
        flags = [str(part) for option in options.items() for part in option]
        return [str(self.table), *flags, "--device", "cpu", *settings]

    def start(self, *command: str) -> Launched:
        self.started += 1
        output = self.folder / f"output-{self.started}.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen([sys.executable, *command], stdout=stream, stderr=subprocess.STDOUT)
        return Launched(process, output)

    def together(self, out: str, *more: str, launcher: tuple[str, ...] = TORCHRUN) -> Launched:
        return self.start(*launcher, "-m", "finetune", *self.arguments(out, batch_size=4), *more)


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return runs of a base without dropout."""
    folder = tmp_path_factory.mktemp("launched")
    base = folder / "base"
    base.mkdir()
    for file in tiny_base.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    (base / "config.json").write_text(json.dumps(config))
    return Runs(base, folder)


@pytest.fixture(scope="module")
def unbroken(runs: Runs) -> Launched:
    """Return a run of two processes that nothing has disturbed."""
    run = runs.together("unbroken")
    assert run.ended() == 0, run.text()
    return run


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_two_processes_write_the_folder_of_one_and_print_once(runs: Runs, unbroken: Launched) -> None:
    import numpy as np

    alone = CliRunner().invoke(finetune, runs.arguments("alone", batch_size=8))
    assert alone.exit_code == 0, alone.output
    one, two = read(runs.folder / "alone", check_hashes=True), read(runs.folder / "unbroken", check_hashes=True)
    files = [sorted(str(file.relative_to(f.path)) for file in f.path.rglob("*")) for f in (one, two)]
    assert files[0] == files[1]
    expected, computed = weights(one.path), weights(two.path)
    assert max(float(np.abs(expected[name] - computed[name]).max()) for name in expected) < 1e-6
    metrics = [{name: entry["value"] for name, entry in dict(f.metrics or {})["metrics"].items()} for f in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)
    lines = [re.sub(r"[\d.]+ rows/s.*|about .* left.*|loss .*", "", text) for text in (alone.output, unbroken.text())]
    ours, theirs = (line.replace("alone", "OUT").replace("unbroken", "OUT").splitlines() for line in lines)
    plan = [line for line in theirs if "batches of" in line]
    assert len(plan) == 1 and "4 rows in each of 2 processes, 8 together" in plan[0]
    assert [line for line in theirs if "batches of" not in line] == [line for line in ours if "batches of" not in line]


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_the_run_goes_on_as_if_it_had_not(runs: Runs, unbroken: Launched) -> None:
    work = runs.folder / ".broken.run"
    first = runs.together("broken")
    until(lambda: last_good_checkpoint(work), "the first checkpoint")
    first.kill(1)
    killed_s = time.monotonic()
    assert first.ended() != 0
    assert time.monotonic() - killed_s < STOPS_WITHIN_S
    assert "process 0 of 2 stops: another process of the run has ended. --resume goes on from" in first.text()
    assert not (runs.folder / "broken").exists()

    # torchrun starts both again, and they go on without --resume; then it is told to stop
    again = runs.together("broken", launcher=(*TORCHRUN, "--max-restarts=1"))
    until(lambda: "update 20, epoch" in again.text(), "an evaluation after the first checkpoint")
    again.kill(0)
    until(lambda: ", epoch" in again.text().partition("resuming from")[2], "an evaluation after the second start")
    assert "started again by torchrun, time 1: going on from the last checkpoint" in again.text()
    again.process.send_signal(signal.SIGTERM)
    assert again.ended() != 0
    assert re.search(r"interrupted at update \d+ of \d+, saved as", again.text()), again.text()
    last = last_good_checkpoint(work)
    assert last is not None and f"saved as {last};" in again.text()

    # another number of processes is refused, and changes nothing
    alone = CliRunner().invoke(finetune, [*runs.arguments("broken", batch_size=8), "--resume"])
    assert "was made by 2 processes, whose rows and random numbers 1 process cannot repeat" in str(alone.exception)
    assert last_good_checkpoint(work) == last

    ended = runs.together("broken", "--resume", launcher=ACCELERATE)
    assert ended.ended() == 0, ended.text()
    stored = [(runs.folder / name / "model.safetensors").read_bytes() for name in ("broken", "unbroken")]
    assert stored[0] == stored[1]


@pytest.mark.slow
def test_a_mistake_is_reported_once_by_all_processes_together(runs: Runs) -> None:
    run = runs.together("mistaken", "--set", "data.label=[sentiment]")
    assert run.ended() != 0
    assert run.text().count("error:") == 1, run.text()
    assert not list(runs.folder.glob("*mistaken*"))


def test_other_ways_of_training_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="asks for FSDP, and rehead trains on several processes with DDP only"):
        launch.require_supported()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    launch.require_supported()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start them with torchrun or accelerate launch"):
        launch.require_supported()


def test_what_only_one_process_can_do_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Path
) -> None:
    from finetune.cross_validation import cross_validate
    from finetune.tune import search

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    config = build({"base": str(tiny_base), "out": str(tmp_path / "model")})
    with pytest.raises(ConfigError, match="cross-validation runs in one process, and 2 were started"):
        cross_validate(config, 2)
    with pytest.raises(ConfigError, match="the search runs in one process"):
        search({"base": str(tiny_base), "out": str(tmp_path / "model")}, 1)
    dry = CliRunner().invoke(finetune, ["reviews.csv", "--base", str(tiny_base), "--out", "m", "--dry-run"])
    assert isinstance(dry.exception, ConfigError) and "--dry-run runs in one process" in str(dry.exception)
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "predict", "sentiment", "fine"],
        capture_output=True,
        text=True,
        env=os.environ | {"WORLD_SIZE": "2", "RANK": "0"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: rehead predict runs in one process, and 2 were started")


def test_one_process_uses_one_gpu_of_several(tmp_path: Path, tiny_base: Path) -> None:
    config = build({"base": str(tiny_base), "out": str(tmp_path / "model")})
    check_settings(config)
    arguments = training_arguments(config, tmp_path, rows=8, accumulation=1, updates=1, best_by="loss")
    arguments._n_gpu = 4  # as where four GPUs are in sight
    assert arguments.train_batch_size == 32
    assert on_one_device(arguments).train_batch_size == 8
