"""The flags of `predict` and `zero-shot` for jobs on Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import click

from service.errors import BadRequest

Command = TypeVar("Command", bound=Callable[..., Any])


class RayFlags(NamedTuple):
    """The values of the flags."""

    engine: Literal["local", "ray"]
    address: str | None
    actors: int | None
    num_gpus_per_actor: float | None
    keep_order: bool

    def check_local(self) -> None:
        """Raise for flags of Ray that are given without it.

        Raises:
            BadRequest: names the flags.
        """
        names = ("address", "actors", "num_gpus_per_actor")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if given:
            raise BadRequest(f"{', '.join(given)}: pass --engine ray too")


def ray_flags(command: Command) -> Command:
    """Add the flags to a click command, whose function takes the fields of `RayFlags`."""
    options = (
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="ray: score a folder, a pattern or an address such as s3://bucket/*.parquet on Ray; OUT is a folder.",
        ),
        click.option("--address", help="The Ray cluster, or auto; without it, Ray is started on this machine."),
        click.option(
            "--actors", type=click.IntRange(min=1), help="Ray actors; default is one for each processor or GPU."
        ),
        click.option("--num-gpus-per-actor", type=click.FloatRange(min=0), help="GPUs of a Ray actor, or a fraction."),
        click.option("--keep-order", is_flag=True, help="Keep the order of files and rows; Ray output has it anyway."),
    )
    for option in reversed(options):
        command = option(command)
    return command
