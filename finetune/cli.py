"""The training commands: `rehead finetune`, `rehead search`, `rehead choices`; also `python -m finetune`.

Options, printed results and exit codes only: the modules that do the work are imported when a command runs.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from finetune.config.choices import TABLES
from finetune.config.command_line import SettingsCommand
from finetune.core import launch
from finetune.core.allocator import keep_freed_memory
from finetune.core.event_printer import EventPrinter
from finetune.core.number_format import figure
from finetune.core.tables.flags import reading_flags

if TYPE_CHECKING:
    from finetune.config.training import TrainConfig
    from finetune.prepare import Prepared
    from finetune.run import TrainResult

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

PRINTED_METRICS = 3
"""Metrics of each split that a run prints; the model card has the rest."""

DEVICES = ("auto", "cpu", "cuda", "mps")
SETTINGS = {
    **{name: name for name in ("base", "out", "seed", "device", "resume", "overwrite", "allow_changed", "models_dir")},
    "class_weights": "class_weights",
    **{name: f"data.{name}" for name in ("text", "label", "text_pair", "group", "weight", "task", "max_length")},
    **{name: f"data.{name}" for name in ("encoding", "separator", "header", "sheet")},
    **{name: f"optim.{name}" for name in ("epochs", "batch_size", "lr", "early_stopping")},
    "data": "data.train",
    "loss": "loss.name",
    "few_shot": "few_shot.name",
    "head": "model.head.name",
    "freeze": "model.freeze",
}
"""Parameter of `rehead finetune` -> the setting that it gives a value."""

GROUPS = {
    "Basic options": ("base", "out", "epochs", "few_shot", "file", "overrides", "dry_run", "full", "help"),
    "Data": (
        *("text", "label", "text_pair", "group", "weight", "task", "max_length"),
        *("encoding", "separator", "header", "sheet"),
    ),
    "Model": ("head", "freeze", "models_dir"),
    "Training": ("batch_size", "lr", "loss", "class_weights", "early_stopping", "seed", "device"),
    "Output": ("folds", "overwrite", "resume", "allow_changed"),
}
"""Heading of `rehead finetune --help` -> its parameters."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: stop as after Ctrl-C, with another exit code."""


def run(group: click.Command, args: list[str] | None = None) -> NoReturn:
    """Run a click command or group; errors meant for users become one line and an exit code.

    Of several processes that were started together, process 0 prints what all of them would.
    """

    def terminate(number: int, frame: Any) -> NoReturn:
        raise Terminated

    keep_freed_memory()
    signal.signal(signal.SIGTERM, terminate)
    try:
        group.main(args=args, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        if launch.is_main():
            error.show()
        sys.exit(2)
    except Terminated:
        sys.exit(EXIT_TERMINATED)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        terminated = isinstance(interrupt.__cause__ or interrupt.__context__, Terminated)
        sys.exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise  # a defect: Python prints the traceback and exits with 1
        if launch.is_main() or getattr(error, "is_own", False):
            click.echo(f"error: {error}", err=True)
        sys.exit(code)
    sys.exit(0)


@click.command(cls=SettingsCommand, settings=SETTINGS, groups=GROUPS)
@click.argument("data", required=False)
@click.option("--base", help="Encoder to start from: a folder, a served name, a Hub id, or `auto`.")
@click.option("--text", multiple=True, help="Column of the text; repeat it to join the texts of several columns.")
@click.option("--label", multiple=True, help="Column of the label; repeat it for columns of 0 and 1, one per label.")
@click.option("--text-pair", help="Column of the second text of a pair.")
@click.option("--group", help="Column of an author, document or customer: no group is both trained and evaluated on.")
@click.option("--weight", help="Column of the weight of each row in the loss.")
@click.option("--task", help="binary, multiclass, multi-label or regression; inferred if not given.")
@click.option("--max-length", type=int, metavar="TOKENS", help="Tokens per text; longer texts are truncated.")
@reading_flags
@click.option("--head", metavar="NAME", help="Head on the encoder; `rehead choices heads` lists them.")
@click.option(
    "--freeze", metavar="PART", help="Weights not to train: `embeddings`, also the first N layers, or `body`."
)
@click.option("--models", "models_dir", help="Folder of named models.  [default: models]")
@click.option("--epochs", type=float, help="Passes over the training rows.  [default: 3]")
@click.option("--batch-size", metavar="ROWS", help="Rows per batch; also `full` or `auto`.  [default: 32]")
@click.option(
    "--lr", "--learning-rate", "lr", type=float, help="Peak learning rate; if not given, it suits the base's width."
)
@click.option(
    "--few-shot",
    metavar="WAY",
    help="For few rows of each label: `auto` cross-validates the ways of `rehead choices few_shot` and takes the best.",
)
@click.option("--loss", metavar="NAME", help="Loss; `rehead choices losses` lists them.")
@click.option(
    "--class-weights",
    type=click.Choice(["none", "balanced"]),
    help="`balanced` gives each label the same total weight in the loss.  [default: none]",
)
@click.option(
    "--early-stopping", type=int, metavar="N", help="Stop after N evaluations without a better validation score."
)
@click.option("--seed", type=int, help="Seed of the split, the new head and the order of rows.  [default: 42]")
@click.option("--device", type=click.Choice(DEVICES), help="Device of training.  [default: auto]")
@click.option("--out", help="Model folder to write.")
@click.option("--config", "file", metavar="FILE", help="YAML file with any settings; flags override it.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting by its dotted key; repeatable."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-validate first: score every row by a model of the other folds, into OUT.folds.",
)
@click.option("--resume", is_flag=True, default=None, help="Continue from the last checkpoint of this run.")
@click.option(
    "--allow-changed",
    multiple=True,
    metavar="KEY",
    help="With --resume, a setting that may differ: epochs, lr, early_stopping, logging, checkpoint, recovery; "
    "repeatable.",
)
@click.option(
    "--overwrite", is_flag=True, default=None, help="Replace the folder at --out, once the new one is complete."
)
@click.option("--dry-run", is_flag=True, help="Print the data report and the settings, and train nothing.")
@click.option("--full", is_flag=True, help="With --dry-run, print every setting, also those left at their default.")
def finetune(
    file: str | None, overrides: tuple[str, ...], dry_run: bool, full: bool, folds: int | None, **flags: Any
) -> None:
    """Fine-tune an encoder on a table of labeled texts (CSV, TSV, JSON, Parquet, Arrow, Excel, or a Hub dataset id).

    \b
    rehead finetune reviews.csv --base topics --text review --label sentiment --epochs 2 --out models/reviews
    rehead finetune --config run.yaml --set optim.lr=3e-5
    """
    from finetune.config import loading

    if full and not dry_run:
        raise click.UsageError("--full goes with --dry-run")
    if folds is not None and (dry_run or flags["resume"]):
        raise click.UsageError("--folds trains a model for each fold from the start: leave out --dry-run and --resume")
    for option, is_set in {"--dry-run": dry_run, "--folds": folds is not None}.items():
        if is_set:
            launch.require_one_process(option)
    flags |= {name: list(flags[name]) or None for name in ("text", "label", "allow_changed")}
    config = loading.load(file, overrides, **{SETTINGS[name]: value for name, value in flags.items()})
    from finetune.core.quiet import quiet

    quiet()
    if dry_run:
        _dry_run(config, full=full)
        return
    if folds is not None:
        _cross_validate(config, folds)
    from finetune.run import train
    from finetune.training import processes

    result = train(config)
    if processes.is_main():
        _print_result(config, result)
    processes.leave()


def _cross_validate(config: TrainConfig, folds: int) -> None:
    """Score every row by a model of the other folds, and print the metrics."""
    from finetune.core import model_folder
    from finetune.cross_validation import PREDICTIONS, cross_validate

    model_folder.check_output(Path(config.out), overwrite=config.overwrite)
    result = cross_validate(config, folds)
    for name, entry in list(result.metrics.items())[:PRINTED_METRICS]:
        interval = f" [{figure(entry['low'], 4)}, {figure(entry['high'], 4)}]" if "low" in entry else ""
        mean = figure(entry["mean"], 4) if "mean" in entry else "undefined"
        click.echo(f"{folds} folds: {name} {mean}{interval}, all rows together {figure(entry['pooled']['value'], 4)}")
    click.echo(f"predictions: {result.path / PREDICTIONS}")


def _dry_run(config: TrainConfig, *, full: bool) -> None:
    """Print what a run would do: the data report as YAML comments, then settings that `--config` reads."""
    from finetune.config import loading
    from finetune.core import model_folder
    from finetune.prepare import prepare
    from finetune.training.run_lock import require_unlocked

    out = Path(config.out)
    if not (config.resume and model_folder.is_finished(out)):
        model_folder.check_output(out, overwrite=config.overwrite)
    require_unlocked(out)
    prepared = prepare(config)
    _print_data_report(prepared)
    click.echo(f"\n# {'all settings' if full else 'settings other than the defaults; --full prints all'}")
    click.echo(loading.dump(prepared.config, defaults=full), nl=False)


def _print_data_report(prepared: Prepared) -> None:
    splits, plan = prepared.splits, prepared.batch_plan
    for sentence in filter(None, (*splits.notes, str(prepared.head))):
        click.echo(f"# {sentence}")
    click.echo("# labels: " + ", ".join(splits.labels.names))
    for name, count in splits.counts.items():
        click.echo(f"# {name.replace('_', ' ')}: {count}")
    click.echo(f"# {prepared.tokenizer_report}")
    for sentence in prepared.warnings:
        click.echo(f"# warning: {sentence}")
    if prepared.config.few_shot is not None:
        click.echo(f"# few-shot: {prepared.config.few_shot.name}")
        return
    click.echo(f"# updates: {plan.updates} ({plan.updates_per_epoch} an epoch)")


def _print_result(config: TrainConfig, result: TrainResult) -> None:
    """Print warnings, the first metrics of each split, and where the model, its errors and its logs are."""
    from finetune.reports.report import ERRORS, ROW_NUMBERS
    from finetune.training.trackers import TENSORBOARD, logs_folder

    for sentence in result.verdict.warnings:
        click.echo(f"warning: {sentence}")
    for split, metrics in {"validation": result.metrics, **result.tests}.items():
        first = list(metrics.items())[:PRINTED_METRICS]
        click.echo(f"{split}: " + ", ".join(f"{name} {figure(value, 4)}" for name, value in first))
    if result.verdict.chosen:
        click.echo(f"note: {result.verdict.chosen}")
    click.echo(f"model: {result.path}")
    errors = result.path / "report" / ERRORS
    if errors.is_file():
        click.echo(f"errors: {errors} ({ROW_NUMBERS})")
    logs = logs_folder(config.out)
    if TENSORBOARD in config.report_to and logs.is_dir():
        click.echo(f"logs: {logs} (tensorboard --logdir {logs})")


@click.command()
@click.argument("table", type=click.Choice(list(TABLES)))
def choices(table: str) -> None:
    """List the choices of a table, each with its sentence or formula, its options, and the tasks it is for."""
    from finetune.config.choices import table as functions
    from finetune.config.choices import tasks_of
    from finetune.core.registry import options_of, sentence_of

    fits = tasks_of(table)
    for name, function in functions(table).items():
        options = ", ".join(f"{option}={default}" for option, default in options_of(function).items())
        tasks = f"  [{', '.join(fits[name])}]" if name in fits else ""
        click.echo(f"{name}{f'  ({options})' if options else ''}{tasks}\n    {sentence_of(function)}")


@click.command(cls=SettingsCommand, settings={name: name for name in ("out", "overwrite", "models_dir", "device")})
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Trials of the study in all, those of earlier calls included.",
)
@click.option("--out", help="Model folder to write; the study is beside it, in OUT.trials.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting or range; repeatable.")
@click.option("--overwrite", is_flag=True, default=None, help="Replace the folder at --out.")
@click.option("--models", "models_dir", help="Folder of named models.  [default: models]")
@click.option("--device", type=click.Choice(DEVICES), help="Device of training.  [default: auto]")
def search(config: str, trials: int, overrides: tuple[str, ...], **flags: Any) -> None:
    """Search the settings of CONFIG that are given as ranges, and keep the best model.

    \b
    optim:
      lr: {low: 1e-5, high: 1e-3, log: true}
      batch_size: {choices: [16, 32]}

    The same command continues a study that was stopped.
    """
    from finetune.config import loading
    from finetune.core.quiet import quiet
    from finetune.tune import search as run_search

    content = loading.content_of(config, overrides, **flags)
    quiet()
    with EventPrinter() as printer:
        result = run_search(content, trials, on_event=printer)
    click.echo(f"best of {result.trials} trials: {result.metric} {figure(result.score, 4)}")
    click.echo(f"config: {result.path}.trials/best.yaml")
    click.echo(f"model: {result.path}")


@click.command()
@click.argument("data")
@click.argument("candidates", nargs=-1)
@click.option("--text", multiple=True, help="Column of the text; repeat it to join the texts of several columns.")
@click.option("--label", multiple=True, help="Column of the label; repeat it for columns of 0 and 1, one per label.")
@click.option("--text-pair", help="Column of the second text of a pair.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Device to compute on.")
@click.option("--rows", type=click.IntRange(min=20), default=2000, show_default=True, help="Rows to measure on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--models", "models_dir", default="models", show_default=True, help="Folder of named models.")
@reading_flags
def bases(
    data: str,
    candidates: tuple[str, ...],
    rows: int,
    as_json: bool,
    models_dir: str,
    device: str,
    **columns: Any,
) -> None:
    """Rank base models for the labeled table DATA, and recommend one.

    CANDIDATES are folders, served names and Hub ids; by default the models that ship, bases in the models folder
    and every encoder in the Hub's cache. Each encodes the texts as it is, and a linear model on its embeddings is
    cross-validated. For example: rehead bases reviews.csv topics me/my-encoder
    """
    from finetune.bases import rank_bases
    from finetune.config.data import DataConfig

    columns |= {name: list(columns[name]) for name in ("text", "label")}
    settings = {name: value for name, value in columns.items() if value not in (None, [])}
    ranking = rank_bases(
        data,
        candidates,
        columns=DataConfig(**settings),
        rows=rows,
        models_dir=models_dir,
        device=device,
        on_base=lambda name: click.echo(f"measuring {name} ...", err=True),
    )
    click.echo(json.dumps(asdict(ranking), indent=2, ensure_ascii=False) if as_json else str(ranking))


commands: dict[str, click.Command] = {"finetune": finetune, "choices": choices, "search": search, "bases": bases}


def main() -> NoReturn:
    """Run `python -m finetune`, which is `rehead finetune`, or the command named first."""
    args = sys.argv[1:]
    if args and args[0] in commands and not Path(args[0]).exists():
        run(commands[args[0]], args[1:])
    run(finetune, args)
