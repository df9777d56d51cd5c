"""What `predict --engine ray` and `zero-shot --engine ray` share: a job on Ray Data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from finetune.core.labels import shown
from finetune.core.model_folder import ModelFolder
from service.batch import ray_data
from service.batch.scoring_task import model_hash
from service.commands.classification import Request, check
from service.commands.ray_flags import RayFlags
from service.errors import BadRequest
from service.schema import ZeroShotRequest


def score_on_ray(
    request: Request,
    out: str | None,
    model: str,
    models_dir: str,
    folder: ModelFolder,
    question: ZeroShotRequest | None,
    flags: RayFlags,
) -> None:
    """Score the files of the arguments on Ray, and print what was written.

    Raises:
        BadRequest: arguments that do not go together, or an input or output that cannot be used.
    """
    from tqdm import tqdm

    if len(request.arguments) != 1 or not out:
        raise BadRequest("--engine ray takes one file, folder, pattern or address, and -o OUT")
    if request.keep_formulas:
        raise BadRequest("--keep-formulas is for spreadsheets, and --engine ray writes Parquet: leave it out")
    check(request, folder, question)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if flags.address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray of this machine alone listens on loopback
    found = Path(model)
    job = ray_data.Job(
        str(found.resolve()) if found.exists() else model,
        str(Path(models_dir).resolve()),
        model_hash(folder),
        out,
        question,
        request.batch_size,
        request.abstain,
        request.window,
        request.text_column,
        request.pair_column,
        request.all_scores,
        request.options,
        request.device,
    )
    options = ray_data.RayOptions(flags.address, flags.actors, flags.num_gpus_per_actor or 0)
    with tqdm(unit=" rows", file=sys.stderr, disable=None, smoothing=0.1) as bar:

        def progress(rows: int, done: int, parts: int) -> None:
            bar.total = round(rows * parts / done)
            bar.update(rows - bar.n)

        result = ray_data.score(request.arguments[0], job, options, overwrite=request.overwrite, progress=progress)
    _report(out, result)


def _report(out: str, result: ray_data.RayResult) -> None:
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    resumed = f", {result.resumed} of them finished by an earlier run" if result.resumed else ""
    columns = f", with new columns {shown(result.columns)}" if result.columns else ""
    print(f"wrote {out}: {result.rows} rows in {result.parts} files{resumed}{columns}", file=sys.stderr)
    if result.peak_bytes:
        print(f"peak memory of an actor: {result.peak_bytes / 1e6:.0f} MB", file=sys.stderr)
    if result.errors:
        print(f"note: {result.errors} rows could not be scored; the last column has the reason", file=sys.stderr)
