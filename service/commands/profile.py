"""`rehead profile`: what is known of your labels with a zero-shot model, from texts like yours."""

from __future__ import annotations

import json
from pathlib import Path

import click

from service.commands.label_flags import labels_option
from service.errors import BadRequest


@click.command()
@click.argument("file")
@labels_option("Labels with commas between them, or @FILE with a label on each line.", required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The profile to write, a JSON file.")
@click.option("--text", multiple=True, help="The column of FILE that holds the text; repeat it to join several.")
@click.option("--label", help="The column of FILE with the labels of some texts; empty cells have none.")
@click.option("--template", "templates", multiple=True, help="A hypothesis template; of several the best is chosen.")
@click.option(
    "--priors",
    default="uniform",
    show_default=True,
    help='Proportions of the labels: uniform, estimated, or as JSON: {"sports": 0.7, "business": 0.3}.',
)
@click.option("--model", default="topics", show_default=True, help="A path, a served name or a Hub id.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def command(
    file: str,
    labels: str,
    out: Path,
    text: tuple[str, ...],
    label: str | None,
    templates: tuple[str, ...],
    priors: str,
    model: str,
    models_dir: str,
    device: str | None,
    overwrite: bool,
) -> None:
    """Make a profile of LABELS from the texts of FILE, for rehead zero-shot --profile.

    Without labels in FILE, each label gets the bias with which its mean score is its prior, or three quarters of it
    where --priors gives no numbers. With some, biases and a temperature are fitted on them.
    """
    from service.commands.classification import zero_shot_request
    from service.profiling import make_profile

    if out.exists() and not overwrite:
        raise BadRequest(f"{out} exists already", hint="name another file, or pass --overwrite")
    names = zero_shot_request(labels, (), False, None, None, None).labels
    profile = make_profile(
        model,
        Path(file),
        names,
        out=out,
        text=list(text) or None,
        label=label,
        templates=templates,
        priors=_priors(priors),
        models_dir=models_dir,
        device=device,
    )
    click.echo(f"{profile.rows} texts, {profile.labeled} of them labeled; template {profile.hypothesis_template!r}")
    width = max(map(len, profile.labels))
    click.echo(f"{'label':<{width}}   prior    bias")
    for name, prior, bias in zip(profile.labels, profile.priors, profile.biases, strict=True):
        click.echo(f"{name:<{width}}  {prior:6.3f}  {bias:+6.2f}")
    click.echo(f"temperature {profile.temperature:.3g}\nwrote {out}")


def _priors(priors: str) -> str | dict[str, float]:
    if not priors.lstrip().startswith("{"):
        return priors
    try:
        return {str(name): float(value) for name, value in json.loads(priors).items()}
    except (ValueError, TypeError) as error:
        raise BadRequest(f"--priors {priors!r} is not JSON with a number for each label") from error
