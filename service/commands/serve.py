"""`rehead serve`: the page and the API.

Knows: how a setting becomes an option.
Does not know: any setting, how anything is served.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click


class _Settings(click.Command):
    """A command with an option for each field of the settings, whose sentence is its help; they are read when they are
    wanted: the list of all commands takes no time for pydantic."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options, and --help."""
        if not self.params:
            self.params = list(_options())
        return super().get_params(ctx)


def _options() -> Iterator[click.Option]:
    from service.settings import LISTS, ServeSettings

    for name, field in ServeSettings.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        told: dict[str, Any] = {"help": field.description}
        if field.annotation is bool:
            told["is_flag"] = True
        elif choices:
            told["type"] = click.Choice(choices)
        elif name in LISTS:
            told |= {"multiple": True, "metavar": "NAME"}
        elif Path in kinds:
            told["type"] = click.Path(path_type=Path)
        else:
            told["type"] = next((kind for kind in (int, float) if kind in kinds), str)
        if field.default not in (None, False, ()):
            told["help"] += f"  [default: {field.default}]"
        yield click.Option([f"--{name.replace('_', '-')}", name], **told)


@click.command(cls=_Settings)
def command(**given: Any) -> None:
    """Serve the page and the API until Ctrl-C. The environment can set each option: REHEAD_PORT and so on."""
    from service.app import serve
    from service.settings import ServeSettings

    # what is not on the command line may stand in the environment
    said = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    serve(ServeSettings.from_environment(**said), say=click.echo)
    # threads of native libraries are still there, and once in fourteen times their end was taken for a crash
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
