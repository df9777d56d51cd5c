"""The arithmetic that training runs in."""

import pytest

from finetune.training import arguments
from finetune.training.arguments import bfloat16_is_faster, use_bfloat16

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def measured_anew():
    yield
    bfloat16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "times", "expected"),
    [
        (False, False, {"float32": 2, "bfloat16": 1}, False),  # emulated: never
        (False, True, {"float32": 1, "bfloat16": 2}, True),  # matrix units: always
        (True, False, {"float32": 2, "bfloat16": 1}, True),
        (True, False, {"float32": 1, "bfloat16": 1}, False),
        (True, False, {"float32": 1, "bfloat16": 2}, False),
    ],
)
def test_automatic_precision_is_bfloat16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, times: dict[str, int], expected: bool
) -> None:
    clock = iter(tick for _ in range(99) for kind in ("float32", "bfloat16") for tick in (0.0, times[kind]))
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(arguments.time, "perf_counter", lambda: next(clock))
    bfloat16_is_faster.cache_clear()
    assert use_bfloat16("auto", "cpu") is expected
    assert use_bfloat16("bfloat16", "cpu") and not use_bfloat16("float32", "cpu")
