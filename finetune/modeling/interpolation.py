"""The interpolation of trained weights and those of the base (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.modeling.build import Built


def interpolated(model: Any, base: Built, share: float) -> Any:
    """Return the model with each weight that the base has set to share * base + (1 - share) * trained, in place."""
    import torch

    weights, before = model.state_dict(), base.model.state_dict()
    with torch.no_grad():
        for name in base.kept:
            if weights[name].is_floating_point():
                weights[name].lerp_(before[name].to(weights[name]), share)
    return model
