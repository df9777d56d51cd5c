"""Everything an operator can set about a server.

Knows: names, defaults, ranges, and the sentence that explains each.
Does not know: how a setting is put to use.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


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

    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Bytes a request body may have."""

    max_texts: int = Field(default=1024, ge=1)
    """Texts one request may hold."""

    max_labels: int = Field(default=256, ge=1)
    """Candidate labels one request may hold."""

    max_pairs: int = Field(default=8192, ge=1)
    """Texts times labels that one zero-shot request may ask for."""
