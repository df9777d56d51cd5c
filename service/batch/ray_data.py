"""Score tables on Ray Data: actors on one machine or many, each with a model, take parts of the input one by one.

A part's rows stay on the machine of its actor: what travels is which part it is and how many rows it had.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.core.errors import ReheadError
from finetune.core.labels import shown
from finetune.core.tables.options import TableOptions
from finetune.core.windows import Window
from service.batch.batch_scorer import RowScorer, scorer
from service.batch.output_folder import OutputFolder
from service.batch.parts import Part, local_file, parts_of
from service.batch.score_table import write_scored
from service.batch.scoring_task import model_hash, question_identity, scoring_task
from service.batch.text_columns import TextColumn
from service.errors import BackendFailed, BadRequest
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.schema import ZeroShotRequest
from service.settings import RuntimeSettings

FORMAT = 1
"""Raised when the same input and model would be written differently, so that older jobs are not resumed."""

INSTALL = "Ray is not installed: pip install 'rehead[ray]'"
ATTEMPTS = 4
"""How often a part is begun where its actor dies each time, for want of memory for example; Ray would never give up."""

STARTS = 3
"""How often Ray is started on this machine: it gives up after 30 s, which a busy machine may need."""

CONNECT_S = 10.0
"""Seconds that a cluster has to accept a connection."""

Progress = Callable[[int, int, int], None]
"""Called with the number of rows done, of parts done, and of all parts."""


@dataclass(frozen=True)
class RayOptions:
    """Where a job runs.

    Attributes:
        address: of a Ray cluster, or `auto`; None starts Ray on this machine for the job.
        actors: number of actors, each with a model; by default one for each processor, or for each share of a GPU.
        gpus: of an actor; may be a fraction.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float = 0


@dataclass(frozen=True)
class Job:
    """What is done to each part.

    Attributes:
        model, models_dir: as `resolve` takes them; each machine must find the same model there.
        model_hash: of the model's files.
        out: address of the output folder.
        run: name of this run, by which attempts are counted.
    """

    model: str
    models_dir: str
    model_hash: str
    out: str
    question: ZeroShotRequest | None = None
    batch_size: int | None = None
    abstain: bool = False
    window: Window | None = None
    text: TextColumn = None
    text_pair: str | None = None
    all_scores: bool = False
    options: TableOptions = field(default_factory=TableOptions)
    device: str | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def identity(self, parts: list[Part]) -> list[Any]:
        """Return everything that decides the content of the output, as JSON."""
        question = [] if self.question is None else question_identity(self.question)
        window = None if self.window is None else self.window.to_json()
        columns = [self.text if isinstance(self.text, str) else list(self.text or ()), self.text_pair, self.all_scores]
        fields = [self.batch_size, self.abstain, window, columns, repr(self.options)]
        return [FORMAT, self.model_hash, question, fields, [part.to_json() for part in parts]]


@dataclass(frozen=True)
class RayResult:
    """What was written.

    Attributes:
        rows, errors: rows of the input, and those that could not be scored.
        parts, resumed: files of the output, and those that an earlier job had finished.
        columns: names of the columns that were added.
        peak_bytes: largest resident memory of an actor of this job.
        warnings: sentences about content that may have been misread.
    """

    rows: int
    errors: int
    parts: int
    resumed: int
    columns: list[str]
    peak_bytes: int
    warnings: tuple[str, ...]


def score(source: str, job: Job, ray_options: RayOptions, *, overwrite: bool, progress: Progress) -> RayResult:
    """Write the rows of a file, a folder or a pattern, with predictions, as a folder of Parquet files.

    One row is written for each row, and the order of files and rows is kept. The same call after an interruption
    continues from the parts that are finished.

    Raises:
        BadRequest: the input or the output cannot be used, Ray is not installed, or a part could not be scored (a
            damaged table, other columns than in the first file, actors that died); names it.
        BackendFailed: Ray does not start, or no cluster answers.
        DataError: a Parquet file is damaged, which is found while the parts are listed.
    """
    ray = _ray()
    parts = parts_of(source)
    out = OutputFolder(job.out)
    identity = job.identity(parts)
    out.check(identity, overwrite=overwrite)
    if any(part.address.startswith(f"{out.full_address}/") for part in parts):
        raise BadRequest(f"{source} is in the output folder: name another output")
    finished = out.begin(identity)
    missing = [part for part in parts if part.number not in finished]
    total = _Total(len(parts), progress)
    for path in finished.values():
        total.add_finished(out, path)
    if missing:
        owned = _connect(ray, ray_options.address)
        try:
            for record in _records(ray, missing, job, ray_options):
                total.add(record)
        finally:
            if owned:
                ray.shutdown()
    out.finish()
    return total.result(len(finished))


class PartScorer:
    """An actor: loads the model once and scores parts. Problems are returned, so that none is tried again in vain."""

    def __init__(self, job: Job) -> None:
        self._job, self._problem = job, ""
        try:
            self._scorer = self._loaded(job)
        except ReheadError as error:
            self._problem = f"{error} (on {socket.gethostname()})"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return rows, errors, columns and problems of a part."""
        part: Part = row["part"]
        if self._problem:
            return {"problem": self._problem}
        try:
            if OutputFolder(self._job.out).attempt(self._job.run, part.number) > ATTEMPTS:
                died = f"{part.address}: its actor died {ATTEMPTS} times"
                raise BackendFailed(f"{died}: give it more memory, or pass fewer --actors")
            return self._scored(part)
        except ReheadError as error:
            return {"problem": str(error)}

    def _loaded(self, job: Job) -> RowScorer:
        folder = resolve(job.model, job.models_dir)
        if model_hash(folder) != job.model_hash:
            raise BadRequest(f"the model {job.model} differs from that of the machine where the job was started")
        runtime = RuntimeSettings.from_environment(device=job.device)
        engine = Engine.load(folder, runtime, log=logging.getLogger("rehead").info)
        task = scoring_task(engine, job.question, job.batch_size, abstain=job.abstain, window=job.window)
        answers = scorer(engine, job.question, job.batch_size, job.window)
        return RowScorer(answers, task, job.text, job.text_pair, job.all_scores)

    def _scored(self, part: Part) -> dict[str, Any]:
        import pyarrow.parquet

        with local_file(part) as file, TemporaryDirectory(prefix="rehead-") as folder:
            scored = Path(folder) / "part.parquet"
            result = write_scored(file, scored, self._scorer, keep_formulas=True, options=self._job.options)
            schema = pyarrow.parquet.read_schema(scored)
            OutputFolder(self._job.out).add(part.number, scored)
        types = [f"{field.name}: {field.type}" for field in schema]
        counts = {"rows": result.rows, "errors": result.errors, "columns": result.columns}
        return counts | {"types": types, "address": part.address, "warnings": result.warnings, "peak": _peak_bytes()}


class _Total:
    """The sums over all parts."""

    def __init__(self, parts: int, progress: Progress) -> None:
        self._parts, self._progress = parts, progress
        self._rows = self._errors = self._done = self._peak = 0
        self._columns: list[str] = []
        self._first: dict[str, Any] = {}
        self._warnings: dict[str, None] = {}

    def add_finished(self, out: OutputFolder, path: str) -> None:
        """Add a file of an earlier job."""
        types, rows, errors = out.read(path)
        self.add({"rows": rows, "errors": errors, "columns": [], "types": types, "address": path, "warnings": ()})

    def add(self, record: dict[str, Any]) -> None:
        """Add the record of a part.

        Raises:
            BadRequest: its columns are not those of the first one.
        """
        first = self._first = self._first or record
        if list(record["types"]) != list(first["types"]):
            differing = sorted({*record["types"]} ^ {*first["types"]})
            raise BadRequest(
                f"{record['address']} and {first['address']} have different columns ({shown(differing)}): give all "
                "files the same columns and types"
            )
        self._rows, self._errors = self._rows + int(record["rows"]), self._errors + int(record["errors"])
        self._done += 1
        self._columns = list(record["columns"]) or self._columns
        self._peak = max(self._peak, int(record.get("peak", 0)))
        self._warnings |= dict.fromkeys(record["warnings"])
        self._progress(self._rows, self._done, self._parts)

    def result(self, resumed: int) -> RayResult:
        """Return the sums."""
        warnings = tuple(self._warnings)
        return RayResult(self._rows, self._errors, self._parts, resumed, self._columns, self._peak, warnings)


def _records(ray: Any, parts: list[Part], job: Job, options: RayOptions) -> Iterator[dict[str, Any]]:
    """Yield the record of each part, as they are finished."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    actors, cpus = _resources(ray, options, len(parts))
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    scored = rows.map(
        PartScorer,
        fn_constructor_kwargs={"job": job},
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        num_cpus=cpus,
        num_gpus=options.gpus or None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cpus)}},
    )
    for record in scored.iter_rows():
        if record.get("problem"):
            raise BadRequest(record["problem"])
        yield record


def _resources(ray: Any, options: RayOptions, parts: int) -> tuple[int, int]:
    """Return the number of actors, and the processors of each.

    Raises:
        BadRequest: the cluster has too few processors or GPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU"))
    if options.gpus:
        fit = sum(int(node.get("GPU", 0) / options.gpus + 1e-9) for node in nodes)
        if fit < (options.actors or 1):
            wanted = f"{options.actors or 1} actors with {options.gpus:g} GPUs each"
            raise BadRequest(f"{wanted} do not fit on this cluster, which has {gpus} GPUs: ask for fewer")
    else:
        fit = cpus
        if fit < (options.actors or 1):
            raise BadRequest(f"{options.actors} actors need {options.actors} processors, and this cluster has {cpus}")
    actors = min(options.actors or fit, parts)
    smallest = int(min(node["CPU"] for node in nodes if node.get("CPU")))
    return actors, max(1, min(cpus // actors, smallest))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise BadRequest(INSTALL) from error
    return ray


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to a cluster, or start Ray on this machine; return whether it is to be shut down.

    Raises:
        BackendFailed: no cluster answers, or Ray did not start, which is tried `STARTS` times.
    """
    if ray.is_initialized():
        return False
    _check_address(address)
    more: dict[str, Any] = {} if address else {"include_dashboard": False}
    for attempt in range(STARTS):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **more)
            break
        except Exception as error:  # Ray raises plain exceptions here
            ray.shutdown()
            if address or attempt == STARTS - 1:
                place = f"no Ray cluster answers at {address}" if address else "Ray did not start on this machine"
                raise BackendFailed(f"{place} ({' '.join(str(error).split())[:300]}): try again") from error
    return True


def _check_address(address: str | None) -> None:
    """Raise for a cluster that does not answer, for which Ray itself would wait for minutes.

    Raises:
        BackendFailed: nothing listens there.
    """
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # none, or auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise BackendFailed(f"no Ray cluster answers at {address} ({error}): name another --address") from error


def _peak_bytes() -> int:
    """Return the largest resident memory that this process had."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
