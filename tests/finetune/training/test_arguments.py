"""The arithmetic that training runs in."""

import pytest

from finetune.training.arguments import use_bfloat16

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_automatic_precision_is_bfloat16_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, expected: bool
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert use_bfloat16("auto", "cpu") is expected
    assert use_bfloat16("bfloat16", "cpu") and not use_bfloat16("float32", "cpu")
