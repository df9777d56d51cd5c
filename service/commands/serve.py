"""`rehead serve`: the page and the API.

Knows: its own arguments.
Does not know: how anything is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 takes a free one.")
@click.option("--models", "models_dir", type=click.Path(path_type=Path), default=Path("models"), show_default=True,
              help="The folder of models to serve, beside those that ship.")  # fmt: skip
@click.option("--default", "default_name", metavar="NAME", help="The model at /; else sentiment, else the first.")
@click.option("--backend", type=click.Choice(["auto", "torch", "openvino", "onnx", "dummy"]),
              help="The runtime; auto, the default, measures what is fastest here.")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "int8"]),
              help="What models are computed in; int8 takes rehead export before.")  # fmt: skip
def command(host: str, port: int, models_dir: Path, default_name: str | None, backend: Any, precision: Any) -> None:
    """Serve the page and the API until Ctrl-C."""
    from service.app import serve
    from service.settings import ServeSettings

    settings = ServeSettings(
        host=host, port=port, models=models_dir, default=default_name, backend=backend, precision=precision
    )
    serve(settings, say=click.echo)
