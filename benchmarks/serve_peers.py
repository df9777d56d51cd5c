"""The peers of benchmarks/serve.py: `serve_peers.py NAME MODEL PORT` serves `POST /models/sentiment` until it is ended.

Each serves the stock pipeline in the way that its own documentation shows.
"""

from __future__ import annotations

import sys
from typing import Any


def pipeline_of(model: str, dtype: str) -> Any:
    """Load the stock pipeline on one thread."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    return pipeline("text-classification", model=model, dtype=getattr(torch, dtype), device="cpu")


def fastapi(model: str, port: int, dtype: str) -> None:
    """Serve the pipeline in a FastAPI route."""
    import uvicorn
    from fastapi import Body, FastAPI

    pipe, app = pipeline_of(model, dtype), FastAPI()

    @app.post("/models/sentiment")
    def classify(inputs: str = Body(embed=True)) -> Any:
        return [pipe(inputs, top_k=None)]

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


try:
    from litserve import LitAPI
except ImportError:
    LitAPI = object


class Batching(LitAPI):  # type: ignore[misc]  # at module level: the processes of LitServe import it
    """The pipeline as a LitServe API."""

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        self.pipe = pipeline_of(sys.argv[2], sys.argv[1].split()[1])

    def decode_request(self, request: dict[str, str], **kwargs: Any) -> str:
        """Return the text of a request."""
        return request["inputs"]

    def predict(self, texts: list[str], **kwargs: Any) -> list[Any]:
        """Return the answers of a batch."""
        return list(self.pipe(list(texts), top_k=None, batch_size=len(texts)))

    def encode_response(self, output: Any, **kwargs: Any) -> Any:
        """Return an answer in the shape of the other servers."""
        return [output]


def litserve(model: str, port: int, dtype: str) -> None:
    """Serve the pipeline with LitServe and its batching."""
    from litserve import LitServer

    api = Batching(max_batch_size=32, batch_timeout=0.005, api_path="/models/sentiment")
    LitServer(api, accelerator="cpu", workers_per_device=1).run(port=port, log_level="warning")


def ray(model: str, port: int, dtype: str) -> None:
    """Serve the pipeline with Ray Serve and `serve.batch`."""
    from ray import init, serve
    from starlette.requests import Request

    init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": port})

    @serve.deployment(max_ongoing_requests=256)
    class Classifier:
        def __init__(self) -> None:
            self.pipe = pipeline_of(model, dtype)

        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
        async def classify(self, texts: list[str]) -> list[Any]:
            return [[scores] for scores in self.pipe(texts, top_k=None, batch_size=len(texts))]

        async def __call__(self, request: Request) -> Any:
            return await self.classify((await request.json())["inputs"])

    serve.run(Classifier.bind(), route_prefix="/models/sentiment", blocking=True)


if __name__ == "__main__":
    name, dtype = sys.argv[1].split()
    {"fastapi": fastapi, "litserve": litserve, "ray": ray}[name](sys.argv[2], int(sys.argv[3]), dtype)
