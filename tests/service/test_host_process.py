"""A library leaves the process of its caller alone: threads, environment, malloc, forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# runs before any of our imports; `changes` is what differs from then
OBSERVE = """
import ctypes, os, signal, sys
import torch, transformers
mallopts = []
class _Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            mallopts.append(name)
        return super().__getattr__(name)
ctypes.CDLL = _Library
OTHERS = {"TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}  # set by torch and scikit-learn
def state():
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    threads = {"threads": torch.get_num_threads(), "interop": torch.get_num_interop_threads()}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return environment | threads | handlers | {"folder": os.getcwd()}
torch.set_num_threads(3)
torch.ones(300, 300) @ torch.ones(300, 300)
before = state()
def changes():
    after = state()
    return [name for name in before | after if before.get(name) != after.get(name)] + mallopts
"""
IMPORT_ALL = """
import importlib, pkgutil
import finetune, rehead, service
for package in (finetune, service):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
assert not changes(), changes()
"""
LOAD = """
from service import load
model = load(sys.argv[1], backend=sys.argv[2], precision="float32")
model("a good film")
assert not changes(), changes()
"""
FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if not changes() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(code: str, *arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_every_module_changes_nothing_of_the_process() -> None:
    run(OBSERVE + IMPORT_ALL)


@pytest.mark.parametrize(
    "backend", ["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "onnx"))]
)
def test_loading_and_calling_a_model_changes_nothing_of_the_process(
    backend: str, tiny_sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path))
    run(OBSERVE + LOAD, tiny_sentiment, backend)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_that_computes_nothing_keeps_its_threads(tiny_sentiment: Path) -> None:
    run(OBSERVE + LOAD + FORK, tiny_sentiment, "torch")


TRAIN = """
from finetune import TrainConfig, train
rows = [{"text": f"{word} film {index}", "label": word} for index in range(20) for word in ("good", "bad")]
train(TrainConfig(base=sys.argv[1], out=sys.argv[2] + "/model", optim={"epochs": 1}, plots=False), data=rows)
assert not changes(), changes()
"""


@pytest.mark.slow
def test_training_from_python_changes_nothing_of_the_process(tiny_base: Path, tmp_path: Path) -> None:
    run(OBSERVE + TRAIN, tiny_base, tmp_path)


COMMAND = """
from service import cli
try:
    cli.main(["models", "--models", sys.argv[1]])
except SystemExit as leave:
    assert leave.code == 0
assert mallopts and os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(cli.KEPT_KERNELS)
"""


def test_the_command_line_sets_malloc_and_the_kernel_cache(tmp_path: Path) -> None:
    run(OBSERVE + COMMAND, tmp_path)


UNPINNED = """
from pathlib import Path
model = load(sys.argv[1], backend="openvino", precision="float32")
cores = os.sched_getaffinity(0)
seen = []
def watch():
    while not done.is_set():
        seen.extend(os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir())
done = threading.Event()
watching = threading.Thread(target=watch)
watching.start()
for _ in range(50):
    model(["a good film " * 60] * 64)
done.set()
watching.join()
assert seen and all(found == cores for found in seen), set(map(frozenset, seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux shows the cores of each thread")
def test_a_process_of_one_thread_takes_any_core(tiny_sentiment):
    pytest.importorskip("openvino")
    code = "import os, sys, threading\nos.environ['OMP_NUM_THREADS'] = '1'\nfrom service import load\n" + UNPINNED
    run(code, tiny_sentiment)  # pinned, two of them shared the first core
