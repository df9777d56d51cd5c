"""Everything an operator can set about a server.

Knows: names, defaults, ranges, and the sentence that explains each.
Does not know: how a setting is put to use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import BadRequest

BackendName = Literal["auto", "torch", "openvino", "onnx", "dummy"]
PrecisionName = Literal["auto", "float32", "bfloat16", "int8"]


class RuntimeSettings(BaseModel):
    """What a model is computed with. Each can be set by an environment variable: REHEAD_BACKEND and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    backend: BackendName = "auto"
    """The runtime; auto takes whichever is measured to be fastest on this machine at equal answers."""

    precision: PrecisionName = "auto"
    """What it computes in; auto is chosen with the runtime, and never int8."""

    threads: int = Field(default_factory=lambda: _threads(), ge=1)
    """Threads of one model; as many as there are processors for this process, or as OMP_NUM_THREADS says."""

    cache: Path = Field(default_factory=lambda: _cache())
    """The folder of models made for a runtime, and of what was measured."""

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Settings from REHEAD_BACKEND, REHEAD_PRECISION, REHEAD_THREADS and REHEAD_CACHE; what is given here and is
        not None goes before.

        Raises:
            BadRequest: a value that is none of those accepted.
        """
        names = {field: f"REHEAD_{field.upper()}" for field in cls.model_fields}
        found = {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}
        found |= {field: value for field, value in given.items() if value is not None}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            where = field if given.get(field) is not None else names.get(field, field)
            raise BadRequest(f"{where} cannot be {found.get(field)!r}: {first['msg']}") from error

    def exact(self) -> Self:
        """The same, on torch in float32 where nothing was asked for: exact, and nothing to prepare."""
        return self.model_copy(
            update={
                "backend": "torch" if self.backend == "auto" else self.backend,
                "precision": "float32" if self.precision == "auto" else self.precision,
            }
        )


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rehead"


class ServeSettings(BaseModel):
    """What `rehead serve` runs with."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: int = Field(default=7860, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""

    models: Path = Path("models")
    """The folder of models to serve, beside those that ship."""

    default: str | None = None
    """The model that answers at `/`; else `sentiment`, else the first name."""

    backend: BackendName | None = None
    """The runtime of every model; what the environment says, else the fastest on this machine."""

    precision: PrecisionName | None = None
    """What models are computed in; what the environment says, else chosen with the runtime."""

    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Bytes a request body may have."""

    max_texts: int = Field(default=1024, ge=1)
    """Texts one request may hold."""

    max_labels: int = Field(default=256, ge=1)
    """Candidate labels one request may hold."""

    max_pairs: int = Field(default=8192, ge=1)
    """Texts times labels that one zero-shot request may ask for."""
