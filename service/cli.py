"""The `rehead` command: the commands for training and for serving in one list.

A command's module is imported when the command is called, so that `rehead --help` stays fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import NoReturn

import click

from finetune import cli as finetune_cli
from finetune.core import launch

SERVICE_COMMANDS = {
    "evaluate": "service.commands.evaluate",
    "calibrate": "service.commands.calibrate",
    "compare": "service.commands.compare",
    "drift": "service.commands.drift",
    "label-errors": "service.commands.label_errors",
    "review": "service.commands.review",
    "predict": "service.commands.predict",
    "zero-shot": "service.commands.zero_shot",
    "profile": "service.commands.profile",
    "distill": "service.commands.distill",
    "models": "service.commands.models",
    "export": "service.commands.export",
    "push": "service.commands.push",
    "trim-vocab": "service.commands.trim_vocab",
    "serve": "service.commands.serve",
}


class _Commands(click.Group):
    """A group that imports the serving commands by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*finetune_cli.commands, *SERVICE_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in SERVICE_COMMANDS:
            command: click.Command = import_module(SERVICE_COMMANDS[cmd_name]).command
            return command
        return finetune_cli.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name != "finetune":  # the others would do their work, and write their files, once in each process
            launch.require_one_process(f"rehead {name}")
        return name, command, rest


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rehead", prog_name="rehead")
def rehead() -> None:
    """Fine-tune text classifiers, classify texts without training, and serve both."""


KEPT_KERNELS = 256
"""Kernels that oneDNN, inside OpenVINO, keeps for shapes it has met; 1024 by itself, 0.4 MB each."""


def main(args: list[str] | None = None) -> NoReturn:
    """The entry point: runs a command, prints errors as one line, exits with the documented codes."""
    # oneDNN reads it once, when OpenVINO first computes
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
    finetune_cli.run(rehead, args)


if __name__ == "__main__":
    main()
