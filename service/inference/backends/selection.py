"""Which backend computes a model: the configured one, or the fastest on this machine with equal outputs."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.device import torch_device
from finetune.core.model_folder import ModelFolder, write_json
from service.errors import BackendFailed
from service.inference.backends.base import Backend, Outputs, Precision, tolerance
from service.inference.backends.exported import ExportedBackend
from service.inference.cache_folder import home_of, put
from service.settings import RuntimeSettings

Log = Callable[[str], None]
USE_TORCH = "use backend torch or auto, or device cpu"
FORMAT = 1
ROUNDS = 3
MAX_TRIAL_S = 6.0
"""Seconds after which no further round is timed."""

CANDIDATES: tuple[tuple[str, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
"""What `auto` tries, in this order."""

REFERENCE: tuple[str, Precision] = ("torch", "float32")
"""What the outputs of the others are compared with."""


def load(folder: ModelFolder, settings: RuntimeSettings, log: Log = lambda line: None) -> Backend:
    """Return the model of a checked folder, on the configured runtime and in the configured precision.

    With `auto`, a trial on this machine decides. It runs the first time, takes some seconds, and its outcome is stored
    in the cache folder.

    Args:
        log: receives the progress of a trial; `why` of the backend states its outcome.

    Raises:
        ConfigError: this machine has no such device.
        BackendFailed: the weights are not a classifier's, or the backend or precision is not available here.
    """
    _check(folder, settings)
    if settings.backend == "dummy":
        return _open("dummy", "float32", folder, settings)
    candidates = _candidates(folder, settings)
    if len(candidates) == 1:
        return _open(*candidates[0], folder, settings)
    outcome = _stored(folder, settings, candidates)
    if outcome is not None:
        backend = _open(outcome["backend"], outcome["precision"], folder, settings)
        backend.why = outcome["why"]
        return backend
    log(f"{folder.path.name}: measuring which runtime is fastest on this machine (once)")
    backend, name, why = _fastest(folder, settings, candidates)
    backend.why = why
    log(f"{folder.path.name}: {why}")
    try:
        outcome = {"backend": name, "precision": backend.precision, "why": why}
        put(_choice_file(folder, settings, candidates), lambda made: write_json(made, outcome))
    except OSError as error:
        log(
            f"{settings.cache} cannot be written ({error.strerror}), so the next start measures again: set REHEAD_CACHE"
        )
    return backend


def provisional(folder: ModelFolder, settings: RuntimeSettings) -> Backend | None:
    """Return torch in float32 on the processor where `load` would first measure; None where it would not.

    A server answers with it until `load` has returned: equal scores, later.

    Raises:
        ConfigError, BackendFailed: as `load` does.
    """
    _check(folder, settings)
    candidates = [] if settings.backend == "dummy" else _candidates(folder, settings)
    if REFERENCE not in candidates or len(candidates) == 1 or _stored(folder, settings, candidates) is not None:
        return None
    return _open(*REFERENCE, folder, settings) if torch_device(settings.device).type == "cpu" else None


def _check(folder: ModelFolder, settings: RuntimeSettings) -> None:
    """Raise for settings that no runtime can obey."""
    if settings.device not in ("auto", "cpu"):
        torch_device(settings.device)  # raises where it is not available
    target = folder.settings.target
    if settings.precision == "bfloat16" and target is not None and not target.survives_bfloat16:
        raise BackendFailed(
            f"{folder.path.name} predicts numbers from {target.low:g} to {target.high:g} (standard deviation "
            f"{target.std:g}), which the three digits of bfloat16 cannot tell apart",
            hint="use precision float32 or auto",
        )
    if settings.precision == "int8" and settings.backend == "auto":
        raise BackendFailed("precision int8 needs a backend: openvino or onnx")


def _candidates(folder: ModelFolder, settings: RuntimeSettings) -> list[tuple[str, Precision]]:
    """Return what the settings leave to choose among; one candidate where they name both runtime and precision."""
    named = settings.precision
    if settings.backend != "auto" and named != "auto" and named != "fastest":
        return [(settings.backend, named)]
    is_exact = _needs_float32(folder)
    tries_bfloat16 = not is_exact and (named == "bfloat16" or not _lacks_bfloat16())
    candidates = [
        (name, precision)
        for name, precision in (*CANDIDATES, ("onnx", "float32"))
        if settings.backend in (name, "auto") and named in (precision, "auto", "fastest")
        if precision == "float32" or tries_bfloat16
        if settings.backend != "auto" or name == "torch" or settings.device in ("auto", "cpu")
        if settings.backend != "auto" or (name != "onnx" and find_spec(name) is not None)
    ]
    if named == "fastest" and settings.device in ("auto", "cpu") and not is_exact:
        names = [name for name in ("openvino", "onnx") if settings.backend in (name, "auto")]
        candidates += [(name, "int8") for name in names if exported(name).has_int8(folder, settings)]
    return candidates


def _needs_float32(folder: ModelFolder) -> bool:
    """Return whether bfloat16 has too few digits for a regression's numbers, or their scale is unknown."""
    target = folder.settings.target
    return folder.labels.task == "regression" and (target is None or not target.survives_bfloat16)


def _choice_file(folder: ModelFolder, settings: RuntimeSettings, candidates: list[tuple[str, Precision]]) -> Path:
    return home_of(folder, settings.cache) / f"choice-{_machine(settings, candidates)}.json"


def _stored(
    folder: ModelFolder, settings: RuntimeSettings, candidates: list[tuple[str, Precision]]
) -> dict[str, Any] | None:
    """Return the outcome of an earlier trial, None where there was none, or its file is damaged."""
    try:
        outcome = json.loads(_choice_file(folder, settings, candidates).read_text(encoding="utf-8"))
        if (outcome["backend"], outcome["precision"]) in candidates and isinstance(outcome["why"], str):
            return dict(outcome)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _open(name: str, precision: Precision, folder: ModelFolder, settings: RuntimeSettings) -> Backend:
    if name == "dummy":
        from service.inference.backends.dummy import DummyBackend

        return DummyBackend(len(folder.labels.names))
    if name == "torch":
        from service.inference.backends.torch import TorchBackend

        return TorchBackend.load(folder, precision, device=settings.device)
    if settings.device not in ("auto", "cpu"):
        raise BackendFailed(f"the {name} backend computes on the processor, not on {settings.device}", hint=USE_TORCH)
    return exported(name).load(folder, precision, settings)


def exported(name: str) -> type[ExportedBackend]:
    """Return the class of a backend that runs exported graphs."""
    if name == "onnx":
        from service.inference.backends.onnx import OnnxBackend

        return OnnxBackend
    from service.inference.backends.openvino import OpenVINOBackend

    return OpenVINOBackend


def _fastest(
    folder: ModelFolder, settings: RuntimeSettings, candidates: list[tuple[str, Precision]]
) -> tuple[Backend, str, str]:
    """Return the fastest candidate with the outputs of torch in float32, its name, and the reason in words."""
    reference = _open(*REFERENCE, folder, settings)
    run = _trial(folder)
    expected = run(reference)
    tried: dict[str, Backend] = {}
    skipped: list[str] = []
    for name, precision in candidates:
        title = f"{name} in {precision}"
        try:
            is_reference = (name, precision) == REFERENCE
            backend = reference if is_reference else _open(name, precision, folder, settings)
            if (backend.one_pass, backend.shared_text) < (reference.one_pass, reference.shared_text):
                raise BackendFailed("it lacks embeddings or the pass over all labels for this model")
            _require_close(run(backend), expected, tolerance(precision, expected.logits, folder.settings))
        except BackendFailed as error:
            skipped.append(f"{title}: {error}")
        else:
            tried[title] = backend
    if not tried:
        raise BackendFailed(f"{folder.path.name}: no backend can be used ({'; '.join(skipped)})")
    seconds = _timed({title: partial(run, backend) for title, backend in tried.items()})
    best, *others = sorted(tried, key=lambda title: seconds[title])
    for title in others:
        if tried[title] is not reference:
            tried[title].close()
    slower = ", ".join(f"{seconds[title] / seconds[best]:.1f} times {title}" for title in others)
    why = f"{best}, which does {slower}" if others else best
    return tried[best], best.split()[0], why + (f" (skipped: {'; '.join(skipped)})" if skipped else "")


def _trial(folder: ModelFolder) -> Callable[[Backend], Outputs]:
    """Return what backends are timed on: texts with labels for a model that supports one pass, else texts."""
    from finetune.core.tokenization import TextEncoder
    from service.inference.backends.graphs import sample
    from service.inference.backends.packing import packed

    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    texts = [sample(20 + number % 3) for number in range(16)]
    alone = encoder.pad(encoder(texts))
    zero_shot = folder.settings.zero_shot
    ends = encoder.hypotheses([sample(4 + number % 3) for number in range(10)])
    rows = encoder.before_hypotheses(texts[:8], max(map(len, ends)))
    packs = [packed(ends, rows[0].part(0, 1))] * len(rows)

    def run(backend: Backend) -> Outputs:
        if zero_shot is not None and zero_shot.attention == "shared_text" and backend.one_pass:
            return backend.run_labels(encoder.pad(rows), packs, embeddings=zero_shot.scorer == "both")
        return backend.run(alone, attention="ordinary", embeddings=False)

    return run


def _require_close(outputs: Outputs, expected: Outputs, allowed: float) -> None:
    difference = float(np.abs(outputs.logits - expected.logits).max())
    if not difference <= allowed:
        raise BackendFailed(f"its logits differ by {difference:.3g}, more than {allowed:.3g}")


def _timed(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the least seconds of each, measured in turns: other work on the processor only adds to them."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {title: [] for title in runs}
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        for title, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[title].append(time.perf_counter() - start)
        if time.perf_counter() - begin > MAX_TRIAL_S:
            break
    return {title: min(values) for title, values in seconds.items()}


def _machine(settings: RuntimeSettings, candidates: list[tuple[str, Precision]]) -> str:
    """Return a short hash of what a trial's outcome depends on beside the model."""
    facts: list[Any] = [FORMAT, settings.threads, candidates, list(_processor())]
    if settings.device != "auto":
        facts.append(settings.device)
    for package in ("torch", "transformers", "openvino", "onnxruntime"):
        try:
            facts.append(version(package))
        except PackageNotFoundError:
            facts.append(None)
    return sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processor() -> Iterator[str]:
    yield platform.machine()
    yield str(Path("/dev/nvidiactl").exists())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        yield platform.processor()
    else:
        yield from sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _lacks_bfloat16() -> bool:
    """Return whether this processor has no instructions for bfloat16, which it then emulates slowly, and no GPU does.

    False where it cannot be known without importing torch.
    """
    _, has_gpu, *lines = _processor()
    words = {word for line in lines for word in line.split()}
    known = any(line.startswith(("flags", "Features")) for line in lines)
    return known and has_gpu == "False" and not words & {"avx512_bf16", "amx_bf16", "bf16"}
