"""The training commands as a person types them: output, exit codes, one line for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from finetune import cli
from finetune.config import loading
from finetune.config.training import TrainConfig
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
    """Run a training command in this process: exit code, standard output, standard error."""

    def run(*args: object, command: str = "finetune") -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stop:
                cli.run(cli.commands[command], [str(arg) for arg in args])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def test_a_table_becomes_a_model_and_plain_lines_report_the_run(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "reviews"
    flags = ["--base", tiny_base, "--text", "text", "--label", "label", "--epochs", 8, "--batch-size", 9, "--lr", 5e-3]
    code, printed, err = call(table, *flags, "--seed", 7, "--out", out, "--loss", "binary_crossentropy")
    assert code == 0, err
    assert re.search(r"validation: accuracy 1\.0000", printed)
    assert "54 rows, validating on 6: 48 updates (6 an epoch)" in err
    assert re.search(r"about \d+ s left", err)
    assert "text 'text', label 'label'" in err
    assert "kept 39 tensors" in err
    assert json.loads((out / "metrics.json").read_text())["metrics"]["accuracy"]["value"] == 1.0

    code, _, err = call(table, *flags, "--out", out)
    assert (code, err) == (
        2,
        f"error: {out} already holds a model: choose another --out, or pass --overwrite to replace it\n",
    )

    repeated = tmp_path / "models" / "again"
    code, _, err = call("--config", out / "train_config.yaml", "--out", repeated)
    assert code == 0, err
    assert (repeated / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    code, _, err = call(table, *flags, "--out", out, "--resume")
    assert code == 0
    assert "is finished: nothing to resume" in err


def test_a_dry_run_prints_config_counts_and_updates_and_writes_nothing(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    code, printed, _ = call(
        table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run", "--set", "optim.batch_size=10"
    )
    assert code == 0
    assert "batch_size: 10" in printed
    assert "# updates: 18 (6 an epoch)" in printed
    assert "# rows read: 60" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


def test_a_dry_run_prints_the_data_report_and_then_the_settings_that_were_changed(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    flags = [table, "--base", tiny_base, "--out", tmp_path / "m", "--loss", "focal", "--epochs", 2, "--dry-run"]
    code, printed, _ = call(*flags)
    report, _, settings = printed.partition("\n\n")
    assert code == 0 and all(line.startswith("# ") for line in report.splitlines())
    assert settings.startswith("# settings other than the defaults; --full prints all\nbase: ")
    changed = yaml.safe_load(settings)
    assert set(changed) == {"base", "out", "data", "loss", "optim"} and changed["loss"] == {"name": "focal"}
    assert set(changed["optim"]) == {"epochs", "lr", "head_lr"}  # the rates are inferred
    assert set(changed["data"]) == {"train", "task", "max_length"}

    code, printed, _ = call(*flags, "--full")
    every = yaml.safe_load(printed)
    assert code == 0 and printed.startswith(report) and set(every) == set(TrainConfig.model_fields)
    assert loading.build(every) == loading.build(changed)
    (tmp_path / "run.yaml").write_text(settings)
    code, again, _ = call("--config", tmp_path / "run.yaml", "--dry-run")
    assert code == 0 and again.endswith(settings)


def test_flags_of_common_settings_set_them(call: Call, table: Path, tiny_base: Path, tmp_path: Path) -> None:
    flags = ["--class-weights", "balanced", "--early-stopping", 3, "--max-length", 16, "--head", "mlp", "--freeze", 1]
    code, printed, err = call(
        table, "--base", tiny_base, "--out", tmp_path / "m", *flags, "--learning-rate", 2e-3, "--dry-run"
    )
    assert code == 0, err
    config = loading.build(yaml.safe_load(printed))
    assert (config.class_weights, config.data.max_length, config.model.head.name) == ("balanced", 16, "mlp")
    assert (config.model.freeze, config.optim.early_stopping, config.optim.lr) == (1, 3, 2e-3)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--class_weight", "--class-weights"),
        ("--class_weight=balanced", "--class-weights"),
        ("--learning_rate", "--learning-rate"),
        ("--patience", "--early-stopping"),
        ("--num-epochs", "--epochs"),
        ("--output-dir", "--out"),
        ("--train-file", "the argument DATA"),
        ("--optimizer", "--set optim.optimizer=VALUE"),
        ("--ema-decay", "--set optim.ema_decay=VALUE"),
        ("--license", "--set license=VALUE or --set data.license=VALUE"),
    ],
)
def test_an_unknown_option_suggests_the_one_that_is_meant(call: Call, option: str, meant: str) -> None:
    code, _, err = call("table.csv", option, "1")
    assert code == 2
    assert err.splitlines()[-1] == f"Error: No such option '{option.split('=')[0]}'. Did you mean {meant}?"


def test_an_unknown_option_of_no_known_meaning_suggests_what_is_spelled_alike(call: Call) -> None:
    for option, command in [("--heads", "finetune"), ("--trails", "search")]:
        code, _, err = call("README.md", option, "1", command=command)
        assert code == 2 and f"'{option[:6]}" in err.splitlines()[-1]
    assert "--frobnicate" in call("table.csv", "--frobnicate")[2]
    assert "Did you mean --set optim.lr=VALUE?" in call("README.md", "--lr", "1", command="search")[2]


def test_help_has_every_option_once_in_five_groups(call: Call) -> None:
    code, printed, _ = call("--help")
    assert code == 0
    headings = re.findall(r"^(\w.*):$", printed, re.MULTILINE)
    assert headings == list(cli.GROUPS) == ["Basic options", "Data", "Model", "Training", "Output"]
    grouped = [name for names in cli.GROUPS.values() for name in names]
    options = [parameter.name for parameter in cli.finetune.params if isinstance(parameter, click.Option)]
    assert sorted(grouped) == sorted([*options, "help"])
    assert "--lr, --learning-rate FLOAT" in printed
    assert "\nOptions:\n" in call("--help", command="search")[1]


def test_defaults_in_the_help_are_those_of_the_settings() -> None:
    default = TrainConfig(base="b", out="o").model_dump()
    for parameter in cli.finetune.params:
        written = re.search(r"\[default: (.*)\]", getattr(parameter, "help", None) or "")
        if written:
            value: Any = default
            for key in cli.SETTINGS[parameter.name or ""].split("."):
                value = value[key]
            assert written[1] == f"{value:g}" if isinstance(value, float) else str(value), parameter.name


def test_full_without_a_dry_run_is_refused(call: Call, table: Path) -> None:
    code, _, err = call(table, "--full")
    assert code == 2 and "--full goes with --dry-run" in err


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
    code, _, err = call(*filled, *base, "--out", tmp_path / "m")
    assert code == 2
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "m").exists()


def test_a_diverging_run_exits_with_3(call: Call, tiny_base: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "n.csv", [{"text": f"t{i}", "label": i + 0.5} for i in range(40)])
    code, _, err = call(
        tmp_path / "n.csv", "--base", tiny_base, "--out", tmp_path / "m", "--lr", 1e30, "--set", "optim.max_grad_norm=0"
    )
    assert code == 3
    assert "diverged" in err.splitlines()[-1]


def test_a_rate_that_is_far_too_high_exits_with_3_and_writes_no_model(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    flags = ["--base", tiny_base, "--out", tmp_path / "m", "--lr", 10, "--batch-size", 8, "--epochs", 2]
    code, printed, err = call(table, *flags)
    assert (code, printed) == (3, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: the run diverged: the loss rose to") and "No model was written" in last
    assert "vanish" not in err and "model.head" not in err and "higher" not in err
    assert not (tmp_path / "m").exists()


def test_what_a_run_learned_is_printed_before_its_metrics(
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
    code, printed, err = call(table, *flags, "--set", "report_to=[tensorboard]", "--set", "tfidf_baseline=false")
    lines = printed.splitlines()
    assert code == 0, err
    assert lines[0].startswith("warning: the model is untrained: on the 6 validation rows it is no better than")
    assert "higher learning rate (--lr 0.0012" in lines[0]
    assert lines[1].startswith("validation: accuracy 0.5000")
    assert lines[2].startswith("note: the best of 2 checkpoints was chosen on the validation rows (by accuracy)")
    errors = tmp_path / "m" / "report" / "errors.csv"
    assert f"errors: {errors} (`row` counts the data rows of `file` from 1; the header is not counted)" in lines
    assert f"logs: {tmp_path / 'm'}.logs (tensorboard --logdir {tmp_path / 'm'}.logs)" in lines
    assert "(best accuracy so far)" in err
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.index("the model is untrained") < card.index("## Use")
    assert json.loads((tmp_path / "m" / "metrics.json").read_text())["notes"]["untrained"] in lines[0]


def test_a_dry_run_refuses_a_model_that_is_there(call: Call, table: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    code, _, err = call(table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run")
    assert code == 2 and "already holds" in err


def test_a_dry_run_refuses_an_output_that_another_run_writes(
    call: Call, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with run_lock.locked(tmp_path / "m"):
        code, _, err = call(table, "--base", tiny_base, "--out", tmp_path / "m", "--dry-run")
    assert code == 2 and "another run is writing" in err


def test_choices_list_every_loss_with_its_sentence(call: Call) -> None:
    code, printed, _ = call("losses", command="choices")
    assert code == 0
    assert "sparse_categorical_crossentropy  (label_smoothing=0.0)  [binary, multiclass]\n    -log p[y]" in printed


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_keeps_its_checkpoint_and_reports_where(
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
            if any("(best accuracy so far)" in earlier for earlier in lines[:-1]):  # the run goes on
                process.send_signal(number)
                break
        lines += process.stderr.readlines()
    assert process.returncode == code
    last = [line for line in lines if line.strip()][-1]  # click ends the line with ^C by an empty one
    assert "interrupted at update " in last and "run the same command with --resume" in last
    assert "Traceback" not in "".join(lines)
    update = int(last.split("at update ")[1].split(" of ")[0])
    assert is_whole(tmp_path / ".m.run" / f"checkpoint-{update}")
