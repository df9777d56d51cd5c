"""ONNX Runtime on the CPU: float32 and int8."""

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

GRAPH = "model.onnx"


class OnnxBackend(ExportedBackend):
    """A model on ONNX Runtime."""

    name = "onnx"
    package = "onnxruntime"
    precisions = ("float32", "int8")

    @classmethod
    def check(cls, precision: Precision) -> None:
        """See `ExportedBackend.check`."""
        missing = [package for package in ("onnxruntime", "onnx", "onnxscript") if find_spec(package) is None]
        if missing:
            raise BackendFailed(f"{missing[0]} is not installed", hint='pip install "rehead[onnx]"')

    def write(self, graph: Graph, file: Path) -> None:
        """See `ExportedBackend.write`."""
        self._export(graph, file, None)

    def quantize(self, graph: Graph, file: Path, calibration: Sequence[Arrays]) -> None:
        """See `ExportedBackend.quantize`."""
        from transformers.exporters import OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

        from service.inference.backends.graphs import tensors

        samples = [tensors(arrays) for arrays in calibration]
        self._export(graph, file, OnnxRuntimeQuantizer(OnnxRuntimeStaticConfig(per_channel=True), samples))

    def _export(self, graph: Graph, file: Path, quantizer: Any) -> None:
        from transformers.exporters import OnnxConfig, OnnxExporter

        from service.inference.backends.torch import quiet

        with quiet("torch.onnx"), redirect_stdout(StringIO()):  # the exporter prints its steps
            model = OnnxExporter().export(graph.module, graph.example(), OnnxConfig(dynamic=True, quantizer=quantizer))
            model.save_pretrained(file)

    def _open(self, file: Path) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file / GRAPH), options, providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_inputs()]

        def run(inputs: Arrays) -> list[Any]:
            return [np.asarray(output) for output in session.run(None, {name: inputs[name] for name in names})]

        return run
