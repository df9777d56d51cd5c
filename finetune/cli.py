"""The training commands: `rehead finetune`, `rehead evaluate`, `rehead choices`; also `python -m finetune`.

Knows: flags, how a run's events are drawn on a terminal or as plain lines, exit codes.
Does not know: how anything is done; what does the work is imported when a command runs.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from finetune.config.choices import TABLES
from finetune.core.allocator import keep_freed_memory
from finetune.core.number_format import figure
from finetune.core.tables.flags import reading_flags

if TYPE_CHECKING:
    from finetune.config.training import TrainConfig

EXIT_OUR_FAULT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143

MODELS = click.option("--models", "models_dir", default="models", show_default=True, help="Folder of named models.")


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: leave as after Ctrl-C, with another exit code."""


def run(group: click.Command, args: list[str] | None = None) -> NoReturn:
    """Run a click command or group; errors meant for people become one line and an exit code."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise Terminated

    keep_freed_memory()
    signal.signal(signal.SIGTERM, terminate)
    try:
        group.main(args=args, standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(2)
    except Terminated:
        sys.exit(EXIT_TERMINATED)
    except (KeyboardInterrupt, click.Abort) as stop:
        terminated = isinstance(stop.__cause__ or stop.__context__, Terminated)
        sys.exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise  # our fault: Python prints the traceback and leaves with 1
        click.echo(f"error: {error}", err=True)
        sys.exit(code)
    sys.exit(0)


@click.command()
@click.argument("data", required=False)
@click.option("--base", help="Encoder to start from: a folder, a served name or a Hub id.")
@click.option("--text", help="Column of the text.")
@click.option("--label", multiple=True, help="Column of the label; repeat it for columns of 0 and 1, one a label.")
@click.option("--text-pair", help="Column of the second text of a pair.")
@click.option("--group", help="Column of what belongs together: no group is both trained and evaluated on.")
@click.option("--task", help="binary, multiclass, multi-label or regression; inferred if not given.")
@reading_flags
@click.option("--epochs", type=float, help="Passes over the training rows.")
@click.option("--batch-size", metavar="ROWS", help="Rows in one batch; also `full` or `auto`.")
@click.option("--lr", type=float, help="Peak learning rate; if not given, one that suits the base's width.")
@click.option("--loss", help="Loss by name; `rehead choices losses` lists them.")
@click.option("--seed", type=int, help="Seed of the split, the new head and the order of rows.")
@click.option("--out", help="Model folder to write.")
@click.option("--config", "file", help="YAML file with any of the settings; flags win over it.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting by its dotted key; repeatable."
)
@click.option("--resume", is_flag=True, default=None, help="Go on from the last checkpoint of this run.")
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
@click.option("--dry-run", is_flag=True, help="Print the resolved config, the data counts and the number of updates.")
@click.option("--models", "models_dir", help="Folder of named models.  [default: models]")
def finetune(data: str | None, file: str | None, overrides: tuple[str, ...], dry_run: bool, **flags: Any) -> None:
    """Fine-tune an encoder on a table of labelled texts (CSV, TSV, JSON Lines, Parquet, or a Hub dataset id).

    \b
    rehead finetune reviews.csv --base topics --text review --label sentiment --epochs 2 --out models/reviews
    rehead finetune --config run.yaml --set optim.lr=3e-5
    """
    from finetune.config import loading

    named = {"base": "base", "out": "out", "seed": "seed", "resume": "resume", "overwrite": "overwrite"}
    named |= {"models_dir": "models_dir", "loss": "loss__name", "allow_changed": "allow_changed"}
    flags["allow_changed"] = flags["allow_changed"] or None
    of_data = ("text", "label", "text_pair", "group", "task", "encoding", "separator", "header")
    named |= {key: f"data__{key}" for key in of_data}
    named |= {key: f"optim__{key}" for key in ("epochs", "batch_size", "lr")}
    flags["label"] = list(flags["label"]) or None
    settings = {named[key]: value for key, value in flags.items()}
    config = loading.load(file, overrides, data__train=data, **settings)
    from finetune.prepare import quiet

    quiet()
    if dry_run:
        _show_plan(config)
        return
    from finetune.run import train

    with Drawing() as draw:
        result = train(config, on_event=draw)
    for sentence in result.verdict.warnings:
        click.echo(f"warning: {sentence}")
    for split, values in {"validation": result.metrics, **result.tests}.items():
        first = list(values.items())[:3]  # the headline and what is beside it; the rest stands in the model card
        click.echo(f"{split}: " + ", ".join(f"{name} {figure(value, 4)}" for name, value in first))
    if result.verdict.chosen:
        click.echo(f"note: {result.verdict.chosen}")
    click.echo(f"model: {result.path}")
    _show_files(config, result.path)


def _show_files(config: TrainConfig, folder: Path) -> None:
    """Print where a finished run's table of errors and its logs are."""
    from finetune.reports.report import ERRORS, ROW_NUMBERS
    from finetune.training.trackers import TENSORBOARD, logs_folder

    errors = folder / "report" / ERRORS
    if errors.is_file():
        click.echo(f"errors: {errors} ({ROW_NUMBERS})")
    logs = logs_folder(config.out)
    if TENSORBOARD in config.report_to and logs.is_dir():
        click.echo(f"logs: {logs} (tensorboard --logdir {logs})")


@click.command()
@click.argument("table", type=click.Choice(list(TABLES)))
def choices(table: str) -> None:
    """List the choices of a table, each with its sentence or formula, its knobs, and the tasks it is for."""
    from finetune.config.choices import table as functions
    from finetune.config.choices import tasks_of
    from finetune.core.registry import knobs_of, sentence_of

    fits = tasks_of(table)
    for name, function in functions(table).items():
        knobs = ", ".join(f"{knob}={default}" for knob, default in knobs_of(function).items())
        tasks = f"  [{', '.join(fits[name])}]" if name in fits else ""
        click.echo(f"{name}{f'  ({knobs})' if knobs else ''}{tasks}\n    {sentence_of(function)}")


def _show_plan(config: TrainConfig) -> None:
    from finetune.config import loading
    from finetune.core import model_folder
    from finetune.prepare import plan
    from finetune.training.run_lock import require_unlocked

    out = Path(config.out)
    if not (config.resume and model_folder.is_finished(out)):
        model_folder.check_output(out, overwrite=config.overwrite)
    require_unlocked(out)
    found = plan(config)
    click.echo(loading.dump(found.config))
    for sentence in found.splits.said:
        click.echo(f"# {sentence}")
    click.echo("# labels: " + ", ".join(found.splits.labels.names))
    for name, count in found.splits.counts.items():
        click.echo(f"# {name.replace('_', ' ')}: {count}")
    click.echo(f"# {found.fit}")
    for sentence in (*found.splits.warnings, *found.fit.warnings):
        click.echo(f"# warning: {sentence}")
    click.echo(f"# updates: {found.regime.updates} ({found.regime.updates_per_epoch} an epoch)")


class Drawing:
    """Draws a run's events: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.told_time = False

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *problem: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, event: Any) -> None:
        from finetune.core import events

        match event:
            case events.Started():
                self._say(
                    f"training on {event.rows} rows, validating on {event.validation_rows}: "
                    f"{event.updates} updates ({event.updates_per_epoch} an epoch)"
                )
                if sys.stderr.isatty():
                    from tqdm import tqdm

                    self.bar = tqdm(total=event.updates, unit="update", dynamic_ncols=True)
            case events.Step():
                self._step(event)
            case events.Evaluated():
                shown = {
                    key: value
                    for key, value in event.metrics.items()
                    if not key.endswith(("_second", "runtime", "epoch"))
                }
                best = {event.best_by: f" (best {event.best_by} so far)"} if event.best else {}
                values = ", ".join(f"{name} {figure(value, 4)}{best.get(name, '')}" for name, value in shown.items())
                self._say(f"update {event.update}, epoch {event.epoch:.2f}: {values}")
            case events.Warned():
                self._say(f"warning: {event.text}")
            case events.Info():
                self._say(event.text)

    def _step(self, event: Any) -> None:
        left = f"{event.left_s / 60:.1f} min" if event.left_s >= 90 else f"{event.left_s:.0f} s"
        if not self.told_time:
            self._say(f"about {left} left, at {event.rows_per_s:.0f} rows/s")
            self.told_time = True
        if self.bar is not None:
            self.bar.update(event.update - self.bar.n)
            self.bar.set_postfix_str(f"loss {event.loss:.4f}, {event.rows_per_s:.0f} rows/s, {left} left")
        else:
            self._say(
                f"update {event.update}/{event.updates}  loss {event.loss:.4f}  lr {event.lr:.2e}  "
                f"{event.rows_per_s:.0f} rows/s  {left} left"
            )

    def _say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="Runs that the study should hold."
)
@click.option("--out", help="Model folder to write; the study lies beside it, in OUT.trials.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting or range; repeatable.")
@click.option("--overwrite", is_flag=True, default=None, help="Replace the folder at --out.")
@click.option("--models", "models_dir", help="Folder of named models.  [default: models]")
def search(config: str, trials: int, overrides: tuple[str, ...], **flags: Any) -> None:
    """Search the settings of CONFIG that are given as ranges, and keep the best model.

    \b
    optim:
      lr: {low: 1e-5, high: 1e-3, log: true}
      batch_size: {choices: [16, 32]}

    The same command goes on where it was stopped.
    """
    from finetune.config import loading
    from finetune.prepare import quiet
    from finetune.tune import search as run_search

    content = loading.content_of(config, overrides, **flags)
    quiet()
    with Drawing() as draw:
        found = run_search(content, trials, on_event=draw)
    click.echo(f"best of {found.trials} trials: {found.metric} {figure(found.score, 4)}")
    click.echo(f"config: {found.path}.trials/best.yaml")
    click.echo(f"model: {found.path}")


commands: dict[str, click.Command] = {"finetune": finetune, "choices": choices, "search": search}


def main() -> NoReturn:
    """Entry of `python -m finetune`, which is `rehead finetune`, and of its subcommands by name."""
    args = sys.argv[1:]
    if args and args[0] in commands and not Path(args[0]).exists():
        run(commands[args[0]], args[1:])
    run(finetune, args)
