"""The kinds of classification and regression that a model can be trained for."""

from __future__ import annotations

from typing import Literal

Task = Literal["binary", "multiclass", "multi_label", "regression"]
