"""`rehead serve`: the page and the API.

Knows: how a setting becomes an option.
Does not know: any setting, how anything is served.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from service.settings import LISTS, ServeSettings


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each field of the settings; the sentence under a field is its help."""
    for name, field in reversed(ServeSettings.model_fields.items()):
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
        command = click.option(f"--{name.replace('_', '-')}", name, **told)(command)
    return command


@click.command()
@_options
def command(**given: Any) -> None:
    """Serve the page and the API until Ctrl-C. The environment can set each option: REHEAD_PORT and so on."""
    from service.app import serve

    # what is not on the command line may stand in the environment
    said = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    serve(ServeSettings.from_environment(**said), say=click.echo)
    # threads of native libraries are still there, and once in fourteen times their end was taken for a crash
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
