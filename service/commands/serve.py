"""`rehead serve`: the web UI and the API. Each field of ServeSettings is an option."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

OWN_THREADS = "rehead-"
"""Prefix of the names of threads that run or load models, or build the web UI."""

JOIN_TIMEOUT_S = 1.0


class _Settings(click.Command):
    """A command with one option for each field of the settings.

    They are read when they are needed: `rehead --help` need not import pydantic.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options, and --help."""
        if not self.params:
            self.params = list(_options())
        return super().get_params(ctx)


def _options() -> Iterator[click.Option]:
    from service.settings import LISTS, ServeSettings

    for name, field in ServeSettings.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        option: dict[str, Any] = {"help": field.description}
        if field.annotation is bool:
            option["is_flag"] = True
        elif choices:
            option["type"] = click.Choice(choices)
        elif name in LISTS:
            option |= {"multiple": True, "metavar": "NAME"}
        elif Path in kinds:
            option["type"] = click.Path(path_type=Path)
        else:
            option["type"] = next((kind for kind in (int, float) if kind in kinds), str)
        if field.default not in (None, False, ()):
            option["help"] += f"  [default: {field.default}]"
        yield click.Option([f"--{name.replace('_', '-')}", name], **option)


@click.command(cls=_Settings)
def command(**options: Any) -> None:
    """Serve the web UI and the API until Ctrl-C. The environment can set each option: REHEAD_PORT and so on."""
    from service.settings import ServeSettings

    # an option that is not on the command line may be set in the environment
    values = {name: value for name, value in options.items() if not (value is None or value is False or value == ())}
    settings = ServeSettings.from_environment(**values)
    if settings.engine == "ray":
        from service.commands.serve_ray import serve_on_ray

        serve_on_ray(settings, say=click.echo)
        return
    from service.app import serve

    serve(settings, say=click.echo)
    leave_hung_threads()


def leave_hung_threads() -> None:
    """End the process at once where a thread hangs in a model, or still loads one; return where all have ended.

    A thread in native code cannot be stopped. When such a call returns while the interpreter shuts down, CPython (below
    3.14, gh-87135) ends its thread by unwinding C++ frames, which aborts the process.
    """
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(OWN_THREADS)]
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    left = [thread.name for thread in threads if thread.is_alive()]
    if left:
        from service.server import preload
        from service.ui import late_page

        # a server that is stopped meanwhile does not wait for its models and its web UI
        hung = [name for name in left if name not in (preload.THREAD, late_page.THREAD)]
        if hung:
            click.echo(f"exiting while a model call hangs (threads: {', '.join(hung)})", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
