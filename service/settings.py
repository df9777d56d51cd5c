"""Everything an operator can set about a server.

Knows: names, defaults, ranges, and the sentence that explains each.
Does not know: how a setting is put to use.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BadRequest

BackendName = Literal["auto", "torch", "openvino", "onnx", "dummy"]
M = TypeVar("M", bound=BaseModel)
LISTS = ("allowed_hosts", "cors_origins", "bases")
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
        return _settings(cls, given)

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

    api_key_file: Path | None = None
    """A file of keys that open the server, a line each, `name = key` or a key alone. REHEAD_API_KEYS holds the same."""

    no_auth: bool = False
    """Listen on other addresses than this machine's own without a key."""

    tls_cert: Path | None = None
    """The certificate (PEM) to serve https with."""

    tls_key: Path | None = None
    """Its private key (PEM)."""

    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server is asked, beside the one it listens on; without a key, others are refused."""

    cors_origins: tuple[str, ...] = ()
    """Web pages, as https://example.org, whose scripts may ask; none where it is left out."""

    mcp: bool = False
    """Offer classify_sentiment and classify_topics as tools to language models, at /gradio_api/mcp (extra `mcp`)."""

    allow_training: bool = False
    """Let the page train models, in a process beside the server, into the folder of models."""

    bases: tuple[str, ...] = ()
    """Encoders that the page may train from: served names, folders or Hub ids; every served model if none is named."""

    tables: Path | None = None
    """A folder of tables that the page offers beside what is uploaded."""

    feedback: Path | None = None
    """A JSON Lines file that corrected answers are appended to; without it the page asks for none."""

    max_feedback_rows: int = Field(default=10_000, ge=1)
    """Corrected answers that the file may hold."""

    max_upload_bytes: int = Field(default=50_000_000, ge=1024)
    """Bytes that a table uploaded on the page may have."""

    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    """Bytes a request body may have."""

    max_texts: int = Field(default=32, ge=1)
    """Texts one request may hold."""

    max_characters: int = Field(default=20_000, ge=1)
    """Characters one text may have."""

    max_labels: int = Field(default=1000, ge=1)
    """Candidate labels one request may hold."""

    max_tokens: int = Field(default=65_536, ge=1)
    """Tokens of work one request may ask for: its texts, and its labels as often as they are computed."""

    max_concurrent: int = Field(default=128, ge=1)
    """Requests that may be under way for one model."""

    queue_seconds: float = Field(default=2.0, gt=0)
    """Seconds a request may wait for the model; one that would wait longer is refused at once."""

    request_seconds: float = Field(default=30.0, gt=0)
    """Seconds a request may take."""

    requests_per_minute: int = Field(default=0, ge=0)
    """Requests a minute that a key may send, or an address where there is no key; 0 for any number."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both, or neither")
        return self

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Settings from REHEAD_HOST, REHEAD_MAX_TEXTS and so on; what is given here and is not None goes before.

        Raises:
            BadRequest: a value that is none of those accepted.
        """
        return _settings(cls, given, skipped=("backend", "precision"))


def _settings(kind: type[M], given: dict[str, Any], *, skipped: Collection[str] = ()) -> M:
    names = {field: f"REHEAD_{field.upper()}" for field in kind.model_fields if field not in skipped}
    found: dict[str, Any] = {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}
    found = {
        field: [part.strip() for part in value.split(",")] if field in LISTS else value
        for field, value in found.items()
    }
    found |= {field: value for field, value in given.items() if value is not None}
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise BadRequest(first["msg"].removeprefix("Value error, ")) from error
        field = str(first["loc"][0])
        where = field if given.get(field) is not None else names.get(field, field)
        raise BadRequest(f"{where} cannot be {found.get(field)!r}: {first['msg']}") from error
