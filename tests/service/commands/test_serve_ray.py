"""`rehead serve --engine ray`: what is refused before Ray starts, and the share of each replica."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service.commands.serve_ray import on_replicas
from service.errors import BadRequest
from service.settings import ServeSettings

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"allow_training": True}, "--allow-training does not go with --engine ray: training is part of the web UI"),
        ({"feedback": "f.jsonl"}, "--feedback does not go with --engine ray"),
        ({"mcp": True}, "--mcp does not go with --engine ray"),
        ({"tls_cert": "c", "tls_key": "k"}, "--tls-cert does not go with --engine ray: a reverse proxy"),
        ({"max_connections": 10}, "--max-connections does not go with --engine ray"),
        ({"replicas": 3, "requests_per_minute": 2}, "cannot be divided among 3 replicas: set 3 or more"),
        ({"device": "cuda"}, "--device cuda needs --num-gpus-per-replica"),
    ],
)
def test_options_that_ray_has_not_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        on_replicas(ServeSettings(engine="ray", **options))


def test_each_replica_has_its_share_of_the_rate_limit_and_no_gpu_by_itself():
    settings = {"engine": "ray", "requests_per_minute": 100}
    assert on_replicas(ServeSettings(**settings)).requests_per_minute == 100
    assert on_replicas(ServeSettings(**settings, replicas=3)).requests_per_minute == 33
    assert on_replicas(ServeSettings(**settings, min_replicas=1, max_replicas=4)).requests_per_minute == 25
    assert on_replicas(ServeSettings(**settings)).device == "cpu"
    assert on_replicas(ServeSettings(**settings, num_gpus_per_replica=1)).device == "auto"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"replicas": 2}, "add --engine ray"),
        ({"engine": "ray", "min_replicas": 1}, "go together"),
        ({"engine": "ray", "min_replicas": 3, "max_replicas": 2}, "smaller number first"),
        ({"engine": "ray", "replicas": 1, "min_replicas": 1, "max_replicas": 2}, "set replicas, or"),
    ],
)
def test_replicas_are_one_choice(options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        ServeSettings.from_environment(**options)


def test_without_ray_the_install_line_is_the_error(tiny_models, tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('none')\n")  # in place of the distribution
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "service.cli", "serve", "--engine", "ray", "--models", str(tiny_models)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 2 and "--engine ray needs Ray Serve: pip install 'rehead[ray]'" in done.stderr
    assert "Traceback" not in done.stderr and "answers at" not in done.stdout
