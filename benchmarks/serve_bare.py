"""What somebody would write who answers the same requests without us, for serve_load.py.

python benchmarks/serve_bare.py MODEL_FOLDER PORT
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request  # here, so that FastAPI finds the annotations
from torch import Tensor, nn


def answered(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """As the Open Inference Protocol has it."""
    with torch.inference_mode():
        logits = model(x)
    probabilities = logits.softmax(1)
    outputs = [("logits", logits), ("probabilities", probabilities)]
    tensors = [
        {"name": n, "shape": list(v.shape), "datatype": "FP32", "data": v.flatten().tolist()} for n, v in outputs
    ]
    return {"model_name": "m", "model_version": "1", "outputs": tensors}


def tensor(body: dict[str, Any]) -> Tensor:
    """The images of a request."""
    given = body["inputs"][0]
    return torch.tensor(given["data"]).reshape(given["shape"])


def bare(model: nn.Module, port: int) -> None:
    """JSON in, the network in a thread, JSON out."""
    import uvicorn
    from fastapi.responses import JSONResponse

    app, thread = FastAPI(), ThreadPoolExecutor(1)

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request) -> JSONResponse:
        x = tensor(await request.json())
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(thread, answered, model, x))

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from sparring.agents import model_folder

    torch.set_num_threads(1)
    folder, port = sys.argv[1:]
    bare(model_folder.load(Path(folder)), int(port))


if __name__ == "__main__":
    main()
