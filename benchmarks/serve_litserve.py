"""LitServe with its batching, for serve_load.py: what waits for at most a millisecond goes together.

python benchmarks/serve_litserve.py MODEL_FOLDER PORT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
BATCH = 16  # as ours


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Its worker loads the network."""

    folder = ""

    def setup(self, device: str) -> None:
        from sparring.agents import model_folder

        torch.set_num_threads(1)
        self.model = model_folder.load(Path(self.folder))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe resolves annotations elsewhere
        given = request["inputs"][0]
        return torch.tensor(given["data"]).reshape(given["shape"])

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.cat(inputs)

    def predict(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = self.model(x)
            return torch.stack([logits, logits.softmax(1)], 1)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        tensors = [
            {"name": name, "shape": [1, len(v)], "datatype": "FP32", "data": v.tolist()}
            for name, v in zip(("logits", "probabilities"), output, strict=True)
        ]
        return {"model_name": "m", "model_version": "1", "outputs": tensors}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=0.001, api_path="/v2/models/m/infer")
    api.folder = sys.argv[1]
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
