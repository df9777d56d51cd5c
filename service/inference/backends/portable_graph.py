"""One ONNX file of a model for use outside of this project: plain inputs, and scores that need one function only."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.core.calibration import IsotonicScaling, PlattScaling
from finetune.core.model_folder import ClassifierSettings, ModelFolder
from service.errors import BackendFailed
from service.inference.backends.base import tolerance
from service.inference.backends.graphs import Graph, graph_of
from service.inference.backends.one_pass import HIDDEN
from service.inference.backends.onnx import GRAPH, OnnxBackend
from service.inference.backends.torch import TorchBackend, quiet

LOGITS, EMBEDDINGS = "logits", "text_embeddings"


class PortableRows(nn.Module):
    """Logits `[B, C]` of padded rows, and under the shared-text mask the embeddings `[B, H]` of their texts.

    What `classifier.json` adds to the model is inside: logits are divided by the temperature, or Platt's calibration is
    applied, and those of a regression are its predictions.
    """

    def __init__(self, model: Any, settings: ClassifierSettings, *, shared_text: bool) -> None:
        super().__init__()
        self._model, self._settings, self._shared_text = model, settings, shared_text

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return logits, and the embeddings where the model has a shared-text mask; both float32."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if not self._shared_text or token_type_ids is None:
            logits = self._model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
            return (self._scaled(logits.float()),)
        visible = attention_mask > 0
        # text and its [SEP]: type 0, without [CLS], which is the first token
        behind_first = torch.arange(input_ids.shape[1], device=input_ids.device) > 0
        is_text = visible & (token_type_ids == 0) & behind_first[None]
        # not torch.where, which ONNX Runtime lacks for booleans
        allowed = (is_text[:, :, None] & is_text[:, None, :]) | (~is_text[:, :, None] & visible[:, None, :])
        mask = (~allowed).to(self._model.dtype)[:, None] * HIDDEN
        output = self._model(input_ids=input_ids, attention_mask=mask, **types, output_hidden_states=True)
        weights = is_text.to(output.logits.dtype)[..., None]
        means = (output.hidden_states[-1] * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return self._scaled(output.logits.float()), means.float()

    def _scaled(self, logits: Tensor) -> Tensor:
        settings = self._settings
        if settings.activation not in ("linear", "softplus"):
            logits = logits / settings.temperature
            if isinstance(settings.scaling, PlattScaling):
                logits = logits * torch.tensor(settings.scaling.slopes) + torch.tensor(settings.scaling.offsets)
            return logits
        unit = settings.target.std if settings.target is not None else 1.0
        values = unit * F.softplus(logits / unit) if settings.activation == "softplus" else logits
        low, high = settings.target.bounds if settings.target is not None else (None, None)
        return values if low is None and high is None else torch.clamp(values, low, high)


def write_portable(folder: ModelFolder, out: Path) -> bool:
    """Write `model.onnx` of a checked folder to `out`; return whether it has the shared-text mask.

    Raises:
        BackendFailed: a package is missing, the model cannot be exported, or ONNX Runtime computes other numbers.
    """
    OnnxBackend.check("float32")
    if isinstance(folder.settings.scaling, IsotonicScaling):
        raise BackendFailed(
            f"{folder.path.name} has an isotonic calibration, which one function of its logits cannot express",
            hint="calibrate it with rehead calibrate --method platt, then export it",
        )
    backend = TorchBackend.load(folder, device="cpu")
    zero_shot = folder.settings.zero_shot
    shared_text = zero_shot is not None and (zero_shot.attention == "shared_text" or zero_shot.scorer != "nli")
    module = PortableRows(backend.model, folder.settings, shared_text=shared_text).eval()
    with graph_of("rows", folder, backend) as rows:
        trials = rows.trials
    if shared_text and "token_type_ids" not in trials[0]:
        raise BackendFailed(
            f"{folder.path.name} has no token types, by which text and label are told apart outside of rehead",
            hint="fine-tune it with zero_shot.attention=ordinary and zero_shot.scorer=nli",
        )
    if shared_text:
        trials = [_with_labels(trial) for trial in trials]
    graph = Graph(module, trials)
    _export(graph, out, [LOGITS, EMBEDDINGS][: 1 + shared_text])
    _require_equal(graph, out, folder)
    return shared_text


def _with_labels(trial: dict[str, Any]) -> dict[str, Any]:
    """Return rows whose last third is a hypothesis."""
    begin = -(-2 * trial["token_type_ids"].shape[1] // 3)
    types = trial["token_type_ids"].copy()
    types[:, begin:] = trial["attention_mask"][:, begin:]
    return trial | {"token_type_ids": types}


def _export(graph: Graph, out: Path, names: list[str]) -> None:
    import onnx
    from transformers.exporters import OnnxConfig, OnnxExporter

    with quiet("torch.onnx"), redirect_stdout(StringIO()):  # the exporter prints its steps
        OnnxExporter().export(graph.module, graph.example(), OnnxConfig(dynamic=True)).save_pretrained(out)
    model = onnx.load(str(out / GRAPH))
    renamed = {port.name: name for port, name in zip(model.graph.output, names, strict=True)}
    for node in model.graph.node:
        for edges in (node.input, node.output):
            for place, edge in enumerate(edges):
                edges[place] = renamed.get(edge, edge)
    for ports in (model.graph.output, model.graph.value_info):
        for port in ports:
            port.name = renamed.get(port.name, port.name)
    onnx.checker.check_model(model)
    for file in out.iterdir():  # the graph as it was, and facts of the exporter
        file.unlink()
    onnx.save(model, str(out / GRAPH))


def _require_equal(graph: Graph, out: Path, folder: ModelFolder) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / GRAPH), providers=["CPUExecutionProvider"])
    for inputs in graph.trials:
        names = [port.name for port in session.get_inputs()]
        outputs = session.run(None, {name: inputs[name] for name in names})
        for output, expected in zip(outputs, graph.outputs(inputs), strict=True):
            allowed = tolerance("float32", expected, folder.settings)
            if output.shape != expected.shape or not np.allclose(output, expected, rtol=0, atol=allowed):
                raise BackendFailed(f"{folder.path.name} has other outputs on ONNX Runtime than on torch")
