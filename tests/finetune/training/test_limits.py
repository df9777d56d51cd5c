"""What a run does where the disk or the memory does not suffice, or another run is at work."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.choice import Choice
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.disk_space import checkpoint_bytes, checkpoints_at_once, is_full, require_free
from finetune.core.errors import ConfigError, StorageError
from finetune.core.file_lock import is_held, lock_file
from finetune.core.tables.files import write_table
from finetune.run import train
from finetune.training.auxiliary_losses import AUXILIARY
from finetune.training.checkpoints import checkpoints_of, is_whole
from finetune.training.losses import FITS, LOSSES, loss_for
from finetune.training.out_of_memory import ACROSS_ROWS, OutOfMemory, is_out_of_memory, require_divisible, split
from finetune.training.run_lock import locked

Make = Callable[..., TrainConfig]


@contextmanager
def files_of_at_most(size: int) -> Iterator[Callable[[], None]]:
    """Gives a function after whose call no file can grow beyond so many bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_a_full_disk_leaves_earlier_checkpoints_whole_and_says_bytes_needed(
    config: Make, reviews: Any, checkpoints: int
) -> None:
    settings = config(optim={"epochs": 2}, tfidf_baseline=False)
    work = Path(settings.out).with_name(".model.run")
    saved = [0]
    with files_of_at_most(10_000) as fill:

        def fill_up(event: events.Event) -> None:
            saved[0] += isinstance(event, events.Saved)
            if saved[0] == checkpoints:
                fill()

        # after the first checkpoint the second one fails, after the second one the finished folder
        with pytest.raises(StorageError, match=r"the disk is full: .* needs about [\d,]+ bytes, .*--resume"):
            train(settings, reviews, fill_up)
    assert len(checkpoints_of(work)) == checkpoints and all(map(is_whole, checkpoints_of(work)))
    assert not (work / "finished").exists() and not Path(settings.out).exists()
    result = train(settings.model_copy(update={"resume": True}), reviews)
    assert result.updates == 14


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="limits files with ulimit of bash, which is not installed")
def test_the_command_ends_in_a_sentence_where_the_disk_is_full(config: Make, reviews: Any, tmp_path: Path) -> None:
    write_table(tmp_path / "reviews.csv", reviews)
    shell = 'ulimit -f 8; exec "$@"'  # blocks of 1024 bytes
    model = config()
    command = [sys.executable, "-m", "finetune", str(tmp_path / "reviews.csv"), "--base", model.base]
    done = subprocess.run(
        ["bash", "-c", shell, "bash", *command, "--out", model.out, "--set", "tfidf_baseline=false"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "error: the disk is full: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_run_that_the_disk_cannot_take_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"needs {10**18:,} bytes .* bytes are free at {tmp_path}"):
        require_free(10**18, tmp_path / "not" / "there")
    require_free(1, tmp_path)


def test_bytes_of_a_run_are_counted_by_hand() -> None:
    model = torch.nn.Linear(10, 10)
    model.bias.requires_grad_(False)
    assert checkpoint_bytes(model, "adamw", ema=False) == 440 + 2 * 400
    assert checkpoint_bytes(model, "adafactor", ema=True) == 440 + 440
    assert [checkpoints_at_once(regular, 2) for regular in (1, 2, 3, 10)] == [2, 3, 4, 4]


def test_write_errors_of_a_full_disk_are_distinguished_from_others() -> None:
    assert is_full(OSError(28, "No space left on device"))
    assert is_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"))
    assert is_full(Exception("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(13, "Permission denied"))
    assert not is_full(ValueError("a number"))


LIMITED = """
import json, resource, sys
from finetune.core import events
from finetune.config.loading import build
from finetune.run import train

heard = []

def hear(event):
    if isinstance(event, events.Warned):
        heard.append(event.text)
    if isinstance(event, events.Started) and len(heard) < 10:
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + int(sys.argv[2]) * 2**20, -1))

config = json.loads(sys.argv[1])
rows = [{"text": ("good " if i % 2 else "bad ") * 120 + str(i), "label": "ab"[i % 2]} for i in range(1100)]
try:
    result = train(build(config), rows, hear)
    print(json.dumps({"updates": result.updates, "heard": heard}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""


def with_memory(config: TrainConfig, mebibytes: int) -> dict[str, Any]:
    """What comes of a run that may take so much more memory than when it begins."""
    command = [sys.executable, "-c", LIMITED, config.model_dump_json(), str(mebibytes)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.stdout, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_batch_that_does_not_fit_is_halved_with_the_same_updates(config: Make) -> None:
    optim = {"batch_size": 1000, "epochs": 2}
    found = with_memory(config(optim=optim, data={"validation_size": 100}, tfidf_baseline=False), 250)
    assert found["updates"] == 2, found
    [first, *_] = [text for text in found["heard"] if text.startswith("out of memory")]
    assert first.startswith("out of memory with batches of 1000 rows: now 500 rows a batch and twice as many batches")
    assert first.endswith("going on from the start")


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.slow
def test_batch_normalization_is_refused_in_place_of_a_smaller_batch(config: Make) -> None:
    head = {"head": {"name": "mlp", "norm": "batch"}}
    found = with_memory(config(optim={"batch_size": 1000}, model=head, data={"validation_size": 100}), 150)
    assert found["error"] == "ConfigError" and "batch normalization" in found["text"]


def test_a_single_row_that_does_not_fit_is_refused(config: Make) -> None:
    model = torch.nn.Linear(2, 2)
    for evaluating in (False, True):
        with pytest.raises(ConfigError, match=r"out of memory with a single row: lower data\.max_length"):
            require_divisible(config(), model, OutOfMemory(1, evaluating))
    require_divisible(config(), model, OutOfMemory(2, evaluating=False))
    normed = torch.nn.Sequential(model, torch.nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="statistics of batch normalization"):
        require_divisible(config(), normed, OutOfMemory(2, evaluating=False))
    require_divisible(config(), normed, OutOfMemory(2, evaluating=True))


def test_losses_across_rows_are_refused(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.training.out_of_memory.ACROSS_ROWS", frozenset({"focal"}))
    with pytest.raises(ConfigError, match="focal compares the rows of a batch"):
        require_divisible(config(loss="focal"), torch.nn.Linear(2, 2), OutOfMemory(8, evaluating=False))


def test_failed_allocations_are_recognized() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("rows", "parts", "sizes"), [(8, 2, [4, 4]), (7, 4, [2, 2, 2, 1]), (3, 8, [1, 1, 1]), (5, 1, [5])]
)
def test_a_batch_is_split_in_row_order(rows: int, parts: int, sizes: list[int]) -> None:
    cut = list(split({"input_ids": torch.arange(2 * rows).reshape(rows, 2), "labels": torch.arange(rows)}, parts))
    assert [len(part["labels"]) for part in cut] == sizes
    assert torch.cat([part["labels"] for part in cut]).tolist() == list(range(rows))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_across_rows_is_named(name: str) -> None:
    if name in ACROSS_ROWS:
        return
    torch.manual_seed(0)
    ids, several = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(2, 1)
    targets = {"binary": ids, "multiclass": ids, "multi_label": several, "regression": torch.rand(6)}
    for task in FITS[name].tasks:
        loss, logits = loss_for(task, Choice(name=name)), torch.randn(6, 1 if task == "regression" else 2)
        alone = torch.cat([loss(logits[row : row + 1], targets[task][row : row + 1]) for row in range(6)])
        assert torch.allclose(loss(logits, targets[task]), alone)
    assert set(AUXILIARY) == {"keep_embedding"}, "a term across rows belongs in ACROSS_ROWS"


def test_the_second_run_for_an_output_is_refused(config: Make, reviews: Any) -> None:
    def start_another(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(
                ConfigError, match="another run is writing .*model. Wait until it ends, stop it, or choose"
            ):
                train(config(resume=True), reviews)

    assert train(config(tfidf_baseline=False), reviews, start_another).updates == 7
    assert not lock_file(Path(config().out)).exists()


HOLD = """
import sys, time
from pathlib import Path
from finetune.training.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_crash_leaves_no_lock_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "model")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, holder.stdout as output:  # the end of a process that fails to start is read as an empty line
        assert output.readline() == "held\n" and is_held(tmp_path / "model")
        with pytest.raises(ConfigError), locked(tmp_path / "model"):
            pass
        holder.kill()
    assert lock_file(tmp_path / "model").exists() and not is_held(tmp_path / "model")
    with locked(tmp_path / "model"):
        assert is_held(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_refused_run_made_are_removed(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train(config(out=str(tmp_path / "a" / "b" / "model"), loss="no_such_loss"), [])
    assert list(tmp_path.iterdir()) == []
