"""A real server as the kubelet runs a pod of deploy/kubernetes: its probes, and SIGTERM while it answers."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.waiting import until

MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/rehead.yaml"
KEY = "a-long-enough-key-1"
ASK = {"inputs": "good film", "parameters": {"candidate_labels": list("abcdefgh")}}


@pytest.mark.slow
def test_a_pod_is_ready_is_stopped_and_answers_what_it_accepted(start_server, tiny_models, tmp_path):
    deployment = next(yaml.safe_load_all(MANIFEST.read_text("utf-8")))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    startup, ready, live = (
        container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")
    )
    (tmp_path / "keys").write_text(f"team = {KEY}\n")
    server = start_server(tiny_models, "--api-key-file", str(tmp_path / "keys"))
    answers, probes = [], []
    kubelet = {"Host": "10.1.2.3:7860", "User-Agent": "kube-probe/1.31"}  # the address of the pod, and no key

    def ask():
        with httpx.Client(base_url=server.address, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
            while answers[-1:] != [503]:
                answers.append(client.post("/models/topics", json=ASK).status_code)

    def probe():
        with httpx.Client(base_url=server.address, headers=kubelet, timeout=30) as client:
            while True:
                try:
                    probes.append((client.get(ready).status_code, client.get(live).status_code))
                except httpx.TransportError:  # it listens no more
                    return
                time.sleep(0.02)

    with httpx.Client(base_url=server.address, headers=kubelet) as client:
        assert [client.get(path).status_code for path in (startup, ready, live)] == [200] * 3
    threads = [threading.Thread(target=ask), threading.Thread(target=probe)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 5 and probes, "answers and probes")
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert server.stop(signal.SIGTERM, pod["terminationGracePeriodSeconds"] - sleep_s) == (0, "")
    for thread in threads:
        thread.join(120)
    assert set(answers[:-1]) == {200} and answers[-1] == 503  # none was lost, and the next is refused in a sentence
    assert probes[0] == (200, 200) and probes[-1] == (503, 200)  # it takes no more requests, and is not restarted
