"""OpenVINO on the CPU: float32, bfloat16 where the processor has it, and int8."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import BackendFailed
from service.inference.backends.base import Arrays, Precision
from service.inference.backends.exported import ExportedBackend, Run

if TYPE_CHECKING:
    from service.inference.backends.graphs import Graph

GRAPH = "openvino_model.xml"

KEPT_SHAPES = 500
"""Prepared nodes that OpenVINO keeps for input shapes it has met; 5,000 by itself, and memory grows with each shape.

The command line bounds the kernels that oneDNN keeps too; that takes an environment variable, which a library must not
set.
"""


class OpenVINOBackend(ExportedBackend):
    """A model on OpenVINO."""

    name = "openvino"
    package = "openvino"
    precisions = ("float32", "bfloat16", "int8")

    @classmethod
    def check(cls, precision: Precision) -> None:
        """See `ExportedBackend.check`."""
        if find_spec("openvino") is None:
            raise BackendFailed("openvino is not installed", hint='pip install "rehead[openvino]"')
        if precision == "int8" and find_spec("nncf") is None:
            raise BackendFailed("nncf is not installed", hint='pip install "rehead[int8]"')
        if precision == "bfloat16" and not _has_bfloat16():
            raise BackendFailed("this processor has no bfloat16", hint="use float32 or int8")

    def write(self, graph: Graph, file: Path) -> None:
        """See `ExportedBackend.write`."""
        import openvino

        openvino.save_model(_converted(graph), str(file / GRAPH), compress_to_fp16=False)

    def _open(self, file: Path) -> Run:
        import openvino

        core = openvino.Core()
        inner = "bf16" if self.precision != "float32" and _has_bfloat16() else "f32"
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": inner, "PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_NUM_THREADS": self._threads, "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES}
        options["ENABLE_CPU_PINNING"] = False  # or two processes of one thread each would share the first core
        request = core.compile_model(str(file / GRAPH), "CPU", options).create_infer_request()
        ports = [port.get_names() for port in request.model_inputs]  # a port may have further names

        def run(inputs: Arrays) -> list[Any]:
            values = [next(inputs[name] for name in names if name in inputs) for names in ports]
            outputs = request.infer(values, share_inputs=True)
            return [np.array(outputs[number]) for number in range(len(outputs))]

        return run

    def quantize(self, graph: Graph, file: Path, calibration: Sequence[Arrays]) -> None:
        """See `ExportedBackend.quantize`."""
        import nncf
        import openvino

        from service.inference.backends.torch import quiet

        model = _converted(graph)
        with quiet("nncf"), redirect_stdout(StringIO()):
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(calibration)),
                subset_size=len(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
            )
        openvino.save_model(quantized, str(file / GRAPH), compress_to_fp16=False)


def _converted(graph: Graph) -> Any:
    import openvino

    from service.inference.backends.torch import quiet

    with quiet():
        # traced, not through torch.export: a quarter of the time (docs/decisions.md)
        return openvino.convert_model(graph.module, example_input=graph.example())


def _has_bfloat16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
