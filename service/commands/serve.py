"""`rehead serve`: the web UI and the API; every field of the server settings is an option."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click


class _Settings(click.Command):
    """A command with an option for each field of the settings, whose docstring is its help.

    The fields are read on demand: the list of all commands does not import pydantic.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options and --help."""
        if not self.params:
            self.params = list(_options())
        return super().get_params(ctx)


def _options() -> Iterator[click.Option]:
    from service.settings import LISTS, ServeSettings

    for name, field in ServeSettings.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        attributes: dict[str, Any] = {"help": field.description}
        if field.annotation is bool:
            attributes["is_flag"] = True
        elif choices:
            attributes["type"] = click.Choice(choices)
        elif name in LISTS:
            attributes |= {"multiple": True, "metavar": "NAME"}
        elif Path in kinds:
            attributes["type"] = click.Path(path_type=Path)
        else:
            attributes["type"] = next((kind for kind in (int, float) if kind in kinds), str)
        if field.default not in (None, False, ()):
            attributes["help"] += f"  [default: {field.default}]"
        yield click.Option([f"--{name.replace('_', '-')}", name], **attributes)


@click.command(cls=_Settings)
def command(**given: Any) -> None:
    """Serve the web UI and the API until Ctrl-C. The environment can set each option: REHEAD_PORT and so on."""
    from service.app import serve
    from service.settings import ServeSettings

    # options that are not on the command line may be set in the environment
    options = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    serve(ServeSettings.from_environment(**options), say=click.echo)
    # native threads still run, and once in fourteen exits their end crashed the process
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
