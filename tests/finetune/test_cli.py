"""The training commands as a person types them: output, exit codes, one line for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import cli
from finetune.core.tables.files import write_table
from finetune.training import run_lock
from finetune.training.checkpoints import is_whole

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def table(tmp_path: Path, reviews: Any) -> Path:
    write_table(tmp_path / "reviews.csv", reviews)
    return tmp_path / "reviews.csv"


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs a training command in this process: exit code, standard output, standard error."""

    def run(*args: object, command: str = "finetune") -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as left:
                cli.run(cli.commands[command], [str(arg) for arg in args])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_a_table_becomes_a_model_and_plain_lines_say_how(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "reviews"
    flags = ["--base", tiny_base, "--text", "text", "--label", "label", "--epochs", 8, "--batch-size", 9, "--lr", 5e-3]
    code, shown, told = call(table, *flags, "--seed", 7, "--out", out, "--loss", "binary_crossentropy")
    assert code == 0, told
    assert re.search(r"validation: accuracy 1\.0000", shown)
    assert "54 rows, validating on 6: 48 updates (6 an epoch)" in told
    assert re.search(r"about \d+ s left", told)
    assert "text 'text', label 'label'" in told
    assert "kept 39 tensors" in told
    assert json.loads((out / "metrics.json").read_text())["metrics"]["accuracy"]["value"] == 1.0

    code, _, told = call(table, *flags, "--out", out)
    assert (code, told) == (
        2,
        f"error: {out} already holds a model: choose another --out, or pass --overwrite to replace it\n",
    )

    repeated = tmp_path / "models" / "again"
    code, _, told = call("--config", out / "train_config.yaml", "--out", repeated)
    assert code == 0, told
    assert (repeated / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    code, _, told = call(table, *flags, "--out", out, "--resume")
    assert code == 0
    assert "is finished: nothing to resume" in told


def test_a_dry_run_prints_config_counts_and_updates_and_writes_nothing(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    code, shown, _ = call(
        table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run", "--set", "optim.batch_size=10"
    )
    assert code == 0
    assert "batch_size: 10" in shown
    assert "# updates: 18 (6 an epoch)" in shown
    assert "# rows read: 60" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.csv"], "missing.csv: there is no such file"),
        (["{table}", "--label", "stars"], "there is no column 'stars' .--label.; there are: text, label"),
        (["{table}", "--task", "regression"], "row 1.*'no' is not a number"),
        (["{table}", "--task", "poetry"], "'data.task' is 'poetry': input should be"),
        (["{table}", "--base", "./nowhere"], "no model './nowhere'"),
        (["{table}", "--loss", "mean_squared_error"], "does not fit task binary"),
        (["{table}", "--set", "optim.speed=9"], "unknown setting 'optim.speed'"),
        (["{table}", "--config", "no.yaml"], "no.yaml: there is no such config file"),
        (["{table}", "--epochs", "many"], "'many' is not a valid float"),
        ([], "no data: name a table"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    filled = [arg.replace("{table}", str(table)) for arg in args]
    base = [] if "--base" in args else ["--base", str(tiny_base)]
    code, _, told = call(*filled, *base, "--out", tmp_path / "m")
    assert code == 2
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert not (tmp_path / "m").exists()


def test_a_diverging_run_exits_with_3(call: Call, tiny_base: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "n.csv", [{"text": f"t{i}", "label": i + 0.5} for i in range(40)])
    code, _, told = call(
        tmp_path / "n.csv", "--base", tiny_base, "--out", tmp_path / "m", "--lr", 1e30, "--set", "optim.max_grad_norm=0"
    )
    assert code == 3
    assert "diverged" in told.splitlines()[-1]


def test_a_rate_that_is_far_too_high_exits_with_3_and_writes_no_model(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    flags = ["--base", tiny_base, "--out", tmp_path / "m", "--lr", 10, "--batch-size", 8, "--epochs", 2]
    code, shown, told = call(table, *flags)
    assert (code, shown) == (3, "")
    last = told.splitlines()[-1]
    assert last.startswith("error: the run diverged: the loss rose to") and "No model was written" in last
    assert "vanish" not in told and "model.head" not in told and "higher" not in told
    assert not (tmp_path / "m").exists()


def test_what_a_run_learned_is_said_before_its_figures(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    flags = [
        "--base",
        tiny_base,
        "--out",
        tmp_path / "m",
        "--lr",
        1e-7,
        "--batch-size",
        16,
        "--epochs",
        2,
        "--set",
        "plots=false",
    ]
    code, shown, told = call(table, *flags, "--set", "report_to=[tensorboard]", "--set", "tfidf_baseline=false")
    lines = shown.splitlines()
    assert code == 0, told
    assert lines[0].startswith("warning: the model is untrained: on the 6 validation rows it is no better than")
    assert "higher learning rate (--lr 0.0012" in lines[0]
    assert lines[1].startswith("validation: accuracy 0.5000")
    assert lines[2].startswith("note: the best of 2 checkpoints was chosen on the validation rows (by accuracy)")
    errors = tmp_path / "m" / "report" / "errors.csv"
    assert f"errors: {errors} (`row` counts the data rows of `file` from 1; the header is not counted)" in lines
    assert f"logs: {tmp_path / 'm'}.logs (tensorboard --logdir {tmp_path / 'm'}.logs)" in lines
    assert "(best accuracy so far)" in told
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.index("the model is untrained") < card.index("## Use")
    assert json.loads((tmp_path / "m" / "metrics.json").read_text())["notes"]["untrained"] in lines[0]


def test_a_dry_run_refuses_a_model_that_is_there(call: Call, table: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    code, _, told = call(table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run")
    assert code == 2 and "already holds" in told


def test_a_dry_run_refuses_an_output_that_another_run_writes(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with run_lock.locked(tmp_path / "m"):
        code, _, told = call(table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run")
    assert code == 2 and "another run is writing" in told


def test_choices_list_every_loss_with_its_sentence(call: Call) -> None:
    code, shown, _ = call("losses", command="choices")
    assert code == 0
    assert "sparse_categorical_crossentropy  (label_smoothing=0.0)  [binary, multiclass]\n    -log p[y]" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_its_checkpoint_and_says_where(
    table: Path, tiny_base: Path, tmp_path: Path, number: int, code: int
) -> None:
    args = [table, "--base", tiny_base, "--out", tmp_path / "m", "--epochs", 500, "--batch-size", 10]
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", "finetune", *map(str, args)], stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "(best accuracy so far)" in line:
                time.sleep(1)
                process.send_signal(number)
                break
        lines += process.stderr.readlines()
    assert process.returncode == code
    told = [line for line in lines if line.strip()]  # click ends the line that ^C stands on
    assert "interrupted at update " in told[-1] and "run the same command with --resume" in told[-1]
    assert "Traceback" not in "".join(lines)
    update = int(told[-1].split("at update ")[1].split(" of ")[0])
    assert is_whole(tmp_path / ".m.run" / f"checkpoint-{update}")
