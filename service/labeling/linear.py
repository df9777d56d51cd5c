"""Logistic regression on soft labels, which scikit-learn's takes only as repeated rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.scores import Floats, log_softmax

MAX_ITERATIONS = 200


def fit_soft(
    vectors: npt.NDArray[Any], soft: Floats, regularization: float, *, start: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return weights `[H, L]` and offsets `[L]` with the least cross-entropy to soft labels `[N, L]`.

    Args:
        regularization: C, the inverse of the L2 penalty, as scikit-learn has it.
        start: logits `[N, L]` that the weights and offsets are added to; offsets have the penalty too then, so that a
            label without rows keeps its own.
    """
    from scipy.optimize import minimize

    rows, width = vectors.shape
    labels = soft.shape[1]
    penalty = 1 / (regularization * rows)
    own, of_offsets = (0.0, 0.0) if start is None else (start, penalty)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, offsets = flat[: width * labels].reshape(width, labels), flat[width * labels :]
        logs = log_softmax(own + vectors @ weights + offsets)
        gap = (np.exp(logs) - soft) / rows
        value = -(soft * logs).sum() / rows + penalty / 2 * (weights**2).sum() + of_offsets / 2 * (offsets**2).sum()
        slopes = (vectors.T @ gap + penalty * weights).ravel(), gap.sum(axis=0) + of_offsets * offsets
        return float(value), np.concatenate(slopes)

    minimum = minimize(
        loss, np.zeros((width + 1) * labels), jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS}
    )
    return minimum.x[: width * labels].reshape(width, labels), minimum.x[width * labels :]
