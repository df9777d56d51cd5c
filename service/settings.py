"""The settings of a runtime and of a server; each field's sentence is its help on the command line."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from finetune.core.windows import window_of
from service.errors import BadRequest

BackendName = Literal["auto", "torch", "openvino", "onnx", "dummy"]
EngineName = Literal["local", "ray"]
M = TypeVar("M", bound=BaseModel)
LISTS = ("allowed_hosts", "cors_origins", "bases", "trusted_proxies")
PREFIX = r"(/[\w.~-]+)+"
"""A path prefix: segments of letters, digits, . _ ~ and -, without a slash at the end."""

PrecisionName = Literal["auto", "fastest", "float32", "bfloat16", "int8"]


OWN_PATHS = frozenset(
    ("models", "v1", "classify", "predict", "info", "health", "metrics", "login", "docs", "openapi.json", "gradio_api")
)
"""First segments of the server's own paths, which a path prefix must not have."""


class RuntimeSettings(BaseModel):
    """The runtime of a model. Each field can be set by an environment variable: REHEAD_BACKEND and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    backend: BackendName = "auto"
    """The runtime; auto selects the one that is measured to be fastest on this machine with equal answers."""

    precision: PrecisionName = "auto"
    """The precision; auto is selected with the runtime, and is never int8; fastest also tries int8 where
    `rehead export --int8` has made and checked it."""

    device: str = "auto"
    """The device; auto, cpu, cuda, cuda:N or mps. auto is the first CUDA GPU where there is one, else the processor."""

    threads: int = Field(default_factory=lambda: _threads(), ge=1)
    """Threads of one model; default is OMP_NUM_THREADS, else the processors of this process."""

    cache: Path = Field(default_factory=lambda: _cache())
    """The folder of converted models and of measurements."""

    @classmethod
    def from_environment(cls, **values: Any) -> Self:
        """Return settings from REHEAD_BACKEND, REHEAD_PRECISION, REHEAD_DEVICE, REHEAD_THREADS and REHEAD_CACHE.

        Args:
            values: override the environment, unless None.

        Raises:
            BadRequest: a value is not accepted.
        """
        return _settings(cls, values)

    def exact(self) -> Self:
        """Return the same settings, with torch and float32 in place of auto and fastest: exact, no conversion."""
        return self.model_copy(
            update={
                "backend": "torch" if self.backend == "auto" else self.backend,
                "precision": "float32" if self.precision in ("auto", "fastest") else self.precision,
            }
        )


def _threads() -> int:
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rehead"


class ServeSettings(BaseModel):
    """The settings of `rehead serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    engine: EngineName = "local"
    """What runs the models: local is this process; ray is Ray Serve, with the API only (extra `ray`)."""

    replicas: int | None = Field(default=None, ge=1)
    """Processes that hold the models, with --engine ray; default is 1."""

    min_replicas: int | None = Field(default=None, ge=1)
    """Fewest replicas where Ray sets their number by the load; goes with --max-replicas."""

    max_replicas: int | None = Field(default=None, ge=1)
    """Most replicas where Ray sets their number by the load; goes with --min-replicas."""

    num_gpus_per_replica: float = Field(default=0.0, ge=0)
    """GPUs of a replica, such as 1 or 0.5; without one a replica runs on the processor."""

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: int = Field(default=7860, ge=0, le=65535)
    """The port to listen on; 0 selects a free one."""

    models: Path = Path("models")
    """The folder of models to serve, in addition to those that ship."""

    default: str | None = None
    """The model that answers at `/`; default is `sentiment`, else the first name."""

    backend: BackendName | None = None
    """The runtime of every model; default is REHEAD_BACKEND, else the fastest on this machine."""

    precision: PrecisionName | None = None
    """The precision of every model; default is REHEAD_PRECISION, else selected with the runtime."""

    device: str | None = None
    """The device of every model: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto."""

    api_key_file: Path | None = None
    """A file of API keys, one per line: `name = key` or a key alone. REHEAD_API_KEYS may hold more, comma-separated."""

    no_auth: bool = False
    """Allow access without an API key on addresses that other machines can reach."""

    tls_cert: Path | None = None
    """The TLS certificate (PEM)."""

    tls_key: Path | None = None
    """The private key of the TLS certificate (PEM)."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names that clients may use, in addition to --host; others are refused where there is no API key."""

    root_path: str = ""
    """The path prefix that clients see, such as /tools/rehead; a proxy may remove it from requests or not."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose X-Forwarded-For, -Proto and -Prefix are believed; default is none."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose scripts may send requests, such as https://example.org; default is none."""

    mcp: bool = False
    """Offer classify_sentiment and classify_topics as MCP tools, at /gradio_api/mcp (extra `mcp`)."""

    allow_training: bool = False
    """Allow training in the web UI, in a process beside the server, into the folder of models."""

    bases: tuple[str, ...] = ()
    """Base models for training in the web UI: served names, folders or Hub ids; default is every served model."""

    tables: Path | None = None
    """A folder of tables that the web UI offers in addition to uploads."""

    feedback: Path | None = None
    """A JSON Lines file that corrected answers are appended to; without it the web UI collects none."""

    max_feedback_rows: int = Field(default=10_000, ge=1)
    """Corrected answers that the file may hold at most."""

    max_upload_bytes: int = Field(default=50_000_000, ge=1024)
    """Largest upload in the web UI, in bytes."""

    window: str | None = None
    """How long texts are read: tokens of a window, or tokens=256,overlap=64,aggregate=mean; off truncates them."""

    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    """Largest request body, in bytes."""

    max_texts: int = Field(default=32, ge=1)
    """Texts of one request."""

    max_characters: int = Field(default=20_000, ge=1)
    """Characters of one text."""

    max_labels: int = Field(default=1000, ge=1)
    """Candidate labels of one request."""

    max_tokens: int = Field(default=65_536, ge=1)
    """Tokens of one request: its texts, and its labels as often as they are computed."""

    max_connections: int = Field(default=4096, ge=1)
    """Open connections, of which one address may hold three quarters; fewer where the limit of open files is lower."""

    max_concurrent: int = Field(default=128, ge=1)
    """Requests of one model that may run at once."""

    queue_seconds: float = Field(default=2.0, gt=0)
    """Queue timeout in seconds; a request that would wait longer is refused at once."""

    request_seconds: float = Field(default=30.0, gt=0)
    """Deadline of a request in seconds."""

    requests_per_minute: int = Field(default=0, ge=0)
    """Rate limit per API key, or per address where there is no key; 0 is unlimited."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: set both, or neither")
        return self

    @model_validator(mode="after")
    def _replicas_are_one_choice(self) -> Self:
        low, high = self.min_replicas, self.max_replicas
        if (low is None) != (high is None):
            raise ValueError("min_replicas and max_replicas go together: set both, or neither")
        if low is not None and high is not None and (low > high or self.replicas is not None):
            raise ValueError("set replicas, or min_replicas and max_replicas with the smaller number first")
        if self.engine == "local" and (self.replicas or high or self.num_gpus_per_replica):
            raise ValueError("replicas and their GPUs go with the engine ray: add --engine ray")
        return self

    @field_validator("window")
    @classmethod
    def _window_is_one(cls, value: str | None) -> str | None:
        window_of(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_prefix(cls, value: str) -> str:
        path = value.rstrip("/")
        segments = path.split("/")
        if path and (not re.fullmatch(PREFIX, path) or "." in segments or ".." in segments):
            raise ValueError("write it like /tools/rehead")
        if path and segments[1] in OWN_PATHS:
            raise ValueError(f"/{segments[1]} is a path of the server itself: use another prefix")
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_network(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is no address and no network: write 127.0.0.1 or 10.0.0.0/8") from error
        return values

    @classmethod
    def from_environment(cls, **values: Any) -> Self:
        """Return settings from REHEAD_HOST, REHEAD_MAX_TEXTS and so on.

        Args:
            values: override the environment, unless None.

        Raises:
            BadRequest: a value is not accepted.
        """
        return _settings(cls, values, skipped=("backend", "precision", "device"))


def _settings(kind: type[M], values: dict[str, Any], *, skipped: Collection[str] = ()) -> M:
    names = {field: f"REHEAD_{field.upper()}" for field in kind.model_fields if field not in skipped}
    content: dict[str, Any] = {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}
    content = {
        field: [part.strip() for part in value.split(",")] if field in LISTS else value
        for field, value in content.items()
    }
    content |= {field: value for field, value in values.items() if value is not None}
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise BadRequest(first["msg"].removeprefix("Value error, ")) from error
        field = str(first["loc"][0])
        where = field if values.get(field) is not None else names.get(field, field)
        raise BadRequest(f"{where} cannot be {content.get(field)!r}: {first['msg']}") from error
