"""A click command whose options are settings: `--help` in groups, and a suggestion for every unknown option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

OTHER_OPTIONS = "Other options"
"""Heading of the options that are in no group."""


class SettingsCommand(click.Command):
    """A command with a heading above each group of its options.

    Args:
        settings: name of a parameter -> dotted key of the setting that it gives a value.
        groups: heading -> names of parameters, in the order of `--help`.
    """

    def __init__(
        self,
        *args: Any,
        settings: Mapping[str, str],
        groups: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.settings, self.groups = settings, groups or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options under its heading."""
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        records = {
            "help" if "--help" in option.opts else option.name or "": option.get_help_record(ctx) for option in options
        }
        for heading, names in {**self.groups, OTHER_OPTIONS: list(records)}.items():
            lines = [record for name in names if (record := records.pop(name, None)) is not None]
            if lines:
                with formatter.section(heading if self.groups else "Options"):
                    formatter.write_dl(lines)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.NoSuchOption: an unknown option; suggests options of this command, or `--set`, by their meaning.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            meant = self._options_meant(error.option_name)
            if not meant:
                raise
            message = f"No such option {error.option_name!r}. Did you mean {' or '.join(meant)}?"
            raise click.NoSuchOption(error.option_name, message, ctx=ctx) from None

    def _options_meant(self, option: str) -> list[str]:
        """Return what an unknown option may stand for, empty where nothing has its meaning."""
        from finetune.config.loading import MEANT

        word = _plain(option)
        same = [name for parameter in self.params for name in parameter.opts if _plain(name) == word]
        if same:
            return same
        keys = [MEANT[word]] if word in MEANT else [key for key in _keys() if word in (key, key.split(".")[-1])]
        return [self._way_to_set(key) for key in sorted(keys, key=len)]

    def _way_to_set(self, setting: str) -> str:
        for parameter in self.params:
            if self.settings.get(parameter.name or "") in (setting, f"{setting}.name"):
                return (
                    parameter.opts[0]
                    if isinstance(parameter, click.Option)
                    else f"the argument {parameter.human_readable_name}"
                )
        return f"--set {setting}=VALUE"


def _plain(option: str) -> str:
    return option.lstrip("-").replace("-", "_").lower()


def _keys(model: Any = None, above: str = "") -> Iterator[str]:
    """Yield the dotted key of every setting."""
    from pydantic import BaseModel

    from finetune.config.training import TrainConfig

    for name, field in (model or TrainConfig).model_fields.items():
        yield above + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{above}{name}.")
