"""`rehead push`: a model folder to the Hub."""

from __future__ import annotations

import click

from service.hub_upload import MESSAGE, TEXTS


@click.command()
@click.argument("model")
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--with-texts", is_flag=True, help=f"Also upload the tables of texts ({', '.join(TEXTS)}).")
@click.option("--message", default=MESSAGE, show_default=True, help="Commit message.")
@click.option("--models", "models_dir", default="models", show_default=True, help="Folder of served names.")
def command(model: str, repo: str, private: bool, with_texts: bool, message: str, models_dir: str) -> None:
    """Upload the folder of MODEL, card and all, to the Hub as REPO (OWNER/NAME).

    Log in first with `hf auth login`, or set HF_TOKEN.
    """
    from service.hub_upload import upload
    from service.inference.model_store import resolve

    folder = resolve(model, models_dir)
    done = upload(folder, repo, private=private, with_texts=with_texts, message=message)
    click.echo(f"{folder.path} is at {done.address} ({done.commit[:7]})")
