"""deploy/kubernetes against the schemas of Kubernetes and of Ray Serve, and its probes against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.server.admission import Admission
from service.server.middleware import PUBLIC_PATHS
from service.server.ray_proxy import IMPORT_PATH, middlewares
from service.server.telemetry import Telemetry
from service.settings import ServeSettings

FOLDER = Path(__file__).parent.parent / "deploy/kubernetes"
VERSION = "1.31"


def documents(name):
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))}


@pytest.fixture(scope="module")
def parts():
    return documents("rehead.yaml")


def container(pod):
    (only,) = pod["spec"]["containers"]
    return only


def validated(document):
    kubernetes = pytest.importorskip("kubernetes_validate")
    kubernetes.validate(document, VERSION, strict=True)
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(document | {"spek": {}}, VERSION, strict=True)


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"])
def test_each_object_has_the_schema_of_its_kind(parts, kind):
    assert len(parts) == 4
    validated(parts[kind])


def test_what_belongs_to_rayservice_has_its_schema():
    found = documents("rayservice.yaml")
    validated(found["NetworkPolicy"])
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        meta = {"name": "pod"} | group["template"]["metadata"]
        validated({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": group["template"]["spec"]})
        labels = found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
        assert labels.items() <= group["template"]["metadata"]["labels"].items()


def test_objects_point_at_each_other(parts):
    template = parts["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [parts["Deployment"]["spec"]["selector"]["matchLabels"], parts["Service"]["spec"]["selector"]]
    assert [labels] * 3 == [*selectors, parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    target = parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", parts["Deployment"]["metadata"]["name"])
    (port,) = container(template)["ports"]
    assert port["containerPort"] == ServeSettings().port
    assert parts["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    mounts = {mount["name"] for mount in container(template)["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}


def test_a_pod_has_time_to_answer_what_it_accepted(parts):
    spec = parts["Deployment"]["spec"]["template"]["spec"]
    sleep_s = container({"spec": spec})["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= sleep_s + ServeSettings().request_seconds + 5


def test_the_autoscaler_reads_a_metric_that_the_server_exports(parts):
    (metric,) = parts["HorizontalPodAutoscaler"]["spec"]["metrics"]
    telemetry = Telemetry(lambda line: None)
    telemetry.loaded("sentiment", lambda: 7)
    assert f'{metric["pods"]["metric"]["name"]}{{model="sentiment"}} 7.0' in telemetry.page().decode()


def test_settings_of_the_containers_are_settings_of_the_server(parts):
    names = [entry["name"] for entry in container(parts["Deployment"]["spec"]["template"])["env"]]
    ours = {name for name in names if name.startswith("REHEAD_")}
    assert ours <= {f"REHEAD_{field.upper()}" for field in ServeSettings.model_fields} and len(ours) == 2
    head = documents("rayservice.yaml")["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    environment = {entry["name"]: entry["value"] for entry in container(head)["env"]}
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == IMPORT_PATH
    assert middlewares()[0].kwargs["max_body_bytes"] == ServeSettings().max_body_bytes


def test_probes_need_no_key_and_are_answered_during_shutdown(parts):
    probed = container(parts["Deployment"]["spec"]["template"])
    paths = {probed[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/health/ready", "/health/live"} <= PUBLIC_PATHS
    admission = Admission(None, ServeSettings(), None)
    admission.draining = True
    for path in paths:
        admission.check_accepting(path)


BUILD = """
import json, sys, yaml
import ray
from ray.serve.schema import ServeDeploySchema
from service.commands import serve_ray

config, args = json.loads(sys.argv[1])
(application,) = ServeDeploySchema.model_validate(config).applications
assert application.import_path == "service.commands.serve_ray:app", application.import_path
deployment = serve_ray.app(application.args | args)._bound_deployment
assert not ray.is_initialized()
print(json.dumps([
    deployment.name, deployment.ray_actor_options, deployment.max_ongoing_requests, deployment.max_queued_requests,
    deployment._deployment_config.autoscaling_config.max_replicas, deployment.init_args[0].requests_per_minute,
]))
"""


def test_the_serve_config_is_one_and_its_application_is_built(tmp_path):
    pytest.importorskip("ray", exc_type=ImportError)
    config = yaml.safe_load(documents("rayservice.yaml")["RayService"]["spec"]["serveConfigV2"])
    (tmp_path / "keys").write_text("team = a-long-enough-key-1\n")
    args = {"api_key_file": str(tmp_path / "keys"), "requests_per_minute": "10"}
    command = [sys.executable, "-c", BUILD, json.dumps([config, args])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    name, options, ongoing, queued, most, per_minute = json.loads(done.stdout.splitlines()[-1])
    assert (name, options["num_cpus"], most, per_minute) == ("rehead", 2, 4, 10 // 4)
    assert options["runtime_env"]["env_vars"] == {"OMP_NUM_THREADS": "2"}
    assert 0 < queued < float("inf") and ongoing > ServeSettings().max_concurrent
