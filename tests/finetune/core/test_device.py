"""The device that a user names: found, or refused in a sentence; in Python, on the command line and for training."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

import rehead
from finetune.config.training import TrainConfig
from finetune.core.device import torch_device
from finetune.core.errors import ConfigError
from finetune.training.arguments import use_bfloat16
from service.app import create_app
from service.cli import rehead as commands
from service.settings import RuntimeSettings, ServeSettings

pytestmark = pytest.mark.fast


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_is_the_processor_without_a_gpu(without_gpu):
    assert torch_device("auto") == torch_device("cpu") == torch.device("cpu")


def test_a_gpu_is_found_by_its_number(two_gpus):
    assert torch_device("auto") == torch_device("cuda") == torch.device("cuda")
    assert torch_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device cuda:2 is not available: torch finds 2 CUDA GPUs"):
        torch_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "device cuda is not available: torch finds no CUDA GPU on this machine; use auto or cpu"),
        ("mps", "device mps is not available"),
        ("gpu", "device 'gpu' is unknown: use auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_every_interface_refuses_an_unavailable_device_in_one_sentence(
    without_gpu, tiny_sentiment, tiny_models, monkeypatch, name, sentence
):
    with pytest.raises(ConfigError, match=sentence):
        rehead.load(tiny_sentiment, device=name)
    with pytest.raises(ConfigError, match=sentence):
        create_app(ServeSettings(models=tiny_models, device=name))
    monkeypatch.setenv("REHEAD_DEVICE", name)
    with pytest.raises(ConfigError, match=sentence):
        rehead.load(tiny_sentiment)
    done = CliRunner().invoke(commands, ["predict", str(tiny_sentiment), "a film"])
    assert isinstance(done.exception, ConfigError) and done.exception.exit_code == 2
    done = CliRunner().invoke(commands, ["predict", str(tiny_sentiment), "a film", "--device", "cpu"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["predict", "zero-shot", "evaluate", "compare", "serve", "finetune", "search"])
def test_every_command_that_computes_has_the_option(command):
    assert "--device" in CliRunner().invoke(commands, [command, "--help"]).output


def test_only_torch_computes_on_a_gpu(two_gpus, tiny_sentiment):
    with pytest.raises(rehead.BackendFailed, match="onnx backend computes on the processor, not on cuda:1"):
        rehead.load(tiny_sentiment, device="cuda:1", backend="onnx", precision="float32")


def test_training_on_the_processor_ignores_the_gpu(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **named: pytest.fail("the GPU was asked"))
    use_bfloat16("auto", "cpu")
    assert RuntimeSettings(device="cpu").exact().device == "cpu"


def test_training_refuses_an_unavailable_device(without_gpu):
    from finetune.checks import check_settings

    with pytest.raises(ConfigError, match="device cuda is not available"):
        check_settings(TrainConfig(base="topics", out="x", device="cuda"))
